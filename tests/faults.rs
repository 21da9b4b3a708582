//! What the system refuses: every operation then answers with a typed error or does without, leaves nothing behind, and works again
//! afterwards.
//!
//! Each environment is made by a child in itself: limits, system call filters, signals, closed descriptors.

#![cfg(not(busway_loom))]

mod common;

use busway::pool::{Member, Pool, PoolConfig};
use busway::{
    Deadline, Error, Geometry, Host, Idle, Link, LinkSet, Listener, Plugin, Process, Request, Result, SizeClass,
};
use common::directory::Directory;
use common::figures::{figure, is_long};
use common::footprint::Footprint;
use common::pipe::{Go, Reports, say, wait_for_go};
use common::{SOON, Setup, argument, assert_err, attach, emulated, roles, serve, signal, skip, until, watchdog_of};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::FromRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

roles!(
    echo,
    pool_worker,
    accepts,
    connects,
    few_descriptors,
    little_memory,
    small_files,
    filtered,
    filtered_at_first,
    signalled,
    closed_standard,
    one_cpu,
);

const ECHO: u32 = 1;
const NESTED: u32 = 2;

// ---- the others, whom nothing befalls

fn echo() {
    let link = attach();
    serve(&link, |request| {
        if request.method() == NESTED {
            let nested = request.call(ECHO, b"", SOON).map(drop);
            nested.expect("a nested call");
        }
        answer(request);
    });
}

fn pool_worker() {
    let member = Member::attach_with(Idle::default()).expect("attach");
    let served = member.worker(["work"]).expect("a queue").serve(|request| drop(request.reply(b"")));
    assert!(matches!(served, Ok(()) | Err(Error::PeerDied { .. })), "{served:?}");
}

/// Admits whoever comes, to links and to a pool, and serves them, until it is killed.
fn accepts() {
    end_with_parent();
    let (link_path, pool_path) = paths(Path::new(&argument()));
    let listener = Setup::default().host().listen(link_path).expect("listen");
    let pool = Pool::create(&PoolConfig::new(["work"])).expect("a pool");
    let door = pool.listen(pool_path).expect("listen");
    say("listening");
    thread::scope(|threads| {
        threads.spawn(|| {
            loop {
                // Those who fail on the way are no concern here.
                let _ = door.accept(Deadline::NEVER).and_then(|guest| guest.admit());
            }
        });
        threads.spawn(|| pool.worker(["work"]).expect("a queue").serve(|request| drop(request.reply(b""))));
        loop {
            if let Ok(link) = listener.accept(Deadline::NEVER).and_then(|guest| guest.admit()) {
                thread::spawn(move || link.serve(answer));
            }
        }
    });
}

fn answer(request: Request<'_>) {
    let bytes = request.to_vec();
    // Its caller may have given up.
    let _ = request.reply(&bytes);
}

/// Connects to whoever listens, over and over, until it is killed.
fn connects() {
    end_with_parent();
    let path = PathBuf::from(argument());
    loop {
        match Plugin::connect(&path, &common::child_config()) {
            Ok(link) => drop(link.serve(answer)),
            Err(_) => thread::yield_now(),
        }
    }
}

fn paths(directory: &Path) -> (PathBuf, PathBuf) {
    (directory.join("links"), directory.join("pool"))
}

/// A child that ends with this value, or with whoever had it.
struct Other(std::process::Child, #[expect(dead_code, reason = "held open")] Go);

impl Other {
    fn new(mut command: Command) -> Self {
        let go = Go::of(&mut command);
        Self(command.spawn().expect("a child"), go)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        signal(self.0.id(), libc::SIGKILL);
        let _ = self.0.wait();
    }
}

/// Ends this role with who began it.
fn end_with_parent() {
    thread::spawn(|| {
        wait_for_go();
        std::process::exit(0);
    });
}

// ---- what is tried

/// What a process needs to do everything.
struct Stage {
    directory: Directory,
    listener: Listener,
    established: Process,
    _others: [Other; 2],
}

impl Stage {
    fn new() -> Self {
        let directory = Directory::new();
        let listener = host().listen(directory.socket()).expect("listen");
        let mut command = Setup::default().command_with("accepts", directory.path().display());
        let mut reports = Reports::of(&mut command);
        let accepts = Other::new(command);
        assert_eq!(reports.expect(), "listening");
        let connects = Other::new(Setup::default().command_with("connects", directory.socket().display()));
        let established = host().spawn(Setup::default().command("echo")).expect("a plugin");
        established.set_handler(answer).expect("the first handler");
        Self { directory, listener, established, _others: [accepts, connects] }
    }

    fn admit(&self) -> Result<Link> {
        // Some came in vain before, and hung up.
        loop {
            match self.listener.accept(SOON).and_then(|guest| guest.admit()) {
                Err(Error::Join(busway::JoinError::HungUp)) => {}
                result => return result,
            }
        }
    }
}

fn host() -> Host {
    // A plugin that the fault befalls too need not be waited for long.
    Setup::default().host().patience(Duration::from_secs(5))
}

fn works(link: &Link) -> Result<()> {
    link.call(ECHO, &[7; 500], SOON).map(drop)
}

/// One operation from beginning to end.
type Operation = (&'static str, fn(&Stage) -> Result<()>);

const OPERATIONS: &[Operation] = &[
    ("spawn", |_| works(&*host().spawn(Setup::default().command("echo"))?)),
    ("listen", |stage| host().listen(stage.directory.path().join("more")).map(drop)),
    ("admit", |stage| works(&stage.admit()?)),
    ("connect", |stage| works(&Plugin::connect(paths(stage.directory.path()).0, &common::child_config())?)),
    ("set", |stage| {
        let set = LinkSet::new()?;
        let link = stage.admit()?;
        let token = set.insert(&link)?;
        works(&link)?;
        assert!(set.remove(token));
        Ok(())
    }),
    ("task", |stage| {
        let link = stage.admit()?;
        smol::block_on(async {
            link.call_async(ECHO, &[7; 500], SOON).await?;
            // Nothing comes: unlike a call, whose reply may be there at once, this waits, and needs who drives.
            match link.recv_async(Duration::from_millis(1)).await {
                Err(Error::Timeout { .. }) => Ok(()),
                other => other.map(drop),
            }
        })
    }),
    ("pool", |stage| {
        let pool = Pool::create(&PoolConfig::new(["work"]).idle(Idle::Park))?;
        let _door = pool.listen(stage.directory.path().join("door"))?;
        pool.descriptor()?;
        let worker = pool.worker(["work"])?;
        pool.queue("work")?.send(ECHO, b"", SOON)?;
        worker.recv(SOON).map(drop)
    }),
    ("pool spawn", |_| {
        let pool = Pool::create(&PoolConfig::new(["work"]).patience(Duration::from_secs(5)))?;
        let worker = pool.spawn(Setup::default().command("pool_worker"))?;
        pool.queue("work")?.call(ECHO, b"", SOON)?;
        pool.close(SOON);
        drop(worker);
        Ok(())
    }),
    ("member", |stage| {
        let member = Member::connect(paths(stage.directory.path()).1, Idle::default())?;
        member.queue("work")?.call(ECHO, b"", SOON).map(drop)
    }),
    ("ring", |_| {
        let member = busway::ring::Mpmc::<u64>::create(64, 2)?.join()?;
        member.push(1)?;
        member.pop().map(drop)
    }),
    ("established", |stage| {
        works(&stage.established)?;
        stage.established.call(NESTED, &[1; 100], SOON).map(drop)
    }),
];

/// What came of faults.
#[derive(Default)]
struct Tally {
    injected: u64,
    typed: u64,
    errors: BTreeSet<String>,
}

impl Tally {
    /// An operation under a fault: true if it worked all the same.
    fn took(&mut self, what: &str, result: Result<()>) -> bool {
        self.injected += 1;
        if let Err(error) = &result {
            self.typed += 1;
            self.errors.insert(format!("{what}: {error}"));
        }
        result.is_ok()
    }

    fn say(&self) {
        say(self.injected);
        say(self.typed);
        for error in &self.errors {
            eprintln!("    {error}");
        }
    }
}

/// Nothing stayed, and everything works, after `what`.
fn all_is_well(stage: &Stage, before: &Footprint, name: &str, operation: fn(&Stage) -> Result<()>, what: &str) {
    before.is_back(&format!("{name} with {what}"));
    operation(stage).unwrap_or_else(|error| panic!("{name} after {what}: {error}"));
    before.is_back(&format!("{name} after {what}"));
}

fn set_limit(what: libc::__rlimit_resource_t, soft: libc::rlim_t) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: one live structure.
    unsafe {
        assert_eq!(libc::getrlimit(what, &mut limit), 0);
        limit.rlim_cur = soft.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(what, &limit), 0, "{}", io::Error::last_os_error());
    }
}

/// The lowest number that a new descriptor could get.
fn lowest_free() -> u64 {
    // SAFETY: a number, and a descriptor of our own.
    unsafe {
        let fd = libc::dup(2);
        assert!(fd >= 0);
        libc::close(fd);
        fd as u64
    }
}

fn prepare() -> (Stage, Footprint) {
    let stage = Stage::new();
    // Twice: threads and files that stay are begun by now.
    for _ in 0..2 {
        OPERATIONS.iter().for_each(|(name, operation)| operation(&stage).unwrap_or_else(|e| panic!("{name}: {e}")));
    }
    until("the others are at rest", || Footprint::now() == Footprint::now());
    let before = Footprint::now();
    (stage, before)
}

// ---- environments

/// Each descriptor that an operation makes is refused once.
fn few_descriptors() {
    let (stage, before) = prepare();
    let mut tally = Tally::default();
    for (name, operation) in OPERATIONS {
        for more in 0.. {
            let limit = lowest_free() + more;
            set_limit(libc::RLIMIT_NOFILE, limit);
            let result = operation(&stage);
            set_limit(libc::RLIMIT_NOFILE, libc::RLIM_INFINITY);
            let what = format!("{more} descriptors");
            if tally.took(name, result) {
                break;
            }
            all_is_well(&stage, &before, name, *operation, &what);
            assert!(more < 100, "{name} never works");
        }
    }
    tally.say();
}

/// Mappings and threads are refused for lack of address space. The heap has what it needs: a failure there ends a program.
fn little_memory() {
    let (stage, before) = prepare();
    let mut tally = Tally::default();
    let large = vec![SizeClass { size: 1 << 20, count: 16 }];
    let config = busway::Config::default().geometry(Geometry { classes: large.clone(), ..Geometry::default() });
    for steps in 0..12 {
        let statm = std::fs::read_to_string("/proc/self/statm").expect("statm");
        let pages: u64 = statm.split_whitespace().next().and_then(|pages| pages.parse().ok()).expect("a number");
        set_limit(libc::RLIMIT_AS, pages * 4096 + (4 + 6 * steps) * (1 << 20));
        let listener = Host::new(config.clone()).listen(stage.directory.path().join("large"));
        let pool = Pool::create(&PoolConfig::new(["work"]).classes(large.clone()));
        let pair = Link::pair(&busway::Config::default());
        let link = Host::new(config.clone()).spawn(Setup::default().command("echo"));
        let made = link.and_then(|link| works(&link));
        set_limit(libc::RLIMIT_AS, libc::RLIM_INFINITY);
        drop((listener, pair));
        tally.took("pool", pool.map(drop));
        tally.took("spawn", made);
        before.is_back("too little address space");
    }
    for (name, operation) in OPERATIONS {
        all_is_well(&stage, &before, name, *operation, "too little address space");
    }
    tally.say();
}

/// Files may not grow. By default the kernel ends a program that tries: `SIGXFSZ`, which this one ignores.
fn small_files() {
    let (stage, before) = prepare();
    let mut tally = Tally::default();
    // SAFETY: no handler.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    for (name, operation) in OPERATIONS {
        for size in [0, 4096, 1 << 16] {
            set_limit(libc::RLIMIT_FSIZE, size);
            let result = operation(&stage);
            set_limit(libc::RLIMIT_FSIZE, libc::RLIM_INFINITY);
            tally.took(name, result);
            all_is_well(&stage, &before, name, *operation, "files that may not grow");
        }
    }
    tally.say();
}

/// Has every thread that is begun from here on, and every program, find a system call refused. Returns whether that works here.
fn refuse(number: i64, errno: i32) -> bool {
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program outlives the call that copies it.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_TSYNC,
                &program,
            ) == 0
    }
}

const CALLS: &[(&str, i64)] = &[
    ("futex_waitv", libc::SYS_futex_waitv),
    ("membarrier", libc::SYS_membarrier),
    ("pidfd_open", libc::SYS_pidfd_open),
    ("memfd_create", libc::SYS_memfd_create),
    ("fallocate", libc::SYS_fallocate),
    ("madvise", libc::SYS_madvise),
    ("epoll_create1", libc::SYS_epoll_create1),
    ("epoll_ctl", libc::SYS_epoll_ctl),
    ("eventfd2", libc::SYS_eventfd2),
    ("timerfd_create", libc::SYS_timerfd_create),
    ("socketpair", libc::SYS_socketpair),
    ("socket", libc::SYS_socket),
    ("sendmsg", libc::SYS_sendmsg),
    ("recvmsg", libc::SYS_recvmsg),
    ("getsockopt", libc::SYS_getsockopt),
    ("setsockopt", libc::SYS_setsockopt),
    ("sched_getaffinity", libc::SYS_sched_getaffinity),
    ("sched_yield", libc::SYS_sched_yield),
    ("getcpu", libc::SYS_getcpu),
    // Threads, and what else is begun.
    ("clone3", libc::SYS_clone3),
];

/// A process in which one system call does not exist, or is forbidden, once the others are there.
fn filtered() {
    let argument = argument();
    let (name, errno) = argument.split_once(' ').expect("a call and an error");
    let (_, number) = CALLS.iter().find(|(call, _)| *call == name).expect("a call");
    let (stage, before) = prepare();
    if !refuse(*number, errno.parse().expect("a number")) {
        say("unsupported");
        return;
    }
    say("refused");
    let mut tally = Tally::default();
    for (name, operation) in OPERATIONS {
        tally.took(name, operation(&stage));
        before.is_back(&format!("{name} without {argument}"));
    }
    // What was there before works, whatever is refused to what begins.
    let established = works(&stage.established);
    tally.say();
    established.expect("a call over a link that was there before");
}

/// As [`filtered`], from the very beginning.
fn filtered_at_first() {
    let argument = argument();
    let (name, errno) = argument.split_once(' ').expect("a call and an error");
    let (_, number) = CALLS.iter().find(|(call, _)| *call == name).expect("a call");
    if !refuse(*number, errno.parse().expect("a number")) {
        return say("unsupported");
    }
    say("refused");
    let mut tally = Tally::default();
    let link = host().spawn(Setup::default().command("echo"));
    tally.took("spawn", link.and_then(|link| works(&link)));
    let pool = Pool::create(&PoolConfig::new(["work"]).patience(Duration::from_secs(5)));
    let worker = pool.and_then(|pool| {
        let worker = pool.spawn(Setup::default().command("pool_worker"))?;
        pool.queue("work")?.call(ECHO, b"", SOON)?;
        pool.close(SOON);
        drop(worker);
        Ok(())
    });
    tally.took("pool spawn", worker);
    tally.say();
}

/// Every thread is interrupted, over and over, in whatever it waits.
fn signalled() {
    extern "C" fn nothing(_: i32) {}
    // SAFETY: the handler does nothing. Without SA_RESTART system calls end early.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(i32) as usize;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()), 0);
    }
    let (stage, before) = prepare();
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut tally = Tally::default();
    thread::scope(|threads| {
        threads.spawn(|| {
            // SAFETY: plain numbers.
            let own = unsafe { libc::gettid() };
            while !stop.load(Relaxed) {
                for task in std::fs::read_dir("/proc/self/task").expect("tasks").flatten() {
                    let tid: i32 = task.file_name().to_string_lossy().parse().expect("a number");
                    if tid != own {
                        // SAFETY: plain numbers; a thread that has ended gets nothing.
                        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, libc::SIGUSR1) };
                        sent.fetch_add(1, Relaxed);
                    }
                }
                thread::sleep(Duration::from_micros(100));
            }
        });
        let rounds = if is_long() { 100 } else { 5 };
        for _ in 0..rounds {
            for (name, operation) in OPERATIONS {
                operation(&stage).unwrap_or_else(|error| panic!("{name} under signals: {error}"));
            }
            // Parked, by futex and by descriptor, and told of a death.
            for idle in ["park", "poll", "adaptive"] {
                let setup = Setup::default().idle(idle);
                let plugin = setup.spawn("echo");
                let limit = Deadline::after(Duration::from_millis(30));
                assert_err!(plugin.recv(limit).map(drop), Error::Timeout { .. });
                assert!(limit.has_passed());
                works(&plugin).expect("a call");
                thread::scope(|waiting| {
                    let waiter = waiting.spawn(|| plugin.recv(Deadline::NEVER).map(drop));
                    signal(plugin.id(), libc::SIGKILL);
                    assert_err!(waiter.join().expect("joined"), Error::PeerDied { .. });
                });
                let alone = host().listen(stage.directory.path().join("alone")).expect("listen");
                let limit = Deadline::after(Duration::from_millis(20));
                assert!(alone.accept(limit).is_err() && limit.has_passed(), "a signal is nobody who connects");
            }
            tally.injected = sent.load(Relaxed);
        }
        stop.store(true, Relaxed);
    });
    before.is_back("signals");
    tally.say();
}

/// The descriptors that the library gets are those of standard input, output and error.
fn closed_standard() {
    let (stage, _) = prepare();
    // SAFETY: plain numbers; the copy is nobody else's.
    let mut out = unsafe { File::from_raw_fd(libc::fcntl(1, libc::F_DUPFD_CLOEXEC, 100)) };
    // SAFETY: descriptors of this process that nobody uses from here on.
    (0..3).for_each(|fd| assert_eq!(unsafe { libc::close(fd) }, 0));
    let mut tally = Tally::default();
    for (name, operation) in OPERATIONS {
        tally.took(name, operation(&stage));
    }
    let Tally { injected, typed, errors } = tally;
    writeln!(out, "report: {injected}\nreport: {typed}\n{errors:?}").expect("somebody listens");
    // What has the numbers now is not to be written to by a harness.
    std::process::exit(i32::from(typed > 0));
}

/// All of this process and its children run on one CPU, whoever spins.
fn one_cpu() {
    // SAFETY: a CPU set is plain bits, for which zero means empty.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let size = size_of_val(&set);
        assert_eq!(libc::sched_getaffinity(0, size, &mut set), 0);
        let cpu = (0..libc::CPU_SETSIZE as usize).find(|cpu| libc::CPU_ISSET(*cpu, &set)).expect("a CPU");
        libc::CPU_ZERO(&mut set);
        libc::CPU_SET(cpu, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size, &set), 0);
    }
    let (stage, before) = prepare();
    let mut tally = Tally::default();
    for (name, operation) in OPERATIONS {
        assert!(tally.took(name, operation(&stage)), "{name} on one CPU");
    }
    for idle in common::IDLE_MODES {
        let plugin = Setup::default().idle(idle).spawn("echo");
        for _ in 0..20 {
            assert!(tally.took(idle, works(&plugin)), "{idle} on one CPU");
        }
    }
    before.is_back("one CPU");
    tally.say();
}

// ---- tests

/// Plays a role that injects faults; returns how many, and how many typed errors there were.
fn inject(role: &str, argument: &str, what: &str) -> Option<[u64; 2]> {
    let mut command = Setup::default().command_with(role, argument);
    let mut reports = Reports::of(&mut command);
    let mut child = command.spawn().expect("a child");
    drop(command);
    let filtered = role.starts_with("filtered");
    let supported = !filtered || reports.next().as_deref() == Some("refused");
    let numbers = [(); 2].map(|()| reports.next().and_then(|line| line.parse().ok()));
    let status = child.wait().expect("reaped");
    if !supported {
        skip("no seccomp filter");
        return None;
    }
    assert!(status.success(), "{what}: {status}");
    let [injected, typed] = numbers.map(|number: Option<u64>| number.expect("a number"));
    Some([injected, typed])
}

fn report(what: &str, [injected, typed]: [u64; 2]) {
    figure("G1", &format!("{what}: faults injected / typed errors / leaks"), format!("{injected} / {typed} / 0"));
}

macro_rules! environment {
    ($test:ident, $role:literal, $what:literal) => {
        #[test]
        fn $test() {
            let _watchdog = watchdog_of(if is_long() { 600 } else { 120 });
            if emulated() {
                return skip("an emulator has limits and signals of its own");
            }
            report($what, inject($role, "", $what).expect("no filter is needed"));
        }
    };
}

environment!(each_descriptor_is_refused_once, "few_descriptors", "out of descriptors");
environment!(address_space_runs_out, "little_memory", "out of address space");
environment!(files_may_not_grow, "small_files", "file size limit");
environment!(every_wait_is_interrupted, "signalled", "interrupted by signals");
environment!(standard_descriptors_are_closed, "closed_standard", "descriptors 0 to 2 closed");
environment!(one_cpu_is_enough, "one_cpu", "one CPU");

#[test]
fn system_calls_are_refused() {
    let _watchdog = watchdog_of(if is_long() { 900 } else { 200 });
    if emulated() {
        return skip("an emulator makes system calls of its own");
    }
    let mut sum = [0; 2];
    for (name, _) in CALLS {
        for errno in [libc::ENOSYS, libc::EPERM] {
            for role in ["filtered", "filtered_at_first"] {
                let when = if role == "filtered" { "later" } else { "from the beginning" };
                let error = if errno == libc::ENOSYS { "ENOSYS" } else { "EPERM" };
                let what = format!("{name} is {error} {when}");
                let Some([injected, typed]) = inject(role, &format!("{name} {errno}"), &what) else { return };
                println!("{what}: {injected} operations, {typed} typed errors");
                sum = [sum[0] + injected, sum[1] + typed];
            }
        }
    }
    report(&format!("{} system calls refused, before and after joining", CALLS.len()), sum);
}

#[test]
fn threads_are_refused() {
    let _watchdog = watchdog_of(120);
    if emulated() {
        return skip("an emulator makes system calls of its own");
    }
    // What `pthread_create` is told by a kernel at its limit.
    for (role, when) in [("filtered", "after"), ("filtered_at_first", "before")] {
        let Some(came) = inject(role, &format!("clone3 {}", libc::EAGAIN), when) else { return };
        report(&format!("no more threads or processes, {when} joining"), came);
    }
}
