//! A request and its reply in async code on tokio, beside the floor of the same run.
//!
//! `cargo bench --bench tasks -- [--quick] [--only SUBSTRING] [--json FILE]`
//!
//! `busway-async`: both sides on tokio's current-thread runtime, whose reactor drives the link. Where many calls are under way,
//! each is a task of its own, and the other side blocks and serves in batches. `busway`: both sides block. `tokio-socket`: the
//! same bytes to and fro over a bare socket pair, both sides on the same runtime.
//!
//! `set-of-1000`: a thousand links join the two processes, and one of them is called over; the other side receives by a `LinkSet`.
//! What an idle link takes of resident memory is said once.

mod common;

use busway::{Config, Deadline, Error, Geometry, Host, Idle, LinkSet, Plugin, Process, Request, SizeClass};
use common::machine;
use common::measure::{Case, Regime, Sample, System, time_trips};
use hdrhistogram::Histogram;
use std::env;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

const CASES: &[Case] = &[
    case("call", Regime::Hot, 32, 1, 25_000),
    case("call", Regime::Hot, 4096, 1, 3_500),
    case("call", Regime::Hot, 32, 256, 200_000),
    case("set-of-1", Regime::Hot, 32, 1, 25_000),
    case("set-of-1000", Regime::Hot, 32, 1, 25_000),
    case("call", Regime::ParkedSame, 32, 1, 4_000),
    case("call", Regime::ParkedCross, 32, 1, 800),
];

const fn case(name: &'static str, regime: Regime, bytes: usize, inflight: u32, n: u32) -> Case {
    Case { name, regime, bytes, inflight, n }
}

const ECHO: u32 = 1;
const RESIDENT: u32 = 2;
/// How many messages a batch receives at most.
const BATCH: usize = 32;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// As [`time_trips`].
async fn time_async_trips(n: u32, mut trip: impl AsyncFnMut(u32)) -> Sample {
    let warm = n / 10;
    for i in 1..=warm {
        trip(i).await;
    }
    let mut latency = Histogram::new(3).expect("3 digits are allowed");
    for i in warm + 1..=warm + n {
        let start = Instant::now();
        trip(i).await;
        latency.record(start.elapsed().as_nanos() as u64).expect("it grows as needed");
    }
    let per_s = 1e9 / latency.mean();
    Sample::trips(latency, per_s)
}

/// This program again, as the other side.
fn peer(role: &str, case: &Case) -> Command {
    let mut command = Command::new(env::current_exe().expect("the path of this program"));
    let idle = if case.regime == Regime::Hot { "spin" } else { "park" };
    command.args(["--peer", role, idle, &case.regime.peer_cpu().to_string()]);
    command
}

fn config(case: &Case) -> Config {
    Config::default().geometry(Geometry { cells: 512, ..Geometry::default() }).idle(if case.regime == Regime::Hot {
        Idle::Spin
    } else {
        Idle::Park
    })
}

fn spawn(role: &str, case: &Case) -> Process {
    Host::new(config(case)).spawn(peer(role, case)).expect("a plugin")
}

struct Blocking;

impl System for Blocking {
    fn name(&self) -> &'static str {
        "busway"
    }

    fn round(&mut self, case: &Case) -> Option<Sample> {
        if case.inflight > 1 || case.name != "call" {
            return None;
        }
        let link = spawn("serve", case);
        let (mut out, mut back) = (vec![0u8; case.bytes], vec![0u8; case.bytes]);
        Some(time_trips(case.n, |i| {
            out[case.bytes - 1] = i as u8;
            let reply = link.call(ECHO, &out, Deadline::NEVER).expect("a reply");
            reply.bytes().copy_to(&mut back);
            assert_eq!(back[case.bytes - 1], i as u8);
        }))
    }
}

/// Links between the two processes, all in one set at the other side.
struct Set {
    said: bool,
}

impl System for Set {
    fn name(&self) -> &'static str {
        "busway-set"
    }

    fn round(&mut self, case: &Case) -> Option<Sample> {
        let count: u32 = case.name.strip_prefix("set-of-")?.parse().expect("a number of links");
        let before = resident();
        let path = env::temp_dir().join(format!("busway-tasks-{}", std::process::id()));
        // All of a region is allocated when it is made, so where links are many they are small.
        let classes = [(256, 16), (4096, 2)].map(|(size, count)| SizeClass { size, count }).into();
        let geometry = Geometry { entries: 64, cells: 16, classes };
        let listener = Host::new(config(case).geometry(geometry)).listen(&path).expect("a socket");
        let mut command = peer("set", case);
        let mut child = command.arg(&path).arg(count.to_string()).spawn().expect("a child");
        let accept = |_| listener.accept(Deadline::NEVER).and_then(|guest| guest.admit()).expect("a link");
        let links: Vec<_> = (0..count).map(accept).collect();
        // The last to join is called, so all are in the set.
        let link = links.last().expect("a link");
        let theirs: u64 = link.call_as(RESIDENT, &0u64, Deadline::NEVER).expect("a number");
        if count > 1 && !core::mem::replace(&mut self.said, true) {
            let each = |bytes: u64| bytes as f64 / f64::from(count) / 1024.0;
            let (ours, theirs) = (each(resident() - before), each(theirs));
            println!(
                "{count} idle links: each {ours:.1} KiB resident in the host, {theirs:.1} KiB in the other process"
            );
        }
        let (mut out, mut back) = (vec![0u8; case.bytes], vec![0u8; case.bytes]);
        let sample = time_trips(case.n, |i| {
            out[case.bytes - 1] = i as u8;
            let reply = link.call(ECHO, &out, Deadline::NEVER).expect("a reply");
            reply.bytes().copy_to(&mut back);
            assert_eq!(back[case.bytes - 1], i as u8);
        });
        drop(links);
        child.wait().expect("reaped");
        Some(sample)
    }
}

/// Resident memory of this process in bytes, what it shares included.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").expect("what the kernel says");
    let pages: u64 = status.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    // SAFETY: takes a plain number.
    pages * unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64
}

/// As many descriptors as the system allows: each link has some.
fn allow_descriptors() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: one live structure, read and written.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
}

/// The other side of a set: opens links, and serves all of them on one thread.
fn play_set(cpu: usize, path: &str, count: usize) -> busway::Result<()> {
    allow_descriptors();
    let before = resident();
    let set = LinkSet::new()?;
    // Links that never slept would all be looked at in turn. Those opened on one CPU would not spin at all: pinned later.
    machine::unpin().expect("two CPUs");
    let config = Config::default();
    let mut links = Vec::with_capacity(count);
    for _ in 0..count {
        let link = Plugin::connect(path, &config)?;
        set.insert(&link)?;
        links.push(link);
    }
    let grown = resident() - before;
    machine::pin(cpu).expect("pinned");
    while !set.is_empty() {
        match set.recv(Deadline::NEVER)? {
            (_, Ok(request)) if request.method() == RESIDENT => request.reply_as(&grown)?,
            (_, Ok(request)) => drop(answer(request)),
            (_, Err(_)) => {}
        }
    }
    Ok(())
}

struct Async;

impl System for Async {
    fn name(&self) -> &'static str {
        "busway-async"
    }

    fn round(&mut self, case: &Case) -> Option<Sample> {
        if case.name != "call" {
            return None;
        }
        let link = Arc::new(spawn(if case.inflight > 1 { "batches" } else { "tasks" }, case));
        Some(runtime().block_on(async {
            link.drive_on_tokio().expect("the first driver");
            if case.inflight > 1 { in_flight(&link, case).await } else { call(&link, case).await }
        }))
    }
}

async fn call(link: &Process, case: &Case) -> Sample {
    let (mut out, mut back) = (vec![0u8; case.bytes], vec![0u8; case.bytes]);
    let trip = async |i: u32| {
        out[case.bytes - 1] = i as u8;
        let reply = link.call_async(ECHO, &out, Deadline::NEVER).await.expect("a reply");
        reply.bytes().copy_to(&mut back);
        assert_eq!(back[case.bytes - 1], i as u8);
    };
    time_async_trips(case.n, trip).await
}

async fn in_flight(link: &Arc<Process>, case: &Case) -> Sample {
    let run = async |n: u32| {
        let each = n / case.inflight;
        let tasks: Vec<_> = (0..case.inflight)
            .map(|task| {
                let (link, bytes) = (link.clone(), case.bytes);
                tokio::spawn(async move {
                    let (mut out, mut back) = (vec![0u8; bytes], vec![0u8; bytes]);
                    for i in 0..each {
                        out[..4].copy_from_slice(&(task << 16 | i).to_ne_bytes());
                        let reply = link.call_async(ECHO, &out, Deadline::NEVER).await.expect("a reply");
                        reply.bytes().copy_to(&mut back);
                        assert_eq!(back, out);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("a task");
        }
        each * case.inflight
    };
    run(case.n / 10).await;
    let start = Instant::now();
    let done = run(case.n).await;
    Sample::rate(f64::from(done) / start.elapsed().as_secs_f64())
}

struct Socket;

impl System for Socket {
    fn name(&self) -> &'static str {
        "tokio-socket"
    }

    fn round(&mut self, case: &Case) -> Option<Sample> {
        if case.inflight > 1 || case.regime == Regime::Hot {
            return None;
        }
        let (ours, theirs) = StdStream::pair().expect("a socket pair");
        let mut child = peer("socket", case).stdin(OwnedFd::from(theirs)).spawn().expect("a child");
        let sample = runtime().block_on(async {
            let mut socket = stream(ours);
            let (mut out, mut back) = (vec![0u8; case.bytes], vec![0u8; case.bytes]);
            let trip = async |i: u32| {
                out[case.bytes - 1] = i as u8;
                socket.write_all(&out).await.expect("written");
                socket.read_exact(&mut back).await.expect("an answer");
                assert_eq!(back[case.bytes - 1], i as u8);
            };
            time_async_trips(case.n, trip).await
        });
        child.wait().expect("reaped");
        Some(sample)
    }
}

fn stream(socket: StdStream) -> UnixStream {
    socket.set_nonblocking(true).expect("a socket");
    UnixStream::from_std(socket).expect("a reactor")
}

/// The other side, in a process of its own.
fn play(role: &str, idle: &str, cpu: &str, rest: &[String]) -> busway::Result<()> {
    let cpu = cpu.parse().expect("a CPU");
    if let ("set", [path, count]) = (role, rest) {
        return play_set(cpu, path, count.parse().expect("a number of links"));
    }
    machine::pin(cpu).expect("pinned");
    let idle = if idle == "spin" { Idle::Spin } else { Idle::Park };
    if role == "socket" {
        runtime().block_on(async {
            let stdin = std::io::stdin().as_fd().try_clone_to_owned().expect("a descriptor");
            let mut socket = stream(stdin.into());
            let mut bytes = [0; 1 << 16];
            while let Ok(len @ 1..) = socket.read(&mut bytes).await {
                if socket.write_all(&bytes[..len]).await.is_err() {
                    break;
                }
            }
        });
        return Ok(());
    }
    let link = Plugin::attach_with(&Config::default().idle(idle))?;
    match role {
        "serve" => link.serve(|request| drop(answer(request))),
        "tasks" => runtime().block_on(async {
            link.drive_on_tokio()?;
            while let Ok(request) = link.recv_async(Deadline::NEVER).await {
                let _ = answer(request);
            }
            Ok(())
        }),
        _ => loop {
            match link.recv_batch(BATCH, Deadline::NEVER) {
                Err(Error::Closed) => return Ok(()),
                // A failed reply means that the host is gone, which the next receive says.
                requests => requests?.for_each(|request| drop(answer(request))),
            }
        },
    }
}

fn answer(request: Request<'_>) -> busway::Result<()> {
    let Some(payload) = request.as_slice() else { unreachable!("a plugin trusts its host") };
    let mut reply = request.loan(payload.len())?;
    reply.copy_from_slice(payload);
    request.reply(reply)
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().collect();
    if let [_, flag, role, idle, cpu, rest @ ..] = &args[..]
        && flag == "--peer"
    {
        return match play(role, idle, cpu, rest) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("tasks peer: {e}");
                ExitCode::FAILURE
            }
        };
    }
    allow_descriptors();
    common::main(CASES, || vec![Box::new(Blocking), Box::new(Async), Box::new(Set { said: false }), Box::new(Socket)])
}
