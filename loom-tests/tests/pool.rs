//! Sleeping and waking over a whole pool: nobody sleeps beside what they wait for, also when others are killed.
//!
//! Modelled: workers, of one process and of several, of one queue and of two; one that spins while another sleeps; a caller
//! and its worker; senders and workers that die at any step, and the recovery of their places beside the living. A sleep by
//! futex has no limit here, so whoever is not woken sleeps for ever, and the model fails. Not modelled: rings and slots
//! (`mpmc.rs`, `owned.rs`), descriptors.

#![cfg(busway_loom)]

use busway::pool::{Member, PoolConfig};
use busway::sync::dies_at;
use busway::{Deadline, Error, Idle, SizeClass};
use busway_loom_tests::{Failure, Model};
use loom::thread::JoinHandle;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

const WORKER: Model = Model::new("pool: a worker asleep").stepwise().bound(3);
const WORKERS: Model = Model::new("pool: two workers asleep, each takes one request and leaves").stepwise().bound(1);
const THREADS: Model = Model::new("pool: two threads of one process asleep, for two queues").stepwise().bound(2);
const SAME: Model = Model::new("pool: two threads of one process asleep, for one queue").stepwise().bound(1);
const TWO_QUEUES: Model = Model::new("pool: a worker of two queues is woken for both, and leaves").stepwise().bound(1);
const SEARCHER: Model = Model::new("pool: a worker that spins while another sleeps").stepwise().bound(1);
const CALLER: Model = Model::new("pool: a caller and its worker asleep").stepwise().bound(2);
const CLOSE: Model = Model::new("pool: a worker asleep when its process leaves").stepwise().bound(3);
const SLOT: Model = Model::new("pool: a loaner asleep for a slot").stepwise().bound(3);

type Members = Arc<Vec<Member>>;

fn pool(members: u32, idle: Idle, slots: u32) -> Members {
    let config = PoolConfig::new([""; 0]).queue("a", 4).queue("b", 4).members(members).idle(idle);
    let classes = vec![SizeClass { size: 64, count: slots }];
    Arc::new(Member::group(&config.classes(classes), members).expect("a pool"))
}

fn on_thread(members: &Members, body: impl FnOnce(&Members) + 'static) -> JoinHandle<()> {
    let members = members.clone();
    loom::thread::spawn(move || body(&members))
}

/// Takes one request from these queues.
fn take(member: &Member, queues: &'static [&'static str]) {
    let worker = member.worker(queues.iter().copied()).expect("queues");
    drop(worker.recv(Deadline::NEVER).expect("a request"));
}

fn send(member: &Member, queue: &str) {
    member.queue(queue).expect("a queue").try_send(1, b"").expect("room");
}

fn worker() {
    let members = pool(2, Idle::Park, 2);
    let worker = on_thread(&members, |members| take(&members[1], &["a"]));
    send(&members[0], "a");
    worker.join().unwrap();
    assert_eq!(members[0].slots_in_use(), 0);
}

fn workers() {
    let members = pool(3, Idle::Park, 2);
    let other = on_thread(&members, |members| take(&members[2], &["a"]));
    let sender = on_thread(&members, |members| {
        send(&members[0], "a");
        send(&members[0], "a");
    });
    take(&members[1], &["a"]);
    other.join().unwrap();
    sender.join().unwrap();
}

fn threads() {
    let members = pool(2, Idle::Park, 2);
    let a = on_thread(&members, |members| take(&members[1], &["a"]));
    let b = on_thread(&members, |members| take(&members[1], &["b"]));
    send(&members[0], "b");
    send(&members[0], "a");
    a.join().unwrap();
    b.join().unwrap();
}

fn same() {
    let members = pool(2, Idle::Park, 2);
    let other = on_thread(&members, |members| take(&members[1], &["a"]));
    let sender = on_thread(&members, |members| {
        send(&members[0], "a");
        send(&members[0], "a");
    });
    take(&members[1], &["a"]);
    other.join().unwrap();
    sender.join().unwrap();
}

fn two_queues() {
    let members = pool(3, Idle::Park, 2);
    let other = on_thread(&members, |members| take(&members[2], &["a", "b"]));
    let sender = on_thread(&members, |members| {
        send(&members[0], "a");
        send(&members[0], "b");
    });
    take(&members[1], &["a", "b"]);
    other.join().unwrap();
    sender.join().unwrap();
}

fn searcher() {
    // As short a spin as there is: two turns.
    let members = pool(3, Idle::Adaptive { spin: Duration::from_nanos(1) }, 2);
    let other = on_thread(&members, |members| take(&members[2], &["a"]));
    let sender = on_thread(&members, |members| {
        send(&members[0], "a");
        send(&members[0], "a");
    });
    take(&members[1], &["a"]);
    other.join().unwrap();
    sender.join().unwrap();
}

fn caller() {
    let members = pool(2, Idle::Park, 2);
    let worker = on_thread(&members, |members| {
        let worker = members[1].worker(["a"]).expect("a queue");
        let request = worker.recv(Deadline::NEVER).expect("a request");
        request.reply(b"yes").expect("a caller");
    });
    let reply = members[0].queue("a").expect("a queue").call(1, b"", Deadline::NEVER).expect("a reply");
    assert_eq!(reply.to_vec(), b"yes");
    drop(reply);
    worker.join().unwrap();
    assert_eq!(members[0].slots_in_use(), 0);
}

fn close() {
    let members = pool(1, Idle::Park, 1);
    let worker = on_thread(&members, |members| {
        let worker = members[0].worker(["a"]).expect("a queue");
        assert!(matches!(worker.recv(Deadline::NEVER), Err(Error::Closed)));
    });
    members[0].leave();
    worker.join().unwrap();
}

fn slot() {
    let members = pool(2, Idle::Park, 1);
    let loan = members[1].try_loan(64).expect("the only slot");
    let loaner = on_thread(&members, |members| drop(members[0].loan(64, Deadline::NEVER).expect("it, in the end")));
    drop(loan);
    loaner.join().unwrap();
}

/// A sender dies before its step `step`, beside a worker, and is recovered. Returns whether it died.
fn sender_dies(step: u32) -> bool {
    let died = Arc::new(AtomicBool::new(false));
    let seen = died.clone();
    let name = Box::leak(format!("pool: a sender dies, step {step}").into_boxed_str());
    Model::new(name).stepwise().bound(2).holds(move || {
        let members = pool(3, Idle::Park, 2);
        let done = Arc::new(AtomicBool::new(false));
        let mark = done.clone();
        let worker = on_thread(&members, move |members| {
            take(&members[1], &["a"]);
            mark.store(true, Relaxed);
        });
        if dies_at(step, || send(&members[2], "a")).is_none() {
            seen.store(true, Relaxed);
            members[0].recover(3);
            // What it had sent wakes the worker. What it had not, we send; once too often does no harm.
            if members[0].queue("a").expect("a queue").is_empty() && !done.load(Relaxed) {
                send(&members[0], "a");
            }
        }
        worker.join().unwrap();
    });
    died.load(Relaxed)
}

/// A worker dies before its step `step`, beside another, and is recovered. Returns whether it died.
fn worker_dies(step: u32, idle: Idle) -> bool {
    let died = Arc::new(AtomicBool::new(false));
    let seen = died.clone();
    let name = Box::leak(format!("pool: a worker dies, step {step}, {idle:?}").into_boxed_str());
    Model::new(name).stepwise().bound(1).holds(move || {
        let members = pool(3, idle, 2);
        let seen = seen.clone();
        let done = Arc::new(AtomicBool::new(false));
        let mark = done.clone();
        let other = on_thread(&members, move |members| {
            take(&members[1], &["a"]);
            mark.store(true, Relaxed);
        });
        let victim = on_thread(&members, move |members| {
            if dies_at(step, || take(&members[2], &["a"])).is_none() {
                members[0].recover(3);
                seen.store(true, Relaxed);
            }
            // What it had not taken wakes the other one. If it had, the other one gets another; once too often does no harm.
            if members[0].queue("a").expect("a queue").is_empty() && !done.load(Relaxed) {
                send(&members[0], "a");
            }
        });
        send(&members[0], "a");
        other.join().unwrap();
        // The other one was quicker: then this one awaits its own.
        if members[0].queue("a").expect("a queue").is_empty() {
            send(&members[0], "a");
        }
        victim.join().unwrap();
    });
    died.load(Relaxed)
}

#[test]
fn a_worker_is_woken() {
    WORKER.holds(worker);
}

#[test]
fn a_waker_fences() {
    WORKER.fails("pool: waker without fence", Failure::Deadlock, worker);
}

#[test]
fn a_sleeper_fences() {
    WORKER.fails("pool: sleeper without fence", Failure::Deadlock, worker);
}

#[test]
fn a_sleeper_looks_again() {
    WORKER.fails("pool: no second look", Failure::Deadlock, worker);
}

#[test]
fn a_wake_up_changes_the_bell() {
    WORKER.fails("pool: bell not bumped", Failure::Deadlock, worker);
}

#[test]
fn each_worker_is_woken() {
    WORKERS.holds(workers);
}

#[test]
fn the_thread_that_serves_the_queue_is_woken() {
    THREADS.holds(threads);
}

#[test]
fn all_bits_are_needed() {
    THREADS.fails("pool: any thread of the place is woken", Failure::Deadlock, threads);
}

#[test]
fn threads_of_one_process_are_woken() {
    SAME.holds(same);
}

#[test]
fn who_wakes_marks_the_others_again() {
    SAME.fails("pool: others not marked again", Failure::Deadlock, same);
}

#[test]
fn who_is_woken_for_two_hands_on() {
    TWO_QUEUES.holds(two_queues);
}

#[test]
fn handing_on_is_needed() {
    TWO_QUEUES.fails("pool: nothing is handed on", Failure::Deadlock, two_queues);
}

#[test]
fn a_searcher_keeps_nobody_asleep() {
    SEARCHER.holds(searcher);
}

#[test]
fn a_searcher_fences() {
    SEARCHER.fails("pool: searcher without fence", Failure::Deadlock, searcher);
}

#[test]
fn a_caller_is_woken() {
    CALLER.holds(caller);
}

#[test]
fn leaving_wakes_a_worker() {
    CLOSE.holds(close);
}

#[test]
fn a_loaner_leans_on_looking_again() {
    SLOT.leans_on_looking_again(slot);
}

#[test]
fn senders_die_anywhere() {
    let steps = (0..).take_while(|step| sender_dies(*step)).count();
    assert!(steps >= 3, "a death at {steps} steps only");
}

#[test]
fn workers_die_anywhere() {
    for idle in [Idle::Park, Idle::Adaptive { spin: Duration::from_nanos(1) }] {
        let steps = (0..).take_while(|step| worker_dies(*step, idle)).count();
        assert!(steps >= 3, "a death at {steps} steps only");
    }
}
