//! A payload that arrived.

use super::{Hold, PeerBytes};
use crate::error::{Error, Result};
use crate::slots::SlotRef;
use bytemuck::AnyBitPattern;
use core::ptr::NonNull;

/// A payload from the other side, in place. Dropping it gives its slot back.
#[derive(Debug)]
pub struct Message<'a> {
    data: Data,
    hold: Hold<'a>,
}

/// Where a payload lies.
#[derive(Clone, Copy, Debug)]
pub enum Data {
    /// It came with the message itself and is private memory already.
    Inline { words: [u64; 5], len: u8 },
    /// In a slot of the other side.
    Slot { base: NonNull<u8>, len: usize, slot: SlotRef, trusted: bool },
}

// SAFETY: read-only memory of the other side, read as `PeerBytes` does, or as a slice where the other side is trusted.
unsafe impl Send for Message<'_> {}
// SAFETY: as above.
unsafe impl Sync for Message<'_> {}

impl<'a> Message<'a> {
    /// # Safety
    /// A slot of `data` was received over `hold`, is valid for its length, and is released by this message alone.
    #[inline(always)]
    pub(crate) unsafe fn new(data: Data, hold: Hold<'a>) -> Self {
        Self { data, hold }
    }

    /// What the message was received over.
    #[inline]
    pub(crate) fn hold(&self) -> &Hold<'a> {
        &self.hold
    }

    /// Takes the payload out; what is left behind is empty.
    pub(crate) fn take(&mut self) -> Message<'a> {
        Message { data: self.take_data(), hold: self.hold.clone() }
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        match &self.data {
            Data::Inline { len, .. } => usize::from(*len),
            Data::Slot { len, .. } => *len,
        }
    }

    /// Whether there is no payload.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The payload, readable in place whoever sent it.
    #[inline(always)]
    pub fn bytes(&self) -> PeerBytes<'_> {
        match &self.data {
            Data::Inline { words, len } => PeerBytes::from(&bytemuck::bytes_of(words)[..usize::from(*len)]),
            // SAFETY: valid for `len` bytes while the message holds the slot and the mapping; ours is a read-only mapping.
            Data::Slot { base, len, .. } => unsafe { PeerBytes::new(*base, *len) },
        }
    }

    /// The payload as a slice, if nobody can change it under the reader: it came inline, or from a side that is trusted (a
    /// plugin trusts its host; a host trusts its plugin only if so configured).
    #[inline(always)]
    pub fn as_slice(&self) -> Option<&[u8]> {
        match &self.data {
            Data::Inline { words, len } => Some(&bytemuck::bytes_of(words)[..usize::from(*len)]),
            // SAFETY: valid for `len` bytes; the sender leaves a slot alone until it is released, and is trusted to.
            Data::Slot { base, len, trusted: true, .. } => {
                Some(unsafe { core::slice::from_raw_parts(base.as_ptr(), *len) })
            }
            Data::Slot { .. } => None,
        }
    }

    /// The payload as a `T` in place, where [`as_slice`](Self::as_slice) is possible and size and alignment are right.
    pub fn get<T: AnyBitPattern>(&self) -> Option<&T> {
        bytemuck::try_from_bytes(self.as_slice()?).ok()
    }

    /// The payload copied out as a `T`.
    ///
    /// # Errors
    /// [`Error::WrongSize`] if the payload is not exactly as long as a `T`.
    #[inline(always)]
    pub fn read<T: AnyBitPattern>(&self) -> Result<T> {
        let wrong = Error::WrongSize { len: self.len(), want: size_of::<T>() };
        if self.len() != size_of::<T>() { Err(wrong) } else { self.bytes().read(0).ok_or(wrong) }
    }

    /// A copy of the payload.
    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes().to_vec()
    }

    /// Independent of what it was borrowed from.
    pub fn into_owned(mut self) -> Message<'static> {
        let data = self.take_data();
        Message { data, hold: self.hold.clone().into_owned() }
    }

    /// The slot that dropping this message would release, if any; afterwards it will not.
    #[inline]
    pub(crate) fn take_slot(&mut self) -> Option<SlotRef> {
        match self.take_data() {
            Data::Slot { slot, .. } => Some(slot),
            Data::Inline { .. } => None,
        }
    }

    #[inline]
    fn take_data(&mut self) -> Data {
        core::mem::replace(&mut self.data, Data::Inline { words: [0; 5], len: 0 })
    }
}

impl Drop for Message<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Data::Slot { slot, .. } = self.data {
            self.hold.release(slot);
        }
    }
}
