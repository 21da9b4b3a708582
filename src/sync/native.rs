//! Native names: `core` atomics and Linux system calls.

use super::{NUMBERED_THREADS, Woken};
use core::cell::{Cell, UnsafeCell};
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
pub use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, fence};
use core::sync::atomic::{AtomicPtr, Ordering::*};
use core::{ffi::c_void, num::NonZeroU32, ptr};
use rustix::io::Errno;
use rustix::thread::futex::{self, Flags, Timespec, Wait, WaitFlags, WaitPtr, WaitvFlags};

/// A lock for state of this process, held for some tens of nanoseconds at a time.
///
/// A call takes three locks, so half of what an uncontended `std` mutex costs counts: unlocking here is a plain store. The
/// price is that an unlock may miss a thread which is about to sleep; such a thread therefore never sleeps for longer than
/// 50 us. It spins a little first, because the holder is almost always running.
#[derive(Default)]
pub struct Mutex<T: ?Sized> {
    locked: AtomicU32,
    sleepers: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the lock hands the value out to one thread at a time.
unsafe impl<T: Send> Send for Mutex<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Mutex<T> {}

/// Unlocks when dropped.
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// Bound to its thread, like that of `std`.
    _not_send: PhantomData<*const ()>,
}

impl<T> Mutex<T> {
    /// How long a thread sleeps at most before it tries again, in nanoseconds.
    const NAP: u64 = 50_000;

    /// A mutex around `value`.
    pub fn new(value: T) -> Self {
        Self { locked: AtomicU32::new(0), sleepers: AtomicU32::new(0), value: UnsafeCell::new(value) }
    }

    /// Locks; blocks while another thread of this process holds the lock.
    #[inline(always)]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        if self.locked.swap(1, Acquire) != 0 {
            self.lock_contended();
        }
        MutexGuard { mutex: self, _not_send: PhantomData }
    }

    #[cold]
    fn lock_contended(&self) {
        loop {
            for _ in 0..100 {
                if self.locked.load(Relaxed) == 0 && self.locked.swap(1, Acquire) == 0 {
                    return;
                }
                spin_loop();
            }
            self.sleepers.fetch_add(1, SeqCst);
            if self.locked.load(SeqCst) != 0 {
                futex_wait(FutexWord::private(&self.locked, 1), Some(now() + Self::NAP));
            }
            self.sleepers.fetch_sub(1, Relaxed);
        }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.mutex.locked.store(0, Release);
        if self.mutex.sleepers.load(Relaxed) != 0 {
            futex_wake(&self.mutex.locked, 1, true);
        }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: the lock is held.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held, by this guard alone.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T> core::fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Mutex")
    }
}

/// A mutant is never on in a native build.
#[cfg(not(any(busway_mutants, busway_tsan)))]
#[inline(always)]
pub const fn mutant(_name: &str) -> bool {
    false
}

/// Whether `BUSWAY_MUTANT` names it, for tests that must fail then.
#[cfg(any(busway_mutants, busway_tsan))]
pub fn mutant(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var("BUSWAY_MUTANT").ok()).as_deref() == Some(name)
}

/// One word of a futex wait: sleep while it holds `expected`.
#[derive(Clone, Copy)]
pub struct FutexWord<'a> {
    word: &'a AtomicU32,
    expected: u32,
    private: bool,
    bits: NonZeroU32,
}

impl<'a> FutexWord<'a> {
    /// A word in memory shared with another process.
    pub fn shared(word: &'a AtomicU32, expected: u32) -> Self {
        Self { word, expected, private: false, bits: NonZeroU32::MAX }
    }

    /// A word of this process alone.
    pub fn private(word: &'a AtomicU32, expected: u32) -> Self {
        Self { word, expected, private: true, bits: NonZeroU32::MAX }
    }

    /// The same, to be woken only for one of these bits.
    pub fn for_bits(self, bits: NonZeroU32) -> Self {
        Self { bits, ..self }
    }

    fn flags(self) -> Flags {
        if self.private { Flags::PRIVATE } else { Flags::empty() }
    }
}

fn timespec(ns: u64) -> Timespec {
    // A time past the end of `i64` seconds cannot come from 64-bit nanoseconds.
    Timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as _ }
}

fn woken(result: rustix::io::Result<()>) -> Woken {
    match result {
        Ok(()) | Err(Errno::AGAIN | Errno::INTR) => Woken::Look,
        Err(Errno::TIMEDOUT) => Woken::TimedOut,
        Err(_) => Woken::Unsupported,
    }
}

/// Sleeps while `word` has the expected value, until woken or until `until` (nanoseconds of [`now`]; `None` is for ever).
pub fn futex_wait(word: FutexWord<'_>, until: Option<u64>) -> Woken {
    let until = until.map(timespec);
    woken(futex::wait_bitset(word.word, word.flags(), word.expected, until.as_ref(), word.bits))
}

/// Sleeps while all `words` (at most four) have their expected values; one word is a plain [`futex_wait`], and only there
/// do bits count.
///
/// Several words need Linux 5.16; where the call is missing or forbidden this returns [`Woken::Unsupported`].
pub fn futex_wait_any(words: &[FutexWord<'_>], until: Option<u64>) -> Woken {
    if let [word] = words {
        return futex_wait(*word, until);
    }
    let mut waits = [const { Wait::new() }; 4];
    for (wait, word) in waits.iter_mut().zip(words) {
        wait.val = word.expected.into();
        wait.uaddr = WaitPtr::new(ptr::from_ref(word.word).cast_mut().cast::<c_void>());
        wait.flags = WaitFlags::SIZE_U32 | if word.private { WaitFlags::PRIVATE } else { WaitFlags::empty() };
    }
    let until = until.map(timespec);
    let count = words.len().min(waits.len());
    woken(
        futex::waitv(&waits[..count], WaitvFlags::empty(), until.as_ref(), rustix::thread::ClockId::Monotonic)
            .map(drop),
    )
}

/// Wakes up to `count` sleepers of `word`. `private` as at the wait.
pub fn futex_wake(word: &AtomicU32, count: u32, private: bool) {
    let flags = if private { Flags::PRIVATE } else { Flags::empty() };
    // A failure means that the address is not mapped, which our own references rule out.
    let _ = futex::wake(word, flags, count.min(i32::MAX as u32));
}

/// Wakes up to `count` sleepers of `word`, shared with other processes, that sleep [for](FutexWord::for_bits) one of `bits`.
pub fn futex_wake_bits(word: &AtomicU32, count: u32, bits: NonZeroU32) {
    let _ = futex::wake_bitset(word, Flags::empty(), count.min(i32::MAX as u32), bits);
}

/// Nanoseconds of `CLOCK_MONOTONIC`, which every process of a machine shares.
pub fn now() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// The CPU this thread runs on: a hint, old as soon as it is read.
pub fn cpu() -> u32 {
    if cfg!(miri) { 0 } else { rustix::thread::sched_getcpu() as u32 }
}

/// Tells the CPU that this is a spin loop.
#[inline(always)]
pub fn spin_loop() {
    core::hint::spin_loop();
}

/// Asks for a cache line of our own that is about to be written, so that the write need not wait for it.
#[inline(always)]
pub fn prefetch_write<T>(line: &T) {
    let line = ptr::from_ref(line);
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a hint; it changes no memory, whatever the address. Processors without it take it for no operation.
    unsafe {
        core::arch::asm!("prefetchw byte ptr [{0}]", in(reg) line, options(nostack, preserves_flags, readonly));
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!("prfm pstl1keep, [{0}]", in(reg) line, options(nostack, preserves_flags, readonly));
    }
    #[cfg(miri)]
    let _ = line;
}

/// Asks for the first cache lines of what is about to be read; the processor itself finds what follows.
#[inline(always)]
pub fn prefetch_read(at: ptr::NonNull<u8>, len: usize) {
    for offset in (0..len.min(512)).step_by(64) {
        let line = at.as_ptr().wrapping_add(offset);
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: a hint; it changes no memory, whatever the address.
        unsafe {
            core::arch::asm!("prefetcht0 byte ptr [{0}]", in(reg) line, options(nostack, preserves_flags, readonly));
        }
        #[cfg(all(target_arch = "aarch64", not(miri)))]
        // SAFETY: as above.
        unsafe {
            core::arch::asm!("prfm pldl1keep, [{0}]", in(reg) line, options(nostack, preserves_flags, readonly));
        }
        #[cfg(miri)]
        let _ = line;
    }
}

/// Moves cache lines that were written here, and that another CPU will read first, to where it finds them sooner.
///
/// After they were published, so that it delays nothing. Beyond 64 KiB it does not pay.
#[inline(always)]
pub fn demote(at: ptr::NonNull<u8>, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if len <= 64 << 10 {
        for offset in (0..len).step_by(64) {
            let line = at.as_ptr().wrapping_add(offset);
            // SAFETY: a hint; it changes no memory, whatever the address. Processors without it take it for no operation.
            unsafe {
                core::arch::asm!("cldemote byte ptr [{0}]", in(reg) line, options(nostack, preserves_flags, readonly));
            }
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = (at, len);
}

/// Gives the CPU to another thread that wants it. Not by rustix, which takes it that a filter never forbids that.
pub fn yield_now() {
    std::thread::yield_now();
}

/// Tells the process that made it from those forked later, in which what it guards is not usable.
#[derive(Clone, Copy, Debug)]
pub struct ForkGuard {
    /// Holds the number of this process.
    word: &'static AtomicU32,
    /// That of the process which made the guard.
    number: u32,
}

impl ForkGuard {
    /// A guard that never objects, for memory of which a forked child gets a copy.
    pub fn none() -> Self {
        static WORD: AtomicU32 = AtomicU32::new(0);
        Self { word: &WORD, number: 0 }
    }

    /// A guard for what this process opens now. A forked child may make its own.
    pub fn new() -> rustix::io::Result<Self> {
        /// The last number used by this process or those that it descends from.
        static LAST: AtomicU32 = AtomicU32::new(0);
        if cfg!(miri) {
            return Ok(Self::none());
        }
        let word = fork_word()?;
        let mut number = word.load(Acquire);
        // The first guard since the process began, or was forked.
        if number == 0 {
            let next = LAST.fetch_add(1, Relaxed) + 1;
            number = word.compare_exchange(0, next, AcqRel, Acquire).map_or_else(|other| other, |_| next);
        }
        Ok(Self { word, number })
    }

    /// Whether this process was forked from the one that made the guard.
    #[inline(always)]
    pub fn forked(&self) -> bool {
        self.word.load(Relaxed) != self.number
    }
}

/// A word that the kernel zeroes in a forked child. Mapped once, for the life of the process.
fn fork_word() -> rustix::io::Result<&'static AtomicU32> {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
    static PAGE: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());
    let mut page = PAGE.load(Acquire);
    if page.is_null() {
        let size = rustix::param::page_size();
        // SAFETY: a fresh private page that nobody else knows of yet, unmapped only if it stays so.
        unsafe {
            let fresh = mmap_anonymous(ptr::null_mut(), size, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)?;
            madvise(fresh, size, Advice::LinuxWipeOnFork)?;
            page = fresh.cast();
            if let Err(other) = PAGE.compare_exchange(ptr::null_mut(), page, AcqRel, Acquire) {
                let _ = munmap(fresh, size);
                page = other;
            }
        }
    }
    // SAFETY: mapped for the life of the process and zeroed, which is a valid word.
    Ok(unsafe { &*page })
}

static NUMBERS_TAKEN: AtomicU64 = AtomicU64::new(0);
const _: () = assert!(NUMBERED_THREADS == 64, "one bit each");
const UNASKED: u32 = u32::MAX;
const NONE: u32 = u32::MAX - 1;

struct ReturnNumber;
impl Drop for ReturnNumber {
    fn drop(&mut self) {
        let number = NUMBER.replace(NONE);
        if number < NONE {
            // Release: what this thread did with its place comes before what the next holder of the number does.
            NUMBERS_TAKEN.fetch_and(!(1 << number), Release);
        }
    }
}

thread_local! {
    static NUMBER: Cell<u32> = const { Cell::new(UNASKED) };
    static RETURN: ReturnNumber = const { ReturnNumber };
}

/// A small number (below [`NUMBERED_THREADS`]) that this thread alone has while it lives, if one is left.
#[inline(always)]
pub fn thread_number() -> Option<usize> {
    match NUMBER.get() {
        UNASKED => take_number(),
        NONE => None,
        number => Some(number as usize),
    }
}

#[cold]
fn take_number() -> Option<usize> {
    if RETURN.try_with(|_| ()).is_err() {
        return None; // the thread is ending
    }
    let mut taken = NUMBERS_TAKEN.load(Relaxed);
    while taken != u64::MAX {
        let number = taken.trailing_ones();
        match NUMBERS_TAKEN.compare_exchange_weak(taken, taken | 1 << number, Acquire, Relaxed) {
            Ok(_) => {
                NUMBER.set(number);
                return Some(number as usize);
            }
            Err(now) => taken = now,
        }
    }
    NUMBER.set(NONE);
    None
}
