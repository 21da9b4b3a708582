//! A fresh set-up of an operation: children that come to their points, are killed there or stand still, and all that must hold
//! then.

use super::acts::{Actor, Books, Bus, OPERATIONS, Operation, QUEUES, Sends, WARM};
use super::survivor::{Audit, Survivor};
use super::walk::{Event, Walk};
use crate::common;
use crate::common::directory::Directory;
use crate::common::pipe::Reports;
use crate::common::shared;
use crate::common::trace::{self, Traced};
use crate::common::{SOON, Setup, argument, assert_err, attach, procfs, until};
use busway::pool::{Member, Pool, PoolConfig};
use busway::{Error, Geometry, Host, Idle, Link, Plugin, SizeClass};
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering::SeqCst;

/// Where an operation takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the plugin of a link; its host survives.
    Plugin,
    /// In the host of a link; its plugin survives.
    Host,
    /// In a member of a pool; its host survives.
    Pool,
}

/// What becomes of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is killed after so many events.
    Killed(usize),
    /// It stands still after so many events, and then goes on.
    Paused(usize),
    /// It walks to the end, and goes on.
    Walks,
}

impl Fate {
    /// How far it walks.
    pub fn events(self) -> usize {
        match self {
            Self::Killed(events) | Self::Paused(events) => events,
            Self::Walks => usize::MAX,
        }
    }
}

/// How a scene went.
#[derive(Debug, Default)]
pub struct Played {
    pub instructions: u32,
    pub events: Vec<Event>,
    /// The walk came to the end of the operation.
    pub ended: bool,
    pub audit: Audit,
}

const ENTRIES: u32 = 16;
const CLASSES: [(u32, u32); 2] = [(64, 24), (640, 24)];

fn classes() -> Vec<SizeClass> {
    CLASSES.map(|(size, count)| SizeClass { size, count }).into()
}

pub fn setup() -> Setup {
    let geometry = Geometry { entries: ENTRIES, cells: ENTRIES, classes: classes() };
    // It sleeps as soon as it has nothing to do, so that each walk goes the same way.
    Setup { geometry, idle: "park", depth: 8 }
}

/// Leaves nothing behind in this process.
pub fn traceless<R>(body: impl FnOnce() -> R) -> R {
    // A thread that watched may close its own at this moment.
    let count = || (procfs::descriptors(), procfs::regions().len());
    let before = count();
    let result = body();
    // A thread that watches ends by itself.
    until("descriptors and regions are as before", || count() == before);
    result
}

// ---- children

/// Does an operation, of which its argument says where.
pub fn acts() {
    trace::offer();
    let argument = argument();
    let words: Vec<_> = argument.split(' ').collect();
    let [place, number, party, path] = words[..] else { panic!("four arguments: {argument}") };
    let operation = &OPERATIONS[number.parse::<usize>().expect("a number")];
    let (party, books) = (party.parse().expect("a party"), Books(shared::given()));
    let act = |bus: &Bus<'_>| Actor::act(bus, books, party, operation);
    match place {
        "Plugin" => act(&Bus::Link(&attach())),
        "Host" => act(&Bus::Link(&host(path))),
        _ => {
            let member = Member::attach_with(Idle::Park).expect("attach");
            act(&Bus::pool(&member, QUEUES[1], QUEUES[0]));
        }
    }
}

/// The host of whoever comes first.
fn host(path: &str) -> Link {
    let config = common::child_config().geometry(setup().geometry);
    let listener = Host::new(config).patience(SOON).listen(path).expect("listen");
    common::pipe::say("listens");
    listener.accept(SOON).and_then(busway::Guest::admit).expect("a plugin")
}

fn number_of(operation: &'static Operation) -> usize {
    OPERATIONS.iter().position(|other| std::ptr::eq(other, operation)).expect("one of them")
}

struct Spawning {
    command: Command,
    reports: Reports,
}

impl Spawning {
    fn new(place: Place, party: usize, operation: &'static Operation, path: &Path, file: &File) -> Self {
        let argument = format!("{place:?} {} {party} {}", number_of(operation), path.display());
        let mut command = setup().command_with("acts", argument);
        shared::share(&mut command, file);
        let reports = Reports::of(&mut command);
        Self { command, reports }
    }
}

/// A child on its way, and the scene with whoever survives.
struct Walker {
    traced: Traced,
    fate: Fate,
    /// Somebody listens, or else it ends by a signal.
    _reports: Reports,
}

impl Walker {
    fn new(pid: u32, mut reports: Reports, fate: Fate) -> Self {
        Self { traced: Traced::new(pid, &mut reports), fate, _reports: reports }
    }
}

impl Survivor<'_, '_> {
    /// Lets the children come to where they are to be.
    fn walk(&mut self, walkers: &[Walker]) -> Played {
        for walker in walkers {
            let mut signal = None;
            until("the child begins", || {
                self.turn(false, false);
                signal = walker.traced.has_stopped();
                signal.is_some()
            });
            assert_eq!(signal, Some(libc::SIGSTOP));
            walker.traced.bind();
        }
        let mut played = Played::default();
        for Walker { traced, fate, .. } in walkers {
            let mut walk = Walk::begin(traced);
            let ended = !walk.to(fate.events(), &mut |asleep| self.turn(asleep, false));
            played = Played { instructions: walk.instructions, events: walk.events, ended, ..played };
        }
        played
    }

    /// Lets those who live come to their ends.
    fn finish(&mut self, walkers: Vec<(usize, Traced)>) {
        for (party, traced) in walkers {
            traced.go_on();
            let mut signal = None;
            until("the child comes to the end of its operation", || {
                self.turn(false, true);
                signal = traced.has_stopped();
                signal.is_some()
            });
            assert_eq!(signal, Some(libc::SIGSTOP));
            traced.detach();
            until("the child is done", || {
                self.turn(false, true);
                self.actor.books.done(party as u32).load(SeqCst) != 0
            });
        }
        until("all calls have ended", || {
            self.turn(false, true);
            !self.take_replies()
        });
    }
}

// ---- links

/// An operation in one end of a link.
pub fn link(place: Place, operation: &'static Operation, fate: Fate) -> Played {
    let directory = (place == Place::Host).then(Directory::new);
    let path = directory.as_ref().map_or("none".into(), Directory::socket);
    let (file, words) = shared::create(Books::WORDS);
    let mut child = Spawning::new(place, 1, operation, &path, &file);
    if place == Place::Plugin {
        let host = Host::new(setup().config().idle(Idle::Poll)).patience(SOON);
        let plugin = host.spawn(child.command).expect("spawn");
        let walker = Walker::new(plugin.id(), child.reports, fate);
        let played = with_link(&plugin, Books(words), operation, walker);
        let ended = plugin.shut_down(SOON).expect("reaped");
        assert_eq!(ended.success(), !matches!(fate, Fate::Killed(_)), "{ended}");
        return played;
    }
    let mut host = child.command.spawn().expect("spawn");
    let traced = Traced::new(host.id(), &mut child.reports);
    assert_eq!(child.reports.expect(), "listens");
    let walker = Walker { traced, fate, _reports: child.reports };
    let link = Plugin::connect(&path, &setup().config().idle(Idle::Poll)).expect("connect");
    let played = with_link(&link, Books(words), operation, walker);
    drop(link);
    let ended = host.wait().expect("reaped");
    assert_eq!(ended.success(), !matches!(fate, Fate::Killed(_)), "{ended}");
    played
}

fn with_link(link: &Link, books: Books, operation: &'static Operation, walker: Walker) -> Played {
    let bus = Bus::Link(link);
    let mut survivor = Survivor::new(&bus, books, vec![operation]);
    let mut played = survivor.walk(std::slice::from_ref(&walker));
    let killed = matches!(walker.fate, Fate::Killed(_));
    if killed {
        walker.traced.kill();
        loop {
            match link.recv(SOON) {
                Ok(request) => survivor.actor.serve(request),
                Err(Error::PeerDied { maybe_executed: false }) => break,
                Err(e) => panic!("the survivor is told: {e}"),
            }
        }
        survivor.all_ends();
        assert_err!(link.send(0, b"", SOON), Error::PeerDied { maybe_executed: false });
        assert_err!(link.call(0, b"", SOON), Error::PeerDied { maybe_executed: false });
    } else {
        if walker.fate != Fate::Walks {
            survivor.goes_on();
        }
        survivor.finish(vec![(1, walker.traced)]);
        // Before it closes: what it sent is executed, and all comes back.
        until("all is released", || {
            survivor.turn(false, true);
            let stats = link.stats();
            (stats.calls_in_use, stats.slots_in_use) == (0, 0)
        });
        link.close(SOON);
        survivor.all_ends();
    }
    // What the dead had taken, or not yet.
    let lost = if killed { u32::MAX } else { 0 };
    played.audit = survivor.audit(lost, |party| party == 0 || !killed);
    if played.ended && operation.sends == Sends::Event {
        assert_eq!(survivor.executed_of(1), WARM + 1, "what was sent is received though its sender died");
    }
    played
}

// ---- pools

/// Operations in members of one pool, each in a child of its own. Tells of the last one.
pub fn pool(crew: &[(&'static Operation, Fate)]) -> Played {
    let config = PoolConfig::new([""; 0]).queue(QUEUES[0], ENTRIES).queue(QUEUES[1], ENTRIES).classes(classes());
    let pool = Pool::create(&config.members(4).patience(SOON).idle(Idle::Park)).expect("a pool");
    let (file, words) = shared::create(Books::WORDS);
    let bus = Bus::pool(&pool, QUEUES[0], QUEUES[1]);
    let mut processes = Vec::new();
    let mut walkers = Vec::new();
    for (party, (operation, fate)) in (1..).zip(crew) {
        let child = Spawning::new(Place::Pool, party, operation, Path::new("none"), &file);
        processes.push(pool.spawn(child.command).expect("spawn"));
        let pid = processes.last().expect("one").id();
        walkers.push(Walker::new(pid, child.reports, *fate));
    }
    let mut survivor = Survivor::new(&bus, Books(words), crew.iter().map(|(operation, _)| *operation).collect());
    let mut played = survivor.walk(&walkers);
    let (mut living, mut dead, mut listeners) = (Vec::new(), 0, Vec::new());
    for (party, Walker { traced, fate, _reports }) in (1..).zip(walkers) {
        listeners.push(_reports);
        match fate {
            Fate::Killed(_) => {
                traced.kill();
                dead += 1;
            }
            _ => living.push((party, traced)),
        }
    }
    if dead > 0 {
        assert!(pool.wait_members(living.len(), SOON), "the death is not noticed");
    }
    if crew.iter().any(|(_, fate)| matches!(fate, Fate::Paused(_))) {
        survivor.goes_on();
    }
    let parties: Vec<_> = living.iter().map(|(party, _)| *party).collect();
    survivor.finish_or_end(living, &pool);
    assert_eq!(pool.slots_in_use(), 0, "slots are lost");
    all_slots_are_there(&pool);
    assert_eq!(pool.slots_in_use(), 0, "slots are lost");
    pool.close(SOON);
    for (party, process) in (1..).zip(processes) {
        let ended = process.wait().expect("reaped");
        assert_eq!(ended.success(), parties.contains(&party), "{ended}");
    }
    assert!(pool.wait_members(0, SOON), "who left is not noticed");
    let alive = |party: u32| party == 0 || parties.contains(&(party as usize));
    // Each may have had all that is taken together in hand.
    played.audit = survivor.audit(dead * ENTRIES, alive);
    if let [(operation, _)] = crew
        && played.ended
        && operation.sends != Sends::Nothing
    {
        assert_eq!(survivor.executed_of(1), WARM + 1, "what was sent is executed though its sender died");
    }
    played
}

impl Survivor<'_, '_> {
    fn finish_or_end(&mut self, living: Vec<(usize, Traced)>, pool: &Pool) {
        if living.is_empty() {
            // It serves what was asked of the dead, as any member would.
            let worker = pool.worker(QUEUES).expect("queues");
            while let Some(request) = worker.try_recv().expect("it goes on") {
                self.actor.serve(request);
            }
        } else {
            self.finish(living);
            until("all is released", || {
                self.turn(false, true);
                pool.slots_in_use() == 0
            });
        }
        self.all_ends();
    }
}

/// Takes every slot once, and calls through every entry of both queues.
fn all_slots_are_there(pool: &Pool) {
    for (size, count) in CLASSES {
        // A larger one is never taken in place of a smaller.
        let loans: Vec<_> = (0..count).map(|_| pool.try_loan(size as usize).expect("a slot is lost")).collect();
        assert_err!(pool.try_loan(size as usize), Error::Full);
        drop(loans);
    }
}
