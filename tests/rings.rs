//! Rings between real processes: elements checked, ends and members killed at random, files that are no such ring.
//!
//! A child has the file of its ring as standard input.

mod common;

use busway::ring::{Mpmc, MpmcMember, Recovered, Spsc};
use busway::{Error, JoinError};
use common::fork::{in_fork, wipes_on_fork};
use common::pipe::{Reports, say};
use common::{Setup, argument, assert_err, roles, skip, until, watchdog};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::stdin;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::Child;
use std::thread::yield_now;
use std::time::{Duration, Instant};

roles!(spsc_consumes, spsc_produces, spsc_claims, mpmc_passes_on, mpmc_produces, mpmc_recovers, forks);

const ELEMENTS: u64 = 50_000;

fn element(i: u64) -> [u64; 2] {
    [i, !i]
}

fn copy(file: &impl AsFd) -> OwnedFd {
    file.as_fd().try_clone_to_owned().expect("a descriptor")
}

/// A child in a role that has the file.
fn spawn(role: &str, file: &impl AsFd, argument: u64) -> (Child, Reports) {
    let mut command = Setup::default().command_with(role, argument);
    let reports = Reports::of(command.stdin(copy(file)));
    (command.spawn().expect("spawn a child"), reports)
}

/// The file that this role was given. It does not outlive its parent, which may hang.
fn given() -> OwnedFd {
    // SAFETY: takes plain numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    copy(&stdin())
}

fn kill(mut child: Child) {
    child.kill().expect("kill the child");
    child.wait().expect("wait for the child");
}

fn ended_well(mut child: Child) {
    assert!(child.wait().expect("wait for the child").success());
}

/// Random numbers from a seed that the clock gives and a failure shows.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let seed = now.as_nanos() as u64 | 1;
        println!("seed {seed}");
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// Does `body` again and again for a random time, up to `most`.
    fn a_while(&mut self, most: Duration, mut body: impl FnMut()) {
        let (start, time) = (Instant::now(), Duration::from_nanos(self.below(most.as_nanos() as u64)));
        while start.elapsed() < time {
            body();
        }
    }
}

fn spsc_consumes() {
    let mut consumer = Spsc::<[u64; 2]>::open(given()).expect("open").consumer().expect("the consumer");
    let elements: u64 = argument().parse().expect("a number");
    let (mut next, mut buffer) = (0, [[0; 2]; 7]);
    while next < elements {
        // Each way in turns.
        if next % 3 == 0 {
            let count = consumer.pop_slice(&mut buffer).expect("not forked");
            if count == 0 {
                yield_now();
            }
            for value in &buffer[..count] {
                assert_eq!(*value, element(next));
                next += 1;
            }
        } else if let Some(value) = consumer.pop().expect("not forked") {
            assert_eq!(value, element(next));
            next += 1;
        } else {
            yield_now();
        }
    }
    assert!(consumer.is_empty());
    say(next);
    until("the producer is dropped", || consumer.is_abandoned());
}

#[test]
fn every_element_crosses_in_order() {
    let _watchdog = watchdog();
    // Where few fit, each costs a turn of the scheduler on a busy machine.
    for (capacity, elements) in [(1, 300), (3, 1_000), (256, ELEMENTS), (1000, ELEMENTS)] {
        let ring = Spsc::<[u64; 2]>::create(capacity).expect("create");
        let mut producer = ring.producer().expect("the producer");
        assert_eq!((ring.capacity(), producer.capacity()), (capacity, capacity));
        let (child, mut reports) = spawn("spsc_consumes", &ring, elements);
        let mut next = 0;
        while next < elements {
            if next % 2 == 0 {
                let count = 5.min(elements - next);
                let values: Vec<_> = (next..next + count).map(element).collect();
                let pushed = producer.push_slice(&values).expect("an honest consumer");
                if pushed == 0 {
                    yield_now();
                }
                next += pushed as u64;
            } else {
                match producer.push(element(next)) {
                    Ok(()) => next += 1,
                    Err(Error::Full) => yield_now(),
                    Err(e) => panic!("{e}"),
                }
            }
        }
        assert_eq!(reports.number(), elements);
        assert!(!producer.is_abandoned());
        drop(producer);
        ended_well(child);
    }
}

fn spsc_produces() {
    let mut producer = Spsc::<[u64; 2]>::open(given()).expect("open").producer().expect("the producer");
    say("ready");
    for i in 0.. {
        while let Err(Error::Full) = producer.push(element(i)) {
            yield_now();
        }
    }
}

#[test]
fn what_a_killed_producer_pushed_is_there() {
    let _watchdog = watchdog();
    let mut random = Random::new();
    for round in 0..20 {
        let ring = Spsc::<[u64; 2]>::create(64).expect("create");
        let mut consumer = ring.consumer().expect("the consumer");
        let (child, mut reports) = spawn("spsc_produces", &ring, 0);
        let mut next = 0;
        let mut pop = || {
            let value = consumer.pop().expect("not forked");
            if let Some(value) = value {
                assert_eq!(value, element(next), "round {round}");
                next += 1;
            }
            value.is_some()
        };
        reports.expect();
        random.a_while(Duration::from_millis(2), || {
            pop();
        });
        kill(child);
        // What is left after the death, and no more.
        while pop() {}
        assert!(consumer.is_abandoned() && consumer.is_empty());
        assert_err!(ring.producer(), Error::Join(JoinError::Taken { .. }));
    }
}

#[test]
fn a_killed_consumer_wedges_nobody() {
    let _watchdog = watchdog();
    let ring = Spsc::<[u64; 2]>::create(64).expect("create");
    let mut producer = ring.producer().expect("the producer");
    let (child, _reports) = spawn("spsc_consumes", &ring, ELEMENTS);
    assert!(!producer.is_abandoned());
    for i in 0..ELEMENTS / 2 {
        while let Err(Error::Full) = producer.push(element(i)) {
            yield_now();
        }
    }
    kill(child);
    assert!(producer.is_abandoned());
    let more = (0..1000).take_while(|i| producer.push(element(*i)).is_ok()).count();
    assert!(more < 100, "a dead consumer pops");
    assert_err!(producer.push(element(0)), Error::Full);
}

fn spsc_claims() {
    let ring = Spsc::<u64>::open(given()).expect("open");
    assert_err!(ring.producer(), Error::Join(JoinError::Taken { .. }));
    let _consumer = ring.consumer().expect("the consumer");
    assert_err!(ring.consumer(), Error::Join(JoinError::Taken { .. }));
}

#[test]
fn each_end_is_claimed_once() {
    let _watchdog = watchdog();
    let ring = Spsc::<u64>::create(8).expect("create");
    let producer = ring.producer().expect("the producer");
    assert_err!(ring.producer(), Error::Join(JoinError::Taken { .. }));
    ended_well(spawn("spsc_claims", &ring, 0).0);
    assert!(producer.is_abandoned(), "the child had the consumer");
    assert_err!(ring.consumer(), Error::Join(JoinError::Taken { .. }));
    drop(producer);
    assert_err!(ring.producer(), Error::Join(JoinError::Taken { .. }));
}

fn member<T: bytemuck::NoUninit + bytemuck::AnyBitPattern>() -> MpmcMember<T> {
    Mpmc::open(given()).expect("open").join().expect("a place")
}

/// Takes tokens and puts them back, for ever.
fn mpmc_passes_on() {
    let member = member::<u64>();
    say("ready");
    loop {
        let Some(token) = member.pop().expect("not forked") else {
            yield_now();
            continue;
        };
        while let Err(Error::Full) = member.push(token) {
            yield_now();
        }
    }
}

/// What all processes, dead ones included, had in hand is lost at most, and the ring is as large as before.
#[test]
fn members_are_killed_at_random() {
    let _watchdog = watchdog();
    const TOKENS: u64 = 40;
    const KILLS: usize = 60;
    let ring = Mpmc::<u64>::create(64, 8).expect("create");
    let ours = ring.join().expect("a place");
    (0..TOKENS).for_each(|token| ours.push(token).expect("room"));
    let start = || {
        let (child, mut reports) = spawn("mpmc_passes_on", &ring, 0);
        reports.expect();
        child
    };
    let mut random = Random::new();
    let mut children: Vec<Child> = (0..3).map(|_| start()).collect();
    let mut recovered = Recovered::default();
    for _ in 0..KILLS {
        random.a_while(Duration::from_millis(1), || {
            if let Some(token) = ours.pop().expect("not forked") {
                until("there is room", || ours.push(token).is_ok());
            }
        });
        let victim = random.below(3) as usize;
        kill(std::mem::replace(&mut children[victim], start()));
        let now = ours.recover_dead().expect("not forked");
        assert_eq!(now.members, 1);
        assert!(now.elements <= 1, "a member of one thread has one element in hand");
        recovered.members += now.members;
        recovered.elements += now.elements;
    }
    children.into_iter().for_each(kill);
    assert_eq!(ours.recover_dead().expect("not forked").members, 3);
    assert_eq!(ours.recover_dead().expect("not forked"), Recovered::default());
    let left: Vec<u64> = std::iter::from_fn(|| ours.pop().expect("not forked")).collect();
    let distinct: BTreeSet<_> = left.iter().collect();
    assert_eq!(distinct.len(), left.len(), "doubled: {left:?}");
    let lost = TOKENS as usize - left.len();
    assert!(lost <= KILLS + 3, "{lost} lost");
    println!("{KILLS} kills, {lost} tokens lost, {recovered:?}");
    for i in 0..64 {
        ours.push(i).expect("as much room as before");
    }
    assert_err!(ours.push(0), Error::Full);
}

/// Pushes its own numbers.
fn mpmc_produces() {
    let member = member::<[u64; 2]>();
    let me: u64 = argument().parse().expect("a number");
    say("ready");
    for i in 0.. {
        while let Err(Error::Full) = member.push([me, i]) {
            yield_now();
        }
    }
}

#[test]
fn what_killed_members_pushed_arrives_once() {
    let _watchdog = watchdog();
    let ring = Mpmc::<[u64; 2]>::create(32, 4).expect("create");
    let ours = ring.join().expect("a place");
    let mut random = Random::new();
    let mut next = BTreeMap::new();
    let mut pop = || {
        let value = ours.pop().expect("not forked");
        if let Some([producer, i]) = value {
            let want = next.entry(producer).or_insert(0);
            assert_eq!(*want, i, "of producer {producer}");
            *want += 1;
        }
        value.is_some()
    };
    let start = |number| {
        let (child, mut reports) = spawn("mpmc_produces", &ring, number);
        reports.expect();
        child
    };
    let mut children = vec![start(0), start(1)];
    for number in 2..30 {
        random.a_while(Duration::from_millis(1), || {
            pop();
        });
        kill(children.remove(random.below(2) as usize));
        assert_eq!(ours.recover_dead().expect("not forked").members, 1);
        children.push(start(number));
    }
    children.into_iter().for_each(kill);
    while pop() {}
    assert_eq!(ours.recover_dead().expect("not forked").members, 2);
    let total: u64 = next.values().sum();
    assert!(total > 30, "{total} elements of {} producers", next.len());
}

/// Recovers whoever is dead, for ever.
fn mpmc_recovers() {
    let member = member::<u64>();
    say("ready");
    loop {
        member.recover_dead().expect("not forked");
    }
}

/// Members die while others, who die too, recover them; whoever lives last recovers all.
#[test]
fn recoverers_are_killed() {
    let _watchdog = watchdog();
    let ring = Mpmc::<u64>::create(16, 12).expect("create");
    let ours = ring.join().expect("a place");
    let mut random = Random::new();
    for _ in 0..8 {
        ours.push(1).expect("room");
        let roles = ["mpmc_passes_on", "mpmc_recovers", "mpmc_recovers"];
        let children: Vec<_> = roles.iter().map(|role| spawn(role, &ring, 0)).collect();
        for (child, mut reports) in children {
            reports.expect();
            random.a_while(Duration::from_millis(1), || ());
            kill(child);
        }
        ours.recover_dead().expect("not forked");
        assert_eq!(ours.recover_dead().expect("not forked"), Recovered::default());
        while ours.pop().expect("not forked").is_some() {}
        for i in 0..16 {
            ours.push(i).expect("as much room as before");
        }
        while ours.pop().expect("not forked").is_some() {}
    }
    let places: Vec<_> = (0..11).map(|_| ring.join().expect("a place")).collect();
    assert_err!(ring.join(), Error::Join(JoinError::Taken { .. }));
    drop(places);
}

#[test]
fn places_are_limited_and_come_back() {
    let _watchdog = watchdog();
    let ring = Mpmc::<u64>::create(8, 2).expect("create");
    let first = ring.join().expect("a place");
    let (child, mut reports) = spawn("mpmc_passes_on", &ring, 0);
    reports.expect();
    assert_err!(ring.join(), Error::Join(JoinError::Taken { .. }));
    kill(child);
    let second = ring.join().expect("the place of a dead member, recovered");
    assert_eq!((first.number(), second.number()), (1, 2));
    drop(first);
    assert_eq!(ring.join().expect("a place that was left").number(), 1);
    assert_eq!(second.recover_dead().expect("not forked"), Recovered::default(), "who left is not dead");
}

/// A memory file of this length, unsealed.
fn memory_file(len: u64) -> File {
    // SAFETY: the name is a string, and the new descriptor is nobody else's.
    let file = unsafe { File::from_raw_fd(libc::memfd_create(c"test".as_ptr(), libc::MFD_ALLOW_SEALING)) };
    file.set_len(len).expect("a length");
    file
}

#[test]
fn a_file_that_is_no_such_ring_is_refused() {
    let seals = |file: &File| Spsc::<u64>::open(copy(file));
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    assert_err!(Spsc::<u64>::open(reader.into()), Error::Join(JoinError::Seals { .. }));
    let this = File::open(std::env::current_exe().expect("a path")).expect("this program");
    assert_err!(seals(&this), Error::Join(JoinError::Seals { .. }));
    assert_err!(seals(&memory_file(1 << 16)), Error::Join(JoinError::Seals { .. }));

    let spsc = Spsc::<u64>::create(64).expect("create");
    let mpmc = Mpmc::<u64>::create(64, 4).expect("create");
    assert_err!(Spsc::<u32>::open(copy(&spsc)), Error::WrongSize { len: 8, want: 4 });
    assert_err!(Spsc::<[u32; 2]>::open(copy(&spsc)), Error::Join(JoinError::Geometry { .. }));
    assert_err!(Mpmc::<u64>::open(copy(&spsc)), Error::Join(JoinError::Geometry { .. }));
    assert_err!(Mpmc::<[u64; 9]>::open(copy(&mpmc)), Error::WrongSize { len: 8, want: 72 });
    assert_err!(Spsc::<u64>::open(copy(&mpmc)), Error::Join(JoinError::Geometry { .. }));

    let file = File::from(copy(&spsc));
    let patched = |at: u64, bytes: &[u8]| {
        let mut before = vec![0; bytes.len()];
        file.read_exact_at(&mut before, at).expect("read");
        file.write_all_at(bytes, at).expect("write");
        let opened = Spsc::<u64>::open(copy(&spsc));
        file.write_all_at(&before, at).expect("write");
        opened
    };
    assert_err!(patched(0, b"x"), Error::Join(JoinError::BadMagic));
    assert_err!(patched(8, &9u32.to_le_bytes()), Error::VersionMismatch { theirs: 9, .. });
    assert_err!(patched(16, &1u64.to_le_bytes()), Error::Join(JoinError::Geometry { .. }));
    let head = 4096;
    for capacity in [0, 200, 4000, u32::MAX] {
        assert_err!(patched(head + 4, &u32::to_le_bytes(capacity)), Error::Join(JoinError::Geometry { .. }));
    }
    assert_err!(patched(head + 16, &[1; 8]), Error::Join(JoinError::Identity { .. }));
    assert!(patched(0, b"b").is_ok(), "the file itself is fine");
}

#[test]
fn numbers_out_of_bounds_are_refused() {
    for capacity in [0, (1 << 30) + 1, usize::MAX] {
        assert_err!(Spsc::<u64>::create(capacity), Error::Join(JoinError::Geometry { .. }));
        assert_err!(Mpmc::<u64>::create(capacity, 1), Error::Join(JoinError::Geometry { .. }));
    }
    for members in [0, 4096] {
        assert_err!(Mpmc::<u64>::create(8, members), Error::Join(JoinError::Geometry { .. }));
    }
    assert!(Mpmc::<u8>::create(1 << 15, 4095).and_then(|ring| ring.join()).is_ok());
}

/// Whatever a process writes into the file, the others neither panic nor leave the memory.
#[test]
fn garbage_in_a_ring_panics_nobody() {
    let _watchdog = watchdog();
    let mut random = Random::new();
    for _ in 0..300 {
        let ring = Spsc::<u64>::create(16).expect("create");
        let (mut producer, mut consumer) = (ring.producer().expect("it"), ring.consumer().expect("it"));
        let file = File::from(copy(&ring));
        let length = file.metadata().expect("a length").len();
        for _ in 0..20 {
            let bytes = random.below(u64::MAX).to_le_bytes();
            file.write_all_at(&bytes, random.below(length / 8) * 8).expect("write");
            let _ = (producer.push(1), consumer.pop(), producer.push_slice(&[1; 9]), consumer.pop_slice(&mut [0; 9]));
            let _ = (Spsc::<u64>::open(copy(&ring)), Mpmc::<u64>::open(copy(&ring)));
        }
        let _ = (producer.is_abandoned(), consumer.is_abandoned());
    }
}

fn forks() {
    if !wipes_on_fork() {
        say("cannot");
        return;
    }
    let spsc = Spsc::<u64>::create(8).expect("create");
    let (mut producer, mut consumer) = (spsc.producer().expect("it"), spsc.consumer().expect("it"));
    let mpmc = Mpmc::<u64>::create(8, 2).expect("create");
    let member = mpmc.join().expect("a place");
    producer.push(1).expect("room");
    member.push(1).expect("room");
    in_fork(|| {
        // SAFETY: the originals in this process, the forked one, are not used again.
        let (mut tx, mut rx, ours) = unsafe { (taken(&producer), taken(&consumer), taken(&member)) };
        assert_err!(tx.push(2), Error::Forked);
        assert_err!(tx.push_slice(&[2]), Error::Forked);
        assert_err!(rx.pop(), Error::Forked);
        assert_err!(rx.pop_slice(&mut [0]), Error::Forked);
        assert_err!(ours.push(2), Error::Forked);
        assert_err!(ours.pop(), Error::Forked);
        assert_err!(ours.recover_dead(), Error::Forked);
        assert_err!(spsc.producer(), Error::Forked);
        assert_err!(mpmc.join(), Error::Forked);
        assert!(!tx.is_abandoned() && rx.is_empty() && ours.is_empty());
        assert_eq!(ours.len(), 0);
        drop((tx, rx, ours));
        // The file was inherited; the child may open it on its own account.
        let other = Mpmc::<u64>::open(copy(&mpmc)).and_then(|ring| ring.join()).expect("a place");
        assert_eq!(other.pop().expect("its own"), Some(1));
        other.push(3).expect("room");
    });
    assert!(!producer.is_abandoned() && !consumer.is_abandoned(), "the child dropped what was its parent's");
    assert_eq!(consumer.pop().expect("not forked"), Some(1));
    assert_eq!(member.pop().expect("not forked"), Some(3));
    assert_eq!(member.recover_dead().expect("not forked"), Recovered::default());
    say("done");
}

/// A forked child's copy of a value of its parent.
///
/// # Safety
/// Once for each value, and only where the original is neither used nor dropped afterwards.
unsafe fn taken<T>(value: &T) -> T {
    // SAFETY: by this function's contract.
    unsafe { std::ptr::read(value) }
}

#[test]
fn a_forked_child_cannot_use_inherited_ends() {
    let _watchdog = watchdog();
    let (child, mut reports) = spawn("forks", &memory_file(1), 0);
    if reports.expect() == "cannot" {
        skip("no MADV_WIPEONFORK here");
    }
    ended_well(child);
}
