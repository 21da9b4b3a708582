//! A request through a pool and its reply, beside the floor of the same run; and how long a dead member keeps others waiting.
//!
//! `cargo bench --bench pool -- [--quick] [--only SUBSTRING] [--json FILE]`
//!
//! One process calls, one works; the copies are those of the floor, as in `rtt`. `recovery`: a pool of 1,024 slots, of which the
//! worker that is killed has taken 512, eight of them calls that threads wait for; from its pidfd being readable until the
//! last of these threads is back.

mod common;

use busway::pool::{Member, Pool, PoolConfig, Queue};
use busway::{Deadline, Error, Idle, Request, SizeClass};
use common::machine;
use common::measure::{Case, Regime, Sample, System, time_trips};
use hdrhistogram::Histogram;
use std::collections::VecDeque;
use std::env;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

const CASES: &[Case] = &[
    case("pool-call", Regime::Hot, 32, 1, 25_000),
    case("pool-call", Regime::Hot, 256, 1, 15_000),
    case("pool-call", Regime::Hot, 4096, 1, 3_500),
    case("pool-call", Regime::Hot, 65536, 1, 350),
    case("pool-call-in", Regime::Hot, 4096, 1, 6_000),
    case("pool-call-in", Regime::Hot, 65536, 1, 600),
    case("pool-call", Regime::ParkedSame, 32, 1, 4_000),
    case("pool-call", Regime::ParkedCross, 32, 1, 800),
    case("pool-call", Regime::Hot, 32, 64, 100_000),
    case("recovery", Regime::ParkedCross, 32, 512, 10),
];

const fn case(name: &'static str, regime: Regime, bytes: usize, inflight: u32, n: u32) -> Case {
    Case { name, regime, bytes, inflight, n }
}

const ECHO: u32 = 1;
const SUM: u32 = 2;
/// How many requests a batch receives at most.
const BATCH: usize = 32;
/// Threads that wait for the worker that is killed.
const WAITERS: u32 = 8;

struct Busway;

impl System for Busway {
    fn name(&self) -> &'static str {
        "busway"
    }

    fn round(&mut self, case: &Case) -> Option<Sample> {
        if case.name == "recovery" {
            return Some(recovery(case));
        }
        let pool = pool(case);
        let worker = spawn(&pool, case, "serve");
        let queue = pool.queue("work").expect("a queue");
        let sample = match (case.name, case.inflight) {
            ("pool-call", 1) => call(queue, case),
            ("pool-call", _) => in_flight(queue, case),
            ("pool-call-in", _) => call_in(&pool, queue, case),
            _ => return None,
        };
        pool.close(Deadline::NEVER);
        assert!(worker.wait().expect("reaped").success());
        Some(sample)
    }
}

fn idle(case: &Case) -> Idle {
    if case.regime == Regime::Hot { Idle::Spin } else { Idle::Park }
}

fn pool(case: &Case) -> Pool {
    let mut config = PoolConfig::new(["work"]).idle(idle(case));
    if case.name == "recovery" {
        config = config.classes(vec![SizeClass { size: 256, count: 1024 }]);
    }
    Pool::create(&config).expect("a pool")
}

fn spawn(pool: &Pool, case: &Case, role: &str) -> busway::pool::MemberProcess {
    let mut command = Command::new(env::current_exe().expect("the path of this program"));
    let idle = if case.regime == Regime::Hot { "spin" } else { "park" };
    let count = if case.inflight == 1 { "1" } else { &case.inflight.to_string() };
    command.args(["--worker", role, idle, &case.regime.peer_cpu().to_string(), count]);
    pool.spawn(command).expect("a worker")
}

/// The other side, in a process of its own.
fn worker(role: &str, idle: &str, cpu: &str, count: &str) -> busway::Result<()> {
    machine::pin(cpu.parse().expect("a CPU")).expect("pinned");
    let member = Member::attach_with(if idle == "spin" { Idle::Spin } else { Idle::Park })?;
    let worker = member.worker(["work"])?;
    let count: usize = count.parse().expect("a number");
    if role == "hold" {
        let _held: Vec<_> = (0..count).map(|_| worker.recv(Deadline::NEVER)).collect::<busway::Result<_>>()?;
        loop {
            thread::park();
        }
    }
    if count == 1 {
        return worker.serve(|request| drop(answer(request)));
    }
    loop {
        match worker.recv_batch(BATCH, Deadline::NEVER) {
            Err(Error::Closed) => return Ok(()),
            // A failed reply means that the pool is gone, which the next receive says.
            requests => requests?.for_each(|request| drop(answer(request))),
        }
    }
}

fn answer(request: Request<'_>) -> busway::Result<()> {
    let payload = request.as_slice().expect("members trust each other");
    if request.method() == SUM {
        let sum = payload.chunks_exact(8).map(|c| u64::from_ne_bytes(c.try_into().unwrap())).fold(0, u64::wrapping_add);
        return request.reply_as(&sum);
    }
    let mut reply = request.loan(payload.len())?;
    reply.copy_from_slice(payload);
    request.reply(reply)
}

fn call(queue: Queue<'_>, case: &Case) -> Sample {
    let (mut out, mut back) = (vec![0u8; case.bytes], vec![0u8; case.bytes]);
    time_trips(case.n, |i| {
        out[case.bytes - 1] = i as u8;
        let reply = queue.call(ECHO, &out, Deadline::NEVER).expect("a reply");
        reply.bytes().copy_to(&mut back);
        assert_eq!(back[case.bytes - 1], i as u8);
    })
}

fn call_in(member: &Member, queue: Queue<'_>, case: &Case) -> Sample {
    time_trips(case.n, |i| {
        let mut loan = member.loan(case.bytes, Deadline::NEVER).expect("a slot");
        loan.fill(i as u8);
        let sum: u64 = queue.call(SUM, loan, Deadline::NEVER).and_then(|reply| reply.read()).expect("a sum");
        assert_eq!(sum, u64::from_ne_bytes([i as u8; 8]).wrapping_mul((case.bytes / 8) as u64));
    })
}

fn in_flight(queue: Queue<'_>, case: &Case) -> Sample {
    let (mut out, mut back) = (vec![0u8; case.bytes], vec![0u8; case.bytes]);
    let mut pending = VecDeque::with_capacity(case.inflight as usize);
    let mut next = 0u32;
    let mut run = |n: u32| {
        let (mut sent, mut done) = (0, 0);
        while done < n {
            while sent < n && pending.len() < case.inflight as usize {
                out[..4].copy_from_slice(&next.to_ne_bytes());
                pending.push_back((next, queue.submit(ECHO, &out, Deadline::NEVER).expect("room")));
                next = next.wrapping_add(1);
                sent += 1;
            }
            // Half of what is under way is taken in before more is sent, so that neither side runs dry.
            for _ in 0..(case.inflight / 2).min(n - done) {
                let (number, call) = pending.pop_front().expect("one is under way");
                let reply = call.wait().expect("a reply");
                reply.bytes().copy_to(&mut back);
                assert_eq!(back[..4], number.to_ne_bytes());
                done += 1;
            }
        }
    };
    run(case.n / 10);
    let start = Instant::now();
    run(case.n);
    Sample::rate(f64::from(case.n) / start.elapsed().as_secs_f64())
}

fn recovery(case: &Case) -> Sample {
    let pool = pool(case);
    let queue = pool.queue("work").expect("a queue");
    let payload = vec![1; case.bytes];
    let mut waited = Histogram::new(3).expect("3 digits are allowed");
    for _ in 0..case.n {
        let worker = spawn(&pool, case, "hold");
        let held: Vec<_> =
            (WAITERS..case.inflight).map(|_| queue.submit(ECHO, &payload, Deadline::NEVER).expect("room")).collect();
        let (dead, last) = thread::scope(|scope| {
            let waiters: Vec<_> = (0..WAITERS)
                .map(|_| {
                    scope.spawn(|| {
                        let result = queue.call(ECHO, &payload, Deadline::NEVER);
                        assert!(matches!(result, Err(Error::PeerDied { maybe_executed: true })), "{result:?}");
                        Instant::now()
                    })
                })
                .collect();
            // It has taken all, and the waiters sleep.
            while !queue.is_empty() || pool.stats().calls_in_use < case.inflight.into() {
                thread::yield_now();
            }
            thread::sleep(Duration::from_millis(1));
            let dead = common::process::killed(worker.id(), || worker.kill().expect("killed"));
            (dead, waiters.into_iter().map(|waiter| waiter.join().expect("a waiter")).max().expect("a waiter"))
        });
        waited.record(last.saturating_duration_since(dead).as_nanos() as u64).expect("it grows as needed");
        drop(held);
        assert!(pool.wait_members(0, Duration::from_secs(10)));
    }
    let per_s = 1e9 / waited.mean();
    Sample::trips(waited, per_s)
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().collect();
    if let [_, flag, role, idle, cpu, count] = &args[..]
        && flag == "--worker"
    {
        return match worker(role, idle, cpu, count) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("pool worker: {e}");
                ExitCode::FAILURE
            }
        };
    }
    common::main(CASES, || vec![Box::new(Busway)])
}
