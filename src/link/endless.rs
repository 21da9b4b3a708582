//! A peer that is always one step ahead: whatever the host loads, there is something new right after. No operation goes on
//! beyond its deadline, or the end of its link, for that.

use super::words::{Body, GIVEN_UP, Intake, entry, kind};
use super::*;
use crate::region::Region;
use crate::ring::spsc::Entry;
use crate::sync::{AtomicU32, Ordering, after_loads};
use crate::{Config, Error, Idle, SizeClass};

const PASSED: Deadline = Deadline::from_nanos(1);
const ENTRIES: u32 = 8;
/// More than any operation takes.
const LOADS: u32 = 100_000;

fn geometry() -> Geometry {
    Geometry { entries: ENTRIES, cells: 8, classes: vec![SizeClass { size: 64, count: 1 }] }
}

fn pair() -> (Link, Link) {
    Link::pair(&Config::default().idle(Idle::Park).geometry(geometry())).unwrap()
}

/// The elements of a section of one side.
fn section<T>(region: &Region, kind: u32) -> &'static [T] {
    let section = geometry().plan().unwrap().find::<T>(kind, 0).unwrap();
    // SAFETY: in the region by the plan; words and cells; used only while the link of its test lives.
    unsafe {
        let first = region.base().add(section.offset as usize).cast::<T>();
        core::slice::from_raw_parts(first.as_ptr(), section.count as usize)
    }
}

/// Runs `body`, while after each of its loads, told where and which, `then` does what it likes.
fn beside<R>(mut then: impl FnMut(*const u32, u32) + 'static, body: impl FnOnce() -> R) -> R {
    let mut loads = 0;
    after_loads(
        move |from, _| {
            loads += 1;
            assert!(loads < LOADS, "it goes on for ever");
            then(from, loads);
        },
        body,
    )
}

/// Fills the ring of `plugin` with entries of this kind, and each entry anew as soon as it was read.
fn fills(host: &Link, plugin: &Link, tag: u32, deadline: u64) -> impl FnMut(*const u32, u32) + 'static {
    let entries: &[Entry<Body>] = section(plugin.memory()[0], kind::ENTRIES);
    let publish = move |position: u32| {
        let entry = &entries[(position % ENTRIES) as usize];
        let call = 1 << 32 | u64::from(position % 8);
        // SAFETY: this thread is the only one there is.
        unsafe { entry.value.write(Body { call, deadline, ..Body::default() }) };
        entry.word.store(u64::from(tag) << 32 | u64::from(position + 1), Ordering::Release);
    };
    let taken = section::<Intake<AtomicU32>>(host.memory()[0], kind::INTAKE)[0].pos.0.load(Ordering::Relaxed);
    (taken..taken + ENTRIES).for_each(publish);
    move |from, _| {
        let read = entries.iter().find(|entry| (&raw const entry.value).cast() == from);
        if let Some(entry) = read {
            publish(entry.word.load(Ordering::Relaxed) as u32 - 1 + ENTRIES);
        }
    }
}

#[test]
fn calls_that_are_given_up() {
    let (host, plugin) = pair();
    let words: &[AtomicU32] = section(plugin.memory()[0], kind::CALL_WORDS);
    words.iter().for_each(|word| word.store(1 << 2 | GIVEN_UP, Ordering::Relaxed));
    let given_up = || fills(&host, &plugin, entry::CALL.into(), u64::MAX >> 1);
    assert!(matches!(beside(given_up(), || host.recv(PASSED).map(drop)), Err(Error::Timeout { .. })));
    assert!(beside(given_up(), || host.try_recv().unwrap()).is_none());
    let batch = beside(given_up(), || host.recv_batch(usize::MAX, PASSED).map(Iterator::count));
    assert!(matches!(batch, Ok(0) | Err(Error::Timeout { .. })), "{batch:?}");
}

#[test]
fn events() {
    let (host, plugin) = pair();
    let storm = || fills(&host, &plugin, entry::EVENT.into(), 0);
    assert!(beside(storm(), || host.recv(PASSED).is_ok()));
    let batch = beside(storm(), || host.recv_batch(usize::MAX, PASSED).map(Iterator::count));
    assert!(batch.as_ref().is_ok_and(|count| *count > 0), "{batch:?}");
    assert!(matches!(beside(storm(), || host.call(1, b"", PASSED).map(drop)), Err(Error::Timeout { .. })));
    beside(storm(), || host.close(PASSED));
    let after = beside(storm(), || core::iter::from_fn(|| host.recv(Deadline::NEVER).ok()).count());
    assert!(after <= 17 * ENTRIES as usize, "{after} after the end");
    let batch = beside(storm(), || host.recv_batch(1, Deadline::NEVER).map(Iterator::count));
    assert!(matches!(batch, Err(Error::Closed)), "{batch:?}");
    assert!(matches!(beside(storm(), || host.try_recv().map(drop)), Err(Error::Closed)));
}

#[test]
fn events_beside_a_call_that_serves_nested_ones() {
    let (host, plugin) = pair();
    host.set_handler(|_| ()).unwrap();
    let storm = fills(&host, &plugin, entry::EVENT.into(), 0);
    assert!(matches!(beside(storm, || host.call(1, b"", PASSED).map(drop)), Err(Error::Timeout { .. })));
}

#[test]
fn nested_calls() {
    let (host, plugin) = pair();
    host.set_handler(|_| ()).unwrap();
    let storm = fills(&host, &plugin, u32::from(entry::CALL) | 1 << 16, 0);
    assert!(matches!(beside(storm, || host.call(1, b"", PASSED).map(drop)), Err(Error::Timeout { .. })));
}

#[test]
fn an_entry_that_comes_and_goes() {
    let (host, plugin) = pair();
    let first = &section::<Entry<Body>>(plugin.memory()[0], kind::ENTRIES)[0];
    first.word.store(1, Ordering::Relaxed);
    let flaps = move |load: u32| first.word.store((load % 2).into(), Ordering::Relaxed);
    for even in 0..2 {
        let received = beside(move |_, load| flaps(load + even), || host.recv(PASSED).map(drop));
        // Where it was there, it is of no kind.
        assert!(matches!(received, Err(Error::Timeout { .. } | Error::Poisoned { .. })), "{received:?}");
        let received = beside(move |_, load| flaps(load + even), || host.try_recv().map(|request| request.is_none()));
        assert!(matches!(received, Ok(true) | Err(Error::Poisoned { .. })), "{received:?}");
    }
}

#[test]
fn a_position_that_goes_to_and_fro() {
    let (host, plugin) = pair();
    while host.try_send(1, b"").is_ok() {}
    let pos = &section::<Intake<AtomicU32>>(plugin.memory()[0], kind::INTAKE)[0].pos.0;
    for even in 0..2 {
        pos.store(0, Ordering::Relaxed);
        // Only once the host waits for it to move: else there is room.
        let flaps = move |_, load: u32| pos.store(if load < 3 { 0 } else { (load + even) % 2 }, Ordering::Relaxed);
        let sent = beside(flaps, || host.send(1, b"", PASSED));
        assert!(matches!(sent, Ok(()) | Err(Error::Timeout { .. } | Error::Poisoned { .. })), "{sent:?}");
    }
}
