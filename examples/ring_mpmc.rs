//! Seven processes and a ring: producers, consumers, and one of each killed half way, without a word, while the
//! others go on.
//!
//! `cargo run --release --example ring_mpmc`
//!
//! Producers push numbered elements; consumers pass on what they popped, on a second ring. The first process checks
//! that each element arrives once and unchanged, but for one that the killed consumer may have had in hand.

use busway::ring::{Mpmc, MpmcMember};
use busway::{Error, Result};
use std::env;
use std::io::{stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, exit};
use std::thread::yield_now;
use std::time::Instant;

/// Producer, number, and a check over both: an element that is torn shows.
type Element = [u64; 3];

const PRODUCERS: u64 = 3;
const CONSUMERS: u64 = 3;
const EACH: u64 = 2_000_000;

fn element(producer: u64, number: u64) -> Element {
    [producer, number, !(producer << 32 ^ number)]
}

/// Pushes, waiting for room: a ring never waits by itself.
fn push(ring: &MpmcMember<Element>, element: Element) -> Result<()> {
    loop {
        match ring.push(element) {
            Err(Error::Full) => yield_now(),
            done => return done,
        }
    }
}

/// Told to consumers, once each.
const STOP: Element = [u64::MAX; 3];

fn own(file: BorrowedFd<'_>) -> OwnedFd {
    file.try_clone_to_owned().expect("a descriptor")
}

/// A producer has the ring as its standard input.
fn produce(producer: u64) -> Result<()> {
    let ring = Mpmc::<Element>::open(own(stdin().as_fd()))?.join()?;
    (0..EACH).try_for_each(|number| push(&ring, element(producer, number)))
}

/// A consumer has the ring of reports too, as its standard output.
fn consume() -> Result<()> {
    let ring = Mpmc::<Element>::open(own(stdin().as_fd()))?.join()?;
    let reports = Mpmc::<Element>::open(own(stdout().as_fd()))?.join()?;
    loop {
        match ring.pop()? {
            Some(STOP) => return Ok(()),
            Some(popped) => push(&reports, popped)?,
            None => yield_now(),
        }
    }
}

fn spawn(role: &str, ring: &Mpmc<Element>, reports: &Mpmc<Element>) -> Child {
    let mut command = Command::new(env::current_exe().expect("the path of this program"));
    command.arg(role).stdin(own(ring.as_fd())).stdout(own(reports.as_fd()));
    command.spawn().expect("spawn this program")
}

fn ended(children: &mut [Child]) -> bool {
    children.iter_mut().all(|child| child.try_wait().expect("wait for a child").is_some())
}

fn parent() -> Result<()> {
    let (ring, reports) = (Mpmc::create(1024, 16)?, Mpmc::create(1024, 16)?);
    let (ours, arrived) = (ring.join()?, reports.join()?);
    let start = Instant::now();
    let mut producers: Vec<_> = (0..PRODUCERS).map(|number| spawn(&number.to_string(), &ring, &reports)).collect();
    let mut consumers: Vec<_> = (0..CONSUMERS).map(|_| spawn("consume", &ring, &reports)).collect();
    println!("{PRODUCERS} producers and {CONSUMERS} consumers, {EACH} elements from each producer");

    let mut seen = vec![vec![false; EACH as usize]; PRODUCERS as usize];
    let (mut count, mut stops, mut last) = (0, 0, false);
    loop {
        if let Some(popped) = arrived.pop()? {
            let [producer, number, _] = popped;
            assert_eq!(popped, element(producer, number), "torn");
            assert!(!std::mem::replace(&mut seen[producer as usize][number as usize], true), "doubled");
            count += 1;
            if count == PRODUCERS * EACH / 2 {
                for mut victim in [producers.remove(0), consumers.remove(0)] {
                    victim.kill().and_then(|()| victim.wait()).expect("kill a child");
                    println!("after {count} elements process {} was killed", victim.id());
                }
                // Any member may do this, at any time.
                println!("recovered: {:?} and {:?}", ours.recover_dead()?, arrived.recover_dead()?);
            }
        } else if last {
            break;
        } else {
            last = ended(&mut consumers);
            if stops < consumers.len() && ended(&mut producers) && ours.push(STOP).is_ok() {
                stops += 1;
            }
            yield_now();
        }
    }

    let rate = count as f64 / start.elapsed().as_secs_f64() / 1e6;
    println!(
        "{count} elements crossed both rings, each checked: {rate:.1} million a second, with the start of processes"
    );
    // The killed producer did not come to its end. What the killed consumer had in hand is lost.
    let sent = |seen: &Vec<bool>| seen.iter().rposition(|seen| *seen).map_or(0, |last| last + 1);
    let missing: usize = seen.iter().map(|seen| seen[..sent(seen)].iter().filter(|seen| !**seen).count()).sum();
    let complete = seen.iter().filter(|seen| sent(seen) == EACH as usize).count();
    println!("{complete} producers came to their end, {missing} element in the hand of the killed consumer");
    assert!(complete >= PRODUCERS as usize - 1 && missing <= 1, "nothing else is lost");
    assert!(ours.is_empty() && arrived.is_empty());
    Ok(())
}

fn main() {
    let result = match env::args().nth(1).as_deref() {
        None => parent(),
        Some("consume") => consume(),
        Some(number) => produce(number.parse().expect("the number of a producer")),
    };
    if let Err(e) = result {
        eprintln!("ring_mpmc: {e}");
        exit(1);
    }
}
