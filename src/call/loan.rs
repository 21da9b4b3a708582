//! Memory to write a payload into.

use super::Hold;
use crate::slots::arena::SlotId;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

/// Memory that will travel: written in place, then sent without a copy.
///
/// A loan of up to 32 bytes (40 for a reply) is part of the message itself; a larger one is a slot of shared memory, which
/// the other side may already read but has no reason to. The bytes are whatever was there before. Dropping a loan gives the
/// slot back; forgetting it loses the slot until the link closes.
#[derive(Debug)]
pub struct Loan<'a> {
    place: Place,
    len: usize,
    hold: Hold<'a>,
}

#[derive(Debug)]
pub enum Place {
    /// In the message itself.
    Inline([u64; 5]),
    /// In a slot of our own.
    Slot { base: NonNull<u8>, slot: SlotId },
}

// SAFETY: a loan owns its slot: nobody else of this process touches it, and the other side only reads.
unsafe impl Send for Loan<'_> {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Loan<'_> {}

impl<'a> Loan<'a> {
    /// # Safety
    /// A slot place is loaned from `hold`, writable, and at least `len` bytes long; an inline one has `len` at most 40.
    #[inline(always)]
    pub(crate) unsafe fn new(place: Place, len: usize, hold: Hold<'a>) -> Self {
        Self { place, len, hold }
    }

    /// Makes the loan shorter.
    ///
    /// # Panics
    /// If `len` is more than the loan has.
    pub fn truncate(&mut self, len: usize) {
        assert!(len <= self.len, "a loan can only be made shorter");
        self.len = len;
    }

    /// Independent of what it was borrowed from.
    pub fn into_owned(self) -> Loan<'static> {
        let hold = self.hold.clone().into_owned();
        let (place, len) = self.into_parts();
        Loan { place, len, hold }
    }

    /// Whether the loan is one of `bus`'s slots, or in no slot at all.
    pub(crate) fn belongs_to(&self, bus: *const ()) -> bool {
        matches!(self.place, Place::Inline(_)) || core::ptr::from_ref(&*self.hold).cast::<()>() == bus
    }

    /// Takes the slot out: the caller now answers for it.
    #[inline(always)]
    pub(crate) fn into_parts(mut self) -> (Place, usize) {
        // What is left behind is inline, so dropping it gives nothing back.
        (core::mem::replace(&mut self.place, Place::Inline([0; 5])), self.len)
    }
}

impl Drop for Loan<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Place::Slot { slot, .. } = self.place {
            self.hold.unloan(slot);
        }
    }
}

impl Deref for Loan<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.place {
            Place::Inline(words) => &bytemuck::bytes_of(words)[..self.len],
            // SAFETY: by the contract of `new`: in bounds, and written by nobody but through this loan.
            Place::Slot { base, .. } => unsafe { core::slice::from_raw_parts(base.as_ptr(), self.len) },
        }
    }
}

impl DerefMut for Loan<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.place {
            Place::Inline(words) => &mut bytemuck::bytes_of_mut(words)[..self.len],
            // SAFETY: by the contract of `new`: in bounds, and written by nobody but through this loan.
            Place::Slot { base, .. } => unsafe { core::slice::from_raw_parts_mut(base.as_ptr(), self.len) },
        }
    }
}

/// What to send: bytes to be copied in, or a loan that is there already.
#[derive(Debug)]
pub enum Payload<'a> {
    /// Copied once, into the message or a slot.
    Bytes(&'a [u8]),
    /// Sent as it is.
    Loan(Loan<'a>),
}

impl Payload<'_> {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Payload::Bytes(bytes) => bytes.len(),
            Payload::Loan(loan) => loan.len(),
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl AsRef<[u8]> for Payload<'_> {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        match self {
            Payload::Bytes(bytes) => bytes,
            Payload::Loan(loan) => loan,
        }
    }
}

impl<'a> From<Loan<'a>> for Payload<'a> {
    fn from(loan: Loan<'a>) -> Self {
        Payload::Loan(loan)
    }
}

impl<'a, B: AsRef<[u8]> + ?Sized> From<&'a B> for Payload<'a> {
    #[inline]
    fn from(bytes: &'a B) -> Self {
        Payload::Bytes(bytes.as_ref())
    }
}
