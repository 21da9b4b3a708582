//! Tracing one thread of a child, which lets it: its tracer is the thread that started the process.

use super::pipe::{Reports, say};
use super::{emulated, skip};
use std::ptr;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering::Relaxed;

/// The thread that is traced, so that [`stop`] need not ask.
static THREAD: AtomicI32 = AtomicI32::new(0);
static PROCESS: AtomicI32 = AtomicI32::new(0);

/// Lets this thread be traced, and says which it is.
pub fn offer() {
    // SAFETY: takes plain numbers, of this thread.
    let (thread, traced) = unsafe { (libc::gettid(), libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0)) };
    assert_eq!(traced, 0, "it is traced already");
    THREAD.store(thread, Relaxed);
    PROCESS.store(std::process::id() as i32, Relaxed);
    say(thread);
}

/// The system call by which [`stop`] stops.
pub const STOPS: libc::c_long = libc::SYS_tgkill;

/// Stops this thread, which has offered it, until its tracer lets it go on.
pub fn stop() {
    // SAFETY: a signal to this thread, which takes nothing but numbers.
    unsafe { libc::syscall(STOPS, PROCESS.load(Relaxed), THREAD.load(Relaxed), libc::SIGSTOP) };
}

/// Whether there is tracing here; says so if not.
pub fn can_trace() -> bool {
    if emulated() {
        skip("no ptrace under an emulator");
    }
    !emulated()
}

/// A thread that has [offered](offer) it. Its process is killed if this is dropped before it is let go.
pub struct Traced {
    pub pid: u32,
    thread: i32,
    over: bool,
}

impl Traced {
    /// The thread of process `pid` that says so in `reports`.
    pub fn new(pid: u32, reports: &mut Reports) -> Self {
        Self { pid, thread: reports.number() as i32, over: false }
    }

    /// The thread of this name, stopped wherever it is. It needs not offer it.
    pub fn seize(pid: u32, name: &str) -> Self {
        let named = |task: &std::fs::DirEntry| {
            std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        };
        let mut tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives").flatten();
        let thread = tasks.find(named).expect("a thread of this name").file_name();
        let thread = thread.to_string_lossy().parse().expect("a number");
        let traced = Self { pid, thread, over: false };
        traced.trace(libc::PTRACE_SEIZE, libc::PTRACE_O_EXITKILL);
        traced.trace(libc::PTRACE_INTERRUPT, 0);
        traced.wait();
        traced
    }

    /// Once it has stopped for the first time: it is not to outlive its tracer.
    pub fn bind(&self) {
        self.trace(libc::PTRACE_SETOPTIONS, libc::PTRACE_O_EXITKILL);
    }

    /// Waits until it stops; by which signal.
    pub fn wait(&self) -> i32 {
        self.wait_for(0).expect("waited for")
    }

    /// As [`wait`](Self::wait); `None` while it has not stopped.
    pub fn has_stopped(&self) -> Option<i32> {
        self.wait_for(libc::WNOHANG)
    }

    fn wait_for(&self, how: i32) -> Option<i32> {
        let mut status = 0;
        // SAFETY: a thread that we trace; the status is written before this returns.
        let waited = unsafe { libc::waitpid(self.thread, &mut status, libc::__WALL | how) };
        if waited == 0 {
            return None;
        }
        assert_eq!(waited, self.thread, "{}", std::io::Error::last_os_error());
        assert!(libc::WIFSTOPPED(status), "it ended by itself: {status:#x}");
        Some(libc::WSTOPSIG(status))
    }

    fn trace(&self, request: libc::c_uint, data: i32) {
        // SAFETY: a thread that is stopped; these requests take plain numbers.
        assert_eq!(unsafe { libc::ptrace(request, self.thread, 0, data) }, 0);
    }

    /// Lets it run until it begins or ends a system call; says whether it did, rather than stop.
    pub fn next_system_call(&self) -> bool {
        self.trace(libc::PTRACE_SYSCALL, 0);
        self.wait() == libc::SIGTRAP
    }

    /// Lets it go on until it stops.
    pub fn go_on(&self) {
        self.trace(libc::PTRACE_CONT, 0);
    }

    /// Lets it go on untraced.
    pub fn detach(mut self) {
        self.trace(libc::PTRACE_DETACH, 0);
        self.over = true;
    }

    /// Kills its process, which is still to be waited for.
    pub fn kill(self) {}
}

impl Drop for Traced {
    fn drop(&mut self) {
        if !self.over {
            // It may have ended by itself.
            // SAFETY: takes plain numbers.
            unsafe { libc::kill(self.pid as i32, libc::SIGKILL) };
            // A traced thread is waited for before its process can be.
            // SAFETY: a thread that we trace.
            unsafe { libc::waitpid(self.thread, ptr::null_mut(), libc::__WALL) };
        }
    }
}

/// Step by step, where one instruction can be told from the next.
#[cfg(target_arch = "x86_64")]
impl Traced {
    /// Begins to execute one instruction. It has when it stops, which a system call may put off.
    pub fn begin_step(&self) {
        self.trace(libc::PTRACE_SINGLESTEP, 0);
    }

    fn registers(&self) -> libc::user_regs_struct {
        let mut registers = std::mem::MaybeUninit::uninit();
        // SAFETY: a thread that is stopped; the registers are written before this returns.
        unsafe {
            assert_eq!(libc::ptrace(libc::PTRACE_GETREGS, self.thread, 0, registers.as_mut_ptr()), 0);
            registers.assume_init()
        }
    }

    /// Which system call it has begun or ended.
    pub fn call(&self) -> libc::c_long {
        self.registers().orig_rax as libc::c_long
    }

    /// Where its next instruction is, and if that is a system call, which.
    pub fn next(&self) -> (u64, Option<libc::c_long>) {
        let registers = self.registers();
        // SAFETY: as above; takes plain numbers.
        let code = unsafe { libc::ptrace(libc::PTRACE_PEEKTEXT, self.thread, registers.rip, 0) };
        (registers.rip, (code & 0xffff == 0x050f).then_some(registers.rax as libc::c_long))
    }

    /// Whether it sleeps in a system call.
    pub fn sleeps(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/task/{}/stat", self.pid, self.thread));
        stat.is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" S")))
    }
}
