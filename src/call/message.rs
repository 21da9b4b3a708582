//! A payload that arrived.

use super::{Hold, PeerBytes};
use crate::error::{Error, Result};
use crate::slots::SlotRef;
use bytemuck::AnyBitPattern;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::ptr::NonNull;

/// A payload from the other side, in place. Dropping it gives its slot back.
#[derive(Debug)]
pub struct Message<'a> {
    data: Data,
    hold: Hold<'a>,
}

/// Where a payload lies.
///
/// Not an enum, and made of whole words: variants that share their bytes would keep the compiler from taking a message apart
/// into registers, and a value that was written in parts and is moved as words waits in the store buffer, some 5 ns each time.
#[derive(Clone, Copy, Debug)]
pub struct Data {
    /// The payload itself, if it came with the message: private memory.
    words: [u64; 5],
    /// Its length, and [`TRUSTED`].
    len: usize,
    /// In a slot of the other side, otherwise.
    slot: Option<(NonNull<u8>, SlotRef)>,
}

/// Nobody changes the payload.
const TRUSTED: usize = 1 << (usize::BITS - 1);

impl Data {
    /// A payload of `len` bytes, at most 40, that came with its message.
    #[inline(always)]
    pub fn inline(words: [u64; 5], len: usize) -> Self {
        Self { words, len: len | TRUSTED, slot: None }
    }

    /// A payload in a slot of the other side, at `base`.
    #[inline(always)]
    pub fn in_slot(base: NonNull<u8>, len: usize, slot: SlotRef, trusted: bool) -> Self {
        Self { words: [0; 5], len: if trusted { len | TRUSTED } else { len }, slot: Some((base, slot)) }
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.len & !TRUSTED
    }

    /// The slot, if it is in one.
    #[inline(always)]
    pub fn slot(&self) -> Option<SlotRef> {
        self.slot.map(|(_, slot)| slot)
    }
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

    /// The places of its parts, where one will be. Both written, they are what [`new`](Self::new) makes, on its terms.
    #[inline(always)]
    pub(crate) fn parts(to: &mut MaybeUninit<Self>) -> (&mut MaybeUninit<Data>, &mut MaybeUninit<Hold<'a>>) {
        let to = to.as_mut_ptr();
        // SAFETY: two fields of the place, of which nothing else is borrowed.
        unsafe { (&mut *(&raw mut (*to).data).cast(), &mut *(&raw mut (*to).hold).cast()) }
    }

    /// What the message was received over.
    #[inline(always)]
    pub(crate) fn hold(&self) -> &Hold<'a> {
        &self.hold
    }

    /// Takes the payload out; what is left behind is empty.
    pub(crate) fn take(&mut self) -> Message<'a> {
        Message { data: self.take_data(), hold: self.hold.clone() }
    }

    /// Length in bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there is no payload.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The payload, readable in place whoever sent it.
    #[inline(always)]
    pub fn bytes(&self) -> PeerBytes<'_> {
        match self.data.slot {
            None => PeerBytes::from(&bytemuck::bytes_of(&self.data.words)[..self.data.len()]),
            // SAFETY: valid for `len` bytes while the message holds the slot and the mapping; ours is a read-only mapping.
            Some((base, _)) => unsafe { PeerBytes::new(base, self.data.len()) },
        }
    }

    /// The payload as a slice, if nobody can change it under the reader: it came inline, or from a side that is trusted (a
    /// plugin trusts its host; a host trusts its plugin only if so configured).
    #[inline(always)]
    pub fn as_slice(&self) -> Option<&[u8]> {
        match self.data.slot {
            None => Some(&bytemuck::bytes_of(&self.data.words)[..self.data.len()]),
            Some((base, _)) if self.data.len & TRUSTED != 0 => {
                // SAFETY: valid for `len` bytes; the sender leaves a slot alone until it is released, and is trusted to.
                Some(unsafe { core::slice::from_raw_parts(base.as_ptr(), self.data.len()) })
            }
            Some(_) => None,
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
        if self.len() != size_of::<T>() {
            return Err(Error::WrongSize { len: self.len(), want: size_of::<T>() });
        }
        // SAFETY: as long as a `T`.
        Ok(unsafe { self.bytes().value(0) })
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

    /// The slot that dropping this message would release, if any; afterwards it will not, and the payload is gone.
    #[inline(always)]
    pub(crate) fn take_slot(&mut self) -> Option<SlotRef> {
        let slot = self.data.slot();
        self.data.slot = None;
        slot
    }

    /// The slot, which is the caller's to release, and what it was received over.
    #[inline(always)]
    pub(crate) fn into_parts(self) -> (Option<SlotRef>, Hold<'a>) {
        let this = ManuallyDrop::new(self);
        // SAFETY: read once, and not dropped where it was.
        (this.data.slot(), unsafe { core::ptr::read(&this.hold) })
    }

    fn take_data(&mut self) -> Data {
        core::mem::replace(&mut self.data, Data::inline([0; 5], 0))
    }
}

impl Drop for Message<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(slot) = self.data.slot() {
            self.hold.release(slot);
        }
    }
}

/// Copies bytes that travel inline. What is behind them stays as it was.
#[inline(always)]
pub fn copy_short<const N: usize>(to: &mut [u64; N], bytes: &[u8])
where
    [u64; N]: bytemuck::Pod,
{
    let to = bytemuck::bytes_of_mut(to);
    // The common lengths without a call of memcpy.
    match bytes.len() {
        32 => to[..32].copy_from_slice(bytes),
        16 => to[..16].copy_from_slice(bytes),
        8 => to[..8].copy_from_slice(bytes),
        len => to[..len].copy_from_slice(bytes),
    }
}
