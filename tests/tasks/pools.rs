//! The same of pools.

use super::{DIE, ECHO, HOLD, LET_GO, Runtime, SEND, on, polled, runtimes};
use crate::common::payload::bytes;
use crate::common::{SOON, Setup, emulated, until, watchdog};
use busway::pool::{Member, Pool, PoolConfig};
use busway::{Deadline, Error, Idle, SizeClass};
use futures::future::{join, join_all};
use std::time::Duration;

pub fn pool_worker() {
    let member = Member::attach().expect("attach");
    let worker = member.worker(["work", "more"]).expect("queues");
    let mut held = Vec::new();
    while let Ok(request) = worker.recv(Deadline::NEVER) {
        match request.method() {
            HOLD => held.push(request),
            DIE => std::process::abort(),
            LET_GO => {
                for held in held.drain(..) {
                    let bytes = held.to_vec();
                    held.reply(&bytes).expect("answer");
                }
                request.reply(b"").expect("answer");
            }
            SEND => {
                let count: u64 = request.read().expect("a number");
                request.reply(b"").expect("answer");
                let back = member.queue("back").expect("a queue");
                (0..count).for_each(|number| back.send(SEND, &number.to_le_bytes(), SOON).expect("send"));
            }
            _ => {
                let bytes = request.to_vec();
                request.reply(&bytes).expect("answer");
            }
        }
    }
}

pub fn async_pool_worker() {
    let member = Member::attach().expect("attach");
    let serve = async || {
        let worker = member.worker(["work", "more"]).expect("queues");
        while let Ok(request) = worker.recv_async(Deadline::NEVER).await {
            let bytes = request.to_vec();
            request.reply(&bytes).expect("answer");
        }
    };
    on(Runtime::Tokio, &member, join_all((0..4).map(|_| serve())));
}

const IDLE: [Idle; 3] = [Idle::Adaptive { spin: Duration::from_micros(20) }, Idle::Park, Idle::Spin];

fn pool(idle: Idle) -> Pool {
    let classes = [(64, 64), (1024, 32), (64 << 10, 8)];
    let classes = classes.map(|(size, count)| SizeClass { size, count }).into();
    Pool::create(&PoolConfig::new(["work", "more", "back"]).classes(classes).idle(idle)).expect("a pool")
}

fn assert_idle(pool: &Pool) {
    until("nothing is under way", || {
        let stats = pool.stats();
        (stats.calls_in_use, stats.slots_in_use) == (0, 0)
    });
}

async fn echoed(pool: &Pool, number: usize, len: usize) {
    let payload = bytes(number as u64, len);
    let queue = pool.queue(["work", "more"][number % 2]).expect("a queue");
    let reply = queue.call_async(ECHO, &payload, SOON).await.expect("a reply");
    assert_eq!(reply.to_vec(), payload);
}

#[test]
fn calls_of_every_size_from_many_tasks() {
    let _watchdog = watchdog();
    for &runtime in runtimes() {
        for idle in IDLE {
            for role in ["pool_worker", "async_pool_worker"] {
                let pool = pool(idle);
                let workers = [(); 2].map(|()| pool.spawn(Setup::default().command(role)).expect("a worker"));
                on(runtime, &*pool, async {
                    for len in [0, 1, 32, 33, 40, 41, 64, 65, 1000, 8192, 65536] {
                        echoed(&pool, len, len).await;
                    }
                    // More than there are slots.
                    join_all((0..300).map(|n| echoed(&pool, n, n * 7 % 3000))).await;
                });
                assert_idle(&pool);
                pool.close(SOON);
                workers.into_iter().for_each(|worker| assert!(worker.wait().expect("reaped").success()));
            }
        }
    }
}

#[test]
fn events_deadlines_drops_and_death() {
    let _watchdog = watchdog();
    for &runtime in runtimes() {
        for idle in IDLE {
            let pool = pool(idle);
            let worker = pool.spawn(Setup::default().command("pool_worker")).expect("a worker");
            pool.set_poll_spin(Duration::ZERO);
            on(runtime, &*pool, async {
                let work = pool.queue("work").expect("a queue");
                let back = pool.worker(["back"]).expect("a queue");
                work.call_as_async::<[u8; 0]>(SEND, &500u64, SOON).await.expect("a reply");
                let receivers = (0..5).map(|_| async {
                    let mut seen = Vec::new();
                    for _ in 0..100 {
                        let event = back.recv_async(SOON).await.expect("an event");
                        seen.push(event.read::<u64>().expect("a number"));
                    }
                    seen
                });
                let mut seen = join_all(receivers).await.concat();
                seen.sort_unstable();
                assert!(seen.into_iter().eq(0..500));

                let soon = Duration::from_millis(if emulated() { 1000 } else { 20 });
                assert!(matches!(work.call_async(HOLD, b"", soon).await, Err(Error::Timeout { .. })));
                assert!(matches!(back.recv_async(soon).await, Err(Error::Timeout { .. })));
                for times in 0..4 {
                    join_all((0..20).map(|_| polled(times, work.call_async(HOLD, &[1; 100], SOON)))).await;
                    polled(times, back.recv_async(SOON)).await;
                    work.call_async(LET_GO, b"", SOON).await.expect("a reply");
                }

                let calls = join_all((0..20).map(|_| work.call_async(HOLD, b"", SOON)));
                let death = async {
                    work.call_async(ECHO, b"", SOON).await.expect("a reply");
                    work.send_async(DIE, b"", SOON).await.expect("send");
                };
                let (calls, ()) = join(calls, death).await;
                for call in calls {
                    assert!(matches!(call, Err(Error::PeerDied { maybe_executed: true })), "{call:?}");
                }
            });
            assert!(!worker.wait().expect("reaped").success());
            assert_idle(&pool);
            let receiver = pool.worker(["back"]).expect("a queue");
            let (event, ()) = smol::block_on(async { join(receiver.recv_async(SOON), pool.close_async(SOON)).await });
            assert!(matches!(event, Err(Error::Closed)), "{event:?}");
        }
    }
}
