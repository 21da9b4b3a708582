//! A request and its reply between two processes, beside the floor of the same run.
//!
//! `cargo bench --bench rtt -- [--quick] [--only SUBSTRING] [--json FILE]`
//!
//! Busway does exactly the copies of its floor: a call copies the payload in, the plugin copies request to reply, the
//! caller copies the reply out; `call-in` fills and sums in place. Hot means that both sides spin ([`Idle::Spin`]), parked
//! that both sleep at once, by futex ([`Idle::Park`]) or, in `call-fd`, by descriptor ([`Idle::Poll`]).
//!
//! If `BUSWAY_C_RTT` names the program that `ci/c.sh` makes of `ffi/benches/rtt.c`, rows of `busway-c` are a host and a plugin in C.

mod common;

use busway::{Config, Deadline, Host, Idle, Link, Plugin, Process, Request};
use common::machine;
use common::measure::{Case, Regime, Sample, System, time_trips};
use hdrhistogram::Histogram;
use std::collections::VecDeque;
use std::env;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::time::Instant;

/// Each with as many messages as take some 10 ms at the floor.
const CASES: &[Case] = &[
    case("call", Regime::Hot, 32, 1, 25_000),
    case("call", Regime::Hot, 256, 1, 15_000),
    case("call", Regime::Hot, 4096, 1, 3_500),
    case("call", Regime::Hot, 65536, 1, 350),
    case("call", Regime::Hot, 1 << 20, 1, 40),
    case("call-in", Regime::Hot, 4096, 1, 6_000),
    case("call-in", Regime::Hot, 65536, 1, 600),
    case("call-in", Regime::Hot, 1 << 20, 1, 75),
    case("call", Regime::ParkedSame, 32, 1, 4_000),
    case("call", Regime::ParkedCross, 32, 1, 800),
    case("call-fd", Regime::ParkedSame, 32, 1, 2_000),
    case("call-fd", Regime::ParkedCross, 32, 1, 800),
    case("call", Regime::Hot, 32, 64, 200_000),
    case("event", Regime::Hot, 32, 1, 1_000_000),
    case("loan", Regime::Hot, 64, 1, 200_000),
];

const fn case(name: &'static str, regime: Regime, bytes: usize, inflight: u32, n: u32) -> Case {
    Case { name, regime, bytes, inflight, n }
}

const ECHO: u32 = 1;
const SUM: u32 = 2;
const EVENT: u32 = 3;
/// Answered once every event before it was received.
const FENCE: u32 = 4;

/// How many messages a batch sends or receives at most.
const BATCH: usize = 32;
/// Loans timed as one.
const LOANS: u32 = 1000;

struct Busway;

impl System for Busway {
    fn name(&self) -> &'static str {
        "busway"
    }

    fn round(&mut self, case: &Case) -> Option<Sample> {
        let link = spawn(case);
        Some(match (case.name, case.inflight) {
            ("call" | "call-fd", 1) => call(&link, case),
            ("call", _) => in_flight(&link, case),
            ("call-in", _) => call_in(&link, case),
            ("event", _) => events(&link, case),
            ("loan", _) => loans(&link, case),
            _ => return None,
        })
    }
}

/// A host and a plugin in C.
struct BuswayC(String);

impl System for BuswayC {
    fn name(&self) -> &'static str {
        "busway-c"
    }

    fn round(&mut self, case: &Case) -> Option<Sample> {
        if case.name != "call" || case.regime != Regime::Hot || case.bytes > 4096 {
            return None;
        }
        let numbers = [case.bytes, case.inflight as usize, case.n as usize, machine::HOST_CPU, case.regime.peer_cpu()];
        let numbers = numbers.map(|number| number.to_string());
        let output = Command::new(&self.0).args(["host", case.name]).args(numbers).output().expect("the program in C");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("numbers");
        let (rate, trips) = text.split_once('\n').expect("two lines");
        let per_s = rate.parse().expect("a rate");
        if case.inflight > 1 {
            return Some(Sample::rate(per_s));
        }
        let mut latency = Histogram::new(3).expect("3 digits are allowed");
        for trip in trips.split_whitespace() {
            latency.record(trip.parse().expect("nanoseconds")).expect("it grows as needed");
        }
        Some(Sample::trips(latency, per_s))
    }
}

/// How both sides wait.
fn idle(case: &Case) -> Idle {
    match (case.name, case.regime) {
        (_, Regime::Hot) => Idle::Spin,
        ("call-fd", _) => Idle::Poll,
        _ => Idle::Park,
    }
}

fn spawn(case: &Case) -> Process {
    let mut command = Command::new(env::current_exe().expect("the path of this program"));
    let idle = match idle(case) {
        Idle::Spin => "spin",
        Idle::Poll => "poll",
        _ => "park",
    };
    command.args([
        "--plugin",
        idle,
        &case.regime.peer_cpu().to_string(),
        if case.inflight == 1 && case.name != "event" { "one" } else { "many" },
    ]);
    Host::new(Config::default().idle(self::idle(case))).spawn(command).expect("a plugin")
}

/// The other side, in a process of its own. Where one message is under way it serves one at a time, else in batches.
fn plugin(idle: &str, cpu: &str, one: bool) -> busway::Result<()> {
    machine::pin(cpu.parse().expect("a CPU")).expect("pinned");
    let idle = match idle {
        "spin" => Idle::Spin,
        "poll" => Idle::Poll,
        _ => Idle::Park,
    };
    let link = Plugin::attach_with(&Config::default().idle(idle))?;
    let mut got = [0; 32];
    if one {
        let got = std::cell::RefCell::new(got);
        return link.serve(|request| drop(answer(request, &mut got.borrow_mut())));
    }
    loop {
        match link.recv_batch(BATCH, Deadline::NEVER) {
            Err(busway::Error::Closed) => return Ok(()),
            // A failed reply means that the host is gone, which the next receive says.
            requests => requests?.for_each(|request| drop(answer(request, &mut got))),
        }
    }
}

fn answer(request: Request<'_>, got: &mut [u8; 32]) -> busway::Result<()> {
    let Some(payload) = request.as_slice() else { unreachable!("a plugin trusts its host") };
    match request.method() {
        ECHO => {
            let mut reply = request.loan(payload.len())?;
            reply.copy_from_slice(payload);
            request.reply(reply)
        }
        SUM => {
            let sum =
                payload.chunks_exact(8).map(|c| u64::from_ne_bytes(c.try_into().unwrap())).fold(0, u64::wrapping_add);
            request.reply_as(&sum)
        }
        EVENT => {
            got.copy_from_slice(payload);
            black_box(got);
            Ok(())
        }
        _ => request.reply(b""),
    }
}

fn call(link: &Link, case: &Case) -> Sample {
    let (mut out, mut back) = (vec![0u8; case.bytes], vec![0u8; case.bytes]);
    time_trips(case.n, |i| {
        out[case.bytes - 1] = i as u8;
        let reply = link.call(ECHO, &out, Deadline::NEVER).expect("a reply");
        reply.bytes().copy_to(&mut back);
        assert_eq!(back[case.bytes - 1], i as u8);
    })
}

fn call_in(link: &Link, case: &Case) -> Sample {
    time_trips(case.n, |i| {
        let mut loan = link.loan(case.bytes, Deadline::NEVER).expect("a slot");
        loan.fill(i as u8);
        let sum: u64 = link.call(SUM, loan, Deadline::NEVER).and_then(|reply| reply.read()).expect("a sum");
        assert_eq!(sum, u64::from_ne_bytes([i as u8; 8]).wrapping_mul((case.bytes / 8) as u64));
    })
}

fn in_flight(link: &Link, case: &Case) -> Sample {
    let (mut out, mut back) = (vec![0u8; case.bytes], vec![0u8; case.bytes]);
    let mut pending = VecDeque::with_capacity(case.inflight as usize);
    let mut next = 0u32;
    let mut run = |n: u32| {
        let (mut sent, mut done) = (0, 0);
        while done < n {
            let mut batch = link.batch();
            while sent < n && pending.len() < case.inflight as usize {
                out[..4].copy_from_slice(&next.to_ne_bytes());
                pending.push_back((next, batch.submit(ECHO, &out, Deadline::NEVER).expect("room")));
                next = next.wrapping_add(1);
                sent += 1;
            }
            drop(batch);
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

fn events(link: &Link, case: &Case) -> Sample {
    let mut out = vec![0u8; case.bytes];
    let mut run = |n: u32| {
        let mut batch = link.batch();
        for i in 0..n {
            out.fill(i as u8);
            batch.send(EVENT, &out, Deadline::NEVER).expect("room");
        }
    };
    run(case.n / 10);
    let start = Instant::now();
    run(case.n);
    link.call(FENCE, b"", Deadline::NEVER).expect("all received");
    Sample::rate(f64::from(case.n) / start.elapsed().as_secs_f64())
}

fn loans(link: &Link, case: &Case) -> Sample {
    let mut each = Histogram::new(3).expect("3 digits are allowed");
    let start = Instant::now();
    for _ in 0..case.n / LOANS {
        let start = Instant::now();
        for _ in 0..LOANS {
            black_box(link.loan(case.bytes, Deadline::NEVER).expect("a slot"));
        }
        each.record(start.elapsed().as_nanos() as u64 / u64::from(LOANS)).expect("it grows as needed");
    }
    Sample::trips(each, f64::from(case.n) / start.elapsed().as_secs_f64())
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().collect();
    if let [_, flag, idle, cpu, one] = &args[..]
        && flag == "--plugin"
    {
        return match plugin(idle, cpu, one == "one") {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("rtt plugin: {e}");
                ExitCode::FAILURE
            }
        };
    }
    common::main(CASES, || {
        let mut systems: Vec<Box<dyn System>> = vec![Box::new(Busway)];
        systems.extend(env::var("BUSWAY_C_RTT").map(|program| Box::new(BuswayC(program)) as Box<dyn System>));
        systems
    })
}
