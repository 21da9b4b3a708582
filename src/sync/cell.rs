//! Data that travels beside a published word.

#[cfg(not(busway_loom))]
use core::cell::UnsafeCell;
#[cfg(busway_loom)]
use loom::cell::UnsafeCell;

use bytemuck::{AnyBitPattern, NoUninit};
use core::mem::MaybeUninit;

impl<T> core::fmt::Debug for PeerCell<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("PeerCell")
    }
}

/// A value in shared memory, written by its owner and read by value by the peer.
///
/// The reader may be facing a peer that writes at any moment, so natively a read is a sequence of relaxed atomic loads
/// (or of instructions that amount to them): never undefined behaviour, never a reference. Whether the value is
/// whole is a matter of the protocol around it: the reader has seen, with acquire, the word that the owner published with
/// release after writing. Under loom the cell is tracked, so a protocol that reads too early or writes too late fails the
/// model.
#[repr(transparent)]
pub struct PeerCell<T>(UnsafeCell<T>);

// SAFETY: the cell hands out values only, and `T` is plain data; exclusion between the one writer and its readers is the
// contract of `write_with`.
unsafe impl<T: NoUninit + AnyBitPattern> Sync for PeerCell<T> {}

impl<T: NoUninit + AnyBitPattern> PeerCell<T> {
    /// A cell holding `value`; for memory that is not zeroed by the kernel, and for loom.
    pub fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Replaces the value.
    ///
    /// # Safety
    /// As [`write_with`](Self::write_with).
    #[inline(always)]
    pub unsafe fn write(&self, value: T) {
        // SAFETY: by this function's contract.
        unsafe { self.write_with(|to| *to = value) }
    }

    /// Writes the value where it lies: built elsewhere and moved here, it would have to leave the store buffer in between.
    ///
    /// # Safety
    /// No other thread of this process writes or reads the cell at the same time, the cell lies in memory that this process
    /// may write, and honest readers are kept out by the word beside the cell.
    #[inline(always)]
    pub unsafe fn write_with<R>(&self, write: impl FnOnce(&mut T) -> R) -> R {
        #[cfg(not(busway_loom))]
        // SAFETY: exclusive by this function's contract, and any bits are a valid `T`.
        unsafe {
            write(&mut *self.0.get())
        }
        #[cfg(busway_loom)]
        // SAFETY: as above, and loom checks it.
        self.0.with_mut(|p| unsafe { write(&mut *p) })
    }

    /// Copies the value out, once.
    #[inline(always)]
    pub fn read(&self) -> T {
        let mut value = MaybeUninit::uninit();
        self.read_into(&mut value);
        // SAFETY: written just now.
        unsafe { value.assume_init() }
    }

    /// Copies the value to where it will stay, once.
    #[inline(always)]
    pub fn read_into(&self, to: &mut MaybeUninit<T>) {
        #[cfg(not(busway_loom))]
        // SAFETY: both are valid for a `T` and aligned for it.
        unsafe {
            copy_units(self.0.get(), to.as_mut_ptr());
        }
        super::loaded(self, size_of::<T>());
        #[cfg(busway_loom)]
        // SAFETY: loom reports the model if this races with a write.
        to.write(self.0.with(|p| unsafe { p.read() }));
    }
}

/// Copies in units of the alignment, one relaxed load each.
///
/// # Safety
/// Both pointers are valid for a `T` and aligned for it.
#[cfg(not(all(target_arch = "x86_64", not(any(miri, busway_loom, busway_tsan)))))]
#[cfg(not(busway_loom))]
#[inline(always)]
unsafe fn copy_units<T>(from: *const T, to: *mut T) {
    use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
    macro_rules! copy {
        ($atomic:ty, $unit:ty) => {
            for i in 0..size_of::<T>() / size_of::<$unit>() {
                // SAFETY: in bounds and aligned for the unit; the source is only ever read atomically here.
                unsafe { to.cast::<$unit>().add(i).write((*from.cast::<$atomic>().add(i)).load(Relaxed)) }
            }
        };
    }
    match align_of::<T>() {
        8.. => copy!(AtomicU64, u64),
        4.. => copy!(AtomicU32, u32),
        _ => copy!(AtomicU8, u8),
    }
}

/// Copies in units of 16 bytes, with instructions that the compiler does not look into: each reads every byte once, which is
/// what as many relaxed loads do. The value is used at once in units of 16, and one written in units of 8 would have to
/// leave the store buffer first.
///
/// # Safety
/// Both pointers are valid for a `T`.
#[cfg(all(target_arch = "x86_64", not(any(miri, busway_loom, busway_tsan))))]
#[inline(always)]
unsafe fn copy_units<T>(from: *const T, to: *mut T) {
    use core::arch::asm;
    let (from, to) = (from.cast::<u8>(), to.cast::<u8>());
    let mut at = 0;
    macro_rules! copy {
        ($size:literal, $load:literal, $store:literal, $class:ident) => {
            while size_of::<T>() - at >= $size {
                // SAFETY: in bounds on both sides.
                unsafe {
                    asm!(
                        $load, $store,
                        from = in(reg) from.add(at), to = in(reg) to.add(at), unit = out($class) _,
                        options(nostack, preserves_flags),
                    );
                }
                at += $size;
            }
        };
    }
    copy!(16, "movups {unit}, [{from}]", "movups [{to}], {unit}", xmm_reg);
    copy!(8, "mov {unit}, [{from}]", "mov [{to}], {unit}", reg);
    copy!(1, "mov {unit}, byte ptr [{from}]", "mov byte ptr [{to}], {unit}", reg_byte);
}
