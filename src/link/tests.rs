//! Whole links inside one process, over heap memory: what Miri can follow.

use super::*;
use crate::sync::{AtomicU64, Ordering};
use crate::{Config, Error, Idle, SizeClass};
use std::thread;

fn pair(idle: Idle) -> (Link, Link) {
    let classes = vec![SizeClass { size: 64, count: 4 }, SizeClass { size: 4096, count: 2 }];
    Link::pair(&Config::default().idle(idle).geometry(Geometry { entries: 16, cells: 8, classes })).unwrap()
}

const ROUNDS: u64 = if cfg!(miri) { 6 } else { 2000 };

fn payload(number: u64) -> Vec<u8> {
    let len = [0, 8, 32, 33, 40, 41, 64, 65, 1500, 4096][number as usize % 10];
    (0..len).map(|i| (number + i) as u8).collect()
}

/// Every size on both sides of each limit comes back as it was sent, by copy and by loan, and nothing stays in use.
#[test]
fn payloads_come_back() {
    for idle in [Idle::Park, Idle::default()] {
        let (host, plugin) = pair(idle);
        thread::scope(|threads| {
            threads.spawn(|| {
                plugin.serve(|request| {
                    let mut reply = request.loan(request.len()).unwrap();
                    request.bytes().copy_to(&mut reply);
                    request.reply(reply).unwrap();
                })
            });
            for number in 0..ROUNDS * 2 {
                let sent = payload(number);
                let reply = if number % 2 == 0 {
                    host.call(1, &sent, Deadline::NEVER).unwrap()
                } else {
                    let mut loan = host.loan(sent.len(), Deadline::NEVER).unwrap();
                    loan.copy_from_slice(&sent);
                    host.call(1, loan, Deadline::NEVER).unwrap()
                };
                assert_eq!(reply.to_vec(), sent);
                assert_eq!(reply.as_slice().is_some(), sent.len() <= 40, "a host does not trust a slot of its plugin");
            }
            let stats = host.stats();
            assert_eq!((stats.calls_in_use, stats.slots_in_use), (0, 0));
            host.close(Deadline::NEVER);
        });
        assert_eq!(plugin.stats().slots_in_use, 0);
        assert!(matches!(plugin.call(1, b"", Deadline::NEVER), Err(Error::Closed)));
    }
}

/// Batches of events and calls, received in batches, in order, from two threads.
#[test]
fn batches_keep_their_order() {
    let (host, plugin) = pair(Idle::Park);
    thread::scope(|threads| {
        let receiver = threads.spawn(|| {
            let mut last = [0; 2];
            let mut events = 0;
            while events < 2 * ROUNDS {
                for request in plugin.recv_batch(5, Deadline::NEVER).unwrap() {
                    let [thread, number]: [u64; 2] = request.read().unwrap();
                    assert_eq!(number, last[thread as usize] + 1, "lost, doubled or out of order");
                    last[thread as usize] = number;
                    events += 1;
                }
            }
        });
        for thread in 0..2u64 {
            let host = &host;
            threads.spawn(move || {
                let mut batch = host.batch();
                for number in 1..=ROUNDS {
                    batch.send(1, bytemuck::bytes_of(&[thread, number]), Deadline::NEVER).unwrap();
                    if number % 7 == 0 {
                        batch.flush();
                    }
                }
            });
        }
        receiver.join().unwrap();
    });
    assert_eq!(host.stats().sent, plugin.stats().received);
}

/// What is owned outlives the link that it came from.
#[test]
fn what_is_owned_outlives_its_link() {
    let (host, plugin) = pair(Idle::Park);
    let pending = host.submit(1, &[5; 100], Deadline::NEVER).unwrap().into_owned();
    let request = plugin.recv(Deadline::NEVER).unwrap().into_owned();
    host.send(2, &[6; 50], Deadline::NEVER).unwrap();
    let event = plugin.recv(Deadline::NEVER).unwrap().into_owned();
    thread::scope(|threads| {
        threads.spawn(move || request.reply(&[7; 90]).unwrap());
    });
    let reply = pending.wait().unwrap();
    drop((host, plugin));
    assert_eq!((event.to_vec(), reply.to_vec()), (vec![6; 50], vec![7; 90]));
}

/// Whatever becomes of a message, its slot comes back.
#[test]
fn no_way_to_fail_keeps_a_slot() {
    let (host, plugin) = pair(Idle::Park);
    let slots = || (host.stats().slots_in_use, plugin.stats().slots_in_use);
    let long = [1; 64];
    for _ in 0..10 {
        // An event cannot be answered.
        host.send(1, b"", Deadline::NEVER).unwrap();
        let event = plugin.recv(Deadline::NEVER).unwrap();
        let loan = event.loan(long.len()).unwrap();
        event.reply(loan).unwrap();
        host.send(1, &long, Deadline::NEVER).unwrap();
        plugin.recv(Deadline::NEVER).unwrap().reply(&long).unwrap();
        assert_eq!(slots(), (0, 0), "an event was answered");

        // A loan of the other end is none of this one's, to send or to answer with.
        let foreign = plugin.loan(long.len(), Deadline::NEVER).unwrap();
        assert!(matches!(host.try_send(1, foreign), Err(Error::Unsupported { .. })));
        let foreign = plugin.loan(long.len(), Deadline::NEVER).unwrap();
        assert!(matches!(host.batch().try_send(1, foreign), Err(Error::Unsupported { .. })));
        let call = host.submit(1, b"", Deadline::NEVER).unwrap();
        let foreign = host.loan(long.len(), Deadline::NEVER).unwrap();
        let answered = plugin.recv(Deadline::NEVER).unwrap().reply(foreign);
        assert!(matches!(answered, Err(Error::Unsupported { .. })));
        assert!(matches!(call.wait(), Err(Error::Rejected { code: crate::reject::NO_SLOT, .. })));
        assert_eq!(slots(), (0, 0), "a loan of the other end");

        // Nobody waits for the answer any more.
        for answer in 0..3 {
            drop(host.submit(1, &long, Deadline::NEVER).unwrap());
            let request = plugin.recv(Deadline::NEVER).unwrap();
            match answer {
                0 => request.reply(&long).unwrap(),
                1 => {
                    let loan = request.loan(long.len()).unwrap();
                    request.reply(loan).unwrap();
                }
                _ => drop(request),
            }
        }
        assert_eq!(slots(), (0, 0), "a call that was given up");
    }

    // No room in the ring.
    let mut sent = 0;
    while host.try_send(1, b"").is_ok() {
        sent += 1;
    }
    for _ in 0..10 {
        assert!(matches!(host.try_send(1, &long), Err(Error::Full)));
        let loan = host.try_loan(long.len()).unwrap();
        assert!(matches!(host.try_send(1, loan), Err(Error::Full)));
        assert!(matches!(host.batch().try_send(1, &long), Err(Error::Full)));
        let loan = host.try_loan(long.len()).unwrap();
        assert!(matches!(host.batch().try_send(1, loan), Err(Error::Full)));
        assert_eq!(slots(), (0, 0), "a full ring");
    }
    assert_eq!(plugin.recv_batch(100, Deadline::NEVER).unwrap().count(), sent);
}

/// Nobody waits for an answer to a call that was given up, so it waits for nothing either, and is no failure.
#[test]
fn an_answer_that_nobody_waits_for_needs_no_slot() {
    let (host, plugin) = pair(Idle::Park);
    let loans: Vec<_> = core::iter::from_fn(|| plugin.try_loan(4096).ok()).collect();
    for deadline in [Deadline::NEVER, Deadline::from_nanos(u64::MAX)] {
        let call = host.submit(1, &[1; 64], deadline).unwrap();
        let request = plugin.recv(Deadline::NEVER).unwrap();
        drop(call);
        request.reply(&[2; 4096]).unwrap();
        assert_eq!((host.stats().calls_in_use, host.stats().slots_in_use), (0, 0));
    }
    let call = host.submit(1, b"", Deadline::NEVER).unwrap();
    let request = plugin.recv(Deadline::NEVER).unwrap();
    assert!(matches!(request.reply(&[2; 4096]), Err(Error::Full)), "its caller waits");
    assert!(matches!(call.wait(), Err(Error::Rejected { code: crate::reject::NO_SLOT, .. })));
    drop(loans);
    assert_eq!(plugin.stats().slots_in_use, 0);
}

/// A call that was given up has no sleeper, whoever else sleeps.
#[test]
fn an_answer_that_nobody_waits_for_wakes_nobody() {
    let (host, plugin) = pair(Idle::Park);
    thread::scope(|threads| {
        threads.spawn(|| assert!(matches!(host.recv(Deadline::NEVER), Err(Error::Closed))));
        while host.stats().parks == 0 {
            thread::yield_now();
        }
        for _ in 0..100 {
            let call = host.submit(1, b"", Deadline::NEVER).unwrap();
            let request = plugin.recv(Deadline::NEVER).unwrap();
            drop(call);
            request.reply(b"").unwrap();
            host.stats(); // takes the late reply in
        }
        let wakes = plugin.stats().wakes;
        host.close(Deadline::from_nanos(1));
        assert_eq!(wakes, 0);
    });
}

/// A batch that has room left sends nothing on a link that was closed meanwhile.
#[test]
fn nothing_is_gathered_for_a_link_that_is_closed() {
    let (host, plugin) = pair(Idle::Park);
    let mut batch = host.batch();
    batch.send(1, b"", Deadline::NEVER).unwrap();
    host.close(Deadline::from_nanos(1));
    assert!(matches!(batch.send(1, b"", Deadline::NEVER), Err(Error::Closed)));
    assert!(matches!(batch.try_send(1, &[1; 64]), Err(Error::Closed)));
    drop(batch);
    assert_eq!(host.stats().slots_in_use, 0);
    drop(plugin);
}

/// A reply carries more than a request does, so memory that was loaned for one may be part of it, and too long for the other.
#[test]
fn a_loan_for_a_reply_may_be_sent_otherwise() {
    let (host, plugin) = pair(Idle::Park);
    let _call = host.submit(1, b"", Deadline::NEVER).unwrap();
    let request = plugin.recv(Deadline::NEVER).unwrap();
    for len in [31, 32, 33, 40, 41] {
        let filled = || {
            let mut loan = request.loan(len).unwrap();
            loan.fill(len as u8);
            loan
        };
        plugin.try_send(2, filled()).unwrap();
        plugin.batch().try_send(3, filled()).unwrap();
        for event in host.recv_batch(2, Deadline::NEVER).unwrap() {
            assert_eq!(event.to_vec(), vec![len as u8; len]);
        }
    }
    assert_eq!(plugin.stats().slots_in_use, 0);
}

/// Several threads at either end, and everything under way at once: calls both ways, nested ones, events, batches, calls that are
/// given up.
#[test]
#[cfg_attr(miri, ignore = "Miri has no futex_waitv, by which a caller waits that serves")]
fn threads_share_both_ends() {
    const NESTING: u32 = 2;
    const EVENT: u32 = 3;
    // Handlers wait for nothing, so there is enough of everything.
    let classes = [64, 4096].map(|size| SizeClass { size, count: 64 }).into();
    let config = Config::default().geometry(Geometry { entries: 64, cells: 64, classes });
    for idle in [Idle::Park, Idle::default()] {
        let (host, plugin) = Link::pair(&config.clone().idle(idle)).unwrap();
        let (ends, events) = ([&host, &plugin], AtomicU64::new(0));
        host.set_handler(echo).unwrap();
        let serve = |link: &Link| {
            let served = link.serve(|request| match request.method() {
                EVENT => drop(events.fetch_add(request.bytes().iter().map(u64::from).sum(), Ordering::Relaxed)),
                NESTING => {
                    let bytes = request.to_vec();
                    let nested = request.call(1, &bytes, Deadline::NEVER).unwrap().to_vec();
                    request.reply(&nested).unwrap();
                }
                _ => echo(request),
            });
            served.unwrap();
        };
        thread::scope(|threads| {
            for link in ends {
                (0..2).for_each(|_| drop(threads.spawn(|| serve(link))));
            }
            let call = |link: &Link, first: u64| {
                for number in first..first + ROUNDS / 2 {
                    let sent = payload(number);
                    // Only one side serves while it waits.
                    let method = if core::ptr::eq(link, &host) { NESTING } else { 1 };
                    assert_eq!(link.call(method, &sent, Deadline::NEVER).unwrap().to_vec(), sent);
                    drop(link.submit(1, &sent, Deadline::NEVER).unwrap());
                    let pending = link.submit(1, &sent, Deadline::NEVER).unwrap();
                    link.batch().send(EVENT, &[1; 50], Deadline::NEVER).unwrap();
                    assert_eq!(pending.wait().unwrap().to_vec(), sent);
                }
            };
            let callers: Vec<_> = ends
                .iter()
                .flat_map(|link| [0, 5].map(|first| (link, first)))
                .map(|(link, first)| threads.spawn(move || call(link, first)))
                .collect();
            callers.into_iter().for_each(|caller| caller.join().unwrap());
            host.close(Deadline::NEVER);
        });
        assert_eq!(events.into_inner(), 4 * (ROUNDS / 2) * 50);
        // What was given up last is taken in by a look.
        assert_eq!(ends.map(|link| link.stats()).map(|stats| (stats.calls_in_use, stats.slots_in_use)), [(0, 0); 2]);
    }
}

fn echo(request: crate::Request<'_>) {
    let mut reply = request.loan(request.len()).unwrap();
    request.bytes().copy_to(&mut reply);
    request.reply(reply).unwrap();
}
