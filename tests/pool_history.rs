//! Small histories of one queue, from real processes: a bounded queue, first in, first out, explains each of them.
//!
//! Every operation takes the time before it and after it from one shared counter. Under `--cfg busway_crash` processes dawdle
//! in the midst of operations, or die there: what one was about to do then happened before its recovery, or never.

mod common;

use busway::pool::{Member, MemberProcess, Pool, PoolConfig};
use busway::{Error, SizeClass};
use common::payload::Random;
use common::shared::{self, Words};
use common::{SOON, Setup, argument, emulated, roles, until, watchdog};
use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::hint::spin_loop;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::{sleep, yield_now};
use std::time::{Duration, Instant, SystemTime};

roles!(operates);

const CAPACITIES: [usize; 3] = [1, 2, 4];
const PROCESSES: usize = 3;
/// Operations of each process in a round.
const OPERATIONS: usize = 5;

// ---- the check

/// What an operation was seen to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Sent(u32),
    Full,
    Received(u32),
    /// Nothing was there, to receive or to be seen.
    Nothing,
    Something,
    /// It was not seen to end.
    PerhapsSent(u32),
    PerhapsReceived,
}

/// An operation, and between which times it took place.
#[derive(Clone, Copy, Debug)]
struct Operation {
    called: u32,
    returned: u32,
    done: Done,
}

impl Done {
    /// What it makes of a queue; `None` if it does not do this to such a one.
    fn apply(self, mut queue: VecDeque<u32>, capacity: usize) -> Option<VecDeque<u32>> {
        let full = queue.len() == capacity;
        let fits = match self {
            Done::Sent(value) | Done::PerhapsSent(value) => {
                queue.push_back(value);
                !full
            }
            Done::Full => full,
            Done::Received(value) => queue.pop_front() == Some(value),
            Done::PerhapsReceived => queue.pop_front().is_some(),
            Done::Nothing => queue.is_empty(),
            Done::Something => !queue.is_empty(),
        };
        fits.then_some(queue)
    }

    fn perhaps(self) -> bool {
        matches!(self, Done::PerhapsSent(_) | Done::PerhapsReceived)
    }
}

/// Whether the operations can be put into an order in which a queue that was empty does what was seen, and none that had
/// returned comes after one that was called later: Wing and Gong's search, which visits no state twice.
fn explained(history: &[Operation], capacity: usize) -> bool {
    let (mut open, mut seen) = (vec![(0u64, VecDeque::new())], HashSet::new());
    while let Some((past, queue)) = open.pop() {
        let left = || history.iter().enumerate().filter(|(i, _)| past & 1 << i == 0);
        let Some(first_return) = left().map(|(_, operation)| operation.returned).min() else { return true };
        for (i, Operation { done, .. }) in left().filter(|(_, operation)| operation.called < first_return) {
            let never = done.perhaps().then(|| queue.clone());
            for queue in done.apply(queue.clone(), capacity).into_iter().chain(never) {
                let state = (past | 1 << i, queue);
                if seen.insert(state.clone()) {
                    open.push(state);
                }
            }
        }
    }
    false
}

#[test]
fn the_check_tells_what_a_queue_does_not_do() {
    use Done::*;
    let history = |operations: &[(u32, u32, Done)]| -> Vec<_> {
        operations.iter().map(|&(called, returned, done)| Operation { called, returned, done }).collect()
    };
    let explained = |operations: &[_]| explained(&history(operations), 2);
    assert!(explained(&[]));
    assert!(explained(&[(1, 2, Sent(7)), (3, 4, Received(7)), (5, 6, Nothing)]));
    // Out of nothing, twice, and lost.
    assert!(!explained(&[(1, 2, Received(7))]));
    assert!(!explained(&[(1, 2, Sent(7)), (3, 4, Received(7)), (5, 6, Received(7))]));
    assert!(!explained(&[(1, 2, Sent(7)), (3, 4, Nothing)]));
    assert!(!explained(&[(1, 2, Sent(7)), (3, 4, Received(7)), (5, 6, Something)]));
    // Received before it was sent, unless both overlap.
    assert!(!explained(&[(3, 4, Sent(7)), (1, 2, Received(7))]));
    assert!(explained(&[(2, 4, Sent(7)), (1, 3, Received(7))]));
    // In order, unless they were sent at once.
    let received = [(5, 6, Received(2)), (7, 8, Received(1))];
    assert!(!explained(&[&[(1, 2, Sent(1)), (3, 4, Sent(2))], &received[..]].concat()));
    assert!(explained(&[&[(1, 4, Sent(1)), (2, 3, Sent(2))], &received[..]].concat()));
    // Full at two, not at one, and not beyond.
    let sent = [(1, 2, Sent(1)), (3, 4, Sent(2))];
    assert!(explained(&[&sent[..], &[(5, 6, Full)]].concat()));
    assert!(!explained(&[&sent[..], &[(5, 6, Sent(3))]].concat()));
    assert!(!explained(&[&sent[..1], &[(5, 6, Full)]].concat()));
    // Two see an empty queue that never was: the second was sent before the first was received.
    assert!(!explained(&[(1, 2, Sent(1)), (3, 4, Sent(2)), (5, 8, Received(1)), (6, 7, Nothing)]));
    // One that died did it before its recovery, or never.
    for end in [Received(9), Nothing] {
        assert!(explained(&[(1, 4, PerhapsSent(9)), (5, 6, end)]));
        assert!(explained(&[(1, 2, Sent(9)), (3, 6, PerhapsReceived), (7, 8, end)]));
    }
    assert!(!explained(&[(1, 4, PerhapsSent(9)), (5, 6, Nothing), (7, 8, Received(9))]));
    assert!(!explained(&[(1, 2, Sent(8)), (3, 4, PerhapsReceived), (5, 6, Received(8)), (7, 8, Received(8))]));
}

// ---- histories

/// Words about all: the time, the round, which queue it is about, and how many have come to it.
const TIME: usize = 0;
const ROUND: usize = 1;
const QUEUE: usize = 2;
const READY: usize = 3;
/// Words of one operation: what it does, with which value, when it was called, when it returned, and what it answered.
const FIELDS: usize = 5;
/// Words of a process: the round that it is done with, whether it is to die, and its operations.
const FINISHED: usize = 0;
const DOOMED: usize = 1;
const FIRST: usize = 16;
const PROCESS: usize = 64;

const SEND: u32 = 1;
const RECEIVE: u32 = 2;
const LOOK: u32 = 3;

/// Answers.
const NO: u32 = 1;
const YES: u32 = 2;

#[derive(Clone, Copy)]
struct Board(Words);

impl Board {
    fn all(&self, word: usize) -> &AtomicU32 {
        &self.0[word]
    }

    fn process(&self, process: usize) -> &[AtomicU32] {
        &self.0[PROCESS * (process + 1)..][..PROCESS]
    }

    fn operation(&self, process: usize, i: usize) -> &[AtomicU32] {
        &self.process(process)[FIRST + FIELDS * i..][..FIELDS]
    }

    fn time(&self) -> u32 {
        self.all(TIME).fetch_add(1, SeqCst) + 1
    }
}

fn name(capacity: usize) -> String {
    format!("for {capacity}")
}

fn operates() {
    let arguments: Vec<u64> = argument().split(' ').map(|number| number.parse().expect("a number")).collect();
    let [process, round, seed] = arguments[..] else { panic!("three arguments") };
    let (process, mut random, board) = (process as usize, Random::new(seed), Board(shared::given()));
    let member = Member::attach().expect("attach");
    for round in round as u32.. {
        while board.all(ROUND).load(SeqCst) < round {
            if member.is_closed() {
                return;
            }
            sleep(Duration::from_micros(20));
        }
        // All begin at once, as far as there are CPUs.
        board.all(READY).fetch_add(1, SeqCst);
        while board.all(READY).load(SeqCst) < PROCESSES as u32 {
            yield_now();
        }
        let name = name(CAPACITIES[board.all(QUEUE).load(SeqCst) as usize]);
        let queue = member.queue(&name).expect("a queue");
        let worker = queue.worker();
        let doomed = board.process(process)[DOOMED].load(SeqCst) != 0;
        let last = random.below(OPERATIONS);
        for i in 0..OPERATIONS {
            let [kind, value, called, returned, answer] = board.operation(process, i) else { unreachable!() };
            let chosen = [SEND, SEND, SEND, RECEIVE, RECEIVE, RECEIVE, LOOK][random.below(7)];
            let unique = (round * 4 + process as u32) * 8 + i as u32;
            (0..random.below(60)).for_each(|_| spin_loop());
            value.store(unique, SeqCst);
            kind.store(chosen, SeqCst);
            halt(if doomed { i == last } else { random.below(3) == 0 }, random.below(12) as u32, doomed);
            called.store(board.time(), SeqCst);
            let seen = match chosen {
                SEND => match queue.try_send(unique, b"") {
                    Ok(()) => YES,
                    Err(Error::Full) => NO,
                    Err(e) => panic!("{e}"),
                },
                RECEIVE => match worker.try_recv().expect("a pool") {
                    Some(event) => {
                        value.store(event.method(), SeqCst);
                        YES
                    }
                    None => NO,
                },
                _ => [YES, NO][usize::from(queue.is_empty())],
            };
            answer.store(seen, SeqCst);
            returned.store(board.time(), SeqCst);
        }
        board.process(process)[FINISHED].store(round, SeqCst);
    }
}

/// Before some step of the operation that comes next this process dies or dawdles, if `so`.
#[cfg(busway_crash)]
fn halt(so: bool, step: u32, die: bool) {
    static DIE: AtomicU32 = AtomicU32::new(0);
    DIE.store(die.into(), SeqCst);
    let then = |_: &std::panic::Location<'_>| match DIE.load(SeqCst) {
        0 => sleep(Duration::from_micros(20)),
        _ => common::die(),
    };
    if so {
        busway::sync::at_step(step, Box::new(then));
    }
}

#[cfg(not(busway_crash))]
fn halt(_so: bool, _step: u32, _die: bool) {}

struct Histories {
    pool: Pool,
    board: Board,
    file: File,
    random: Random,
    crew: Vec<MemberProcess>,
}

impl Histories {
    fn begin() -> Self {
        let config = CAPACITIES.iter().fold(PoolConfig::new([""; 0]), |config, n| config.queue(name(*n), *n as u32));
        let classes = vec![SizeClass { size: 64, count: 64 }];
        let pool = Pool::create(&config.classes(classes).members(PROCESSES as u32 + 1).patience(SOON)).expect("a pool");
        let (file, words) = shared::create(PROCESS * (PROCESSES + 1));
        let random = Random::new(SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_nanos() as u64);
        let mut histories = Self { pool, board: Board(words), file, random, crew: Vec::new() };
        histories.crew = (0..PROCESSES).map(|process| histories.spawn(process, 1)).collect();
        histories
    }

    /// A process that takes part from this round on.
    fn spawn(&mut self, process: usize, round: u32) -> MemberProcess {
        let argument = format!("{process} {round} {}", self.random.next());
        let mut command = Setup::default().command_with("operates", argument);
        shared::share(&mut command, &self.file);
        self.pool.spawn(command).expect("spawn a member")
    }

    /// What this process does before the others begin and after they have ended.
    fn timed(&self, operate: impl FnOnce() -> Done) -> Operation {
        let called = self.board.time();
        let done = operate();
        Operation { called, returned: self.board.time(), done }
    }

    /// One history. In some a process dies.
    fn round(&mut self, round: u32, doomed: Option<usize>) -> (Vec<Operation>, usize) {
        let board = self.board;
        let number = self.random.below(CAPACITIES.len());
        let capacity = CAPACITIES[number];
        let first = self.random.below(capacity + 1) as u32;
        let pause = self.random.below(800);
        let name = name(capacity);
        let queue = self.pool.queue(&name).expect("a queue");
        let fill = |i| {
            let value = (round * 4 + PROCESSES as u32) * 8 + i;
            self.timed(|| queue.try_send(value, b"").map_or(Done::Full, |()| Done::Sent(value)))
        };
        let mut history: Vec<_> = (0..first).map(fill).collect();
        for process in 0..PROCESSES {
            (0..OPERATIONS).flat_map(|i| board.operation(process, i)).for_each(|word| word.store(0, SeqCst));
            board.process(process)[DOOMED].store((Some(process) == doomed).into(), SeqCst);
        }
        board.all(QUEUE).store(number as u32, SeqCst);
        board.all(READY).store(0, SeqCst);
        board.all(ROUND).store(round, SeqCst);
        if doomed.is_some() && !cfg!(busway_crash) {
            until("all begin", || board.all(READY).load(SeqCst) == PROCESSES as u32);
            (0..pause).for_each(|_| spin_loop());
        } else {
            let finished = |process| board.process(process)[FINISHED].load(SeqCst) == round;
            until("a round is over", || {
                // Leaves the CPUs to them.
                sleep(Duration::from_micros(20));
                let gone = self.pool.members() < PROCESSES;
                assert!(!gone || doomed.is_some(), "a process ended by itself");
                (0..PROCESSES).all(|process| finished(process) || gone && Some(process) == doomed)
            });
        }
        if let Some(process) = doomed {
            self.crew[process].kill().expect("kill a process");
            assert!(self.pool.wait_members(PROCESSES - 1, SOON));
            let finished = |process| board.process(process)[FINISHED].load(SeqCst) == round;
            until("the others are done", || (0..PROCESSES).all(|other| other == process || finished(other)));
        }
        let end = board.time();
        for (process, i) in (0..PROCESSES).flat_map(|process| (0..OPERATIONS).map(move |i| (process, i))) {
            let [kind, value, called, returned, answer] =
                [0, 1, 2, 3, 4].map(|field| board.operation(process, i)[field].load(SeqCst));
            let done = match (kind, answer) {
                _ if called == 0 => continue,
                (SEND, _) if returned == 0 => Done::PerhapsSent(value),
                (RECEIVE, _) if returned == 0 => Done::PerhapsReceived,
                _ if returned == 0 => continue,
                (SEND, YES) => Done::Sent(value),
                (SEND, _) => Done::Full,
                (RECEIVE, YES) => Done::Received(value),
                (LOOK, YES) => Done::Something,
                _ => Done::Nothing,
            };
            history.push(Operation { called, returned: if returned == 0 { end } else { returned }, done });
        }
        let worker = queue.worker();
        while history.last().is_none_or(|last| last.called < end || last.done != Done::Nothing) {
            let receive = || match worker.try_recv().expect("a pool") {
                Some(event) => Done::Received(event.method()),
                None => Done::Nothing,
            };
            history.push(self.timed(receive));
        }
        if let Some(process) = doomed {
            self.crew[process] = self.spawn(process, round + 1);
        }
        (history, capacity)
    }
}

#[test]
fn every_history_is_that_of_a_queue() {
    let _watchdog = watchdog();
    let mut histories = Histories::begin();
    let [mut checked, mut overlaps, mut full, mut nothing, mut perhaps] = [0; 5];
    let start = Instant::now();
    for round in 1..=if emulated() { 60 } else { 600 } {
        // A busy machine comes through fewer.
        if round > 20 && start.elapsed() > Duration::from_secs(5) {
            break;
        }
        let doomed = (round % 4 == 0).then(|| histories.random.below(PROCESSES));
        let (history, capacity) = histories.round(round, doomed);
        checked += 1;
        if !explained(&history, capacity) {
            history.iter().for_each(|operation| println!("{operation:?}"));
            panic!("no queue for {capacity} does this");
        }
        let count = |like: fn(Done) -> bool| history.iter().filter(|operation| like(operation.done)).count();
        full += count(|done| done == Done::Full);
        nothing += count(|done| done == Done::Nothing) - 1;
        perhaps += count(Done::perhaps);
        let overlap = |a: &Operation, b: &&Operation| a.called < b.called && b.called < a.returned;
        overlaps += history.iter().map(|a| history.iter().filter(|b| overlap(a, b)).count()).sum::<usize>();
    }
    println!("{checked} histories: {overlaps} overlaps, {full} full, {nothing} nothing, {perhaps} did not return");
    assert!(full > 0 && nothing > 0);
    // Without dawdlers it takes more than one CPU.
    assert!(overlaps > 0 || !cfg!(busway_crash));
    assert_eq!(histories.pool.slots_in_use(), 0, "a slot is lost");
    histories.pool.close(SOON);
    for member in histories.crew {
        assert!(member.wait().expect("wait for a process").success(), "a process failed");
    }
}
