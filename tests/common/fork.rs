//! Forking, which only a child program of a test does: never the test harness.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `body` in a forked child, and demands that it ends well.
///
/// The child has only this thread; the others of its parent, which the harness and the watchdog own, hold no lock
/// that it needs.
pub fn in_fork(body: impl FnOnce()) {
    // SAFETY: the child runs `body` and ends, without the exit handlers of its parent.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork");
    if pid == 0 {
        // It must not outlive a parent that hangs.
        // SAFETY: takes plain numbers.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        // A panic must not unwind into the copy of the parent's frames. Its message is on standard error.
        let ended = catch_unwind(AssertUnwindSafe(body));
        // SAFETY: ends this process.
        unsafe { libc::_exit(ended.is_err().into()) };
    }
    let mut status = 0;
    // SAFETY: waits for our own child; the status is written before this returns.
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!(waited, pid);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "the forked child ended with {status:#x}");
}

/// Whether the kernel wipes a page in forked children, by which a link notices.
pub fn wipes_on_fork() -> bool {
    let (size, none) = (4096, std::ptr::null_mut());
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a fresh mapping, written in bounds and read by this thread alone.
    unsafe {
        let page = libc::mmap(none, size, access, flags, -1, 0).cast::<u8>();
        if libc::madvise(page.cast(), size, libc::MADV_WIPEONFORK) != 0 {
            return false;
        }
        page.write_volatile(1);
        let pid = libc::fork();
        if pid == 0 {
            libc::_exit(page.read_volatile().into());
        }
        let mut status = 0;
        libc::waitpid(pid, &mut status, 0);
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
    }
}
