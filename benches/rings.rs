//! Rings of 8-byte elements: between two processes, beside those of two threads, and the floor of the same run.
//!
//! `cargo bench --bench rings -- [--quick] [--only SUBSTRING] [--json FILE]`
//!
//! `inflight` is the capacity: a producer pushes as fast as it can, a consumer on the other CPU pops and adds up.
//! With `inflight` 1 one element goes there and back, over two rings of 1024. Whoever finds a ring full or empty
//! spins. `busway` is two processes; `rtrb` and `array-queue` (crossbeam-queue), which cannot be shared by processes,
//! are two threads on the same CPUs.
//!
//! Locked instructions, counted by single steps: `spsc`: none, in either. `mpmc`: 2.125 a push and 1.125 a pop (the word of a
//! slot that says who has it, twice, its entry, and an eighth for each end); `array-queue`: one each.

mod common;

use busway::Error;
use busway::ring::{Consumer, Mpmc, MpmcMember, Producer, Spsc};
use common::machine;
use common::measure::{Case, Regime, Sample, System, time_trips};
use crossbeam_queue::ArrayQueue;
use std::env;
use std::hint::spin_loop;
use std::io::{stdin, stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitCode};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

const CASES: &[Case] = &[
    case("spsc", 1024, 1_000_000),
    case("spsc", 256, 1_000_000),
    case("spsc", 1, 25_000),
    case("mpmc", 1024, 150_000),
    case("mpmc", 256, 150_000),
    case("mpmc", 1, 25_000),
];

const fn case(name: &'static str, inflight: u32, n: u32) -> Case {
    Case { name, regime: Regime::Hot, bytes: 8, inflight, n }
}

/// The capacity of the rings of a case.
fn capacity(inflight: u32) -> usize {
    if inflight == 1 { 1024 } else { inflight as usize }
}

trait Push {
    /// Whether there was room.
    fn push(&mut self, value: u64) -> bool;
}

trait Pop {
    fn pop(&mut self) -> Option<u64>;
}

#[inline(always)]
fn push(to: &mut impl Push, value: u64) {
    while !to.push(value) {
        spin_loop();
    }
}

#[inline(always)]
fn pop(from: &mut impl Pop) -> u64 {
    loop {
        match from.pop() {
            Some(value) => return value,
            None => spin_loop(),
        }
    }
}

/// What the measuring side does: pushes, and awaits what the peer says when it has popped everything; or round trips.
fn host(case: &Case, mut to: impl Push, mut from: impl Pop) -> Sample {
    let (warm, all) = (u64::from(case.n / 10), u64::from(case.n / 10 + case.n));
    if case.inflight == 1 {
        return time_trips(case.n, |i| {
            push(&mut to, i.into());
            assert_eq!(pop(&mut from), i.into());
        });
    }
    // The peer's start is not part of the rate: what warms up is many laps. The ring is left full, as the floor's is.
    (0..warm).for_each(|i| push(&mut to, i));
    let start = Instant::now();
    (warm..all).for_each(|i| push(&mut to, i));
    assert_eq!(pop(&mut from), all);
    Sample::rate(f64::from(case.n) / start.elapsed().as_secs_f64())
}

/// What its peer does. Every element is looked at.
fn peer(inflight: u32, n: u32, mut from: impl Pop, mut to: impl Push) {
    let all = u64::from(n / 10 + n);
    if inflight == 1 {
        for _ in 0..all {
            push(&mut to, pop(&mut from));
        }
        return;
    }
    for i in 0..all {
        assert_eq!(pop(&mut from), i);
    }
    push(&mut to, all);
}

impl Push for Producer<u64> {
    #[inline(always)]
    fn push(&mut self, value: u64) -> bool {
        match Producer::push(self, value) {
            Ok(()) => true,
            Err(Error::Full) => false,
            Err(e) => panic!("{e}"),
        }
    }
}

impl Pop for Consumer<u64> {
    #[inline(always)]
    fn pop(&mut self) -> Option<u64> {
        Consumer::pop(self).expect("not forked")
    }
}

impl Push for MpmcMember<u64> {
    #[inline(always)]
    fn push(&mut self, value: u64) -> bool {
        match MpmcMember::push(self, value) {
            Ok(()) => true,
            Err(Error::Full) => false,
            Err(e) => panic!("{e}"),
        }
    }
}

impl Pop for MpmcMember<u64> {
    #[inline(always)]
    fn pop(&mut self) -> Option<u64> {
        MpmcMember::pop(self).expect("not forked")
    }
}

struct Busway;

impl System for Busway {
    fn name(&self) -> &'static str {
        "busway"
    }

    fn round(&mut self, case: &Case) -> Option<Sample> {
        Some(spsc_or_mpmc(case).expect("two rings and a peer"))
    }
}

fn spsc_or_mpmc(case: &Case) -> busway::Result<Sample> {
    let capacity = capacity(case.inflight);
    let sample;
    let mut child;
    if case.name == "spsc" {
        let (there, back) = (Spsc::create(capacity)?, Spsc::create(capacity)?);
        let (to, from) = (there.producer()?, back.consumer()?);
        child = spawn(case, there.into(), back.into());
        sample = host(case, to, from);
    } else {
        let (there, back) = (Mpmc::create(capacity, 2)?, Mpmc::create(capacity, 2)?);
        let (to, from) = (there.join()?, back.join()?);
        child = spawn(case, there.into(), back.into());
        sample = host(case, to, from);
    }
    assert!(child.wait().expect("a child").success());
    Ok(sample)
}

/// The peer has the ring there as its standard input and the ring back as its standard output.
fn spawn(case: &Case, there: OwnedFd, back: OwnedFd) -> Child {
    let (n, inflight) = (case.n.to_string(), case.inflight.to_string());
    let mut command = Command::new(env::current_exe().expect("the path of this program"));
    command.args(["--peer", case.name, &inflight, &n]).stdin(there).stdout(back).spawn().expect("a peer")
}

fn run_peer(name: &str, inflight: u32, n: u32) -> busway::Result<()> {
    machine::pin(Regime::Hot.peer_cpu()).expect("pinned");
    let own = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().expect("a descriptor");
    let (there, back) = (own(stdin().as_fd()), own(stdout().as_fd()));
    if name == "spsc" {
        peer(inflight, n, Spsc::open(there)?.consumer()?, Spsc::open(back)?.producer()?);
    } else {
        peer(inflight, n, Mpmc::open(there)?.join()?, Mpmc::open(back)?.join()?);
    }
    Ok(())
}

/// Runs both sides as threads.
fn threads(case: &Case, host_ends: (impl Push, impl Pop), peer_ends: (impl Pop + Send, impl Push + Send)) -> Sample {
    let (inflight, n) = (case.inflight, case.n);
    thread::scope(|scope| {
        scope.spawn(move || {
            machine::pin(Regime::Hot.peer_cpu()).expect("pinned");
            peer(inflight, n, peer_ends.0, peer_ends.1);
        });
        host(case, host_ends.0, host_ends.1)
    })
}

struct Rtrb;

impl Push for rtrb::Producer<u64> {
    #[inline(always)]
    fn push(&mut self, value: u64) -> bool {
        rtrb::Producer::push(self, value).is_ok()
    }
}

impl Pop for rtrb::Consumer<u64> {
    #[inline(always)]
    fn pop(&mut self) -> Option<u64> {
        rtrb::Consumer::pop(self).ok()
    }
}

impl System for Rtrb {
    fn name(&self) -> &'static str {
        "rtrb"
    }

    fn round(&mut self, case: &Case) -> Option<Sample> {
        let capacity = capacity(case.inflight);
        let ((to, there), (back, from)) = (rtrb::RingBuffer::new(capacity), rtrb::RingBuffer::new(capacity));
        (case.name == "spsc").then(|| threads(case, (to, from), (there, back)))
    }
}

struct Crossbeam;

impl Push for Arc<ArrayQueue<u64>> {
    #[inline(always)]
    fn push(&mut self, value: u64) -> bool {
        ArrayQueue::push(self, value).is_ok()
    }
}

impl Pop for Arc<ArrayQueue<u64>> {
    #[inline(always)]
    fn pop(&mut self) -> Option<u64> {
        ArrayQueue::pop(self)
    }
}

impl System for Crossbeam {
    fn name(&self) -> &'static str {
        "array-queue"
    }

    fn round(&mut self, case: &Case) -> Option<Sample> {
        let new = || Arc::new(ArrayQueue::new(capacity(case.inflight)));
        let (there, back) = (new(), new());
        (case.name == "mpmc").then(|| threads(case, (there.clone(), back.clone()), (there, back)))
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().collect();
    if let [_, flag, name, inflight, n] = &args[..]
        && flag == "--peer"
    {
        let number = |text: &String| text.parse().expect("a number");
        return match run_peer(name, number(inflight), number(n)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("rings peer: {e}");
                ExitCode::FAILURE
            }
        };
    }
    common::main(CASES, || vec![Box::new(Busway), Box::new(Rtrb), Box::new(Crossbeam)])
}
