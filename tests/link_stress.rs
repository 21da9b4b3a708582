//! Hosts whose plugins are killed again and again, and replaced: each request ends once, as the books say.
//!
//! `BUSWAY_KILLS` says how many are killed, or in a long run the time.

mod common;

use busway::{Error, Idle, Link, Pending, Request};
use common::books::{Records, content, id_of, of_call, of_error, outcome};
use common::figures::{duration, figure, is_long};
use common::payload::Random;
use common::shared;
use common::{SOON, Setup, argument, attach, emulated, procfs, roles, serve, signal, until, watchdog_of};
use futures::future::join_all;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

roles!(serves);

/// Hosts at a time, each with one plugin after another.
const SEATS: u64 = 3;
/// Requests in the life of a plugin, at most; and behind their records one for a call nested in each.
const REQUESTS: u32 = 1 << 12;
/// Requests under way at a time.
const DEPTH: usize = 6;
/// A bit of a method, beside the length of the reply: make a call of your own meanwhile.
const NESTS: u32 = 1 << 16;

/// Serves on two threads until it is killed.
fn serves() {
    // SAFETY: takes plain numbers. It must not outlive a parent that fails.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let (link, records) = (attach(), Records(shared::given()));
    let by_loans = argument() == "loans";
    thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| serve(&link, |request| execute(records, request, by_loans)));
        }
    });
}

fn execute(records: Records, request: Request<'_>, by_loan: bool) {
    let id = id_of(&request.to_vec());
    records.execute(id);
    if request.is_event() {
        return;
    }
    if request.method() & NESTS != 0 {
        let nested = id + REQUESTS;
        records.issue(nested);
        let reply = request.call(8, &content(nested.into(), 50), SOON);
        records.complete(nested, of_call(nested, 8, reply));
    }
    let answer = content(!u64::from(id), (request.method() % NESTS) as usize);
    let replied = if by_loan {
        request.loan(answer.len()).and_then(|mut loan| {
            loan.copy_from_slice(&answer);
            request.reply(loan)
        })
    } else {
        request.reply(&answer)
    };
    match replied {
        // Its caller may have given up before there was a slot, or be dead.
        Ok(()) | Err(Error::Timeout { .. } | Error::PeerDied { .. }) => {}
        Err(e) => panic!("{e}"),
    }
}

/// The host of one plugin.
struct Host<'a> {
    link: &'a Link,
    records: Records,
    random: &'a mut Random,
    issued: u32,
}

impl Host<'_> {
    fn issue(&mut self) -> (u32, Vec<u8>) {
        let id = self.issued;
        self.issued += 1;
        self.records.issue(id);
        let len = [8, 32, 33, 500, 5000][self.random.below(5)];
        (id, content(id.into(), len))
    }

    fn complete(&self, id: u32, outcome: u32) {
        self.records.complete(id, outcome);
    }

    fn end_submitted(&mut self, submitted: Vec<(u32, busway::Result<Pending<'_>>)>, answer: u32) {
        for (id, pending) in submitted {
            let end = match pending {
                Ok(pending) if self.random.below(4) == 0 => {
                    drop(pending);
                    outcome::GIVEN_UP
                }
                Ok(pending) => of_call(id, answer, pending.wait()),
                Err(e) => of_error(e),
            };
            self.complete(id, end);
        }
    }

    /// Does one thing or another.
    fn act(&mut self) {
        let (link, records) = (self.link, self.records);
        let answer = [8, 40, 41, 200, 2000][self.random.below(5)];
        match self.random.below(7) {
            0 => {
                let (id, payload) = self.issue();
                self.complete(id, link.send(0, &payload, SOON).map_or_else(of_error, |()| outcome::SENT));
            }
            1 => {
                let requests: Vec<_> = (0..DEPTH).map(|_| self.issue()).collect();
                let submit = |(id, payload): (u32, Vec<u8>)| (id, link.submit(answer, &payload, SOON));
                let submitted = requests.into_iter().map(submit).collect();
                self.end_submitted(submitted, answer);
            }
            2 => {
                let requests: Vec<_> = (0..DEPTH).map(|_| self.issue()).collect();
                let (mut batch, mut submitted) = (link.batch(), Vec::new());
                for (n, (id, payload)) in requests.into_iter().enumerate() {
                    if n % 2 == 0 {
                        let sent = batch.send(0, &payload, SOON);
                        records.complete(id, sent.map_or_else(of_error, |()| outcome::SENT));
                    } else {
                        submitted.push((id, batch.submit(answer, &payload, SOON)));
                    }
                }
                drop(batch);
                self.end_submitted(submitted, answer);
            }
            3 => {
                let requests: Vec<_> = (0..DEPTH).map(|_| self.issue()).collect();
                let call = async |(id, payload): (u32, Vec<u8>)| {
                    records.complete(id, of_call(id, answer, link.call_async(answer, &payload, SOON).await));
                };
                smol::block_on(join_all(requests.into_iter().map(call)));
            }
            4 => {
                let (id, payload) = self.issue();
                let deadline = Duration::from_micros(self.random.below(200) as u64);
                self.complete(id, of_call(id, answer, link.call(answer, &payload, deadline)));
            }
            5 => {
                let (id, payload) = self.issue();
                self.complete(id, of_call(id, answer, link.call(answer | NESTS, &payload, SOON)));
            }
            _ => {
                let (id, payload) = self.issue();
                let sent = link.loan(payload.len(), SOON).and_then(|mut loan| {
                    loan.copy_from_slice(&payload);
                    link.call(answer, loan, SOON)
                });
                self.complete(id, of_call(id, answer, sent));
            }
        }
    }
}

/// How many requests ended how.
#[derive(Default)]
struct Sum {
    kills: AtomicU32,
    issued: AtomicU64,
    completed: AtomicU64,
    outcomes: [AtomicU64; outcome::COUNT],
}

impl Sum {
    /// Looks at each request of one plugin, in order, and erases it.
    fn audit(&self, records: Records, issued: u32) {
        for id in (0..issued).flat_map(|id| [id, id + REQUESTS]) {
            let (ended, _) = records.look(id);
            let nested = id >= REQUESTS;
            assert!(nested || ended > outcome::ISSUED, "{id} is not complete, though the host lives");
            records.0[id as usize].store(0, SeqCst);
            if !nested {
                self.issued.fetch_add(1, Relaxed);
                self.completed.fetch_add((ended > outcome::ISSUED).into(), Relaxed);
                self.outcomes[ended as usize].fetch_add(1, Relaxed);
            }
        }
    }
}

/// One plugin after another, each killed, until `enough`.
fn host(seat: u64, sum: &Sum, enough: impl Fn() -> bool) {
    let (file, words) = shared::create(2 * REQUESTS as usize);
    let records = Records(words);
    let mut random = Random::new(SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_nanos() as u64 + seat);
    while !enough() {
        let setup = Setup::default().idle(["adaptive", "park", "poll"][random.below(3)]);
        let mut command = setup.command_with("serves", ["bytes", "loans"][random.below(2)]);
        shared::share(&mut command, &file);
        let host =
            busway::Host::new(setup.config().idle([Idle::default(), Idle::Park][random.below(2)])).patience(SOON);
        let plugin = host.spawn(command).expect("spawn");
        plugin.set_handler(move |request| execute(records, request, false)).expect("the first");
        let life = Duration::from_micros(random.below(4000) as u64);
        let mut host = Host { link: &plugin, records, random: &mut random, issued: 0 };
        let issued = thread::scope(|threads| {
            threads.spawn(|| {
                thread::sleep(life);
                signal(plugin.id(), libc::SIGKILL);
            });
            while !plugin.is_closed() && host.issued < REQUESTS - DEPTH as u32 {
                host.act();
            }
            host.issued
        });
        match plugin.recv(SOON) {
            Err(Error::PeerDied { maybe_executed: false }) => {}
            other => panic!("the host is told: {other:?}"),
        }
        drop(plugin);
        sum.audit(records, issued);
        sum.kills.fetch_add(1, Relaxed);
    }
}

#[test]
fn whoever_is_killed_each_request_ends_once() {
    let kills = std::env::var("BUSWAY_KILLS").ok().map(|n| n.parse().expect("a number"));
    let kills = kills.unwrap_or(if is_long() {
        u32::MAX
    } else if emulated() {
        6
    } else {
        100
    });
    let time = duration(Duration::MAX);
    let _watchdog = watchdog_of(60 + if is_long() { time.as_secs() as u32 } else { kills / 4 });
    let count = || (procfs::descriptors(), procfs::regions().len());
    let (before, start, sum) = (count(), Instant::now(), Sum::default());
    let enough = || sum.kills.load(Relaxed) >= kills || start.elapsed() >= time;
    thread::scope(|threads| {
        let (sum, enough) = (&sum, &enough);
        let hosts: Vec<_> = (0..SEATS).map(|seat| threads.spawn(move || host(seat, sum, enough))).collect();
        hosts.into_iter().for_each(|host| host.join().expect("a host goes on"));
    });
    // The thread that drives tasks has two of its own, and one for each link until it is woken for another.
    until("nothing is left of the links", || count().0 <= before.0 + 2 + SEATS as usize && count().1 == before.1);
    let [_, _, answered, denied, given_up, died, sent] = sum.outcomes.map(|count| count.into_inner());
    println!("{answered} answered, {sent} events sent, {denied} not executed, {given_up} given up, {died} died");
    figure("G2", "plugins of links killed at random times", sum.kills.load(Relaxed));
    let (issued, completed) = (sum.issued.into_inner(), sum.completed.into_inner());
    figure("G3", "requests of hosts whose plugins are killed: issued, ended once", format!("{issued}, {completed}"));
    figure("G3", "of them told not to be executed, none of which was", denied);
}
