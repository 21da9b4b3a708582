//! Once warm, nothing that is sent or received takes memory from the heap, on either side.

mod common;

use busway::pool::{Member, Pool, PoolConfig, Queue};
use busway::{Deadline, Idle, Link, Process, Request};
use common::pipe::{Reports, say};
use common::{IDLE_MODES, SOON, Setup, argument, attach, emulated, finish, roles, watchdog};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

roles!(host, plugin, pool_host, worker, async_host, async_plugin);

/// Counts what any thread of this process asks for.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: passes on to the system's allocator what it is asked for.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ECHO: u32 = 1;
const NESTED: u32 = 2;
const SEND: u32 = 3;
const ALLOCATED: u32 = 4;
const BATCH: u32 = 5;
const SETTLE: u32 = 6;

static LARGE: [u8; 3000] = [7; 3000];

/// One round over every path: bytes and loans, inline and in slots, calls, events, batches, nested calls, calls given up.
fn round(link: &Link, n: u32) {
    for payload in [&LARGE[..20], &LARGE] {
        let reply = link.call(ECHO, payload, Deadline::NEVER).expect("call");
        assert_eq!(reply.len(), payload.len());
        let mut loan = link.loan(payload.len(), Deadline::NEVER).expect("loan");
        loan.copy_from_slice(payload);
        drop(link.call(ECHO, loan, Deadline::NEVER).expect("call").into_owned());

        let pending = link.submit(ECHO, payload, Deadline::NEVER).expect("submit");
        let given_up = link.submit(ECHO, payload, SOON).expect("submit");
        drop(pending.wait().expect("a reply"));
        drop(given_up);

        link.call(NESTED, payload, Deadline::NEVER).expect("a call with others nested in it");
        link.send(SEND, payload, Deadline::NEVER).expect("send");
        assert_eq!(link.recv(Deadline::NEVER).expect("an event that comes back").len(), payload.len());
    }
    if n.is_multiple_of(8) {
        let mut batch = link.batch();
        (0..10).for_each(|n| batch.send(BATCH, &LARGE[..n * 10], Deadline::NEVER).expect("send"));
        let replies = [0; 4].map(|_| batch.submit(ECHO, b"", Deadline::NEVER).expect("submit"));
        drop(batch);
        replies.into_iter().for_each(|reply| drop(reply.wait().expect("a reply")));
    }
}

fn answer(request: Request<'_>) {
    match request.method() {
        NESTED => {
            for payload in [&LARGE[..20], &LARGE] {
                request.call(ECHO, payload, Deadline::NEVER).expect("a nested call");
            }
            request.reply(b"").expect("answer");
        }
        _ => {
            let mut reply = request.loan(request.len()).expect("loan");
            request.bytes().copy_to(&mut reply);
            request.reply(reply).expect("answer");
        }
    }
}

/// Serves one by one and in batches, and says how much it has allocated when it is asked.
fn plugin() {
    let link = attach();
    while let Ok(batch) = link.recv_batch(16, Deadline::NEVER) {
        for request in batch {
            match request.method() {
                SEND => {
                    link.send(SEND, request.as_slice().expect("the host is trusted"), Deadline::NEVER).expect("send")
                }
                ALLOCATED => request.reply_as(&ALLOCATIONS.load(Relaxed)).expect("answer"),
                BATCH => {}
                _ => answer(request),
            }
        }
    }
}

fn allocated(plugin: &Process) -> [u64; 2] {
    let theirs = plugin.call_as(ALLOCATED, &[0u8; 0], Deadline::NEVER).expect("call");
    [ALLOCATIONS.load(Relaxed), theirs]
}

/// Waits until every other thread sleeps: one that was started while the machine was busy may not even have begun, and what it
/// allocates then is not a call's.
fn settle() {
    let own = rustix::thread::gettid().as_raw_nonzero().to_string();
    let asleep = |thread: std::io::Result<std::fs::DirEntry>| {
        let path = thread.expect("a thread").path();
        // No longer there is asleep enough.
        let stat = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
        path.ends_with(&own) || stat.is_empty() || stat.contains(") S ")
    };
    while !std::fs::read_dir("/proc/self/task").expect("the threads").all(asleep) {
        std::thread::yield_now();
    }
}

/// Nothing else runs in this process while it counts.
fn host() {
    let idle = IDLE_MODES.into_iter().find(|mode| *mode == argument()).expect("an idle mode");
    let rounds = if emulated() || idle == "spin" { 50 } else { 300 };
    let plugin = Setup::default().idle(idle).spawn("plugin");
    plugin.set_handler(answer).expect("the first handler");
    (0..rounds).for_each(|n| round(&plugin, n));
    let before = allocated(&plugin);
    (0..rounds).for_each(|n| round(&plugin, n));
    let after = allocated(&plugin);
    finish(plugin);
    report(before, after);
}

fn report(before: [u64; 2], after: [u64; 2]) {
    let (ours, theirs) = (after[0] - before[0], after[1] - before[1]);
    // The count itself is worth something.
    let boxes = ALLOCATIONS.load(Relaxed);
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.load(Relaxed), boxes + 1);
    say(format!("{ours} {theirs}"));
}

/// One round over every path of async code; with `spin` zero, each waits for its driver.
async fn async_round(link: &Link, n: u64) {
    link.set_poll_spin(if n.is_multiple_of(2) { Duration::ZERO } else { Duration::from_micros(5) });
    for payload in [&LARGE[..20], &LARGE] {
        let reply = link.call_async(ECHO, payload, Deadline::NEVER).await.expect("call");
        assert_eq!(reply.len(), payload.len());
        let mut loan = link.loan_async(payload.len(), Deadline::NEVER).await.expect("loan");
        loan.copy_from_slice(payload);
        drop(link.call_async(ECHO, loan, Deadline::NEVER).await.expect("call"));
        // Held back for the driver's next turn.
        let calls = [0; 4].map(|_| link.call_async(ECHO, payload, Deadline::NEVER));
        let [a, b, c, d] = calls;
        let (a, b, c, d) = futures::join!(a, b, c, d);
        [a, b, c, d].into_iter().for_each(|reply| drop(reply.expect("call")));
        let given_up = link.submit_async(ECHO, payload, SOON).await.expect("submit");
        drop(given_up);
        link.send_async(SEND, payload, Deadline::NEVER).await.expect("send");
        drop(link.recv_async(Deadline::NEVER).await.expect("an event that comes back"));
    }
}

/// Runs a future, with the link driven by tokio or by the thread of the library.
fn run(link: &Link, future: impl Future) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().expect("a runtime");
    runtime.block_on(async {
        if argument() == "tokio" {
            link.drive_on_tokio().expect("the first driver");
        }
        future.await;
    });
}

fn async_host() {
    let plugin = Setup::default().host().spawn(Setup::default().command_with("async_plugin", argument()));
    let plugin = plugin.expect("a plugin");
    run(&plugin, async {
        let allocated = async || {
            let theirs = plugin.call_as_async(ALLOCATED, &[0u8; 0], Deadline::NEVER).await.expect("call");
            [ALLOCATIONS.load(Relaxed), theirs]
        };
        let rounds = if emulated() { 50 } else { 300 };
        for n in 0..rounds {
            async_round(&plugin, n).await;
        }
        let before = allocated().await;
        for n in 0..rounds {
            async_round(&plugin, n).await;
        }
        report(before, allocated().await);
    });
}

fn async_plugin() {
    let link = attach();
    run(&link, async {
        while let Ok(request) = link.recv_async(Deadline::NEVER).await {
            match request.method() {
                SEND => {
                    let payload = request.as_slice().expect("the host is trusted");
                    link.send_async(SEND, payload, Deadline::NEVER).await.expect("send");
                }
                ALLOCATED => request.reply_as(&ALLOCATIONS.load(Relaxed)).expect("answer"),
                _ => answer(request),
            }
        }
    });
}

/// One round over every path of a pool.
fn pool_round(pool: &Pool, queue: Queue<'_>) {
    for payload in [&LARGE[..20], &LARGE] {
        let reply = queue.call(ECHO, payload, Deadline::NEVER).expect("call");
        assert_eq!(reply.len(), payload.len());
        let mut loan = pool.loan(payload.len(), Deadline::NEVER).expect("loan");
        loan.copy_from_slice(payload);
        drop(queue.call(ECHO, loan, Deadline::NEVER).expect("call").into_owned());

        let pending = queue.submit(ECHO, payload, Deadline::NEVER).expect("submit");
        let given_up = queue.submit(ECHO, payload, SOON).expect("submit");
        drop(pending.wait().expect("a reply"));
        drop(given_up);

        queue.send(BATCH, payload, Deadline::NEVER).expect("send");
        pool.queue("back").expect("a queue").send(BATCH, payload, Deadline::NEVER).expect("send");
        drop(pool.worker(["back"]).expect("a queue").recv(Deadline::NEVER).expect("our own event"));
    }
}

fn pool_host() {
    let idle = if argument() == "spin" { Idle::Spin } else { Idle::Park };
    let rounds = if emulated() || idle == Idle::Spin { 50 } else { 300 };
    let pool = Pool::create(&PoolConfig::new(["work", "back"]).idle(idle)).expect("a pool");
    let worker = pool.spawn(Setup::default().command_with("worker", argument())).expect("a worker");
    let queue = pool.queue("work").expect("a queue");
    let allocated = || {
        let theirs = queue.call_as(ALLOCATED, &[0u8; 0], Deadline::NEVER).expect("call");
        [ALLOCATIONS.load(Relaxed), theirs]
    };
    (0..rounds).for_each(|_| pool_round(&pool, queue));
    settle();
    queue.call(SETTLE, b"", Deadline::NEVER).expect("call");
    let before = allocated();
    (0..rounds).for_each(|_| pool_round(&pool, queue));
    let after = allocated();
    pool.close(SOON);
    assert!(worker.wait().expect("reaped").success());
    report(before, after);
}

fn worker() {
    let member = Member::attach_with(if argument() == "spin" { Idle::Spin } else { Idle::Park }).expect("attach");
    let worker = member.worker(["work"]).expect("a queue");
    while let Ok(batch) = worker.recv_batch(16, Deadline::NEVER) {
        for request in batch {
            match request.method() {
                ALLOCATED => request.reply_as(&ALLOCATIONS.load(Relaxed)).expect("answer"),
                BATCH => {}
                SETTLE => {
                    settle();
                    request.reply(b"").expect("answer");
                }
                _ => answer(request),
            }
        }
    }
}

#[test]
fn no_path_allocates_on_either_side_once_warm() {
    let _watchdog = watchdog();
    let links = IDLE_MODES.map(|idle| ("host", idle));
    let pools = ["spin", "park"].map(|idle| ("pool_host", idle));
    let tasks = ["thread", "tokio"].map(|driver| ("async_host", driver));
    for (role, idle) in links.into_iter().chain(pools).chain(tasks) {
        let mut command = Setup::default().command_with(role, idle);
        let mut reports = Reports::of(&mut command);
        let mut host = command.spawn().expect("spawn a host");
        drop(command);
        assert_eq!(reports.next().as_deref(), Some("0 0"), "allocations of {role} and its peer in {idle}");
        assert!(host.wait().unwrap().success());
    }
}
