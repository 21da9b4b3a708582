//! How long a survivor takes to notice that the other process has died.
//!
//! `cargo bench --bench death -- [--quick] [--only SUBSTRING] [--json FILE]`
//!
//! From right before `kill`, or from right before the instruction that faults, to the return of whoever waits: a blocked `call`, a
//! `recv`, a `task` that awaits a reply on tokio, a `pool` call that a worker had taken. Each time a process of its own dies, at a
//! moment between 0 and 12 ms after the wait began, since a wait has stages. `pidfd` is the floor: a thread that polls nothing
//! else.
//!
//! The dying process has mapped and touched so many MiB of private memory beside its link, which the kernel gives back before it
//! tells anybody; `link` is a link whose own memory is that large, which the survivor still has.
//!
//! A virtual machine is stopped now and then. The last column leaves out what of a notice was such a pause, where that is known.

mod common;
#[path = "../tests/common/pauses.rs"]
mod pauses;

use busway::pool::{Member, Pool, PoolConfig};
use busway::{Config, Deadline, Error, Geometry, Host, Idle, Link, Plugin, Request, SizeClass};
use common::machine;
use common::options::{Options, USAGE};
use hdrhistogram::Histogram;
use std::fmt::{self, Write as _};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::ops::Range;
use std::os::fd::FromRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use std::{env, io, ptr, thread};

/// How a process dies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Death {
    Kill,
    Fault,
    FaultWithCore,
}

/// What waits for it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    Call,
    Receive,
    Task,
    Pool,
    Pidfd,
}

#[derive(Clone, Copy)]
struct Case {
    death: Death,
    /// MiB mapped and touched.
    mapped: usize,
    /// Whether by the link itself.
    link: bool,
    waits: Waits,
    idle: Idle,
    n: u32,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let death = match self.death {
            Death::Kill => "kill",
            Death::Fault => "fault",
            Death::FaultWithCore => "fault-core",
        };
        let waits = match self.waits {
            Waits::Call => "call",
            Waits::Receive => "recv",
            Waits::Task => "task",
            Waits::Pool => "pool",
            Waits::Pidfd => "pidfd",
        };
        let link = if self.link { "-link" } else { "" };
        f.pad(&format!("{death}/{}MiB{link}/{waits}/{}", self.mapped, idle_name(self.idle)))
    }
}

fn idle_name(idle: Idle) -> &'static str {
    match idle {
        Idle::Spin => "spin",
        Idle::Park => "park",
        _ => "adaptive",
    }
}

fn idle_of(name: &str) -> Idle {
    match name {
        "spin" => Idle::Spin,
        "park" => Idle::Park,
        _ => Idle::default(),
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let waits = [Waits::Call, Waits::Receive, Waits::Task, Waits::Pool];
    let adaptive = Idle::default();
    for (mapped, n) in [(1, 1000), (64, 1000), (1024, 100)] {
        let mut add = |death, waits, idle, n| cases.push(Case { death, mapped, link: false, waits, idle, n });
        add(Death::Kill, Waits::Pidfd, adaptive, n);
        for waits in waits {
            // With much memory, how one waits is the smallest part of it.
            let idles = if mapped < 1024 { &[Idle::Spin, Idle::Park, adaptive][..] } else { &[adaptive] };
            idles.iter().for_each(|idle| add(Death::Kill, waits, *idle, n));
        }
        for death in [Death::Fault, Death::FaultWithCore] {
            let few = if death == Death::FaultWithCore { 10 } else { 4 };
            add(death, Waits::Call, adaptive, (n / few).min(200));
            add(death, Waits::Pool, adaptive, (n / few).min(200));
        }
    }
    for mapped in [64, 1024] {
        let (death, waits, idle) = (Death::Kill, Waits::Call, adaptive);
        cases.push(Case { death, mapped, link: true, waits, idle, n: 6400 / mapped as u32 * 2 });
    }
    cases
}

const HOLD: u32 = 1;
const READY: u32 = 2;
const DIE: u32 = 3;

/// Nanoseconds of the clock that all processes share.
fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: one live structure.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A word in shared memory, for the time of a fault.
struct Stamp(*mut u64);

impl Stamp {
    fn of(file: &File) -> Self {
        use std::os::fd::AsRawFd;
        let (access, fd) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe { libc::mmap(ptr::null_mut(), 4096, access, libc::MAP_SHARED, fd, 0) };
        assert_ne!(base, libc::MAP_FAILED, "cannot map a page");
        Self(base.cast())
    }

    fn set(&self, time: u64) {
        // SAFETY: mapped for the life of this value.
        unsafe { self.0.write_volatile(time) };
    }

    fn get(&self) -> u64 {
        // SAFETY: as above; read when its only writer is dead.
        unsafe { self.0.read_volatile() }
    }
}

impl Drop for Stamp {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `of`.
        unsafe { libc::munmap(self.0.cast(), 4096) };
    }
}

// ---- who dies

fn plugin(waits: &str, idle: &str, mapped: &str, core: bool) -> busway::Result<()> {
    machine::pin(machine::PEER_CPU).expect("pinned");
    let size = if core { libc::RLIM_INFINITY } else { 0 };
    let limit = libc::rlimit { rlim_cur: size, rlim_max: size };
    // SAFETY: one live structure.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &limit) };
    let mut touched = vec![0u8; mapped.parse::<usize>().expect("a number") << 20];
    touched.chunks_mut(4096).for_each(|page| page[0] = 1);
    // SAFETY: standard input is what the host has put there, and nobody else's.
    let stamp = Stamp::of(&unsafe { File::from_raw_fd(0) });
    let held = Mutex::new(Vec::new());
    let answer = |request: Request<'_>| match request.method() {
        HOLD => held.lock().unwrap().push(request.into_owned()),
        DIE => {
            stamp.set(now());
            // SAFETY: it is meant to fault.
            unsafe { ptr::without_provenance::<u8>(8).read_volatile() };
        }
        _ => drop(request.reply(b"")),
    };
    if waits == "pool" {
        return Member::attach_with(idle_of(idle))?.worker(["work"])?.serve(answer);
    }
    Plugin::attach_with(&Config::default().idle(idle_of(idle)))?.serve(answer)
}

fn dying(case: &Case, stamp: &File) -> Command {
    let mut command = Command::new(env::current_exe().expect("the path of this program"));
    let waits = if case.waits == Waits::Pool { "pool" } else { "link" };
    let mapped = if case.link { 1 } else { case.mapped }.to_string();
    let core = if case.death == Death::FaultWithCore { "core" } else { "none" };
    command.args(["--plugin", waits, idle_name(case.idle), &mapped, core]);
    command.stdin(stamp.try_clone().expect("a descriptor")).current_dir(directory());
    command.process_group(0);
    command
}

/// Where cores go: in memory, so that no disk is measured.
fn directory() -> std::path::PathBuf {
    let directory = std::path::Path::new("/dev/shm");
    if directory.is_dir() { directory.join(format!("busway-death-{}", std::process::id())) } else { env::temp_dir() }
}

// ---- who survives

/// From death to notice, once.
fn trial(case: &Case, delay: Duration, file: &File) -> Range<Instant> {
    let stamp = Stamp::of(file);
    stamp.set(0);
    let command = dying(case, file);
    let noticed = match case.waits {
        Waits::Pool => {
            let config = PoolConfig::new(["work"]).classes(geometry(case).classes).idle(case.idle);
            let pool = Pool::create(&config).expect("a pool");
            let worker = pool.spawn(command).expect("a worker");
            let queue = pool.queue("work").expect("a queue");
            let call = || queue.call(HOLD, b"", Deadline::NEVER).map(drop);
            let die = || queue.send(DIE, b"", Deadline::NEVER).expect("sent");
            let ready = || drop(queue.call(READY, b"", Deadline::NEVER).expect("a reply"));
            survive(case, delay, worker.id(), &stamp, || pool.stats().sent == 1, ready, die, call)
        }
        _ => {
            let config = Config::default().idle(case.idle).geometry(geometry(case));
            let link = Host::new(config).spawn(command).expect("a plugin");
            let die = || link.send(DIE, b"", Deadline::NEVER).expect("sent");
            let ready = || drop(link.call(READY, b"", Deadline::NEVER).expect("a reply"));
            let sent = || link.stats().sent == 1;
            let wait = || wait_on(case.waits, &link, link.id());
            let parked = || true;
            if matches!(case.waits, Waits::Receive | Waits::Pidfd) {
                survive(case, delay, link.id(), &stamp, parked, ready, die, wait)
            } else {
                survive(case, delay, link.id(), &stamp, sent, ready, die, wait)
            }
        }
    };
    if case.death == Death::FaultWithCore {
        for core in fs::read_dir(directory()).into_iter().flatten().flatten() {
            let _ = fs::remove_file(core.path());
        }
    }
    noticed
}

/// Little, unless the case wants more.
fn geometry(case: &Case) -> Geometry {
    let mut classes = vec![SizeClass { size: 1024, count: 64 }];
    if case.link {
        classes.push(SizeClass { size: 1 << 20, count: (case.mapped / 2) as u32 });
    }
    Geometry { classes, ..Geometry::default() }
}

fn wait_on(waits: Waits, link: &Link, pid: u32) -> busway::Result<()> {
    match waits {
        Waits::Call => link.call(HOLD, b"", Deadline::NEVER).map(drop),
        Waits::Task => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                link.drive_on_tokio()?;
                link.call_async(HOLD, b"", Deadline::NEVER).await.map(drop)
            })
        }
        Waits::Receive => link.recv(Deadline::NEVER).map(drop),
        _ => {
            // SAFETY: plain numbers; the child is not reaped yet, so the number is its own.
            let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as libc::c_int;
            let mut fd = libc::pollfd { fd: pidfd, events: libc::POLLIN, revents: 0 };
            // SAFETY: one live structure, and a descriptor of our own.
            unsafe {
                while libc::poll(&mut fd, 1, -1) != 1 {}
                libc::close(pidfd);
            }
            Err(Error::PeerDied { maybe_executed: true })
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "links and pools have no trait in common here")]
fn survive(
    case: &Case,
    delay: Duration,
    pid: u32,
    stamp: &Stamp,
    sent: impl Fn() -> bool,
    ready: impl Fn(),
    die: impl Fn(),
    wait: impl FnOnce() -> busway::Result<()> + Send,
) -> Range<Instant> {
    thread::scope(|threads| {
        let waiter = threads.spawn(|| {
            machine::pin(machine::HOST_CPU).expect("pinned");
            let ended = wait();
            (now(), Instant::now(), ended)
        });
        while !sent() {
            thread::yield_now();
        }
        // What was sent before is taken by now.
        ready();
        thread::sleep(delay);
        match case.death {
            Death::Kill => {
                stamp.set(now());
                // SAFETY: plain numbers; the child is not reaped yet, so the number is its own.
                unsafe { libc::kill(pid as i32, libc::SIGKILL) };
            }
            _ => die(),
        }
        let (noticed, end, ended) = waiter.join().expect("the thread that waits");
        assert!(matches!(ended, Err(Error::PeerDied { .. })), "{ended:?}");
        end - Duration::from_nanos(noticed - stamp.get())..end
    })
}

/// How long to go on; where a machine takes longer for all, there are fewer of each.
fn limit() -> Duration {
    let seconds = env::var("BUSWAY_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(900))
}

struct Row {
    case: Case,
    notices: Vec<Range<Instant>>,
}

impl Row {
    /// Nanoseconds, and the same but for pauses of the machine.
    fn times(&self) -> [Histogram<u64>; 2] {
        let mut times = [(); 2].map(|()| Histogram::new(3).expect("3 digits are allowed"));
        for notice in &self.notices {
            let time = notice.end - notice.start;
            for (times, time) in times.iter_mut().zip([time, time - pauses::within(notice)]) {
                times.record(time.as_nanos() as u64).expect("it grows as needed");
            }
        }
        times
    }
}

fn run() -> Result<(), String> {
    let options = Options::parse(env::args().skip(1))?;
    if options.help {
        println!("{USAGE}");
        return Ok(());
    }
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let pattern = pattern.trim();
    let mut cases = cases();
    cases.retain(|case| case.to_string().contains(&options.only));
    if cases.is_empty() {
        return Err(format!("no case contains {:?}", options.only));
    }
    machine::claim_cpus().and_then(|()| machine::unpin()).map_err(|e| format!("cannot pin to two CPUs: {e}"))?;
    // The thread that waits stays where it is; those of the library that watch may take the CPU that the dying process leaves.
    println!(
        "{}\n         but for its threads that do not wait: on both\ncores    core_pattern is {pattern:?}, files go to {}\n",
        machine::describe(),
        directory().display()
    );
    if pattern.starts_with('|') {
        println!("skipped: fault-core, whose time would be that of the program which takes cores here");
        cases.retain(|case| case.death != Death::FaultWithCore);
    }
    fs::create_dir_all(directory()).map_err(|e| format!("cannot create {}: {e}", directory().display()))?;
    // SAFETY: a name that ends, and a plain number; the descriptor is nobody else's.
    let file = unsafe { File::from_raw_fd(libc::memfd_create(c"death".as_ptr(), libc::MFD_CLOEXEC)) };
    file.set_len(4096).map_err(|e| format!("cannot size a file: {e}"))?;
    let mut rows: Vec<_> = cases.iter().map(|case| Row { case: *case, notices: Vec::new() }).collect();
    pauses::watch();
    let start = Instant::now();
    measure(&mut rows, options.quick, &file);
    let _ = fs::remove_dir_all(directory());
    let rows: Vec<_> = rows.iter().map(|row| (row.case, row.times())).collect();
    println!("{}longest pause of the machine: {}", table(&rows), pauses::longest_since(start));
    if let Some(file) = &options.json {
        fs::write(file, json(&rows)).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    }
    figures(&rows).map_err(|e| format!("cannot write figures: {e}"))
}

fn measure(rows: &mut [Row], quick: bool, file: &File) {
    let mut random = 1u64;
    // In turns: what disturbs this machine for a while then meets all.
    let most = rows.iter().map(|row| row.case.n).max().unwrap_or_default();
    let (start, limit) = (Instant::now(), limit());
    for turn in 0..most {
        if start.elapsed() > limit {
            break;
        }
        for Row { case, notices } in &mut *rows {
            let n = if quick { (case.n / 100).clamp(3, 10) } else { case.n };
            if turn < n {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let delay = Duration::from_micros((random >> 33) % 12_000);
                notices.push(trial(case, delay, file));
            }
        }
    }
}

/// A case, how long notices took, and how long but for pauses.
type Times = (Case, [Histogram<u64>; 2]);

fn quantiles(times: &Histogram<u64>) -> [f64; 4] {
    [0.5, 0.99, 0.999, 1.0].map(|quantile| times.value_at_quantile(quantile) as f64 / 1e6)
}

fn table(rows: &[Times]) -> String {
    let mut text = format!(
        "{:<34} {:>6} {:>9} {:>9} {:>9} {:>9} {:>9}\n",
        "case", "n", "p50 ms", "p99 ms", "p99.9 ms", "most ms", "p99.9 ms but for pauses"
    );
    for (case, [times, own]) in rows {
        let ([p50, p99, p999, most], [_, _, but, _]) = (quantiles(times), quantiles(own));
        let n = times.len();
        writeln!(text, "{case:<34} {n:>6} {p50:>9.3} {p99:>9.3} {p999:>9.3} {most:>9.3} {but:>9.3}")
            .expect("a string takes all");
    }
    text
}

fn json(rows: &[Times]) -> String {
    let object = |(case, [times, own]): &Times| {
        let [p50, p99, p999, most] = quantiles(times).map(|ms| (ms * 1e6) as u64);
        let (n, but) = (times.len(), own.value_at_quantile(0.999));
        format!(
            r#"{{"case":"{case}","impl":"busway","n":{n},"p50_ns":{p50},"p99_ns":{p99},"p999_ns":{p999},"max_ns":{most},"p999_but_for_pauses_ns":{but}}}"#
        )
    };
    format!("[{}]\n", rows.iter().map(object).collect::<Vec<_>>().join(",\n"))
}

/// Rows for the table of guarantees, if `BUSWAY_FIGURES` names a file.
fn figures(rows: &[Times]) -> io::Result<()> {
    let Some(path) = env::var_os("BUSWAY_FIGURES") else { return Ok(()) };
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    for (case, [times, own]) in rows {
        let ([p50, p99, p999, _], [_, _, but, _]) = (quantiles(times), quantiles(own));
        let value = format!("{p50:.2} / {p99:.2} / {p999:.2} / {but:.2} (n = {})", times.len());
        file.write_all(
            format!("G1\tnotice of {case}, ms: p50 / p99 / p99.9 / p99.9 but for pauses of the machine\t{value}\n")
                .as_bytes(),
        )?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().collect();
    if let [_, flag, waits, idle, mapped, core] = &args[..]
        && flag == "--plugin"
    {
        // It ends only by being killed, or with its host.
        return match plugin(waits, idle, mapped, core == "core") {
            Ok(()) | Err(Error::PeerDied { .. }) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("death plugin: {e}");
                ExitCode::FAILURE
            }
        };
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}
