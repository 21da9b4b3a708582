//! A plugin that keeps its host from going on, by every means it has: the host keeps its deadlines, and hardly computes meanwhile.
//!
//! How long anything took is a figure. What is asserted are outcomes, and how often threads woke.

#![cfg(not(busway_loom))]

mod common;

use busway::internals::link::words::{Bells, Body, GIVEN_UP, kind};
use busway::{Deadline, Error, LinkSet, Process, reject};
use common::figures::{duration, figure};
use common::payload::bytes;
use common::peer::{CALLING, EVENT, Region, calling};
use common::pipe::{Go, wait_for_go};
use common::shared;
use common::stalls::{Stalls, thread_time, time_of_threads, use_up};
use common::{
    IDLE_MODES, SOON, Setup, assert_err, attach, emulated, finish, roles, serve, skip, spawn, until, watchdog,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendFlags, SocketType, sockopt};
use rustix::thread::futex;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::Release};
use std::time::{Duration, Instant};

roles!(steals, floods, deaf, echo, forgets, gives_up, storms, hangs_up, calls_on_go);

const CALL: u32 = 1;

/// Sockets of this process of one type: what it rings by, and what it joined over.
fn sockets(of: SocketType) -> Vec<BorrowedFd<'static>> {
    let fds = std::fs::read_dir("/proc/self/fd").expect("our descriptors").flatten();
    let fds = fds.filter_map(|fd| fd.file_name().to_str()?.parse().ok());
    // SAFETY: only looked at, by calls that fail if it is not open or no socket.
    let fds = fds.map(|fd| unsafe { BorrowedFd::borrow_raw(fd) });
    fds.filter(|fd| sockopt::socket_type(fd) == Ok(of)).collect()
}

/// The word of a futex, which is all that the kernel asks of an address.
fn bells(region: &Region) -> Vec<&AtomicU32> {
    let words = region.words_of::<Bells>(kind::BELLS).iter().step_by(16);
    words.chain(region.section::<AtomicU32>(kind::REPLY_BELLS)).collect()
}

/// Moves whoever sleeps on any bell of the host to another word, where nobody rings, before it rings itself.
fn steals() {
    let shared = shared::given();
    let link = attach();
    let region = Region::bells();
    let bells = bells(&region);
    let elsewhere = AtomicU32::new(0);
    let steal = || {
        for bell in &bells {
            // SAFETY: addresses of words that live on; the fourth argument of this call is a number.
            let moved = unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    *bell as *const AtomicU32,
                    libc::FUTEX_CMP_REQUEUE,
                    0,
                    i32::MAX as usize,
                    &raw const elsewhere,
                    bell.load(Relaxed),
                )
            };
            shared[0].fetch_add(moved.max(0) as u32, Relaxed);
        }
    };
    let steal_one = || {
        let (stolen, start) = (shared[0].load(Relaxed), Instant::now());
        // Whoever sleeps by descriptor cannot be stolen.
        while shared[0].load(Relaxed) == stolen && start.elapsed() < Duration::from_millis(20) {
            steal();
        }
    };
    loop {
        steal_one();
        if link.send(CALL, b"", SOON).is_err() {
            return;
        }
        let Ok(request) = link.recv(SOON) else { return };
        steal_one();
        let _ = request.reply(b"");
    }
}

#[test]
fn a_thread_whose_wake_up_is_stolen_wakes_all_the_same() {
    let _watchdog = watchdog();
    if emulated() {
        return skip("an emulator sleeps in its own way");
    }
    for idle in ["adaptive", "park"] {
        let (file, words) = shared::create(1);
        let setup = Setup::default().idle(idle);
        let mut command = setup.command("steals");
        shared::share(&mut command, &file);
        let plugin = setup.host().spawn(command).expect("spawn");
        let mut stalls = Stalls::default();
        for _ in 0..20 {
            // Both ring after they have stolen whoever sleeps, so that nobody is woken by futex.
            stalls.time(Duration::ZERO, || plugin.recv(SOON).map(drop).expect("an event"));
            stalls.time(Duration::ZERO, || plugin.call(CALL, b"", SOON).map(drop).expect("a reply"));
        }
        let stolen = words[0].load(Relaxed);
        assert!(stolen > 0, "{idle}");
        figure("G5", &format!("longest wait, {stolen} wake-ups stolen ({idle})"), stalls);
        finish(plugin);
    }
}

/// How much of the time this took was computed, by this thread and by ours that drives async code.
fn share(body: impl FnOnce()) -> f64 {
    let computed = || thread_time() + time_of_threads("busway-reactor");
    let (start, before) = (Instant::now(), computed());
    body();
    (computed() - before).as_secs_f64() / start.elapsed().as_secs_f64()
}

/// Rings for nothing, by all that there is to ring by, and never stops.
fn floods() {
    let link = attach();
    let (region, bells_region) = (Region::own(), Region::bells());
    let bells = bells(&bells_region);
    let socket = sockets(SocketType::STREAM)[0];
    while !link.is_closed() {
        for turn in 0..100 {
            let _ = rustix::net::send(socket, &[1], SendFlags::DONTWAIT);
            // Told of or not, the socket gets full, or is emptied.
            region.control().rings.0.fetch_add(turn % 2, Relaxed);
            for bell in [bells[0], bells[3]] {
                bell.fetch_add(1, Release);
                let _ = futex::wake(bell, futex::Flags::empty(), 1);
            }
        }
        std::mem::forget(link.try_recv());
    }
}

/// Waits for a request until `deadline`, in vain.
type Wait = fn(&Process, &LinkSet, Duration);

#[test]
fn rings_for_nothing_cost_a_bounded_share() {
    let _watchdog = watchdog();
    if emulated() {
        return skip("an emulator computes for what it emulates");
    }
    let time = duration(Duration::from_secs(5)).min(Duration::from_secs(20)) / 5;
    let waits: [(&str, Wait); 5] = [
        ("a thread that receives", |plugin, _, time| assert_err!(plugin.recv(time), Error::Timeout { .. })),
        ("a thread that calls", |plugin, _, time| assert_err!(plugin.call(CALL, b"", time), Error::Timeout { .. })),
        ("an event loop", |plugin, _, time| {
            let until = Instant::now() + time;
            while Instant::now() < until {
                if plugin.arm() {
                    let limit = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
                    poll(&mut [PollFd::new(&**plugin, PollFlags::IN)], Some(&limit)).expect("poll");
                }
                plugin.disarm();
            }
        }),
        ("a set of links", |plugin, set, time| {
            set.insert(plugin).expect("its first set");
            assert_err!(set.recv(time), Error::Timeout { .. });
        }),
        ("a task", |plugin, _, time| {
            let received = smol::block_on(plugin.recv_async(time));
            assert_err!(received, Error::Timeout { .. });
        }),
    ];
    for (who, wait) in waits {
        let plugin = spawn("floods");
        let set = LinkSet::new().expect("a set");
        let share = share(|| wait(&plugin, &set, time));
        figure("G5", &format!("processor used while flooded with rings, {who}"), format!("{:.1} %", share * 100.0));
        // Unbounded it would be all of it. How much it is says the machine, too.
        assert!(share < 0.6, "{who} computed for {share} of the time");
        plugin.close(Deadline::from_nanos(1));
        finish(plugin);
    }
}

/// Says all the time that it sleeps anew, by descriptor, and never reads what is rung there.
fn deaf() {
    let link = attach();
    let region = Region::own();
    let control = region.control();
    let mut epoch = 0u32;
    while !link.is_closed() {
        epoch = epoch.wrapping_add(1);
        control.fd_armed.0.store(epoch << 2 | 2, Relaxed);
        control.sleepers.0.store(1, Relaxed);
        // Events, which need no answer.
        while let Ok(Some(_)) = link.try_recv() {}
    }
}

#[test]
fn a_doorbell_that_nobody_reads_blocks_nobody_who_rings_it() {
    let _watchdog = watchdog();
    let plugin = spawn("deaf");
    let mut stalls = Stalls::default();
    let allowed = Duration::from_millis(5);
    // A socket holds some 270 rings.
    while plugin.stats().wakes < 600 {
        let _ = stalls.time(allowed, || plugin.send(CALL, b"", allowed));
    }
    figure("G5", "longest send beyond its deadline, doorbell of the other side full", stalls);
    finish(plugin);
}

/// Answers what it is asked.
fn echo() {
    serve(&attach(), |request| {
        let bytes = request.to_vec();
        let _ = request.reply(&bytes);
    });
}

#[test]
fn a_stopped_plugin_costs_its_host_no_more_than_its_deadlines() {
    let _watchdog = watchdog();
    let time = Duration::from_millis(300);
    for idle in IDLE_MODES {
        let plugin = Setup::default().idle(idle).spawn("echo");
        plugin.call(CALL, b"", SOON).expect("it serves");
        common::signal(plugin.id(), libc::SIGSTOP);
        let mut stalls = Stalls::default();
        let share = share(|| stalls = use_up(&plugin, 1, Instant::now() + time));
        common::signal(plugin.id(), libc::SIGCONT);
        figure("G5", &format!("longest stall beyond deadlines, plugin stopped ({idle})"), stalls);
        figure("G5", &format!("processor used meanwhile ({idle})"), format!("{:.0} %", share * 100.0));
        assert_eq!(plugin.call(CALL, &bytes(1, 60), SOON).expect("it goes on").to_vec(), bytes(1, 60));
        finish(plugin);
    }
}

/// Keeps all that it gets, and asks for more than there is.
fn forgets() {
    let link = attach();
    let far = Deadline::after(Duration::from_secs(100_000));
    let calls: Vec<_> = std::iter::from_fn(|| link.try_submit(CALL, &[1; 10], far).ok()).collect();
    while let Ok(request) = link.recv(Deadline::NEVER) {
        std::mem::forget(request);
    }
    std::mem::forget(calls);
}

#[test]
fn a_plugin_that_gives_nothing_back_delays_its_host_by_what_that_allows() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let plugin = Setup::tiny(64, 4).idle(idle).spawn("forgets");
        let mut stalls = Stalls::default();
        let allowed = Duration::from_millis(1);
        for _ in 0..4 {
            plugin.send(CALL, &[7; 64], SOON).expect("a slot that was never lent");
        }
        assert_err!(stalls.time(Duration::ZERO, || plugin.try_loan(64).map(drop)), Error::Full);
        assert_err!(stalls.time(allowed, || plugin.loan(64, allowed).map(drop)), Error::Timeout { .. });
        assert_err!(stalls.time(allowed, || plugin.call(CALL, &[7; 64], allowed).map(drop)), Error::Timeout { .. });
        // Its calls say that they wait for a day, and every slot for a reply is its own to give back.
        let patience = Duration::from_millis(5);
        for _ in 0..3 {
            let request = plugin.recv(SOON).expect("a call");
            assert_err!(stalls.time(patience, || request.reply(&[1; 64])), Error::Timeout { .. });
            let request = plugin.recv(SOON).expect("a call");
            let loaned = stalls.time(patience, || request.loan(64).map(drop));
            assert_err!(loaned, Error::Timeout { .. });
            request.reject(reject::NO_SLOT).expect("answer");
        }
        let sent = stalls.time(allowed, || plugin.call(CALL, b"", allowed).map(drop));
        assert_err!(sent, Error::Timeout { .. });
        figure("G5", &format!("longest stall beyond deadlines, nothing given back ({idle})"), stalls);
        plugin.close(Deadline::from_nanos(1)); // in order it would wait for all that
        finish(plugin);
    }
}

/// Publishes calls without end of which it says that it has given them up, with the deadline that makes the host ask.
fn gives_up() {
    let link = attach();
    let region = Region::own();
    let words = region.section::<AtomicU32>(kind::CALL_WORDS);
    words.iter().for_each(|word| word.store(1 << 2 | GIVEN_UP, Relaxed));
    let deadline = u64::MAX >> 1;
    region.publish_on(&link, 0, |position| (CALLING, Body { deadline, ..calling(position % words.len() as u32, 1) }));
}

#[test]
fn requests_that_are_none_do_not_keep_a_receiver_beyond_its_deadline() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let plugin = Setup::default().idle(idle).spawn("gives_up");
        let mut stalls = Stalls::default();
        let allowed = Duration::from_millis(2);
        for _ in 0..10 {
            assert_err!(stalls.time(allowed, || plugin.recv(allowed).map(drop)), Error::Timeout { .. });
            assert!(stalls.time(Duration::ZERO, || plugin.try_recv()).expect("no end").is_none());
            let batch = stalls.time(allowed, || plugin.recv_batch(usize::MAX, allowed).map(Iterator::count));
            assert!(matches!(batch, Ok(0) | Err(Error::Timeout { .. })), "{batch:?}");
        }
        figure("G5", &format!("longest stall beyond deadlines, calls given up without end ({idle})"), stalls);
        plugin.close(Deadline::from_nanos(1));
        finish(plugin);
    }
}

/// Publishes events without end.
fn storms() {
    let link = attach();
    Region::own().publish_on(&link, 0, |_| (EVENT, Body::default()));
}

#[test]
fn an_event_storm_ends_with_its_link() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let plugin = Setup::default().idle(idle).spawn("storms");
        let mut stalls = Stalls::default();
        let allowed = Duration::from_millis(2);
        for _ in 0..10 {
            until("an event comes", || plugin.try_recv().expect("no end").is_some());
            assert_err!(stalls.time(allowed, || plugin.call(CALL, b"", allowed).map(drop)), Error::Timeout { .. });
            let batch = stalls.time(allowed, || plugin.recv_batch(usize::MAX, allowed).map(Iterator::count));
            assert!(matches!(batch, Ok(1..) | Err(Error::Timeout { .. })), "{batch:?}");
        }
        stalls.time(allowed, || plugin.close(allowed));
        let mut received = stalls.time(Duration::ZERO, || std::iter::from_fn(|| plugin.recv(SOON).ok()).count());
        // It may have found nothing for a moment, before the storm was over.
        loop {
            match plugin.recv_batch(10, SOON).map(Iterator::count) {
                Ok(more) => received += more,
                Err(Error::Closed) => break,
                Err(other) => panic!("{other:?}"),
            }
        }
        assert!(received <= 17 * 256, "{received} events after the end");
        figure("G5", &format!("longest stall beyond deadlines, event storm ({idle})"), stalls);
        finish(plugin);
    }
}

#[test]
fn an_event_storm_does_not_keep_a_caller_that_serves_nested_calls() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let plugin = Setup::default().idle(idle).spawn("storms");
        plugin.set_handler(|_| ()).expect("the first");
        let mut stalls = Stalls::default();
        let allowed = Duration::from_millis(2);
        for _ in 0..50 {
            assert_err!(stalls.time(allowed, || plugin.call(CALL, b"", allowed).map(drop)), Error::Timeout { .. });
        }
        figure("G5", &format!("longest call beyond its deadline, event storm beside nested calls ({idle})"), stalls);
        plugin.close(Deadline::from_nanos(1));
        finish(plugin);
    }
}

/// Hangs up when it is told to, and lives.
fn hangs_up() {
    let link = attach();
    wait_for_go();
    // SAFETY: our own descriptors, which the link does not use while it is asleep; it is never dropped.
    sockets(SocketType::SEQPACKET).iter().for_each(|socket| unsafe { rustix::io::close(socket.as_raw_fd()) });
    std::mem::forget(link);
    wait_for_go();
}

/// Calls when it is told to.
fn calls_on_go() {
    let link = attach();
    wait_for_go();
    link.call(CALL, b"", SOON).expect("served");
    serve(&link, |_| ());
}

#[test]
fn a_plugin_that_hangs_up_and_lives_does_not_keep_its_host_from_other_links() {
    let _watchdog = watchdog();
    let (set, setup) = (LinkSet::new().expect("a set"), Setup::default());
    let held = |role| {
        let mut command = setup.command(role);
        let go = Go::of(&mut command);
        (setup.host().spawn(command).expect("spawn"), go)
    };
    let ((hostile, mut hang_up), (innocent, mut call)) = (held("hangs_up"), held("calls_on_go"));
    let (first, second) = (set.insert(&hostile).expect("inserted"), set.insert(&innocent).expect("inserted"));
    assert_err!(set.recv(Duration::from_millis(50)), Error::Timeout { .. });
    for (link, go) in [(&hostile, &mut hang_up), (&innocent, &mut call)] {
        go.go();
        poll(&mut [PollFd::new(&**link, PollFlags::IN)], None).expect("something has happened");
    }
    // Whether the plugin that has hung up is about to die takes a while to tell.
    let (token, received) = set.recv(SOON).expect("the call");
    assert_eq!(token, second);
    received.expect("a call").reply(b"").expect("answer");
    let (token, received) = set.recv(SOON).expect("the end");
    assert_eq!(token, first);
    assert_err!(received, Error::Closed);
    hang_up.go();
    drop(hostile);
    finish(innocent);
}
