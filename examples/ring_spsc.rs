//! Two processes and two rings with one producer and one consumer each: a stream one way, then one element back and
//! forth.
//!
//! `cargo run --release --example ring_spsc`

use busway::ring::{Consumer, Producer, Spsc};
use busway::{Error, Result};
use std::env;
use std::io::{stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, exit};
use std::thread::yield_now;
use std::time::Instant;

/// Any type of plain data will do.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Sample {
    number: u64,
    value: f64,
}

impl Sample {
    fn new(number: u64) -> Self {
        Self { number, value: (number as f64).sqrt() }
    }
}

/// So many elements cross as a stream, and so many go there and back.
const STREAM: u64 = 10_000_000;
const TRIPS: u64 = 200_000;

/// Pushes, waiting for room: a ring never waits by itself. Spins at first, then lets others run.
fn push(to: &mut Producer<Sample>, sample: Sample) -> Result<()> {
    let mut spins = 0;
    loop {
        match to.push(sample) {
            Err(Error::Full) => idle(&mut spins, || to.is_abandoned())?,
            done => return done,
        }
    }
}

fn pop(from: &mut Consumer<Sample>) -> Result<Sample> {
    let mut spins = 0;
    loop {
        match from.pop()? {
            Some(sample) => return Ok(sample),
            None => idle(&mut spins, || from.is_abandoned())?,
        }
    }
}

/// Passes a moment; once in a while looks whether the other process still lives.
fn idle(spins: &mut u32, gone: impl Fn() -> bool) -> Result<()> {
    *spins += 1;
    match *spins {
        ..1000 => std::hint::spin_loop(),
        spins if spins % 1000 == 0 && gone() => return Err(Error::PeerDied { maybe_executed: false }),
        _ => yield_now(),
    }
    Ok(())
}

/// The other process: its standard input is the ring to it, its standard output the ring back.
fn child() -> Result<()> {
    let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().expect("a descriptor");
    let mut from = Spsc::open(own(stdin().as_fd()))?.consumer()?;
    let mut to = Spsc::open(own(stdout().as_fd()))?.producer()?;
    for number in 0..STREAM {
        assert_eq!(pop(&mut from)?, Sample::new(number), "lost, doubled, out of order or torn");
    }
    for _ in 0..=TRIPS {
        // The first one says that the stream has arrived.
        push(&mut to, Sample::new(STREAM))?;
        if pop(&mut from)?.number == 0 {
            break;
        }
    }
    Ok(())
}

fn parent() -> Result<()> {
    let (there, back) = (Spsc::create(1024)?, Spsc::create(1024)?);
    let (mut to, mut from) = (there.producer()?, back.consumer()?);
    let mut command = Command::new(env::current_exe().expect("the path of this program"));
    command.arg("--child").stdin(OwnedFd::from(there)).stdout(OwnedFd::from(back));
    let mut child = command.spawn().expect("spawn this program");
    println!("this is process {}, the other one is {}", std::process::id(), child.id());
    let measured = measure(&mut to, &mut from);
    let status = child.wait().expect("wait for the child");
    println!("the other process ended with {status}; the ring says that it is gone: {}", to.is_abandoned());
    measured
}

fn measure(to: &mut Producer<Sample>, from: &mut Consumer<Sample>) -> Result<()> {
    let start = Instant::now();
    (0..STREAM).try_for_each(|number| push(to, Sample::new(number)))?;
    assert_eq!(pop(from)?, Sample::new(STREAM));
    let millions = STREAM as f64 / start.elapsed().as_secs_f64() / 1e6;
    println!("{STREAM} elements of {} bytes, each checked: {millions:.1} million a second", size_of::<Sample>());

    let mut times = Vec::with_capacity(TRIPS as usize);
    for trip in (0..TRIPS).rev() {
        let start = Instant::now();
        push(to, Sample::new(trip))?;
        if trip > 0 {
            assert_eq!(pop(from)?, Sample::new(STREAM));
            times.push(start.elapsed());
        }
    }
    times.sort_unstable();
    let at = |q: f64| times[((times.len() - 1) as f64 * q) as usize];
    println!("{} elements there and back: p50 {:?}, p99 {:?}", times.len(), at(0.5), at(0.99));
    Ok(())
}

fn main() {
    let result = if env::args().any(|arg| arg == "--child") { child() } else { parent() };
    if let Err(e) = result {
        eprintln!("ring_spsc: {e}");
        exit(1);
    }
}
