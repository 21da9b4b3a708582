//! Memory to write a payload into.

use super::Hold;
use crate::error::{Error, Result};
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
    // No enum: a loan is taken apart right behind the payload, and one that were moved in other units than it was written in
    // would have to leave the store buffer first, behind all of the payload's cache lines.
    slot: Option<(NonNull<u8>, SlotId)>,
    len: usize,
    /// The payload itself, if it is in no slot.
    inline: [u64; 5],
    hold: Hold<'a>,
}

// SAFETY: a loan owns its slot: nobody else of this process touches it, and the other side only reads.
unsafe impl Send for Loan<'_> {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Loan<'_> {}

impl<'a> Loan<'a> {
    /// # Safety
    /// A slot, with its address, is loaned from `hold`, writable, and at least `len` bytes long; without one `len` is at most 40.
    #[inline(always)]
    pub(crate) unsafe fn new(slot: Option<(NonNull<u8>, SlotId)>, len: usize, hold: Hold<'a>) -> Self {
        Self { slot, len, inline: [0; 5], hold }
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
    pub fn into_owned(mut self) -> Loan<'static> {
        Loan { slot: self.slot.take(), len: self.len, inline: self.inline, hold: self.hold.clone().into_owned() }
    }

    /// Whether it is a slot, and not part of the message.
    #[inline(always)]
    pub(crate) fn in_slot(&self) -> bool {
        self.slot.is_some()
    }

    /// Takes the slot out, which has to be one of `bus`, and of which there is one: the caller now answers for it.
    ///
    /// # Errors
    /// It is none of `bus`, and comes back to its own.
    #[inline(always)]
    pub(crate) fn into_slot(mut self, bus: *const ()) -> Result<(NonNull<u8>, SlotId)> {
        if core::ptr::from_ref(&*self.hold).cast::<()>() != bus {
            return Err(Error::Unsupported { what: "a loan of another link" });
        }
        match self.slot.take() {
            Some(slot) => Ok(slot),
            None => unreachable!("asked of loans in slots alone"),
        }
    }
}

impl Drop for Loan<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some((_, slot)) = self.slot {
            self.hold.unloan(slot);
        }
    }
}

impl Deref for Loan<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self.slot {
            None => &bytemuck::bytes_of(&self.inline)[..self.len],
            // SAFETY: by the contract of `new`: in bounds, and written by nobody but through this loan.
            Some((base, _)) => unsafe { core::slice::from_raw_parts(base.as_ptr(), self.len) },
        }
    }
}

impl DerefMut for Loan<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        match self.slot {
            None => &mut bytemuck::bytes_of_mut(&mut self.inline)[..self.len],
            // SAFETY: by the contract of `new`: in bounds, and written by nobody but through this loan.
            Some((base, _)) => unsafe { core::slice::from_raw_parts_mut(base.as_ptr(), self.len) },
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
    /// Whether it travels as the slot that it is in, since it has more than `inline` bytes: one that was cut so short that it
    /// fits its message is not worth its cache line. Looked at before it is taken apart, because a loan that is moved without need
    /// costs more than all else that is done with it.
    #[inline(always)]
    pub(crate) fn is_slot(&self, inline: usize) -> bool {
        matches!(self, Payload::Loan(loan) if loan.in_slot() && loan.len() > inline)
    }

    /// As [`Loan::into_slot`], of a payload that is one.
    ///
    /// # Errors
    /// As there.
    #[inline(always)]
    pub(crate) fn into_slot(self, bus: *const ()) -> Result<(NonNull<u8>, SlotId)> {
        match self {
            Payload::Loan(loan) => loan.into_slot(bus),
            Payload::Bytes(_) => unreachable!("asked of payloads in slots alone"),
        }
    }

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
    #[inline(always)]
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
