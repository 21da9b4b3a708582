//! A pool whose members are killed again and again, and replaced: nothing is lost, nothing done twice, nobody stuck.
//!
//! Producers and consumers keep books in words that outlive them. `BUSWAY_KILLS` says how many are killed. Some are killed
//! from outside, at any time; under `--cfg busway_crash` others die before a step of the algorithms, at `sync::crash`.

mod common;

use busway::pool::{Member, MemberProcess, Pool, PoolConfig};
use busway::{Error, Idle, Request, SizeClass};
use common::books::{Records, content, id_of, of_call, of_error, outcome};
use common::figures::{duration, figure, is_long};
use common::payload::Random;
use common::shared::{self, Words};
use common::{SOON, Setup, argument, emulated, roles, until, watchdog_of};
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

roles!(produces, consumes);

const PRODUCERS: usize = 4;
const MEMBERS: usize = 8;
/// More than are killed in a second.
const KILLS_A_SECOND: u32 = 500;
/// What each consumer serves: some share, and some sleep for two.
const SERVES: [&[&str]; MEMBERS - PRODUCERS] = [&["a"], &["a"], &["b"], &["a", "b"]];
/// Requests that a producer has under way at most.
const DEPTH: u32 = 3;
/// How many a producer may issue for each kill, so that the books have an end.
const ALLOWED: u32 = 400;

/// Words about one seat, which members have one after another.
const SEAT: usize = 64;
const ISSUED: usize = 0;
const ROUNDS: usize = 1;
/// Before which step to die, plus one.
const DOOM: usize = 2;
/// Where that was, as text.
const STEP: Range<usize> = 3..19;

/// Words about all: how many may be issued at a seat, and whether to pause, or to stop.
const ALLOWANCE: usize = 0;
const PAUSE: usize = 1;
const STOP: usize = 2;

#[derive(Clone, Copy)]
struct Books(Words);

impl Books {
    fn create(kills: u32) -> (File, Self) {
        let records = PRODUCERS * (kills + 2) as usize * ALLOWED as usize;
        let (file, words) = shared::create(SEAT * (MEMBERS + 1) + records);
        (file, Self(words))
    }

    fn all(&self, word: usize) -> &AtomicU32 {
        &self.0[word]
    }

    fn seat(&self, seat: usize) -> &[AtomicU32] {
        &self.0[SEAT * (seat + 1)..][..SEAT]
    }

    fn records(&self) -> Records {
        Records(&self.0[SEAT * (MEMBERS + 1)..])
    }

    /// The number of a request: the `n`th of a producer.
    fn id(&self, seat: usize, n: u32) -> u32 {
        n * PRODUCERS as u32 + seat as u32
    }

    fn issue(&self, seat: usize) -> u32 {
        let id = self.id(seat, self.seat(seat)[ISSUED].fetch_add(1, SeqCst));
        self.records().issue(id);
        id
    }

    /// The one completion.
    fn complete(&self, id: u32, outcome: u32) {
        self.records().complete(id, outcome);
    }
}

// ---- members

/// Who sits at a seat, by the arguments of its role.
struct Crew {
    books: Books,
    seat: usize,
    random: Random,
    member: Member,
}

impl Crew {
    fn join() -> Self {
        let arguments = argument();
        let (seat, seed) = arguments.split_once(' ').expect("two arguments");
        let mut random = Random::new(seed.parse().expect("a seed"));
        let idle = [Idle::Park, Idle::default()][random.below(2)];
        let member = Member::attach_with(idle).expect("attach");
        Self { books: Books(shared::given()), seat: seat.parse().expect("a seat"), random, member }
    }

    /// Before each round: whether it is to die in this one, or the next.
    fn learns(&self) -> bool {
        let steps = self.books.seat(self.seat)[DOOM].swap(0, SeqCst);
        #[cfg(busway_crash)]
        if steps > 0 {
            let (books, seat) = (self.books, self.seat);
            let die = move |step: &std::panic::Location<'_>| {
                write(&books.seat(seat)[STEP], step);
                common::die();
            };
            busway::sync::at_step(steps - 1, Box::new(die));
        }
        steps > 0
    }
}

#[cfg(busway_crash)]
fn write(words: &[AtomicU32], step: impl std::fmt::Display) {
    for (word, part) in words.iter().zip(step.to_string().as_bytes().chunks(4)) {
        let mut bytes = [0; 4];
        bytes[..part.len()].copy_from_slice(part);
        word.store(u32::from_le_bytes(bytes), SeqCst);
    }
}

/// What was written, if anything was, and erases it.
fn take(words: &[AtomicU32]) -> Option<String> {
    let mut bytes: Vec<_> = words.iter().flat_map(|word| word.swap(0, SeqCst).to_le_bytes()).collect();
    bytes.retain(|byte| *byte != 0);
    (!bytes.is_empty()).then(|| String::from_utf8(bytes).expect("text"))
}

fn produces() {
    let mut crew = Crew::join();
    let (books, mut doomed) = (crew.books, false);
    while books.all(STOP).load(SeqCst) == 0 {
        doomed |= crew.learns();
        let allowed = books.seat(crew.seat)[ISSUED].load(SeqCst) + DEPTH <= books.all(ALLOWANCE).load(SeqCst);
        if doomed || allowed && books.all(PAUSE).load(SeqCst) == 0 {
            crew.produce();
            books.seat(crew.seat)[ROUNDS].fetch_add(1, SeqCst);
        } else {
            sleep(Duration::from_millis(1));
        }
    }
}

impl Crew {
    fn produce(&mut self) {
        let Self { books, seat, random, member } = self;
        let queue = member.queue(["a", "b"][random.below(2)]).expect("a queue");
        let len = [8, 32, 33, 64, 500, 900][random.below(6)];
        // In the header, in the request's slot, or in one of its own.
        let answer = [8, 40, 41, 64, 200, 2000][random.below(6)];
        let deadline = if random.below(4) == 0 { Duration::from_micros(random.below(200) as u64) } else { SOON };
        let issue = || {
            let id = books.issue(*seat);
            (id, content(id.into(), len))
        };
        match random.below(8) {
            0 => {
                let (id, payload) = issue();
                books.complete(
                    id,
                    match queue.send(0, &payload, deadline) {
                        Ok(()) => outcome::SENT,
                        Err(e) => of_error(e),
                    },
                );
            }
            1 => {
                let submit = |_| {
                    let (id, payload) = issue();
                    let sent = member.loan(len, deadline).and_then(|mut loan| {
                        loan.copy_from_slice(&payload);
                        queue.submit(answer, loan, deadline)
                    });
                    (id, sent)
                };
                let submitted: Vec<_> = (0..DEPTH).map(submit).collect();
                for (id, pending) in submitted {
                    books.complete(
                        id,
                        match pending {
                            Ok(pending) if random.below(4) == 0 => {
                                drop(pending);
                                outcome::GIVEN_UP
                            }
                            Ok(pending) => of_call(id, answer, pending.wait()),
                            Err(e) => of_error(e),
                        },
                    );
                }
            }
            _ => {
                let (id, payload) = issue();
                books.complete(id, of_call(id, answer, queue.call(answer, &payload, deadline)));
            }
        }
    }
}

fn consumes() {
    let crew = Crew::join();
    let worker = crew.member.worker(SERVES[crew.seat - PRODUCERS].iter().copied()).expect("queues");
    loop {
        crew.learns();
        match worker.recv(SOON) {
            Ok(request) => serve(&crew.books, request),
            Err(Error::Closed) => return,
            Err(e) => panic!("{e}"),
        }
    }
}

fn serve(books: &Books, request: Request<'_>) {
    let payload = request.to_vec();
    if payload.is_empty() {
        return;
    }
    let id = id_of(&payload);
    books.records().execute(id);
    if request.is_event() {
        return;
    }
    let answer = content(!u64::from(id), request.method() as usize);
    let replied = if id.is_multiple_of(2) || answer.len() <= 64 {
        request.reply(&answer)
    } else {
        request.loan(answer.len()).and_then(|mut loan| {
            loan.copy_from_slice(&answer);
            request.reply(loan)
        })
    };
    match replied {
        Ok(()) | Err(Error::Timeout { .. }) => {}
        Err(e) => panic!("{e}"),
    }
}

// ---- their host

struct Stress {
    pool: Pool,
    books: Books,
    file: File,
    crew: Vec<MemberProcess>,
    random: Random,
    /// How much each producer had issued when it was killed.
    ends: [Vec<u32>; PRODUCERS],
    consumers_killed: u32,
    /// Before which steps how many died.
    steps: BTreeMap<String, u32>,
    recovery: Duration,
}

impl Stress {
    fn begin(kills: u32) -> Self {
        // Few of everything, so that members wait for it. Yet each producer may hold all but one of its requests, and as many
        // replies, of one size, and somebody goes on: requests and loaned replies have sizes of their own.
        let slots = PRODUCERS as u32 * (DEPTH - 1) + 1;
        let classes = [64, 320, 1024, 4096].map(|size| SizeClass { size, count: slots });
        let config = PoolConfig::new([""; 0]).queue("a", 8).queue("b", 4).classes(classes.into());
        let pool = Pool::create(&config.members(MEMBERS as u32 + 1).patience(SOON)).expect("a pool");
        let (file, books) = Books::create(kills);
        let seed = SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_nanos() as u64;
        let mut stress = Self {
            pool,
            books,
            file,
            crew: Vec::new(),
            random: Random::new(seed),
            ends: Default::default(),
            consumers_killed: 0,
            steps: BTreeMap::new(),
            recovery: Duration::ZERO,
        };
        stress.crew = (0..MEMBERS).map(|seat| stress.spawn(seat)).collect();
        stress
    }

    fn spawn(&mut self, seat: usize) -> MemberProcess {
        let role = if seat < PRODUCERS { "produces" } else { "consumes" };
        let mut command = Setup::default().command_with(role, format!("{seat} {}", self.random.next()));
        shared::share(&mut command, &self.file);
        self.pool.spawn(command).expect("spawn a member")
    }

    /// Demands that every producer goes on, once it may issue more.
    fn go_on(&mut self) {
        self.books.all(ALLOWANCE).fetch_add(ALLOWED, SeqCst);
        let rounds = || [0, 1, 2, 3].map(|seat| self.books.seat(seat)[ROUNDS].load(SeqCst));
        let before = rounds();
        until("every producer goes on", || {
            assert_eq!(self.pool.members(), MEMBERS, "a member ended by itself");
            before.iter().zip(rounds()).all(|(before, now)| *before < now)
        });
    }

    /// Demands that the living serve what is there, though nothing new comes, and then one event.
    fn all_is_served(&self) {
        until("all is served", || self.pool.slots_in_use() == 0);
        for name in ["a", "b"] {
            self.pool.queue(name).expect("a queue").send(0, b"", SOON).expect("room");
            until("an event is served", || self.pool.slots_in_use() == 0);
        }
    }

    /// Kills some, at most `most`, and replaces them; returns how many.
    fn kill(&mut self, most: usize) -> usize {
        let mut seats: Vec<_> = (0..MEMBERS).collect();
        let some = [1, 1, 1, 2, 3][self.random.below(5)].min(most);
        let victims: Vec<_> = (0..some).map(|_| seats.swap_remove(self.random.below(seats.len()))).collect();
        // Nobody else rings then for what the victim leaves.
        let quiet = some == 1 && self.random.below(2) == 0;
        self.books.all(PAUSE).store(quiet.into(), SeqCst);
        let aimed = cfg!(busway_crash) && self.random.below(4) > 0;
        if aimed {
            for seat in &victims {
                self.books.seat(*seat)[DOOM].store(self.random.below(24) as u32 + 1, SeqCst);
            }
            // One that sleeps, because others do all there is to do, comes to no step.
            self.pool.wait_members(MEMBERS - some, Duration::from_millis(10));
        }
        let start = Instant::now();
        victims.iter().for_each(|seat| self.crew[*seat].kill().expect("kill a member"));
        assert!(self.pool.wait_members(MEMBERS - some, Duration::from_secs(30)), "the dead are not recovered");
        self.recovery = self.recovery.max(start.elapsed());
        if quiet {
            self.all_is_served();
        }
        self.books.all(PAUSE).store(0, SeqCst);
        for seat in victims {
            let words = self.books.seat(seat);
            words[DOOM].store(0, SeqCst);
            if let Some(step) = take(&words[STEP]) {
                *self.steps.entry(step).or_default() += 1;
            }
            match self.ends.get_mut(seat) {
                Some(ends) => ends.push(words[ISSUED].load(SeqCst)),
                None => self.consumers_killed += 1,
            }
            self.crew[seat] = self.spawn(seat);
        }
        some
    }

    fn finish(mut self) -> Self {
        self.books.all(STOP).store(1, SeqCst);
        let patience = Duration::from_secs(30);
        assert!(self.pool.wait_members(MEMBERS - PRODUCERS, patience), "a producer is stuck");
        self.all_is_served();
        self.pool.close(patience);
        for member in self.crew.drain(..) {
            assert!(member.wait().expect("wait for a member").success(), "a member failed");
        }
        assert!(self.pool.wait_members(0, patience), "a consumer is stuck");
        assert_eq!(self.pool.slots_in_use(), 0, "a slot is lost");
        self
    }

    /// Looks at each request, and returns how many of them ended how.
    fn audit(&self) -> [u32; outcome::COUNT] {
        let (mut outcomes, mut lost) = ([0; outcome::COUNT], 0);
        for (seat, ends) in self.ends.iter().enumerate() {
            for n in 0..self.books.seat(seat)[ISSUED].load(SeqCst) {
                let id = self.books.id(seat, n);
                let (outcome, executed) = self.books.records().look(id);
                match outcome {
                    outcome::ANSWERED | outcome::NOT_EXECUTED | outcome::GIVEN_UP => {}
                    outcome::DIED => lost += 1,
                    outcome::SENT => lost += 1 - executed,
                    _ => {
                        let end = ends.get(ends.partition_point(|end| *end <= n));
                        assert!(
                            end.is_some_and(|end| end - n <= DEPTH),
                            "{id} is not complete, though its producer lived"
                        );
                    }
                }
                outcomes[outcome as usize] += 1;
            }
        }
        // Each had at most one in hand.
        assert!(lost <= self.consumers_killed, "{lost} were lost, and {} workers killed", self.consumers_killed);
        outcomes
    }
}

#[test]
fn whoever_is_killed_all_is_done_once() {
    let kills = std::env::var("BUSWAY_KILLS").ok().map(|n| n.parse().expect("a number"));
    let (time, short) = (duration(Duration::MAX), if emulated() { 8 } else { 150 });
    let kills = kills.unwrap_or(if is_long() { time.as_secs() as u32 * KILLS_A_SECOND } else { short });
    let _watchdog = watchdog_of(60 + if is_long() { time.as_secs() as u32 } else { kills / 4 });
    let start = Instant::now();
    let mut stress = Stress::begin(kills);
    let mut killed = 0;
    stress.go_on();
    while killed < kills && start.elapsed() < time {
        sleep(Duration::from_micros(stress.random.below(3000) as u64));
        killed += stress.kill((kills - killed) as usize) as u32;
        stress.go_on();
    }
    let stress = stress.finish();
    let [none, unfinished, answered, not_executed, given_up, died, sent] = stress.audit();
    println!("{killed} killed in {:.1?}, {} of them workers", start.elapsed(), stress.consumers_killed);
    figure("G2", "members of a pool killed at random times, and slots lost", format!("{killed}, 0"));
    let (completed, not_completed) = (answered + not_executed + given_up + died + sent, none + unfinished);
    let ended = format!("{completed}, and {not_completed} of producers that died");
    figure("G3", "requests of a pool whose members are killed, ended once", ended);
    println!("the slowest recovery took {:.1?}", stress.recovery);
    println!("{answered} answered, {sent} events sent, {not_executed} not executed, {given_up} given up,");
    println!("{died} whose worker died, {} whose producer died", none + unfinished);
    for (step, count) in &stress.steps {
        println!("{count:6} died at {step}");
    }
}
