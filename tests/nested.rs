//! Calls made from within calls, between two processes of one thread each: the thread that waits serves what it is asked
//! meanwhile.

mod common;

use busway::{Deadline, Error, Geometry, Link, Pending, Request, Result, reject};
use common::payload::bytes;
use common::{IDLE_MODES, SOON, Setup, assert_err, attach, finish, roles, serve, watchdog};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};
use std::thread;

roles!(descends, descends_in_threads, begins, floods, calls_from_event);

/// Goes down as many more levels as the payload says, the sides taking turns, and brings back who was there.
const DOWN: u32 = 1;
const BEGIN: u32 = 2;
const NUMBERED: u32 = 3;

/// The payload that asks for `levels` more, `len` bytes long.
fn ask(levels: u64, len: usize) -> Vec<u8> {
    [&levels.to_le_bytes()[..], &bytes(levels, len - 8)].concat()
}

/// What comes back from `levels` more, the first of them in the process `first`.
fn trail(levels: usize, first: u32, second: u32) -> Vec<u32> {
    [first, second].into_iter().cycle().take(levels + 1).collect()
}

fn read_trail(reply: &[u8]) -> Vec<u32> {
    reply.chunks(4).map(|pid| u32::from_le_bytes(pid.try_into().expect("4 bytes"))).collect()
}

fn down(request: Request<'_>) {
    let levels: u64 = request.bytes().read(0).expect("a number");
    assert!(request.bytes() == ask(levels, request.len())[..], "the payload arrived changed");
    let mut trail = std::process::id().to_le_bytes().to_vec();
    if levels > 0 {
        let rest = request.call(DOWN, &ask(levels - 1, request.len()), request.deadline()).map(|rest| rest.to_vec());
        match rest {
            Ok(rest) => trail.extend(rest),
            Err(Error::Rejected { code, maybe_executed: false }) => return request.reject(code).expect("answer"),
            Err(e) => panic!("level {levels}: {e}"),
        }
    }
    request.reply(&trail).expect("answer");
}

fn descends() {
    let link = attach();
    link.set_handler(down).expect("the first handler");
    serve(&link, down);
}

#[test]
fn calls_nest_between_two_single_threads_in_every_idle_mode() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let plugin = Setup::default().idle(idle).spawn("descends");
        plugin.set_handler(down).unwrap();
        for levels in 0..=7 {
            for len in [8, 200] {
                let reply = plugin.call(DOWN, &ask(levels, len), SOON).expect(idle).to_vec();
                assert_eq!(read_trail(&reply), trail(levels as usize, plugin.id(), std::process::id()), "{idle}");
            }
        }
        assert_eq!(plugin.stats().calls_in_use, 0);
        finish(plugin);
    }
}

fn begins() {
    let link = attach();
    link.set_handler(down).expect("the first handler");
    let begin = link.recv(SOON).expect("the host says when to begin");
    let host = link.peer().pid;
    for levels in 0..=7 {
        let reply = link.call(DOWN, &ask(levels, 100), SOON).expect("call").to_vec();
        assert_eq!(read_trail(&reply), trail(levels as usize, host, std::process::id()));
    }
    begin.reply(b"").expect("answer");
    serve(&link, down);
}

#[test]
fn calls_nest_when_the_plugin_begins() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let plugin = Setup::default().idle(idle).spawn("begins");
        plugin.set_handler(down).unwrap();
        // The plugin's calls are no children of this one, so it takes a receiver.
        let begin = plugin.submit(BEGIN, b"", SOON).unwrap();
        while !begin.is_ready() {
            if let Some(request) = plugin.try_recv().unwrap() {
                down(request);
            }
        }
        begin.wait().unwrap();
        finish(plugin);
    }
}

#[test]
fn a_call_that_is_nested_too_deep_is_rejected_unexecuted() {
    let _watchdog = watchdog();
    let plugin = Setup::default().depth(2).spawn("descends");
    plugin.set_handler(down).unwrap();
    // The first level is served by `serve`; of the others, each thread takes every second one.
    for levels in 0..=4 {
        plugin.call(DOWN, &ask(levels, 8), SOON).expect("two nested calls on each thread");
    }
    for levels in [5, 6, 9] {
        let call = plugin.call(DOWN, &ask(levels, 8), SOON);
        assert_err!(call, Error::Rejected { code: reject::TOO_DEEP, maybe_executed: false });
    }
    plugin.call(DOWN, &ask(4, 8), SOON).expect("it goes on");
    finish(plugin);
}

#[test]
fn a_second_handler_is_refused() {
    let _watchdog = watchdog();
    let plugin = Setup::default().spawn("descends");
    plugin.set_handler(down).unwrap();
    assert_err!(plugin.set_handler(|_| ()), Error::Unsupported { .. });
    finish(plugin);
}

fn calls_from_event() {
    let link = attach();
    serve(&link, |request| match request.method() {
        NUMBERED => {
            let error = request.call(DOWN, b"", SOON).expect_err("nobody waits for an event");
            assert!(matches!(error, Error::Unsupported { .. }));
        }
        _ => down(request),
    });
}

#[test]
fn an_event_has_nobody_to_call_back() {
    let _watchdog = watchdog();
    let plugin = Setup::default().spawn("calls_from_event");
    plugin.send(NUMBERED, b"", SOON).unwrap();
    plugin.call(DOWN, &ask(0, 8), SOON).expect("its handler has not panicked");
    finish(plugin);
}

#[test]
fn each_of_many_callers_serves_the_calls_nested_in_its_own() {
    let _watchdog = watchdog();
    for idle in ["adaptive", "park", "poll"] {
        let plugin = Setup::default().idle(idle).spawn("descends_in_threads");
        plugin.set_handler(down).unwrap();
        thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for n in 0..100 {
                        let levels = n % 5;
                        let reply = plugin.call(DOWN, &ask(levels, 40), SOON).expect(idle).to_vec();
                        let expected = trail(levels as usize, plugin.id(), std::process::id());
                        assert_eq!(read_trail(&reply), expected, "{idle}");
                    }
                });
            }
        });
        assert_eq!(plugin.stats().calls_in_use, 0);
        finish(plugin);
    }
}

fn descends_in_threads() {
    let link = attach();
    link.set_handler(down).expect("the first handler");
    thread::scope(|threads| (0..2).for_each(|_| drop(threads.spawn(|| serve(&link, down)))));
}

const HOLD: u32 = 4;

/// One side that, before each step down, sends as many events and calls as there is room for.
struct Flooding<L> {
    link: Weak<L>,
    sent: AtomicU64,
    received: AtomicU64,
    pending: Mutex<Vec<Pending<'static>>>,
    held: Mutex<Vec<Request<'static>>>,
}

impl<L: Deref<Target = Link> + Send + Sync + 'static> Flooding<L> {
    fn new(link: &Arc<L>) -> Arc<Self> {
        let (sent, received, pending, held) = Default::default();
        let side = Arc::new(Self { link: Arc::downgrade(link), sent, received, pending, held });
        let handler = side.clone();
        link.set_handler(move |request| handler.handle(request)).expect("the first handler");
        side
    }

    fn handle(&self, request: Request<'_>) {
        match request.method() {
            DOWN => {
                self.flood(|link| {
                    let number = self.sent.load(Relaxed);
                    link.try_send(NUMBERED, &number.to_le_bytes())?;
                    self.sent.store(number + 1, Relaxed);
                    Ok(())
                });
                self.flood(|link| {
                    let pending = link.try_submit(HOLD, b"", Deadline::NEVER)?.into_owned();
                    self.pending.lock().unwrap().push(pending);
                    Ok(())
                });
                down(request);
            }
            NUMBERED => {
                let number: u64 = request.read().expect("a number");
                assert_eq!(number, self.received.fetch_add(1, Relaxed), "an event is lost, or out of order");
            }
            HOLD => self.held.lock().unwrap().push(request.into_owned()),
            other => panic!("method {other}"),
        }
    }

    /// Until the other side, which may be making room by setting messages aside, accepts no more.
    fn flood(&self, mut send: impl FnMut(&Link) -> Result<()>) {
        let link = self.link.upgrade().expect("the link is in use");
        let mut refused = 0;
        while refused < 100 {
            match send(&link) {
                Ok(()) => refused = 0,
                Err(Error::Full) => refused += 1,
                Err(e) => panic!("{e}"),
            }
            thread::yield_now();
        }
    }
}

fn floods() {
    let link = Arc::new(Box::new(attach()));
    let side = Flooding::new(&link);
    serve(&link, |request| match request.method() {
        RELEASE => {
            side.held.lock().unwrap().drain(..).for_each(|held| held.reply(b"").expect("answer"));
            request.reply_as(&side.sent.load(Relaxed)).expect("answer");
        }
        _ => side.handle(request),
    });
}

/// Answers the calls that are held; replies how many events were sent.
const RELEASE: u32 = 5;

#[test]
fn calls_nest_while_ring_and_cells_are_exhausted_by_others() {
    let _watchdog = watchdog();
    let geometry = Geometry { entries: 64, cells: 64, ..Setup::default().geometry };
    for idle in IDLE_MODES {
        let setup = Setup { geometry: geometry.clone(), ..Setup::default() }.idle(idle);
        let plugin = Arc::new(setup.spawn("floods"));
        let side = Flooding::new(&plugin);
        for levels in 1..=4 {
            let reply = plugin.call(DOWN, &ask(levels, 40), SOON).expect(idle).to_vec();
            assert_eq!(read_trail(&reply), trail(levels as usize, plugin.id(), std::process::id()), "{idle}");
            // What the waiting thread set aside is there for a receiver, nothing lost.
            while let Some(request) = plugin.try_recv().unwrap() {
                side.handle(request);
            }
            side.held.lock().unwrap().drain(..).for_each(|held| held.reply(b"").unwrap());
            let events: u64 = plugin.call_as(RELEASE, &[0u8; 0], SOON).unwrap();
            assert!(events > 0);
            assert_eq!(side.received.load(Relaxed), events, "{idle}");
            for pending in side.pending.lock().unwrap().drain(..) {
                pending.wait().expect("held and answered");
            }
        }
        drop(side);
        finish(Arc::into_inner(plugin).expect("the handler holds it weakly"));
    }
}
