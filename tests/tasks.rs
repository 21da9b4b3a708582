//! Links and pools in async code, on every runtime: ours, tokio's, smol's.

mod common;
#[path = "tasks/pools.rs"]
mod pools;

use busway::pool::Member;
use busway::{Deadline, Error, Geometry, Link, Readable};
use common::payload::bytes;
use common::{IDLE_MODES, SOON, Setup, attach, emulated, finish, roles, serve, until, watchdog};
use futures::future::{join, join_all};
use pools::{async_pool_worker, pool_worker};
use smol::Async;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

roles!(echo, holds, sends, async_echo, async_pool_worker, pool_worker, async_nested);

const ECHO: u32 = 1;
const HOLD: u32 = 2;
const SEND: u32 = 3;
const LET_GO: u32 = 4;
const DIE: u32 = 5;

/// Who drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runtime {
    /// The thread of the library.
    Thread,
    Tokio,
    TokioThreads,
    Smol,
}

const RUNTIMES: [Runtime; 4] = [Runtime::Thread, Runtime::Tokio, Runtime::TokioThreads, Runtime::Smol];

/// Those that a test goes through: an emulator has time for two.
fn runtimes() -> &'static [Runtime] {
    if emulated() { &RUNTIMES[..2] } else { &RUNTIMES }
}

/// A descriptor in smol's reactor.
struct Watched(Async<OwnedFd>);

impl Watched {
    fn new(fd: BorrowedFd<'_>) -> Self {
        Self(Async::new_nonblocking(fd.try_clone_to_owned().expect("a descriptor")).expect("a reactor"))
    }
}

impl Readable for Watched {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_readable(cx)
    }
}

/// What a runtime can drive.
trait Bus {
    fn on_tokio(&self);
    fn on_smol(&self) -> impl Future<Output = ()> + Send + 'static;
}

impl Bus for Link {
    fn on_tokio(&self) {
        self.drive_on_tokio().expect("the first driver");
    }

    fn on_smol(&self) -> impl Future<Output = ()> + Send + 'static {
        self.driver(Watched::new(self.as_fd())).expect("the first driver")
    }
}

impl Bus for Member {
    fn on_tokio(&self) {
        self.drive_on_tokio().expect("the first driver");
    }

    fn on_smol(&self) -> impl Future<Output = ()> + Send + 'static {
        self.driver(Watched::new(self.descriptor().expect("a descriptor"))).expect("the first driver")
    }
}

/// Runs a future while `bus` is driven.
fn on<R>(runtime: Runtime, bus: &impl Bus, future: impl Future<Output = R>) -> R {
    match runtime {
        Runtime::Thread => smol::block_on(future),
        Runtime::Tokio | Runtime::TokioThreads => {
            let mut builder = match runtime {
                Runtime::Tokio => tokio::runtime::Builder::new_current_thread(),
                _ => tokio::runtime::Builder::new_multi_thread(),
            };
            builder.enable_all().build().expect("a runtime").block_on(async {
                bus.on_tokio();
                future.await
            })
        }
        Runtime::Smol => {
            let executor = smol::Executor::new();
            executor.spawn(bus.on_smol()).detach();
            smol::block_on(executor.run(future))
        }
    }
}

// ---- the other sides

fn echo() {
    let link = attach();
    serve(&link, |request| {
        let bytes = request.to_vec();
        request.reply(&bytes).expect("answer");
    });
}

/// Keeps calls until it is let go.
fn holds() {
    let link = attach();
    let mut held = Vec::new();
    while let Ok(request) = link.recv(Deadline::NEVER) {
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
            _ => {
                let bytes = request.to_vec();
                request.reply(&bytes).expect("answer");
            }
        }
    }
}

/// Sends so many events as it is asked for.
fn sends() {
    let link = attach();
    serve(&link, |request| {
        let count: u64 = request.read().expect("a number");
        request.reply(b"").expect("answer");
        for number in 0..count {
            link.send(SEND, &number.to_le_bytes(), SOON).expect("send");
        }
    });
}

/// Serves many calls at once, by tasks.
fn async_echo() {
    let link = attach();
    let serve = async || {
        while let Ok(request) = link.recv_async(Deadline::NEVER).await {
            let bytes = request.to_vec();
            request.reply(&bytes).expect("answer");
        }
    };
    on(Runtime::Tokio, &link, join_all((0..8).map(|_| serve())));
}

/// Answers each call with what the other side answers to a call nested in it, by tasks that share few slots.
fn async_nested() {
    let link = attach();
    let serve = async || {
        while let Ok(request) = link.recv_async(Deadline::NEVER).await {
            let echoed = request.call_async(ECHO, &request.to_vec(), SOON).await.expect("a nested call").to_vec();
            let mut reply = request.loan_async(echoed.len()).await.expect("a slot");
            reply.copy_from_slice(&echoed);
            request.reply(reply).expect("answer");
        }
    };
    on(Runtime::Tokio, &link, join_all((0..3).map(|_| serve())));
}

// ---- links

/// Nothing of ours is under way.
fn assert_idle(link: &Link) {
    until("nothing is under way", || {
        // Late replies are taken in by whoever sends next.
        link.call(ECHO, b"", SOON).expect("an open link");
        let stats = link.stats();
        (stats.calls_in_use, stats.slots_in_use) == (0, 0)
    });
}

async fn echoed(link: &Link, number: usize, len: usize) {
    let payload = bytes(number as u64, len);
    let reply = link.call_async(ECHO, &payload, SOON).await.expect("a reply");
    assert_eq!(reply.to_vec(), payload);
}

#[test]
fn calls_of_every_size_from_many_tasks() {
    let _watchdog = watchdog();
    for &runtime in runtimes() {
        for idle in IDLE_MODES {
            for role in ["echo", "async_echo"] {
                let plugin = Setup::default().idle(idle).spawn(role);
                on(runtime, &*plugin, async {
                    for len in [0, 1, 32, 33, 40, 41, 64, 65, 1000, 8192, 65536] {
                        echoed(&plugin, len, len).await;
                    }
                    join_all((0..200).map(|n| echoed(&plugin, n, n * 7 % 3000))).await;
                });
                assert_idle(&plugin);
                finish(plugin);
            }
        }
    }
}

#[test]
fn loans_events_and_typed_calls() {
    let _watchdog = watchdog();
    for &runtime in runtimes() {
        let plugin = Setup::default().spawn("echo");
        on(runtime, &*plugin, async {
            assert_eq!(plugin.call_as_async::<u64>(ECHO, &7u64, SOON).await.expect("a reply"), 7);
            for len in [0, 20, 33, 5000] {
                let payload = bytes(1, len);
                let mut loan = plugin.loan_async(len, SOON).await.expect("a loan");
                loan.copy_from_slice(&payload);
                plugin.send_async(ECHO, loan, SOON).await.expect("send");
                let mut loan = plugin.loan_async(len, SOON).await.expect("a loan");
                loan.copy_from_slice(&payload);
                let pending = plugin.submit_async(ECHO, loan, SOON).await.expect("submit");
                assert_eq!(pending.await.expect("a reply").to_vec(), payload);
            }
            let error = plugin.call_async(ECHO, &vec![0; 65537], SOON).await.unwrap_err();
            assert!(matches!(error, Error::TooLarge { len: 65537, max: 65536 }));
            // Sent by a blocking call, waited for by a task.
            assert_eq!(plugin.submit(ECHO, b"x", SOON).expect("submit").await.expect("a reply").to_vec(), b"x");
        });
        assert_idle(&plugin);
        finish(plugin);
    }
}

#[test]
fn more_tasks_than_there_is_room_or_slots_for() {
    let _watchdog = watchdog();
    for &runtime in runtimes() {
        for idle in IDLE_MODES {
            let plugin = Setup::tiny(128, 3).idle(idle).spawn("echo");
            on(runtime, &*plugin, async {
                join_all((0..100).map(|n| echoed(&plugin, n, n))).await;
                let events = (0..100u64).map(|n| {
                    let plugin = &plugin;
                    async move { plugin.send_async(ECHO, &n.to_le_bytes(), SOON).await.expect("send") }
                });
                join_all(events).await;
            });
            assert_idle(&plugin);
            finish(plugin);
        }
    }
}

#[test]
fn deadlines_end_what_waits() {
    let _watchdog = watchdog();
    for &runtime in runtimes() {
        let plugin = Setup::tiny(128, 2).spawn("holds");
        let soon = Duration::from_millis(if emulated() { 1000 } else { 20 });
        on(runtime, &*plugin, async {
            let call = plugin.call_async(HOLD, &[1; 100], soon).await;
            assert!(matches!(call, Err(Error::Timeout { maybe_executed: true })));
            assert!(matches!(plugin.recv_async(soon).await, Err(Error::Timeout { .. })));
            let second = plugin.submit_async(HOLD, &[1; 100], soon).await.expect("the other slot");
            // Both slots are still the plugin's.
            assert!(matches!(plugin.loan_async(100, soon).await, Err(Error::Timeout { .. })));
            assert!(matches!(second.await, Err(Error::Timeout { .. })));
            let earlier = Duration::from_millis(5);
            let both = join(plugin.recv_async(Duration::from_secs(500)), plugin.recv_async(earlier));
            let ended = smol::future::or(async { Some(both.await) }, async {
                smol::Timer::after(soon).await;
                None
            });
            assert!(ended.await.is_none(), "an earlier deadline ends one of the two, not both");
            plugin.call_async(LET_GO, b"", SOON).await.expect("a reply");
            plugin.loan_async(100, SOON).await.expect("a slot that came back");
        });
        assert_idle(&plugin);
        finish(plugin);
    }
}

/// Polls a future so many times, then drops it. Returns whether it was ready.
async fn polled(times: usize, future: impl Future) -> bool {
    let mut future = pin!(future);
    let mut left = times;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    })
    .await
}

#[test]
fn futures_that_are_dropped_leave_nothing_behind() {
    let _watchdog = watchdog();
    for &runtime in runtimes() {
        let plugin = Setup::tiny(128, 3).spawn("holds");
        plugin.set_poll_spin(Duration::ZERO);
        on(runtime, &*plugin, async {
            for round in 0..50 {
                for times in 0..4 {
                    let payload = bytes(round, [20, 100][round as usize % 2]);
                    let calls = (0..10).map(|n| {
                        let (plugin, payload) = (&plugin, &payload);
                        async move {
                            let method = if n % 2 == 0 { HOLD } else { ECHO };
                            polled(times, plugin.call_async(method, payload, SOON)).await
                        }
                    });
                    join_all(calls).await;
                    polled(times, plugin.recv_async(SOON)).await;
                    polled(times, plugin.loan_async(100, SOON)).await;
                    plugin.call_async(LET_GO, b"", SOON).await.expect("a reply");
                }
            }
        });
        assert_idle(&plugin);
        finish(plugin);
    }
}

#[test]
fn every_event_comes_to_one_of_the_tasks_that_wait() {
    let _watchdog = watchdog();
    const EVENTS: u64 = 3000;
    for &runtime in runtimes() {
        for idle in IDLE_MODES {
            let plugin = Setup::default().idle(idle).spawn("sends");
            let mut seen = on(runtime, &*plugin, async {
                plugin.call_as_async::<[u8; 0]>(SEND, &EVENTS, SOON).await.expect("a reply");
                let left = std::cell::Cell::new(EVENTS);
                let receivers = (0..10).map(|n| {
                    let (plugin, left) = (&plugin, &left);
                    async move {
                        let mut seen = Vec::new();
                        while left.get() > 0 {
                            left.set(left.get() - 1);
                            // Some stand aside now and then.
                            if n % 3 == 0 && seen.len() % 7 == 3 {
                                polled(1, poll_fn(|_| Poll::<()>::Pending)).await;
                            }
                            let event = plugin.recv_async(SOON).await.expect("an event");
                            seen.push(event.read::<u64>().expect("a number"));
                        }
                        seen
                    }
                });
                join_all(receivers).await.concat()
            });
            seen.sort_unstable();
            assert!(seen.iter().copied().eq(0..EVENTS), "{runtime:?} {idle}");
            finish(plugin);
        }
    }
}

#[test]
fn a_receiver_that_is_dropped_hands_on() {
    let _watchdog = watchdog();
    for &runtime in runtimes() {
        let plugin = Setup::default().spawn("sends");
        on(runtime, &*plugin, async {
            for _ in 0..200 {
                // Woken or not, the first is gone, and the event is the second's.
                let mut first = Box::pin(plugin.recv_async(SOON));
                let mut second = Box::pin(plugin.recv_async(SOON));
                assert!(futures::poll!(first.as_mut()).is_pending());
                assert!(futures::poll!(second.as_mut()).is_pending());
                plugin.submit_async(SEND, &1u64.to_le_bytes(), SOON).await.expect("submit").await.expect("a reply");
                drop(first);
                second.await.expect("the event");
            }
        });
        finish(plugin);
    }
}

#[test]
fn batches() {
    let _watchdog = watchdog();
    for &runtime in runtimes() {
        let plugin = Setup::default().spawn("sends");
        on(runtime, &*plugin, async {
            plugin.call_as_async::<[u8; 0]>(SEND, &1000u64, SOON).await.expect("a reply");
            let mut next = 0;
            while next < 1000 {
                for event in plugin.recv_batch_async(64, SOON).await.expect("events") {
                    assert_eq!(event.read::<u64>().expect("a number"), next);
                    next += 1;
                }
            }
        });
        finish(plugin);
    }
}

#[test]
fn batches_are_sent_by_tasks() {
    let _watchdog = watchdog();
    for &runtime in runtimes() {
        for idle in IDLE_MODES {
            let plugin = Setup::tiny(128, 3).idle(idle).spawn("echo");
            on(runtime, &*plugin, async {
                let mut batch = plugin.batch();
                for n in 0..100 {
                    let payload = bytes(n, [0, 20, 40, 100][n as usize % 4]);
                    batch.send_async(ECHO, &payload, SOON).await.expect("send");
                    let pending = batch.submit_async(ECHO, &payload, SOON).await.expect("submit");
                    batch.flush();
                    assert_eq!(pending.await.expect("a reply").to_vec(), payload);
                }
            });
            assert_idle(&plugin);
            finish(plugin);
        }
    }
}

#[test]
fn nested_calls_and_replies_in_slots() {
    let _watchdog = watchdog();
    for &runtime in runtimes() {
        let plugin = Setup::tiny(128, 12).spawn("async_nested");
        on(runtime, &*plugin, async {
            let serve = async {
                loop {
                    let request = plugin.recv_async(SOON).await.expect("a nested call");
                    let bytes = request.to_vec();
                    request.reply(&bytes).expect("answer");
                }
            };
            // Few enough to leave slots for what is nested in them.
            let calls = async {
                for n in 0..20 {
                    join_all((0..5).map(|m| echoed(&plugin, n, 50 + n + m))).await;
                }
            };
            smol::future::or(serve, calls).await;
        });
        finish(plugin);
    }
}

#[test]
fn the_death_of_the_other_side_ends_every_task() {
    let _watchdog = watchdog();
    for &runtime in runtimes() {
        for idle in IDLE_MODES {
            let plugin = Setup::default().idle(idle).spawn("holds");
            on(runtime, &*plugin, async {
                let calls = join_all((0..20).map(|_| plugin.call_async(HOLD, b"", SOON)));
                let events = join_all((0..3).map(|_| plugin.recv_async(SOON)));
                let death = async {
                    plugin.call_async(ECHO, b"", SOON).await.expect("a reply");
                    plugin.send_async(DIE, b"", SOON).await.expect("send");
                };
                let ((calls, events), ()) = join(join(calls, events), death).await;
                for call in calls {
                    assert!(matches!(call, Err(Error::PeerDied { maybe_executed: true })), "{call:?}");
                }
                for event in events {
                    assert!(matches!(event, Err(Error::PeerDied { .. })), "{event:?}");
                }
                assert!(plugin.call_async(ECHO, b"", SOON).await.is_err());
            });
            let _ = plugin.kill();
        }
    }
}

#[test]
fn closing_ends_every_task() {
    let _watchdog = watchdog();
    for &runtime in runtimes() {
        let plugin = Setup::default().spawn("holds");
        on(runtime, &*plugin, async {
            let held = plugin.submit_async(HOLD, b"held", SOON).await.expect("submit");
            let receiver = plugin.recv_async(SOON);
            let close = async {
                plugin.submit_async(ECHO, b"", SOON).await.expect("submit").await.expect("a reply");
                plugin.close_async(Duration::from_millis(50)).await;
            };
            let (event, ()) = join(receiver, close).await;
            assert!(matches!(event, Err(Error::Closed)), "{event:?}");
            // The plugin may have dropped it just in time.
            let held = held.await;
            assert!(matches!(held, Err(Error::Cancelled | Error::Rejected { .. })), "{held:?}");
        });
        let plugin = Setup::default().spawn("echo");
        on(runtime, &*plugin, async {
            let called = plugin.submit_async(ECHO, b"in time", SOON).await.expect("submit");
            let (reply, ()) = join(called.into_future(), plugin.close_async(SOON)).await;
            assert_eq!(reply.expect("a reply").to_vec(), b"in time");
        });
    }
}

#[test]
fn one_driver_at_a_time_and_always_one() {
    let _watchdog = watchdog();
    let plugin = Setup::default().spawn("echo");
    for runtime in [Runtime::Tokio, Runtime::Smol, Runtime::Tokio] {
        // Gone with its runtime.
        on(runtime, &*plugin, async {
            echoed(&plugin, 1, 100).await;
            assert!(matches!(plugin.drive_on_tokio(), Err(Error::Unsupported { .. })), "{runtime:?}");
        });
    }
    // Nothing comes, so somebody has to end it.
    let nothing = smol::block_on(plugin.recv_async(Duration::from_millis(5))).map(drop);
    assert!(matches!(nothing, Err(Error::Timeout { .. })));
    assert!(matches!(plugin.driver(Watched::new(plugin.as_fd())), Err(Error::Unsupported { .. })), "the thread's");
    finish(plugin);
}

#[test]
fn drivers_go_with_their_links() {
    let _watchdog = watchdog();
    let open = || std::fs::read_dir("/proc/self/fd").expect("our descriptors").count();
    for &runtime in runtimes() {
        let round = || {
            let plugin = Setup::default().spawn("echo");
            // Asleep by now.
            let nothing = async |plugin: &Link| drop(plugin.recv_async(Duration::from_millis(2)).await.map(drop));
            match runtime {
                Runtime::Tokio => {
                    // The runtime outlives the link.
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                    runtime.block_on(async {
                        plugin.on_tokio();
                        nothing(&plugin).await;
                        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
                        assert_eq!(tasks, 1);
                        finish(plugin);
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
                        assert_eq!(tasks, 0, "its driver has ended");
                    });
                    return;
                }
                _ => on(runtime, &*plugin, nothing(&plugin)),
            }
            finish(plugin);
        };
        round();
        let before = open();
        (0..10).for_each(|_| round());
        until("nothing is left of the links", || open() <= before);
    }
}

#[test]
fn an_end_without_a_descriptor_is_an_error() {
    let (host, plugin) = Link::pair(&Setup::default().config()).expect("a pair");
    assert!(matches!(smol::block_on(host.call_async(ECHO, b"", SOON)), Err(Error::Unsupported { .. })));
    // What is there needs no driver.
    plugin.send(ECHO, b"there", SOON).expect("send");
    assert_eq!(smol::block_on(host.recv_async(SOON)).expect("an event").to_vec(), b"there");
}

#[test]
fn the_default_geometry_is_enough_for_a_thousand_tasks() {
    let _watchdog = watchdog();
    let setup = Setup { geometry: Geometry::default(), ..Setup::default() };
    for &runtime in runtimes() {
        let plugin = setup.spawn("echo");
        on(runtime, &*plugin, async {
            join_all((0..1000).map(|n| echoed(&plugin, n, n % 100))).await;
        });
        assert_idle(&plugin);
        finish(plugin);
    }
}
