//! Many messages, each numbered and looked at: none is lost, none doubled, and none waits for a timer.
//!
//! A pair inside one process, a link by descriptor, async code and pools have no timer that would make up for a wake-up that is lost:
//! there it is a hang, which the watchdog ends. A link between processes looks again after 5 ms; it runs the same protocol.

#![cfg(not(busway_loom))]

mod common;

use busway::pool::{Member, Pool, PoolConfig};
use busway::{Config, Deadline, Idle, Link, Request};
use common::figures::{figure, is_long};
use common::{Setup, argument, attach, emulated, finish, roles, serve, watchdog_of};
use std::cell::Cell;
use std::thread;

roles!(counts, bounces, works, works_async);

/// An event: 32 bytes, its number four times.
const NUMBER: u32 = 1;
/// Answered with how many numbers have come.
const COUNT: u32 = 2;
/// A call that carries a number, answered with the next.
const CALL: u32 = 3;
const BATCH: usize = 32;

/// How many: a few in a test, and in a long run what the guarantee says.
fn many(long: u64, short: u64) -> u64 {
    if is_long() {
        long
    } else if emulated() {
        short / 10
    } else {
        short
    }
}

fn pin(cpu: usize) {
    // SAFETY: a CPU set is plain bits, for which zero means empty; 0 names the calling thread.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        // A machine with one CPU has both sides on it anyway.
        libc::sched_setaffinity(0, size_of_val(&set), &set);
    }
}

/// Takes the next number, which has to be one more than the last.
fn next(last: &Cell<u64>, request: &Request<'_>) -> u64 {
    let [number, copies @ ..] = request.read::<[u64; 4]>().expect("four numbers");
    assert_eq!((copies, last.get() + 1), ([number; 3], number), "lost, doubled or torn");
    last.set(number);
    number
}

// ---- hot

/// Counts events, in batches.
fn counts() {
    let link = attach();
    let last = Cell::new(0);
    while let Ok(requests) = link.recv_batch(BATCH, Deadline::NEVER) {
        for request in requests {
            match request.method() {
                NUMBER => drop(next(&last, &request)),
                _ => request.reply_as(&last.get()).expect("answer"),
            }
        }
    }
}

#[test]
fn hot_messages_come_once_and_in_order() {
    let _watchdog = watchdog_of(if is_long() { 900 } else { 60 });
    let count = many(1_000_000_000, 300_000);
    let plugin = Setup::default().idle("adaptive").spawn("counts");
    let mut batch = plugin.batch();
    for number in 1..=count {
        batch.send(NUMBER, bytemuck::bytes_of(&[number; 4]), Deadline::NEVER).expect("room");
    }
    drop(batch);
    let come: u64 = plugin.call_as(COUNT, &[0u8; 0], Deadline::NEVER).expect("a count");
    assert_eq!(come, count);
    finish(plugin);
    figure("G8", "messages hot, numbered: none lost or doubled", count);
}

// ---- parked

/// Sends each number on, plus one.
fn bounces() {
    pin(argument().parse().expect("a CPU"));
    bounce(&attach());
}

fn bounce(link: &Link) {
    let last = Cell::new(0);
    serve(link, |request| match request.method() {
        NUMBER => {
            let number = next(&last, &request) + 1;
            last.set(number);
            link.send(NUMBER, bytemuck::bytes_of(&[number; 4]), Deadline::NEVER).expect("room");
        }
        _ => {
            let number: u64 = request.read().expect("a number");
            request.reply_as(&(number + 1)).expect("answer");
        }
    });
}

/// Events to and fro, each side sending in turn, and calls; both sides sleep for each.
fn alternate(link: &Link, count: u64) {
    let last = Cell::new(0);
    for _ in 0..count / 4 {
        let number = last.get() + 1;
        last.set(number);
        link.send(NUMBER, bytemuck::bytes_of(&[number; 4]), Deadline::NEVER).expect("room");
        next(&last, &link.recv(Deadline::NEVER).expect("the next number"));
        let number = last.get();
        assert_eq!(link.call_as::<u64>(CALL, &number, Deadline::NEVER).expect("a reply"), number + 1);
    }
}

const CPUS: [(&str, usize); 2] = [("one CPU", 0), ("two CPUs", 1)];

#[test]
fn messages_to_sleepers_of_a_pair_come_without_any_timer() {
    let _watchdog = watchdog_of(if is_long() { 900 } else { 60 });
    let count = many(200_000, 4000);
    for (cpus, cpu) in CPUS {
        let (host, plugin) = Link::pair(&Config::default().idle(Idle::Park)).expect("a pair");
        thread::scope(|threads| {
            threads.spawn(|| {
                pin(cpu);
                bounce(&plugin);
            });
            threads.spawn(|| {
                pin(0);
                alternate(&host, count);
                host.close(Deadline::NEVER);
            });
        });
        figure("G8", &format!("messages parked, link without timers, {cpus}: none lost or doubled"), count);
    }
}

#[test]
fn messages_to_sleepers_of_a_link_come_once() {
    let _watchdog = watchdog_of(if is_long() { 900 } else { 60 });
    for (idle, long, short) in [("park", 200_000, 4000), ("poll", 100_000, 2000), ("adaptive", 200_000, 4000)] {
        for (cpus, cpu) in CPUS {
            let setup = Setup::default().idle(idle);
            let plugin = setup.spawn_with("bounces", cpu);
            let count = many(long, short);
            thread::scope(|threads| {
                threads.spawn(|| {
                    pin(0);
                    alternate(&plugin, count);
                });
            });
            let parks = plugin.stats().parks;
            finish(plugin);
            figure("G8", &format!("messages parked, link {idle}, {cpus}: none lost or doubled"), count);
            println!("    {parks} sleeps for {} waits of the host", count / 2);
        }
    }
}

#[test]
fn messages_to_sleeping_tasks_come_without_any_timer() {
    let _watchdog = watchdog_of(if is_long() { 900 } else { 60 });
    let count = many(100_000, 2000);
    for (cpus, cpu) in CPUS {
        let plugin = Setup::default().idle("park").spawn_with("works_async", cpu);
        plugin.set_poll_spin(std::time::Duration::ZERO);
        smol::block_on(async {
            for number in 0..count / 2 {
                let reply = plugin.call_as_async::<u64>(CALL, &number, Deadline::NEVER).await.expect("a reply");
                assert_eq!(reply, number + 1);
            }
        });
        finish(plugin);
        figure("G8", &format!("messages parked, tasks, {cpus}: none lost or doubled"), count);
    }
}

/// A plugin that is a task.
fn works_async() {
    pin(argument().parse().expect("a CPU"));
    let link = attach();
    link.set_poll_spin(std::time::Duration::ZERO);
    smol::block_on(async {
        let mut last = None;
        while let Ok(request) = link.recv_async(Deadline::NEVER).await {
            let number: u64 = request.read().expect("a number");
            assert!(last.is_none_or(|last| number == last + 1), "lost or doubled");
            last = Some(number);
            request.reply_as(&(number + 1)).expect("answer");
        }
    });
}

/// A worker of a pool.
fn works() {
    pin(argument().parse().expect("a CPU"));
    let member = Member::attach_with(Idle::Park).expect("attach");
    let last = Cell::new(0);
    let served = member.worker(["work"]).expect("a queue").serve(|request| {
        let number = next(&last, &request);
        if request.is_event() {
            let back = member.queue("back").expect("a queue");
            back.send(NUMBER, bytemuck::bytes_of(&[number; 4]), Deadline::NEVER).expect("room");
        } else {
            request.reply_as(&(number + 1)).expect("answer");
        }
    });
    served.expect("served until closed");
}

#[test]
fn messages_to_sleepers_of_a_pool_come_without_any_timer() {
    let _watchdog = watchdog_of(if is_long() { 900 } else { 60 });
    let count = many(200_000, 4000);
    for (cpus, cpu) in CPUS {
        let pool = Pool::create(&PoolConfig::new(["work", "back"]).idle(Idle::Park)).expect("a pool");
        let worker = pool.spawn(Setup::default().command_with("works", cpu)).expect("a worker");
        thread::scope(|threads| {
            threads.spawn(|| {
                pin(0);
                let (queue, back) = (pool.queue("work").expect("a queue"), pool.worker(["back"]).expect("a queue"));
                let last = Cell::new(0);
                for number in (1..=count / 2).step_by(2) {
                    let reply: u64 = queue.call_as(CALL, &[number; 4], Deadline::NEVER).expect("a reply");
                    assert_eq!(reply, number + 1);
                    last.set(number);
                    let sent = [number + 1; 4];
                    queue.send(NUMBER, bytemuck::bytes_of(&sent), Deadline::NEVER).expect("room");
                    next(&last, &back.recv(Deadline::NEVER).expect("the number"));
                }
            });
        });
        pool.close(Deadline::NEVER);
        assert!(worker.wait().expect("reaped").success());
        figure("G8", &format!("messages parked, pool, {cpus}: none lost or doubled"), count);
    }
}
