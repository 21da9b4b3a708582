//! Two bare processes: memory that both map, a forked peer, and the futex between them.

#![allow(clippy::disallowed_types, reason = "bare on purpose: below the library, and not for loom")]

use std::sync::atomic::{AtomicU32, Ordering::Acquire};
use std::time::Instant;
use std::{hint, panic, ptr, thread};

use super::machine::{self, PEER_CPU};

/// Anonymous memory that a forked peer shares.
pub struct Shared {
    base: *mut u8,
    len: usize,
}

impl Shared {
    /// Maps `len` zeroed bytes.
    pub fn new(len: usize) -> Self {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, access, flags, -1, 0) };
        assert_ne!(base, libc::MAP_FAILED, "cannot map {len} shared bytes");
        Self { base: base.cast(), len }
    }

    /// The bytes from `at`, valid for `len` of them as long as the mapping lives.
    pub fn bytes(&self, at: usize, len: usize) -> *mut u8 {
        assert!(at + len <= self.len);
        // SAFETY: just checked to lie inside the mapping.
        unsafe { self.base.add(at) }
    }

    /// The word at `at`, which nobody may use but as an atomic.
    pub fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(align_of::<AtomicU32>()));
        // SAFETY: `bytes` checks the bounds, the line above the alignment (the mapping starts a page), the borrow of
        // self keeps the mapping alive, and every user of this folder keeps payload off its words.
        unsafe { &*self.bytes(at, size_of::<AtomicU32>()).cast() }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; what `word` lent out is gone.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

/// A forked peer. Dropping it kills the process and waits until it is gone, so that its CPU is free again.
pub struct Peer(libc::pid_t);

impl Peer {
    /// Runs `work` in a child pinned to `cpu`. The child owns no thread but its own, while the parent may have had
    /// others holding locks: `work` must not allocate, lock or print.
    pub fn fork(cpu: usize, work: impl FnOnce()) -> Self {
        // SAFETY: the child makes system calls and runs `work`, which by contract needs no lock; it never returns.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "cannot fork");
        if pid == 0 {
            // SAFETY: takes plain numbers.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            if machine::pin(cpu).is_ok() {
                // A panic must not unwind into the copy of the parent's frames.
                let _ = panic::catch_unwind(panic::AssertUnwindSafe(work));
            }
            // SAFETY: ends the child at once, without the parent's exit handlers.
            unsafe { libc::_exit(1) };
        }
        Self(pid)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // SAFETY: the pid is our own child's, not reaped before here, so it names no other process.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, ptr::null_mut(), 0);
        }
    }
}

/// Spins, with a pause, until the word holds `value`.
pub fn spin_until(word: &AtomicU32, value: u32) {
    while word.load(Acquire) != value {
        hint::spin_loop();
    }
}

/// Sleeps while the word holds `old`, and until it holds `value`.
pub fn sleep_until(word: &AtomicU32, old: u32, value: u32) {
    while word.load(Acquire) != value {
        // SAFETY: the word is live and stays mapped during the call; no timeout is passed.
        unsafe {
            libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, old, ptr::null::<libc::timespec>());
        }
    }
}

/// Wakes the one process that sleeps on the word.
pub fn wake(word: &AtomicU32) {
    // SAFETY: the word is live; the kernel uses its address alone.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
}

/// Kills a child of this process by `kill`, and returns when it was seen to be dead, by a thread on the CPU that it leaves.
pub fn killed(pid: u32, kill: impl FnOnce()) -> Instant {
    thread::scope(|scope| {
        // SAFETY: plain numbers; the child is not reaped yet, so the number is its own.
        let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as libc::c_int;
        assert!(pidfd >= 0, "cannot open a pidfd");
        let seen = scope.spawn(move || {
            machine::pin(PEER_CPU).expect("pinned");
            let mut fd = libc::pollfd { fd: pidfd, events: libc::POLLIN, revents: 0 };
            // SAFETY: one live structure.
            while unsafe { libc::poll(&mut fd, 1, -1) } != 1 {}
            Instant::now()
        });
        kill();
        let seen = seen.join().expect("the thread that watches");
        // SAFETY: opened above, and nobody else's.
        unsafe { libc::close(pidfd) };
        seen
    })
}
