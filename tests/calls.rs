//! Calls, events and batches between two processes: what is sent arrives, whole, once and in order.

mod common;

use busway::{Deadline, Error, Link, Process, Request};
use common::payload::{Random, bytes, checksum, fill, lengths};
use common::procfs;
use common::{IDLE_MODES, SOON, Setup, assert_err, attach, finish, roles, serve, spawn, until, watchdog};
use std::cell::Cell;
use std::sync::Barrier;
use std::thread;

roles!(both_ways, answering, ordered, burst, gathers, four_serve, meets, crowded);

/// Back as bytes, copied by the bus.
const ECHO: u32 = 1;
/// Back in a loan, filled in place.
const ECHO_LOAN: u32 = 2;
/// The payload's checksum.
const SUM: u32 = 3;
const DONE: u32 = 4;

fn answer(request: Request<'_>) {
    let answered = match request.method() {
        ECHO => {
            let bytes = request.to_vec();
            request.reply(&bytes)
        }
        ECHO_LOAN => request.loan(request.len()).and_then(|mut loan| {
            request.bytes().copy_to(&mut loan);
            request.reply(loan)
        }),
        SUM => {
            let sum = checksum(&request.to_vec());
            request.reply_as(&sum)
        }
        _ => request.no_such_method(),
    };
    answered.expect("answer");
}

/// Calls an [`answer`]ing side with payloads of many lengths, as bytes and as loans.
fn exercise(link: &Link, seed: u64, some: usize) {
    let classes: Vec<_> = Setup::default().geometry.classes.iter().map(|c| c.size).collect();
    for len in lengths(&classes, link.max_payload(), &mut Random::new(seed), some) {
        let data = bytes(seed ^ len as u64, len);
        let echo = link.call(ECHO, &data, SOON).expect("call with bytes");
        assert_eq!(echo.len(), len);
        assert!(echo.bytes() == data[..], "{len} bytes came back changed");

        let mut loan = link.loan(len, SOON).expect("loan");
        fill(seed ^ len as u64, &mut loan);
        let echo = link.call(ECHO_LOAN, loan, SOON).expect("call with a loan");
        assert!(echo.to_vec() == data, "{len} bytes in a loan came back changed");

        let sum: u64 = link.call(SUM, &data, SOON).and_then(|sum| sum.read()).expect("a checksum");
        assert_eq!(sum, checksum(&data), "{len} bytes arrived changed");
    }
}

fn both_ways() {
    let link = attach();
    thread::scope(|threads| {
        threads.spawn(|| serve(&link, answer));
        exercise(&link, 2, 60);
        link.call(DONE, b"", SOON).expect("the host waits for this");
    });
}

#[test]
fn payloads_of_every_length_come_back_whole_in_both_forms_and_directions() {
    let _watchdog = watchdog();
    let plugin = spawn("both_ways");
    thread::scope(|threads| {
        let served = threads.spawn(|| {
            loop {
                let request = plugin.recv(SOON).expect("the plugin calls");
                if request.method() == DONE {
                    return request.reply(b"").expect("answer");
                }
                answer(request);
            }
        });
        exercise(&plugin, 1, 60);
        served.join().expect("serve the plugin");
    });
    let stats = plugin.stats();
    assert_eq!((stats.calls_in_use, stats.violations), (0, 0));
    finish(plugin);
}

fn answering() {
    serve(&attach(), answer);
}

#[test]
fn a_truncated_loan_arrives_short() {
    let _watchdog = watchdog();
    let plugin = spawn("answering");
    let data = bytes(7, 5000);
    for len in [5000, 4999, 1000, 40, 1, 0] {
        let mut loan = plugin.loan(data.len(), SOON).unwrap();
        loan.copy_from_slice(&data);
        loan.truncate(len);
        assert!(plugin.call(ECHO, loan, SOON).unwrap().bytes() == data[..len]);
    }
    finish(plugin);
}

#[test]
fn typed_values_arrive_as_they_were_and_wrong_sizes_are_told() {
    let _watchdog = watchdog();
    let plugin = spawn("answering");
    let small = [1u64, u64::MAX];
    assert_eq!(plugin.call_as::<[u64; 2]>(ECHO, &small, SOON).unwrap(), small);
    let large = [[1u64, 2, 3, 4, 5, 6, 7, 8]; 16];
    assert_eq!(plugin.call_as::<[[u64; 8]; 16]>(ECHO, &large, SOON).unwrap(), large);
    assert_err!(plugin.call_as::<u64>(ECHO, &small, SOON), Error::WrongSize { len: 16, want: 8 });
    // The slot of the reply that was not read as asked came back all the same.
    assert_err!(plugin.call_as::<u64>(ECHO, &large, SOON), Error::WrongSize { len: 1024, want: 8 });
    finish(plugin);
}

#[test]
fn a_plugin_sees_slices_and_a_host_sees_them_only_if_it_trusts() {
    let _watchdog = watchdog();
    let setup = Setup::default();
    let data = bytes(3, 500);
    let wary = setup.spawn("answering");
    assert!(wary.call(ECHO, &data, SOON).unwrap().as_slice().is_none(), "the plugin could change it");
    assert_eq!(wary.call(ECHO, &data[..40], SOON).unwrap().as_slice(), Some(&data[..40]), "inline is private");
    // SAFETY: the role uses the bus without `unsafe`.
    let config = unsafe { setup.config().trust_peer() };
    let trusting = busway::Host::new(config).spawn(setup.command("answering")).unwrap();
    assert_eq!(trusting.call(ECHO, &data, SOON).unwrap().as_slice(), Some(&data[..]));
    finish(wary);
    finish(trusting);
}

const NUMBERED: u32 = 10;
const COUNT: u32 = 11;

fn ordered() {
    let (link, count, faults) = (attach(), Cell::new(0u64), Cell::new(0u64));
    serve(&link, |request| {
        if request.method() == COUNT {
            return request.reply_as(&[count.get(), faults.get()]).expect("answer");
        }
        assert!(request.is_event());
        let number: u64 = request.bytes().read(0).expect("a number");
        let intact = request.as_slice().is_some_and(|b| b[8..] == bytes(number, b.len() - 8));
        faults.set(faults.get() + u64::from(number != count.get() || !intact));
        count.set(count.get() + 1);
    });
}

#[test]
fn events_arrive_once_and_in_order_whatever_their_length() {
    let _watchdog = watchdog();
    let plugin = spawn("ordered");
    let mut random = Random::new(5);
    let total = 5000u64;
    for number in 0..total {
        let len = [0, 10, 24, 25, 200, 3000][random.below(6)];
        let payload = [&number.to_le_bytes()[..], &bytes(number, len)].concat();
        plugin.send(NUMBERED, &payload, SOON).unwrap();
    }
    assert_eq!(plugin.call_as::<[u64; 2]>(COUNT, &[0u8; 0], SOON).unwrap(), [total, 0]);
    finish(plugin);
}

/// Sends as many events as it is asked for, then replies: a reply comes after everything that was sent before it.
const SEND: u32 = 20;

fn burst() {
    let link = attach();
    serve(&link, |request| {
        let count: u64 = request.read().expect("a count");
        let mut batch = link.batch();
        for number in 0..count {
            batch.send(NUMBERED, &number.to_le_bytes(), SOON).expect("send");
        }
        drop(batch);
        request.reply(b"").expect("answer");
    });
}

#[test]
fn a_batch_takes_what_is_there_up_to_its_limit_and_never_waits_for_more() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let plugin = Setup::default().idle(idle).spawn("burst");
        plugin.call(SEND, &10u64.to_le_bytes(), SOON).unwrap();
        let numbers = |max: usize| -> Vec<u64> {
            plugin.recv_batch(max, SOON).unwrap().map(|event| event.read().unwrap()).collect()
        };
        assert_eq!([4, 4, 4].map(numbers), [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]], "{idle}");
        // More than a batch takes from the ring at once.
        plugin.call(SEND, &100u64.to_le_bytes(), SOON).unwrap();
        assert_eq!(numbers(64), (0..64).collect::<Vec<_>>(), "{idle}");
        assert_eq!(numbers(64), (64..100).collect::<Vec<_>>(), "{idle}");

        assert_eq!(plugin.recv_batch(0, Deadline::NEVER).unwrap().count(), 0, "nothing was asked for");
        assert_err!(plugin.recv_batch(4, Deadline::from_nanos(1)), Error::Timeout { maybe_executed: false });
        finish(plugin);
    }
}

#[test]
fn what_is_not_taken_out_of_a_batch_is_received_next() {
    let _watchdog = watchdog();
    let plugin = spawn("burst");
    plugin.call(SEND, &50u64.to_le_bytes(), SOON).unwrap();
    let mut batch = plugin.recv_batch(64, SOON).unwrap();
    let first: Vec<u64> = batch.by_ref().take(5).map(|event| event.read().unwrap()).collect();
    assert_eq!(first, [0, 1, 2, 3, 4]);
    drop(batch);
    for number in 5..50u64 {
        assert_eq!(plugin.try_recv().unwrap().expect("still there").read::<u64>().unwrap(), number);
    }
    assert!(plugin.try_recv().unwrap().is_none());
    finish(plugin);
}

#[test]
fn a_batch_blocks_for_its_first_message() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let plugin = Setup::default().idle(idle).spawn("burst");
        thread::scope(|threads| {
            let (plugin, parks) = (&plugin, plugin.stats().parks);
            let received = threads.spawn(move || {
                let mut numbers = Vec::new();
                while numbers.len() < 30 {
                    let before = numbers.len();
                    let batch = plugin.recv_batch(64, Deadline::NEVER).unwrap();
                    numbers.extend(batch.map(|event| event.read::<u64>().unwrap()));
                    assert_ne!(numbers.len(), before, "a batch has a first message");
                }
                numbers
            });
            // Where waiting can be seen, the events are sent only once it waits.
            if idle == "park" || idle == "poll" {
                until("the receiver sleeps", || plugin.stats().parks > parks);
            }
            plugin.call(SEND, &30u64.to_le_bytes(), SOON).unwrap();
            assert_eq!(received.join().unwrap(), (0..30).collect::<Vec<_>>());
        });
        finish(plugin);
    }
}

/// Until all threads of the plugin sleep, in the modes in which they do.
fn wait_asleep(plugin: &Process, idle: &str) {
    if idle != "spin" {
        until("the plugin sleeps", || procfs::states(plugin.id()).iter().all(|state| *state == 'S'));
    }
}

#[test]
fn a_batch_that_fills_ring_or_arena_wakes_the_sleeping_receiver() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let plugin = Setup::tiny(1024, 4).idle(idle).spawn("ordered");
        wait_asleep(&plugin, idle);
        let mut batch = plugin.batch();
        for number in 0..100u64 {
            batch.send(NUMBERED, &number.to_le_bytes(), SOON).expect("the ring empties");
        }
        wait_asleep(&plugin, idle);
        for number in 100..120u64 {
            let payload = [&number.to_le_bytes()[..], &bytes(number, 500)].concat();
            batch.send(NUMBERED, &payload, SOON).expect("slots come back");
        }
        drop(batch);
        assert_eq!(plugin.call_as::<[u64; 2]>(COUNT, &[0u8; 0], SOON).unwrap(), [120, 0], "{idle}");
        finish(plugin);
    }
}

#[test]
fn a_call_of_a_batch_can_be_waited_for_once_it_has_left() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let plugin = Setup::default().idle(idle).spawn("answering");
        wait_asleep(&plugin, idle);
        let mut batch = plugin.batch();
        let early = batch.submit(ECHO, b"too early", Deadline::NEVER).unwrap();
        assert_err!(early.wait(), Error::Unsupported { .. });
        let pending = batch.submit(ECHO, b"flushed", SOON).unwrap();
        batch.flush();
        assert_eq!(pending.wait().expect(idle).to_vec(), b"flushed");
        let pending: Vec<_> = (0..40).map(|n| batch.submit(ECHO, &bytes(n, 20), SOON).unwrap()).collect();
        drop(batch);
        for (n, pending) in (0..).zip(pending) {
            assert_eq!(pending.wait().expect(idle).to_vec(), bytes(n, 20));
        }
        assert_eq!(plugin.stats().calls_in_use, 0, "{idle}: the call that was given up came back too");
        finish(plugin);
    }
}

const GATHER: u32 = 30;

/// Holds every call until it has as many as the first one says, then answers them last to first.
fn gathers() {
    let link = attach();
    let mut held = Vec::new();
    loop {
        match link.recv(Deadline::NEVER) {
            Ok(request) => held.push(request.into_owned()),
            Err(Error::Closed) => return,
            Err(e) => panic!("{e}"),
        }
        if held.len() as u64 == held[0].bytes().read::<u64>(0).expect("a count") {
            for request in held.drain(..).rev() {
                let bytes = request.to_vec();
                request.reply(&bytes).expect("answer");
            }
        }
    }
}

#[test]
fn calls_are_outstanding_together_and_answered_in_any_order() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let plugin = Setup::default().idle(idle).spawn("gathers");
        for count in [1u64, 2, 30] {
            let payload = |number: u64| {
                let len = if number.is_multiple_of(2) { 8 } else { 300 };
                [&count.to_le_bytes()[..], &bytes(number, len)].concat()
            };
            let pending: Vec<_> =
                (0..count).map(|n| plugin.submit(GATHER, &payload(n), Deadline::NEVER).unwrap()).collect();
            for (number, pending) in (0..).zip(pending) {
                assert_eq!(pending.wait().unwrap().to_vec(), payload(number), "{idle}");
            }
        }
        assert_eq!(plugin.stats().calls_in_use, 0);
        finish(plugin);
    }
}

#[test]
fn messages_that_are_kept_keep_their_bytes_while_others_come_and_go() {
    let _watchdog = watchdog();
    let plugin = spawn("answering");
    // Fewer than there are slots, of which the plugin needs one to answer with.
    let kept: Vec<_> = (0..12).map(|n| plugin.call(ECHO, &bytes(n, 2000), SOON).unwrap()).collect();
    let owned: Vec<_> = (20..23).map(|n| plugin.call(ECHO, &bytes(n, 2000), SOON).unwrap().into_owned()).collect();
    for n in 100..200 {
        assert!(plugin.call(ECHO, &bytes(n, 2000), SOON).unwrap().bytes() == bytes(n, 2000)[..]);
    }
    for (n, message) in (0..).zip(&kept).chain((20..).zip(&owned)) {
        assert!(message.bytes() == bytes(n, 2000)[..], "message {n} changed while it was kept");
    }
    drop(kept);
    finish(plugin);
    // An owned message outlives its link, and the plugin.
    assert!(owned[0].bytes() == bytes(20, 2000)[..]);
}

/// Both sides with several threads that serve and several that call, all on one link.
fn crowd(link: &Link, seed: u64, callers: u64, calls: u64) {
    thread::scope(|threads| {
        for caller in 0..callers {
            threads.spawn(move || {
                let mut random = Random::new(seed + caller);
                for _ in 0..calls {
                    let len = [8, 32, 40, 100, 1500][random.below(5)];
                    let data = bytes(random.next(), len);
                    match random.below(3) {
                        0 => assert!(link.call(ECHO, &data, SOON).expect("call").bytes() == data[..]),
                        1 => {
                            let sum = link.call(SUM, &data, SOON).expect("call").read::<u64>();
                            assert_eq!(sum.expect("a sum"), checksum(&data));
                        }
                        _ => {
                            let pair = [0, 1].map(|_| link.submit(ECHO, &data, SOON).expect("submit"));
                            for pending in pair {
                                assert!(pending.wait().expect("a reply").bytes() == data[..]);
                            }
                        }
                    }
                }
            });
        }
    });
}

fn four_serve() {
    let link = attach();
    thread::scope(|threads| (0..4).for_each(|_| drop(threads.spawn(|| serve(&link, answer)))));
}

#[test]
fn eight_threads_call_four_in_every_idle_mode() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let plugin = Setup::default().idle(idle).spawn("four_serve");
        // Threads that never park share a CPU or two: each call may cost a time slice.
        crowd(&plugin, 1, 8, if idle == "spin" { 20 } else { 200 });
        assert_eq!(plugin.stats().calls_in_use, 0, "{idle}");
        finish(plugin);
    }
}

/// Four threads that answer only when all of them have a call.
fn meets() {
    let (link, all) = (attach(), Barrier::new(4));
    let meet = |request: Request<'_>| {
        all.wait();
        request.reply(b"").expect("answer");
    };
    thread::scope(|threads| (0..4).for_each(|_| drop(threads.spawn(|| serve(&link, meet)))));
}

#[test]
fn a_burst_wakes_as_many_sleeping_receivers_as_it_needs() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let plugin = Setup::default().idle(idle).spawn("meets");
        for _ in 0..20 {
            wait_asleep(&plugin, idle);
            let mut batch = plugin.batch();
            let calls = [0; 4].map(|_| batch.submit(ECHO, b"", Deadline::NEVER).unwrap());
            drop(batch);
            calls.into_iter().for_each(|call| drop(call.wait().expect(idle)));
        }
        finish(plugin);
    }
}

fn crowded() {
    let link = attach();
    thread::scope(|threads| {
        (0..2).for_each(|_| drop(threads.spawn(|| serve(&link, answer))));
        crowd(&link, 100, 4, 100);
        link.call(DONE, b"", SOON).expect("the host waits for this");
    });
}

#[test]
fn threads_of_both_sides_call_each_other_at_once() {
    let _watchdog = watchdog();
    for idle in ["adaptive", "park", "poll"] {
        let plugin = Setup::default().idle(idle).spawn("crowded");
        thread::scope(|threads| {
            let (done, waiting) = std::sync::mpsc::channel();
            for _ in 0..2 {
                let (plugin, done) = (&plugin, done.clone());
                threads.spawn(move || {
                    serve(plugin, |request| match request.method() {
                        DONE => {
                            request.reply(b"").expect("answer");
                            done.send(()).expect("the test waits");
                        }
                        _ => answer(request),
                    });
                });
            }
            crowd(&plugin, 1, 4, 100);
            waiting.recv_timeout(SOON).expect("the plugin is done");
            plugin.close(SOON);
        });
        finish(plugin);
    }
}
