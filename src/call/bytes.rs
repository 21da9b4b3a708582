//! Bytes that a peer may change while they are read.

use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

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

/// From this many bytes on a copy is a sequence of vector instructions instead of a loop of loads.
const BULK: usize = 64;

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
            copy(self.base.as_ptr().add(at), value.as_mut_ptr().cast(), size_of::<T>());
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
            if self.private { to.copy_from_nonoverlapping(from, len) } else { copy(from, to, len) }
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

/// Copies `len` bytes that another process may be writing.
///
/// # Safety
/// `from` is valid for reads and `to` for writes of `len` bytes, and they do not overlap; no thread of this process writes
/// `from` meanwhile, except with atomics.
#[inline]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    if len >= BULK && cfg!(not(any(miri, busway_loom, busway_tsan))) {
        // SAFETY: as this function's contract.
        unsafe { copy_bulk(from, to, len) }
    } else {
        // SAFETY: as this function's contract.
        unsafe { copy_relaxed(from, to, len) }
    }
    crate::sync::loaded(from, len);
}

/// Relaxed loads: whole words where the source is aligned, bytes at the edges.
///
/// # Safety
/// As [`copy`].
#[inline]
unsafe fn copy_relaxed(from: *const u8, to: *mut u8, len: usize) {
    use core::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
    // SAFETY: `i < len` at every use.
    let byte = |i: usize| unsafe { to.add(i).write((*from.add(i).cast::<AtomicU8>()).load(Relaxed)) };
    let head = from.align_offset(8).min(len);
    (0..head).for_each(byte);
    let words = (len - head) / 8;
    for i in 0..words {
        let at = head + i * 8;
        // SAFETY: aligned by `head`, and `at + 8 <= len`.
        unsafe { to.add(at).cast::<u64>().write_unaligned((*from.add(at).cast::<AtomicU64>()).load(Relaxed)) }
    }
    (head + words * 8..len).for_each(byte);
}

/// One sequence of instructions which the compiler does not look into: it reads every byte of the source once or twice, in
/// no promised order or unit, which is what as many relaxed byte loads do.
///
/// # Safety
/// As [`copy`].
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn copy_bulk(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: `rep movsb` reads `len` bytes at rsi and writes as many at rdi (the direction flag is clear by the ABI); the
    // loop does so 64 at a time, at least once, and then once more for the last 64, which may overlap the ones before.
    unsafe {
        if len > 1024 {
            core::arch::asm!(
                "rep movsb",
                inout("rcx") len => _,
                inout("rsi") from => _,
                inout("rdi") to => _,
                options(nostack, preserves_flags),
            );
            return;
        }
        core::arch::asm!(
            "2:",
            "movups {a}, [{from} + {at}]",
            "movups {b}, [{from} + {at} + 16]",
            "movups {c}, [{from} + {at} + 32]",
            "movups {d}, [{from} + {at} + 48]",
            "movups [{to} + {at}], {a}",
            "movups [{to} + {at} + 16], {b}",
            "movups [{to} + {at} + 32], {c}",
            "movups [{to} + {at} + 48], {d}",
            "add {at}, 64",
            "cmp {at}, {last}",
            "jb 2b",
            "movups {a}, [{from} + {last}]",
            "movups {b}, [{from} + {last} + 16]",
            "movups {c}, [{from} + {last} + 32]",
            "movups {d}, [{from} + {last} + 48]",
            "movups [{to} + {last}], {a}",
            "movups [{to} + {last} + 16], {b}",
            "movups [{to} + {last} + 32], {c}",
            "movups [{to} + {last} + 48], {d}",
            from = in(reg) from,
            to = in(reg) to,
            at = inout(reg) 0usize => _,
            last = in(reg) len - 64,
            a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
            options(nostack),
        );
    }
}

/// As on x86-64, with pairs of registers.
///
/// # Safety
/// As [`copy`].
#[cfg(target_arch = "aarch64")]
unsafe fn copy_bulk(from: *const u8, to: *mut u8, len: usize) {
    let blocks = len / 32;
    // SAFETY: reads and writes `blocks` times 32 bytes, at least one since `len` reaches `BULK`; the rest is below 32 bytes.
    unsafe {
        core::arch::asm!(
            "2:",
            "ldp {a}, {b}, [{from}], #16",
            "ldp {c}, {d}, [{from}], #16",
            "stp {a}, {b}, [{to}], #16",
            "stp {c}, {d}, [{to}], #16",
            "subs {n}, {n}, #1",
            "b.ne 2b",
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            n = inout(reg) blocks => _,
            a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
            options(nostack),
        );
        copy_relaxed(from.add(blocks * 32), to.add(blocks * 32), len % 32);
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
