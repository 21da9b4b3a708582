//! Joining and leaving: whoever dies on the way keeps nobody out, and the other side is told.

use super::scene::{Fate, Played, setup};
use super::walk::{Event, Walk};
use crate::common::directory::Directory;
use crate::common::pipe::{Reports, say};
use crate::common::trace::{Traced, offer, stop};
use crate::common::{SOON, argument, child_config};
use busway::pool::{Member, Pool, PoolConfig};
use busway::{Error, Guest, Host, Idle, Link, Plugin, SizeClass};
use std::path::Path;
use std::process::{Child, id};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::scope;
use std::time::Duration;

pub const OPERATIONS: [&str; 5] = ["link: join", "link: leave", "link: admit", "pool: join", "pool: leave"];

/// Joins or leaves between two stops.
pub fn joins() {
    offer();
    let argument = argument();
    let (what, path) = argument.split_once(" at ").expect("what, and where");
    let marked = |step: &mut dyn FnMut()| {
        stop();
        step();
        stop();
    };
    let connect = || Plugin::connect(path, &child_config()).expect("connect");
    let enter = || Member::connect(path, Idle::Park).expect("connect");
    let (mut link, mut member) = (None, None);
    match what {
        "link: join" => marked(&mut || link = Some(connect())),
        "link: leave" => {
            link = Some(connect());
            marked(&mut || drop(link.take()));
        }
        "pool: join" => marked(&mut || member = Some(enter())),
        "pool: leave" => {
            member = Some(enter());
            marked(&mut || drop(member.take()));
        }
        _ => {
            let host = Host::new(child_config().geometry(setup().geometry)).patience(SOON);
            let listener = host.listen(path).expect("listen");
            say("listens");
            marked(&mut || link = listener.accept(SOON).and_then(Guest::admit).ok());
            let link = link.take().expect("admitted");
            assert!(matches!(link.recv(SOON), Err(Error::Closed)));
        }
    }
}

struct Joining {
    child: Child,
    reports: Reports,
    traced: Traced,
}

impl Joining {
    fn begin(what: &str, path: &Path) -> Self {
        let mut command = setup().command_with("joins", format!("{what} at {}", path.display()));
        let mut reports = Reports::of(&mut command);
        let child = command.spawn().expect("spawn");
        let traced = Traced::new(child.id(), &mut reports);
        Self { child, reports, traced }
    }

    /// Comes to its point, and dies there, or goes on to its end.
    fn play(mut self, fate: Fate, known: &[Event]) -> Played {
        assert_eq!(self.traced.wait(), libc::SIGSTOP);
        self.traced.bind();
        let mut walk = Walk::begin(&self.traced);
        if walk.skip(&known[..fate.events().min(known.len())]) {
            walk.to(fate.events(), &mut |_| ());
        }
        let played = Played { instructions: walk.instructions, events: walk.events, ..Played::default() };
        if let Fate::Killed(_) = fate {
            self.traced.kill();
            self.child.wait().expect("reaped");
        } else {
            self.traced.go_on();
            assert_eq!(self.traced.wait(), libc::SIGSTOP);
            self.traced.detach();
            assert!(self.child.wait().expect("reaped").success());
        }
        drop(self.reports);
        played
    }
}

pub fn play(what: &str, fate: Fate, known: &[Event]) -> Played {
    let directory = Directory::new();
    let path = &directory.socket();
    match what {
        "link: admit" => hosts(path, fate, known),
        "pool: join" | "pool: leave" => members(what, path, fate, known),
        _ => plugins(what, path, fate, known),
    }
}

/// Tells those who accept, also when the scene fails, that nobody comes any more: a scope waits for its threads.
#[derive(Default)]
struct Over(AtomicBool);

impl Over {
    fn has_come(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// When what this returns is dropped.
    fn at_end(&self) -> impl Drop {
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Relaxed);
            }
        }
        End(&self.0)
    }
}

/// How often those who accept ask.
const NOW_AND_THEN: Duration = Duration::from_millis(100);

/// Until it ends, which its other side is told.
fn is_told(link: &Link) {
    match link.recv(SOON) {
        Err(Error::PeerDied { maybe_executed: false } | Error::Closed) => {}
        other => panic!("it is told that the other side is gone: {other:?}"),
    }
}

/// The host survives, and is there for the next.
fn plugins(what: &str, path: &Path, fate: Fate, known: &[Event]) -> Played {
    let config = setup().config().idle(Idle::Poll);
    let listener = Host::new(config.clone()).patience(SOON).listen(path).expect("listen");
    let over = Over::default();
    scope(|threads| {
        let _end = over.at_end();
        threads.spawn(|| {
            while !over.has_come() {
                // Nobody, if it died on the way.
                let Ok(guest) = listener.accept(NOW_AND_THEN) else { continue };
                let next = guest.credentials().pid == id();
                if let Ok(link) = guest.admit() {
                    if next {
                        return link.recv(SOON).and_then(|request| request.reply(b"")).expect("the next");
                    }
                    is_told(&link);
                }
            }
        });
        let played = Joining::begin(what, path).play(fate, known);
        let link = Plugin::connect(path, &config).expect("the next");
        link.call(0, b"", SOON).expect("it serves");
        played
    })
}

/// As for a link; and its place is free again.
fn members(what: &str, path: &Path, fate: Fate, known: &[Event]) -> Played {
    let classes = vec![SizeClass { size: 64, count: 8 }];
    let config = PoolConfig::new([""; 0]).queue("work", 8).classes(classes).members(2).patience(SOON).idle(Idle::Park);
    let pool = Pool::create(&config).expect("a pool");
    let listener = pool.listen(path).expect("listen");
    let over = Over::default();
    let played = scope(|threads| {
        let _end = over.at_end();
        threads.spawn(|| {
            while !over.has_come() {
                let Ok(guest) = listener.accept(NOW_AND_THEN) else { continue };
                let next = guest.credentials().pid == id();
                if guest.admit().is_ok() && next {
                    return;
                }
            }
        });
        let played = Joining::begin(what, path).play(fate, known);
        // It is the only place, so this waits for the last one's recovery.
        let next = loop {
            pool.wait_members(0, SOON);
            if let Ok(member) = Member::connect(path, Idle::Park) {
                break member;
            }
        };
        next.queue("work").expect("a queue").send(7, b"", SOON).expect("room");
        assert_eq!(pool.worker(["work"]).expect("a queue").recv(SOON).expect("sent").method(), 7);
        played
    });
    assert!(pool.wait_members(0, SOON), "who left is not noticed");
    assert_eq!(pool.slots_in_use(), 0);
    played
}

/// The plugin survives.
fn hosts(path: &Path, fate: Fate, known: &[Event]) -> Played {
    let mut host = Joining::begin("link: admit", path);
    assert_eq!(host.reports.expect(), "listens");
    scope(|threads| {
        let plugin = threads.spawn(|| {
            let link = Plugin::connect(path, &setup().config().idle(Idle::Poll));
            if let (Ok(link), Fate::Killed(_)) = (&link, fate) {
                is_told(link);
            }
            assert!(link.is_ok() || matches!(fate, Fate::Killed(_)), "{link:?}");
        });
        let played = host.play(fate, known);
        plugin.join().expect("it is told");
        played
    })
}
