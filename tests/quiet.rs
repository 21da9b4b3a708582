//! What is not done: no system calls between two sides that spin, and nothing at all while a link is idle.

mod common;

use busway::pool::{Member, Pool, PoolConfig};
use busway::{Deadline, Idle, Link, Message, Process, Request};
use common::figures::figure;
use common::pipe::{Go, Reports, say, wait_for_go};
use common::procfs::voluntary_switches;
use common::{IDLE_MODES, Setup, argument, attach, roles, serve, skip, until, watchdog};
use rustix::event::{PollFd, PollFlags, poll};
use std::process::Child;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

roles!(confined_host, confined_pool_host, confined_plugin, confined_worker, idle_host, idle_plugin);

const ECHO: u32 = 1;
const HOLD: u32 = 2;
const COUNT: u32 = 3;
const SEND: u32 = 4;

/// What a confined thread tried to call: looks at descriptors, and all else.
static LOOKS: AtomicU64 = AtomicU64::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);
/// The number of the last one.
static LAST: AtomicU64 = AtomicU64::new(0);

#[cfg(target_arch = "x86_64")]
const LOOK_NUMBERS: [i64; 4] = [libc::SYS_poll, libc::SYS_ppoll, libc::SYS_epoll_wait, libc::SYS_epoll_pwait];
#[cfg(target_arch = "aarch64")]
const LOOK_NUMBERS: [i64; 2] = [libc::SYS_ppoll, libc::SYS_epoll_pwait];

/// Stands in for the kernel: counts the call and answers 0, as if it were done.
extern "C" fn on_trap(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the context of the trapped call, which the kernel passes here and restores afterwards.
    let context = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext };
    #[cfg(target_arch = "x86_64")]
    let number = std::mem::take(&mut context.gregs[libc::REG_RAX as usize]);
    #[cfg(target_arch = "aarch64")]
    let number = {
        context.regs[0] = 0;
        context.regs[8] as i64
    };
    if LOOK_NUMBERS.contains(&number) {
        LOOKS.fetch_add(1, Relaxed);
    } else {
        CALLS.fetch_add(1, Relaxed);
        LAST.store(number as u64, Relaxed);
    }
}

/// From here on every system call of this thread is trapped, but for ending the process and returning from the trap.
/// Returns whether that works here.
fn confine() -> bool {
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let allow = |number: i64| {
        let unless = instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number as u32);
        [unless, instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW)]
    };
    let [a, b] = allow(libc::SYS_rt_sigreturn);
    let [c, d] = allow(libc::SYS_exit_group);
    let load_number = instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0);
    let trap = instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_TRAP);
    let mut filter = [load_number, a, b, c, d, trap];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the handler touches atomics and the context it is given; the program outlives the call that copies it.
    let confined = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_trap as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut()) == 0
            && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) == 0
    };
    if !confined {
        return false;
    }
    // The one call that is meant to be made.
    thread::yield_now();
    CALLS.swap(0, Relaxed) == 1
}

/// `[whether this process could be confined, calls, looks, number of the last call]`.
fn counts(confined: bool) -> [u64; 4] {
    [confined.into(), CALLS.load(Relaxed), LOOKS.load(Relaxed), LAST.load(Relaxed)]
}

fn echo(request: Request<'_>) {
    let mut reply = request.loan(request.len()).expect("loan");
    request.bytes().copy_to(&mut reply);
    request.reply(reply).expect("answer");
}

/// Serves, confined from the first count on, and says what it has tried at each further one.
fn confined_plugin() {
    // It never gets out of here in order, which would take system calls.
    serve(&attach(), confined_answers());
}

/// The same as a worker of a pool.
fn confined_worker() {
    let member = Member::attach_with(Idle::Spin).expect("attach");
    member.worker(["work"]).expect("a queue").serve(confined_answers()).expect("served until killed");
}

fn confined_answers() -> impl Fn(Request<'_>) {
    let confined = AtomicBool::new(false);
    move |request| match request.method() {
        COUNT => {
            if !confined.load(Relaxed) {
                confined.store(confine(), Relaxed);
            }
            request.reply_as(&counts(confined.load(Relaxed))).expect("answer");
        }
        _ => echo(request),
    }
}

fn confined_host() {
    // Never dropped: a confined plugin cannot end by itself.
    let plugin: &'static Process = Box::leak(Box::new(Setup::default().idle("spin").spawn("confined_plugin")));
    confined_calls(plugin.id(), |method, payload| plugin.call(method, payload, Deadline::NEVER));
}

fn confined_pool_host() {
    let pool = Pool::create(&PoolConfig::new(["work"]).idle(Idle::Spin)).expect("a pool");
    let pool: &'static Pool = Box::leak(Box::new(pool));
    let worker = pool.spawn(Setup::default().command("confined_worker")).expect("a worker");
    let id = worker.id();
    Box::leak(Box::new(worker));
    let queue = pool.queue("work").expect("a queue");
    confined_calls(id, move |method, payload| queue.call(method, payload, Deadline::NEVER));
}

/// Calls on a confined thread, and says how often and what both sides have tried.
fn confined_calls(peer: u32, call: impl Fn(u32, &'static [u8]) -> busway::Result<Message<'static>> + Send + 'static) {
    static PAYLOAD: [u8; 4096] = [3; 4096];
    static STOP: AtomicBool = AtomicBool::new(false);
    let result = &*Box::leak(Box::new(Mutex::new(None)));
    thread::spawn(move || {
        let echoes = |calls: u64| {
            let mut made = 0;
            while made < calls && !STOP.load(Relaxed) {
                for payload in [&PAYLOAD[..32], &PAYLOAD] {
                    assert_eq!(call(ECHO, payload).expect("call").len(), payload.len());
                    made += 1;
                }
            }
            made
        };
        let count = || call(COUNT, b"").expect("call").read::<[u64; 4]>().expect("counts");
        echoes(200);
        let [theirs, ours] = [count()[0] == 1, confine()];
        let made = if theirs && ours { echoes(100_000) } else { 0 };
        let theirs = count();
        *result.lock().unwrap() = Some((made, counts(ours), theirs));
        // To end would take system calls too.
        loop {
            std::hint::spin_loop();
        }
    });
    // On a machine with other things to do, or with one CPU, a call takes a time slice or two.
    let limit = Instant::now() + Duration::from_secs(5);
    until("the calls are made", || {
        STOP.store(Instant::now() > limit, Relaxed);
        thread::sleep(Duration::from_millis(1));
        result.lock().is_ok_and(|result| result.is_some())
    });
    let (made, ours, theirs) = result.lock().unwrap().expect("just seen");
    say(made);
    [ours, theirs].as_flattened().iter().for_each(say);
    common::signal(peer, libc::SIGKILL);
}

#[test]
fn two_sides_that_spin_make_no_system_calls() {
    no_system_calls("confined_host");
}

#[test]
fn a_caller_and_a_worker_that_spin_make_no_system_calls() {
    no_system_calls("confined_pool_host");
}

fn no_system_calls(role: &str) {
    let _watchdog = watchdog();
    let mut command = Setup::default().command(role);
    let mut reports = Reports::of(&mut command);
    let mut host = command.spawn().expect("spawn a host");
    drop(command);
    let made = reports.number();
    let [ours, theirs] = [0; 2].map(|_| [0; 4].map(|_| reports.number()));
    host.wait().unwrap();
    if [ours[0], theirs[0]] != [1, 1] {
        return skip("no seccomp filter that traps");
    }
    assert!(made > 100, "only {made} calls were made");
    assert_eq!(ours[1], 0, "system calls of the host, the last one with number {}", ours[3]);
    assert_eq!(theirs[1], 0, "system calls of the plugin, the last one with number {}", theirs[3]);
    // Who waits in vain for some 3 ms, because the other side gets no CPU, looks whether it is still there.
    let looks = ours[2] + theirs[2];
    assert!(looks < 5000, "{looks} looks at the descriptors in {made} calls");
    figure("G8", &format!("system calls of both sides in {made} calls while both spin, {role}"), ours[1] + theirs[1]);
}

/// Holds calls for ever.
fn idle_plugin() {
    let link = attach();
    let held: Mutex<Vec<Request<'static>>> = Mutex::default();
    let answer = |request: Request<'_>| match request.method() {
        HOLD => held.lock().unwrap().push(request.into_owned()),
        SEND => link.send(SEND, b"for whom?", Deadline::NEVER).expect("send"),
        _ => request.reply_as(&(held.lock().unwrap().len() as u64)).expect("answer"),
    };
    thread::scope(|threads| (0..2).for_each(|_| drop(threads.spawn(|| drop(link.serve(answer))))));
}

/// Has threads that wait for everything there is, and then nothing comes.
fn idle_host() {
    let argument = argument();
    let (idle, what) = argument.split_once(' ').expect("an idle mode and what to wait for");
    let idle = IDLE_MODES.into_iter().find(|mode| *mode == idle).expect("an idle mode");
    let plugin: &'static Process = Box::leak(Box::new(Setup::default().idle(idle).spawn("idle_plugin")));
    let count = || plugin.call_as::<u64>(COUNT, &[0u8; 0], Deadline::NEVER).expect("call");
    let wait = |what: fn(&'static Link)| drop(thread::spawn(move || what(plugin)));
    let call: fn(&'static Link) = |link| drop(link.call(HOLD, b"", Deadline::NEVER));
    match what {
        "receivers" => (0..3).for_each(|_| wait(|link| drop(link.recv(Deadline::NEVER)))),
        "loop" => {
            wait(|link| {
                loop {
                    if link.arm() {
                        poll(&mut [PollFd::new(link, PollFlags::IN)], None).expect("poll");
                    }
                    link.disarm();
                }
            });
        }
        // Nobody receives the event: callers that serve what is nested in theirs come across it.
        "unreceived" => plugin.set_handler(|request| drop(request)).expect("the first handler"),
        _ => {}
    }
    (0..2).for_each(|_| wait(call));
    until("the calls are held", || count() == 2);
    if what == "unreceived" {
        plugin.send(SEND, b"", Deadline::NEVER).expect("send");
        count();
    }
    say(std::process::id());
    say(plugin.id());
    wait_for_go();
    common::signal(plugin.id(), libc::SIGKILL);
}

struct Pair {
    name: String,
    host: Child,
    pids: [u32; 2],
    go: Go,
}

#[test]
fn an_idle_link_wakes_no_thread_of_either_side() {
    let _watchdog = watchdog();
    let modes = ["adaptive", "park", "poll"];
    let waits = ["callers", "receivers", "loop", "unreceived"];
    let spawn = |name: String| {
        let mut command = Setup::default().command_with("idle_host", &name);
        let (mut reports, go) = (Reports::of(&mut command), Go::of(&mut command));
        let host = command.spawn().expect("spawn a host");
        Pair { name, host, pids: [reports.number() as u32, reports.number() as u32], go }
    };
    let pairs: Vec<Pair> =
        modes.iter().flat_map(|mode| waits.map(|what| format!("{mode} {what}"))).map(spawn).collect();
    let count = || pairs.iter().map(|pair| pair.pids.map(voluntary_switches)).collect::<Vec<_>>();
    // The time is what is tested here: a second to come to rest, and ten at rest.
    thread::sleep(Duration::from_secs(1));
    let before = count();
    thread::sleep(Duration::from_secs(10));
    let after = count();
    for ((pair, before), after) in pairs.iter().zip(before).zip(after) {
        assert!(before.iter().all(|threads| threads.len() > 2), "{}: the threads are there", pair.name);
        assert_eq!(before, after, "{}: voluntary context switches of host and plugin", pair.name);
    }
    figure("G8", "context switches of all threads of 12 idle links in 10 s", 0);
    for mut pair in pairs {
        pair.go.go();
        pair.host.wait().unwrap();
    }
}
