//! Bytes that a peer may change while they are read.

use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use crate::sync::copy_bytes;
use bytemuck::{AnyBitPattern, NoUninit};

/// A payload in memory that an untrusted process can write: readable in place, by value.
///
/// Whatever the peer does meanwhile, reading is defined and yields some bytes; two reads of one byte may differ, so check a
/// value after copying it, never before. There is no `&[u8]` to be had: a reference promises that nobody writes.
///
/// ```
/// # use busway::internals::PeerBytes;
/// let memory = [1u8, 0, 0, 0, 7];
/// let bytes = PeerBytes::from(&memory[..]);
/// assert_eq!(bytes.len(), 5);
/// assert_eq!(bytes.read::<u32>(0), Some(1));
/// assert_eq!(bytes.read::<u32>(2), None, "beyond the end");
/// assert_eq!(bytes.to_vec(), memory);
/// assert!(bytes == memory[..]);
/// ```
#[derive(Clone, Copy)]
pub struct PeerBytes<'a> {
    base: NonNull<u8>,
    len: usize,
    /// Memory of this process that nobody writes: copied the ordinary way.
    private: bool,
    _memory: PhantomData<&'a [u8]>,
}

// SAFETY: reads only, each defined whatever other threads and processes write with atomics or outside this program.
unsafe impl Send for PeerBytes<'_> {}
// SAFETY: as above.
unsafe impl Sync for PeerBytes<'_> {}

impl<'a> PeerBytes<'a> {
    /// The bytes of a mapped slot.
    ///
    /// # Safety
    /// `base` is valid for reads of `len` bytes for `'a`, and no thread of this process writes them meanwhile.
    pub(crate) unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        Self { base, len, private: false, _memory: PhantomData }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the bytes lie, for code that reads them in its own way. Their sender may be writing them.
    pub fn as_ptr(&self) -> *const u8 {
        self.base.as_ptr()
    }

    /// The bytes of `range`, or `None` if it leaves these.
    pub fn get(&self, range: core::ops::Range<usize>) -> Option<PeerBytes<'a>> {
        if range.start > range.end || range.end > self.len {
            return None;
        }
        // SAFETY: inside ours.
        Some(Self { base: unsafe { self.base.add(range.start) }, len: range.end - range.start, ..*self })
    }

    /// Copies a value out of the bytes at `at`; `None` if it does not fit there. Needs no alignment.
    #[inline(always)]
    pub fn read<T: AnyBitPattern>(&self, at: usize) -> Option<T> {
        let fits = at.checked_add(size_of::<T>()).is_some_and(|end| end <= self.len);
        // SAFETY: in bounds.
        fits.then(|| unsafe { self.value(at) })
    }

    /// # Safety
    /// The bytes of a `T` from `at` on are inside.
    #[inline(always)]
    pub(super) unsafe fn value<T: AnyBitPattern>(&self, at: usize) -> T {
        // SAFETY: in bounds by this function's contract; the target is ours; any bits are a valid `T`.
        unsafe {
            if self.private {
                return self.base.as_ptr().add(at).cast::<T>().read_unaligned();
            }
            let mut value = MaybeUninit::<T>::uninit();
            copy_bytes(self.base.as_ptr().add(at), value.as_mut_ptr().cast(), size_of::<T>());
            value.assume_init()
        }
    }

    /// Copies everything into `to`.
    ///
    /// # Panics
    /// If the lengths differ.
    #[inline]
    pub fn copy_to(&self, to: &mut [u8]) {
        assert_eq!(to.len(), self.len, "the target must have the length of the payload");
        // SAFETY: the target is exclusively ours and as long.
        unsafe { self.copy_out(0, to.as_mut_ptr(), self.len) }
    }

    /// A copy of everything.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut to = Vec::new();
        self.append_to(&mut to);
        to
    }

    /// Appends everything to `to`.
    pub fn append_to(&self, to: &mut Vec<u8>) {
        to.reserve(self.len);
        // SAFETY: the capacity is there, and the copy initialises all that is added to the length.
        unsafe {
            self.copy_out(0, to.as_mut_ptr().add(to.len()), self.len);
            to.set_len(to.len() + self.len);
        }
    }

    /// # Safety
    /// `len` bytes from `at` on are inside; `to` is valid for as many and lies elsewhere.
    #[inline(always)]
    unsafe fn copy_out(&self, at: usize, to: *mut u8, len: usize) {
        // SAFETY: by this function's contract and that of `new`.
        unsafe {
            let from = self.base.as_ptr().add(at);
            if self.private { to.copy_from_nonoverlapping(from, len) } else { copy_bytes(from, to, len) }
        }
    }

    /// The bytes one after the other, each read once.
    pub fn iter(&self) -> impl Iterator<Item = u8> + use<'a> {
        let bytes = *self;
        (0..self.len).map_while(move |at| bytes.read(at))
    }

    /// Values of `T` one after the other, each copied once; what is left over at the end is left out.
    pub fn iter_as<T: AnyBitPattern>(&self) -> impl Iterator<Item = T> + use<'a, T> {
        let bytes = *self;
        (0..self.len / size_of::<T>().max(1)).map_while(move |i| bytes.read(i * size_of::<T>()))
    }
}

impl<'a, T: NoUninit> From<&'a [T]> for PeerBytes<'a> {
    #[inline(always)]
    fn from(slice: &'a [T]) -> Self {
        let bytes: &[u8] = bytemuck::cast_slice(slice);
        Self { base: NonNull::from(bytes).cast(), len: bytes.len(), private: true, _memory: PhantomData }
    }
}

impl PartialEq<[u8]> for PeerBytes<'_> {
    fn eq(&self, other: &[u8]) -> bool {
        self.len == other.len() && self.iter().eq(other.iter().copied())
    }
}

impl core::fmt::Debug for PeerBytes<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "PeerBytes({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 256 }))]

        /// Every length and alignment, on both sides of the bulk limit.
        #[test]
        fn copies_what_is_there(len in prop_oneof![0usize..300, 1000usize..1100, 4000usize..4200], shift in 0usize..16) {
            let mut memory: Vec<u8> = (0..len + shift).map(|i| (i * 31) as u8).collect();
            let expected = memory[shift..].to_vec();
            let base: NonNull<u8> = NonNull::from(&mut memory[shift..]).cast();
            // SAFETY: valid for `len` bytes, which nobody writes.
            let shared = unsafe { PeerBytes::new(base, len) };
            let bytes = if shift % 2 == 0 { shared } else { PeerBytes::from(&expected[..]) };
            let mut to = vec![0; len];
            bytes.copy_to(&mut to);
            prop_assert_eq!(&to, &expected);
            prop_assert_eq!(bytes.to_vec(), &expected[..]);
            prop_assert!(bytes == expected[..]);
            prop_assert!(bytes.iter_as::<u32>().count() == len / 4);
        }

        #[test]
        fn nothing_outside_is_read(len in 0usize..40, start in 0usize..60, end in 0usize..60) {
            let memory = vec![5u8; len];
            let bytes = PeerBytes::from(&memory[..]);
            prop_assert_eq!(bytes.get(start..end).is_some(), start <= end && end <= len);
            prop_assert_eq!(bytes.read::<u64>(start).is_some(), start + 8 <= len);
        }
    }
}
