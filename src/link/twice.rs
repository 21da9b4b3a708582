//! What a peer changes after it was loaded makes no difference, or the one that it would have made before.
//!
//! Each scenario runs with one word of the peer's changed right after the host's load number n, for every n and every word of
//! that load. What the host then hands to its user has to be what it hands out if the word had never been changed, or had been
//! so from the start: a reader that checks one load and uses another hands out something else, or panics. Errors may differ,
//! since a link may be closed, or poisoned, at any moment.

use super::words::{Body, entry, kind};
use super::*;
use crate::ring::spsc::Entry;
use crate::sync::{AtomicU32, Ordering, after_loads};
use crate::{Config, Error, Idle, SizeClass};
use core::cell::RefCell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

const PASSED: Deadline = Deadline::from_nanos(1);
const SLOT: usize = 64;
const SLOTS: u32 = 2;

fn geometry() -> Geometry {
    Geometry { entries: 8, cells: 8, classes: vec![SizeClass { size: SLOT as u32, count: SLOTS }] }
}

fn pair() -> (Link, Link) {
    Link::pair(&Config::default().idle(Idle::Park).geometry(geometry())).unwrap()
}

/// What a user was handed.
type Handed = Vec<(u32, Vec<u8>)>;

/// What the peer has prepared, and what the host then does.
struct Scenario {
    name: &'static str,
    prepare: fn(&Link, &Link),
    run: fn(&Link, &mut Handed) -> crate::Result<()>,
}

/// A payload of either kind.
fn payload(number: u8, long: bool) -> Vec<u8> {
    vec![number; if long { SLOT } else { 5 + usize::from(number) }]
}

fn receive(host: &Link, handed: &mut Handed) -> Result<()> {
    while let Some(request) = host.try_recv()? {
        handed.push((request.method(), request.to_vec()));
        let reply = request.to_vec();
        request.reply(&reply)?;
    }
    Ok(())
}

/// Publishes a call nested in that of the host's first reply cell.
fn nest(plugin: &Link) {
    let section = geometry().plan().unwrap().find::<Entry<Body>>(kind::ENTRIES, 0).unwrap();
    // SAFETY: the first entry of this region; used by this thread alone.
    unsafe {
        let entry = plugin.memory()[0].base().add(section.offset as usize).cast::<Entry<Body>>().as_ref();
        entry.value.write(Body { method: 9, length: 3, call: 1 << 32 | 2, inline: [7; 4], deadline: 0 });
        entry.word.store((u64::from(entry::CALL) | 1 << 16) << 32 | 1, Ordering::Release);
    }
}

thread_local! {
    static NESTED: RefCell<Handed> = const { RefCell::new(Vec::new()) };
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "events and calls are received one by one",
        prepare: |_, plugin| {
            for (number, long) in [(1, false), (2, true)] {
                plugin.try_send(u32::from(number), &payload(number, long)).unwrap();
            }
            for (number, long) in [(3, false), (4, true)] {
                core::mem::forget(plugin.try_submit(number.into(), &payload(number, long), Deadline::NEVER).unwrap());
            }
        },
        run: receive,
    },
    Scenario {
        name: "calls that are given up in time",
        prepare: |_, plugin| {
            for number in 1..4 {
                let soon = Deadline::after(core::time::Duration::from_secs(100));
                core::mem::forget(plugin.try_submit(number.into(), &payload(number, false), soon).unwrap());
            }
        },
        run: receive,
    },
    Scenario {
        name: "a batch",
        prepare: |_, plugin| {
            for number in 1..5 {
                core::mem::forget(plugin.try_submit(number.into(), &payload(number, number == 2), Deadline::NEVER));
            }
        },
        run: |host, handed| {
            for request in host.recv_batch(3, PASSED)? {
                handed.push((request.method(), request.to_vec()));
                request.reply(&payload(8, true))?;
            }
            Ok(())
        },
    },
    Scenario {
        name: "calls and their replies",
        prepare: |_, _| (),
        run: |host, handed| {
            for (number, reply) in [(1, false), (2, true), (3, false)] {
                let call = host.try_submit(number, &payload(number as u8, number == 3), PASSED)?;
                if let Ok(Some(request)) = plugin().try_recv() {
                    let _ = request.reply(&payload(number as u8, reply));
                }
                handed.push((number, call.wait()?.to_vec()));
            }
            Ok(())
        },
    },
    Scenario {
        name: "refusals",
        prepare: |_, _| (),
        run: |host, handed| {
            for number in 0..4 {
                let call = host.try_submit(number, b"", PASSED)?;
                match (plugin().try_recv(), number) {
                    (Ok(Some(request)), 0) => drop(request.reject(5)),
                    (Ok(Some(request)), 1) => drop(request.no_such_method()),
                    (Ok(request), _) => drop(request),
                    _ => {}
                }
                match call.wait() {
                    Ok(reply) => handed.push((number, reply.to_vec())),
                    Err(Error::Poisoned { reason }) => return Err(Error::Poisoned { reason }),
                    Err(_) => {}
                }
            }
            Ok(())
        },
    },
    Scenario {
        name: "room, which the other side makes",
        prepare: |host, plugin| {
            while host.try_send(1, b"").is_ok() {}
            for _ in 0..3 {
                plugin.try_recv().unwrap().unwrap();
            }
        },
        run: |host, handed| {
            for number in 0..5 {
                host.send(number, b"", PASSED)?;
                handed.push((number, Vec::new()));
            }
            Ok(())
        },
    },
    Scenario {
        name: "slots, which the other side gives back",
        prepare: |host, plugin| {
            for _ in 0..SLOTS {
                host.try_send(1, &payload(1, true)).unwrap();
            }
            plugin.try_recv().unwrap().unwrap();
        },
        run: |host, handed| {
            for _ in 0..SLOTS {
                let loan = host.loan(SLOT, PASSED)?;
                handed.push((0, vec![loan.len() as u8]));
                core::mem::forget(loan);
            }
            Ok(())
        },
    },
    Scenario {
        name: "late replies",
        prepare: |host, plugin| {
            for number in 1..4 {
                drop(host.try_submit(number, &payload(number as u8, number == 1), Deadline::NEVER).unwrap());
                let request = plugin.try_recv().unwrap().unwrap();
                if number < 3 {
                    request.reply(b"").unwrap();
                } else {
                    core::mem::forget(request);
                }
            }
        },
        run: |host, _| {
            host.stats();
            host.try_send(7, &[1; SLOT])
        },
    },
    Scenario {
        name: "a nested call",
        prepare: |host, plugin| {
            host.set_handler(|request| {
                NESTED.with_borrow_mut(|handed| handed.push((request.method(), request.to_vec())));
                let _ = request.reply(b"nested");
            })
            .unwrap();
            nest(plugin);
        },
        run: |host, handed| host.call(1, b"", PASSED).map(|reply| handed.push((1, reply.to_vec()))),
    },
    Scenario {
        name: "an end",
        prepare: |_, plugin| {
            plugin.try_send(1, b"last").unwrap();
            plugin.close(PASSED);
        },
        run: |host, handed| {
            receive(host, handed)?;
            host.try_send(1, b"")
        },
    },
];

thread_local! {
    /// The other end, for scenarios in which it does something in between.
    static PLUGIN: RefCell<Option<Rc<Link>>> = const { RefCell::new(None) };
}

fn plugin() -> Rc<Link> {
    PLUGIN.with_borrow(|plugin| plugin.clone()).expect("a scenario runs")
}

/// A reader that does what none may: it checks one load, and uses another.
const READS_TWICE: Scenario = Scenario {
    name: "a length that is loaded twice",
    prepare: |_, plugin| plugin.try_send(1, b"last").unwrap(),
    run: |host, handed| {
        let body = &host.end.theirs.entries.at(0).value;
        if body.read().length as usize <= words::INLINE_REQUEST {
            handed.push((1, vec![0; (body.read().length as usize).min(1000)]));
        }
        Ok(())
    },
};

/// What a word is changed into.
#[derive(Clone, Copy, Debug)]
enum Into {
    Value(u32),
    Plus(u32),
    Flip(u32),
}

const INTO: [Into; 8] = [
    Into::Value(0),
    Into::Value(1),
    Into::Value(2),
    Into::Value(SLOT as u32 + 1),
    Into::Value(u32::MAX),
    Into::Plus(1),
    Into::Plus(u32::MAX),
    Into::Flip(0x0100_0010),
];

/// A word of one of the plugin's two regions.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    region: usize,
    offset: usize,
}

/// Changes of one word.
#[derive(Clone, Copy, Debug)]
enum Change {
    None,
    /// Before the host does anything.
    Before(Place, Into),
    /// After its load of this number, that word of it.
    After(usize, usize, Into),
}

impl Into {
    /// # Safety
    /// `word` is one that the plugin writes, which this thread alone uses.
    unsafe fn apply(self, word: *const u32) {
        // SAFETY: by this function's contract.
        let word = unsafe { &*word.cast::<AtomicU32>() };
        let was = word.load(Ordering::Relaxed);
        let value = match self {
            Into::Value(value) => value,
            Into::Plus(more) => was.wrapping_add(more),
            Into::Flip(bits) => was ^ bits,
        };
        word.store(value, Ordering::Relaxed);
    }
}

/// Plays a scenario. Returns what was handed out, and where the host's loads were and how many words each.
fn play(scenario: &Scenario, change: Change) -> (Handed, Vec<(Place, usize)>) {
    let (host, plugin) = pair();
    (scenario.prepare)(&host, &plugin);
    let bases = plugin.memory().map(|region| (region.base().as_ptr() as usize, region.len()));
    if let Change::Before(Place { region, offset }, into) = change {
        // SAFETY: where a load of the host's was, in memory of the other end that lives.
        unsafe { into.apply((bases[region].0 + offset) as *const u32) };
    }
    PLUGIN.set(Some(Rc::new(plugin)));
    let loads = Rc::new(RefCell::new(Vec::new()));
    let seen = loads.clone();
    let then = move |from: *const u32, words: usize| {
        let at = from as usize;
        // The other end's loads, of what the host has written, are none of this.
        let Some(region) = bases.iter().position(|(base, len)| (*base..base + len).contains(&at)) else { return };
        let mut seen = seen.borrow_mut();
        if let Change::After(load, word, into) = change
            && load == seen.len()
            && word < words
        {
            // SAFETY: in the load that was just made, in memory of the other end that lives.
            unsafe { into.apply(from.add(word)) };
        }
        seen.push((Place { region, offset: at - bases[region].0 }, words));
    };
    let mut handed = Handed::new();
    let ran = catch_unwind(AssertUnwindSafe(|| after_loads(then, || (scenario.run)(&host, &mut handed))));
    assert!(ran.is_ok(), "{}: panics with {change:?}", scenario.name);
    handed.append(&mut NESTED.take());
    // Whatever happened, no slot is anybody's twice.
    let loans: Vec<_> = core::iter::from_fn(|| host.try_loan(SLOT).ok()).collect();
    let places: BTreeSet<_> = loans.iter().map(|loan| loan.as_ptr()).collect();
    assert!(places.len() == loans.len() && loans.len() <= SLOTS as usize, "{}: slots, {change:?}", scenario.name);
    drop(loans);
    PLUGIN.set(None);
    let loads = loads.take();
    (handed, loads)
}

/// Plays it with every change there is. Returns how many there were, or what was handed out that neither version says.
fn every_change(scenario: &Scenario) -> Result<usize, String> {
    let (unchanged, loads) = play(scenario, Change::None);
    let mut runs = 0;
    for (load, (place, words)) in loads.iter().enumerate() {
        for word in 0..*words {
            for into in INTO {
                let (mixed, _) = play(scenario, Change::After(load, word, into));
                let place = Place { offset: place.offset + 4 * word, ..*place };
                let (changed, _) = play(scenario, Change::Before(place, into));
                runs += 1;
                if let Some(item) = mixed.iter().find(|item| !unchanged.contains(item) && !changed.contains(item)) {
                    return Err(format!("{}: {item:?} after load {load} at {place:?}, {into:?}", scenario.name));
                }
            }
        }
    }
    Ok(runs)
}

#[test]
fn what_is_changed_after_it_was_loaded_is_as_if_it_had_been_before_or_never() {
    for scenario in SCENARIOS {
        let (handed, loads) = play(scenario, Change::None);
        let runs = every_change(scenario).unwrap_or_else(|strange| panic!("{strange}"));
        println!("{}: {} loads, {runs} changes, {} handed out", scenario.name, loads.len(), handed.len());
        assert!(runs > 0, "{}: nothing is loaded", scenario.name);
    }
}

#[test]
fn a_reader_that_loads_twice_is_caught() {
    assert!(every_change(&READS_TWICE).is_err());
}
