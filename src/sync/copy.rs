//! Copies of bytes that another process may be writing.

/// From this many bytes on a copy is a sequence of vector instructions instead of a loop of loads.
const BULK: usize = 64;

/// Copies `len` bytes that another process may be writing.
///
/// # Safety
/// `from` is valid for reads and `to` for writes of `len` bytes, and they do not overlap; no thread of this process writes
/// `from` meanwhile, except with atomics.
#[inline]
pub unsafe fn copy_bytes(from: *const u8, to: *mut u8, len: usize) {
    if len >= BULK && cfg!(not(any(miri, busway_loom, busway_tsan))) {
        // SAFETY: as this function's contract.
        unsafe { copy_bulk(from, to, len) }
    } else {
        // SAFETY: as this function's contract.
        unsafe { copy_relaxed(from, to, len) }
    }
    super::loaded(from, len);
}

/// Relaxed loads: whole words where the source is aligned, bytes at the edges.
///
/// # Safety
/// As [`copy_bytes`].
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
/// As [`copy_bytes`].
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
/// As [`copy_bytes`].
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
