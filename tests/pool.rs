//! Pools: calls and events through queues, between threads of one process and between real ones.

mod common;

use busway::pool::{Member, MemberProcess, Pool, PoolConfig, Worker};
use busway::{Deadline, Error, Idle, JoinError, Payload, Request, SizeClass, reject};
use common::payload::bytes;
use common::pipe::{Reports, say};
use common::{SOON, Setup, argument, assert_err, roles, signal, until, watchdog};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::process::Command;
use std::thread;
use std::time::Duration;

roles!(echoes, echoes_two_queues, takes_two, link_plugin, calls_forever, host_of_pool, host_forks);

const ECHO: u32 = 1;
const REVERSE: u32 = 2;

fn config() -> PoolConfig {
    let classes = [(64, 32), (1024, 16), (64 << 10, 4)];
    PoolConfig::new(["work"]).classes(classes.map(|(size, count)| SizeClass { size, count }).into()).members(8)
}

fn echo(request: Request<'_>) {
    let payload = request.to_vec();
    match request.method() {
        ECHO => request.reply(&payload).expect("reply"),
        REVERSE => {
            let mut loan = request.loan(payload.len()).expect("a loan");
            loan.iter_mut().zip(payload.iter().rev()).for_each(|(to, from)| *to = *from);
            request.reply(loan).expect("reply");
        }
        3 => request.reject(7).expect("reject"),
        4 => request.no_such_method().expect("refuse"),
        5 => drop(request),
        6 => panic!("as asked"),
        _ => {}
    }
}

/// Runs `body` beside a thread that serves the queue of the other member.
fn served(config: &PoolConfig, body: impl FnOnce(&Member)) {
    let [host, other] = <[Member; 2]>::try_from(Member::group(config, 2).expect("a pool")).expect("two members");
    let queue = other.queue("work").expect("a queue");
    thread::scope(|threads| {
        let worker = queue.worker();
        let serving = threads.spawn(move || {
            loop {
                let request = worker.recv(Deadline::NEVER).expect("a request");
                if request.method() == 0 {
                    break;
                }
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| echo(request)));
            }
        });
        body(&host);
        host.queue("work").unwrap().send(0, b"", Deadline::NEVER).expect("room");
        serving.join().expect("served");
    });
    assert_eq!(host.slots_in_use(), 0, "a slot is lost");
}

#[test]
fn replies_are_what_was_sent() {
    let _watchdog = watchdog();
    for idle in [Idle::default(), Idle::Park, Idle::Spin] {
        served(&config().idle(idle), |host| {
            let queue = host.queue("work").unwrap();
            for len in [0, 1, 8, 31, 32, 33, 40, 41, 64, 65, 1000, 1024, 1025, 65_535, 65_536] {
                let payload = bytes(len as u64, len);
                for method in [ECHO, REVERSE] {
                    let mut want = payload.clone();
                    if method == REVERSE {
                        want.reverse();
                    }
                    let reply = queue.call(method, &payload, SOON).expect("a reply");
                    assert_eq!(reply.to_vec(), want, "{len} bytes");
                    assert_eq!(reply.as_slice(), Some(&want[..]));
                    let mut loan = host.loan(len, SOON).expect("a loan");
                    loan.copy_from_slice(&payload);
                    assert_eq!(queue.call(method, loan, SOON).expect("a reply").to_vec(), want, "{len} bytes loaned");
                }
            }
            assert_err!(queue.call(ECHO, &vec![0; 65_537], SOON), Error::TooLarge { len: 65_537, max: 65_536 });
            assert_eq!(queue.call_as::<[u32; 3]>(ECHO, &[1u32, 2, 3], SOON).unwrap(), [1, 2, 3]);
        });
    }
}

#[test]
fn every_way_not_to_reply_has_its_error() {
    let _watchdog = watchdog();
    served(&config(), |host| {
        let queue = host.queue("work").unwrap();
        for payload in [&b""[..], &[1; 50], &[1; 2000]] {
            assert_err!(queue.call(3, payload, SOON), Error::Rejected { code: 7, maybe_executed: true });
            assert_err!(queue.call(4, payload, SOON), Error::NoSuchMethod { method: 4 });
            assert_err!(queue.call(5, payload, SOON), Error::Rejected { code: reject::UNANSWERED, .. });
            assert_err!(queue.call(6, payload, SOON), Error::HandlerPanicked);
        }
    });
}

#[test]
fn a_reply_that_fits_no_slot_is_told_to_both() {
    let _watchdog = watchdog();
    let small = config().classes(vec![SizeClass { size: 64, count: 8 }, SizeClass { size: 128, count: 1 }]);
    let members = Member::group(&small, 2).unwrap();
    let queue = members[0].queue("work").unwrap();
    let taken = members[1].try_loan(128).expect("the only one");
    thread::scope(|threads| {
        let call = threads.spawn(|| queue.call(ECHO, b"x", Deadline::NEVER).map(drop));
        let request = members[1].queue("work").unwrap().worker().recv(SOON).expect("a request");
        assert_err!(request.reply(&[0; 100]), Error::Full);
        assert_err!(call.join().unwrap(), Error::Rejected { code: reject::NO_SLOT, .. });
    });
    drop(taken);
    assert_eq!(members[0].slots_in_use(), 0);
}

#[test]
fn a_loan_of_another_bus_is_refused() {
    let pools = [0, 1].map(|_| Member::group(&config(), 1).unwrap());
    let (ours, other) = (pools[0][0].queue("work").unwrap(), &pools[1][0]);
    assert_err!(ours.send(1, other.try_loan(100).unwrap(), SOON), Error::Unsupported { .. });
    // A short one is a copy.
    ours.try_send(1, other.try_loan(20).unwrap()).expect("room");
    assert_eq!(other.slots_in_use(), 0);
}

#[test]
fn events_arrive_in_order_and_their_slots_come_back() {
    let members = Member::group(&config(), 2).unwrap();
    let (queue, worker) = (members[0].queue("work").unwrap(), members[1].worker(["work"]).unwrap());
    let payloads: Vec<_> = [0, 10, 32, 33, 500, 1024].map(|len| bytes(3, len)).into();
    for (method, payload) in (0..).zip(&payloads) {
        queue.try_send(method, payload).expect("room");
    }
    assert_eq!(queue.len(), payloads.len());
    let mut batch = worker.recv_batch(payloads.len(), SOON).unwrap();
    for (method, payload) in (0..).zip(&payloads) {
        let event = batch.next().expect("an event");
        assert!(event.is_event());
        assert_eq!((event.method(), &event.to_vec()), (method, payload));
        // An answer to an event does nothing.
        event.reply(payload).expect("nothing to do");
    }
    assert!(batch.next().is_none() && queue.is_empty());
    assert_eq!(members[0].slots_in_use(), 0);
    assert_err!(worker.recv(Duration::from_millis(1)), Error::Timeout { maybe_executed: false });
    assert!(worker.try_recv().unwrap().is_none());
}

#[test]
fn what_is_given_up_is_told_as_it_was() {
    let _watchdog = watchdog();
    let members = Member::group(&config().idle(Idle::Park), 2).unwrap();
    let (queue, worker) = (members[0].queue("work").unwrap(), members[1].worker(["work"]).unwrap());
    let brief = Duration::from_millis(5);
    // Nobody took it: it is not executed.
    assert_err!(queue.call(1, b"", brief), Error::Timeout { maybe_executed: false });
    assert!(worker.try_recv().unwrap().is_none(), "a call that was given up is served");
    // A worker has it.
    let pending = queue.submit(2, &[1; 100], brief).unwrap();
    let request = worker.recv(SOON).unwrap();
    assert_eq!(request.method(), 2);
    assert_err!(pending.wait(), Error::Timeout { maybe_executed: true });
    request.reply(&[2; 200]).expect("discarded");
    // Dropped while queued, while executed, and when answered.
    drop(queue.submit(3, b"", SOON).unwrap());
    let pending = queue.submit(4, b"", SOON).unwrap();
    let request = worker.recv(SOON).unwrap();
    assert_eq!(request.method(), 4);
    assert!(!pending.is_ready());
    drop(pending);
    request.reply(&[3; 50]).expect("discarded");
    let pending = queue.submit(5, b"", SOON).unwrap();
    worker.recv(SOON).unwrap().reply(&[3; 50]).unwrap();
    assert!(pending.is_ready());
    drop(pending);
    assert_eq!(members[0].slots_in_use(), 0);
}

#[test]
fn full_is_an_answer_or_a_wait() {
    let _watchdog = watchdog();
    let small = PoolConfig::new([""; 0]).queue("work", 2).classes(vec![SizeClass { size: 64, count: 3 }]);
    let members = Member::group(&small.idle(Idle::Park), 2).unwrap();
    let (queue, worker) = (members[0].queue("work").unwrap(), members[1].worker(["work"]).unwrap());
    queue.try_send(1, b"").unwrap();
    queue.try_send(2, b"").unwrap();
    assert_err!(queue.try_send(3, b""), Error::Full); // of room
    assert_err!(queue.send(3, b"", Duration::from_millis(5)), Error::Timeout { maybe_executed: false });
    let loan = members[0].try_loan(50).expect("the last slot");
    assert_err!(members[0].try_loan(50), Error::Full); // of slots
    assert_err!(members[0].loan(50, Duration::from_millis(5)), Error::Timeout { maybe_executed: false });
    thread::scope(|threads| {
        let sender = threads.spawn(|| queue.send(3, loan, SOON));
        let loaner = threads.spawn(|| members[0].loan(50, SOON).map(drop));
        until("both wait", || members[0].stats().full >= 6);
        for method in 1..=3 {
            assert_eq!(worker.recv(SOON).unwrap().method(), method);
        }
        sender.join().unwrap().expect("room, in the end");
        loaner.join().unwrap().expect("a slot, in the end");
    });
    assert_eq!(members[0].slots_in_use(), 0);
}

#[test]
fn a_worker_serves_its_queues_in_turn() {
    let _watchdog = watchdog();
    let members = Member::group(&PoolConfig::new(["a", "b", "c"]), 2).unwrap();
    let worker = members[1].worker(["a", "c"]).unwrap();
    assert_err!(members[0].queue("d"), Error::NoSuchQueue);
    assert_err!(members[0].worker(["a", "d"]), Error::NoSuchQueue);
    for name in ["a", "b", "c"] {
        (0..4).for_each(|_| members[0].queue(name).unwrap().try_send(name.as_bytes()[0].into(), b"").unwrap());
    }
    let taken: Vec<_> = worker.recv_batch(100, SOON).unwrap().map(|event| event.method() as u8 as char).collect();
    assert_eq!(taken.len(), 8);
    assert!(taken[..4].contains(&'a') && taken[..4].contains(&'c'), "one waits behind the other: {taken:?}");
    assert!(!taken.contains(&'b'));
    assert_eq!(members[0].queue("b").unwrap().len(), 4);
}

#[test]
fn all_of_a_burst_are_woken_for() {
    let _watchdog = watchdog();
    let members = Member::group(&PoolConfig::new(["a", "b"]).idle(Idle::Park), 3).unwrap();
    let take = |member: &Member, name| member.worker([name]).unwrap().recv(SOON).unwrap().method();
    for _ in 0..200 {
        thread::scope(|threads| {
            // Two threads of one process that wait for different queues, and one more.
            let workers = [(1, "a"), (1, "b"), (2, "a")].map(|(member, name)| {
                (
                    name,
                    threads.spawn({
                        let members = &members;
                        move || take(&members[member], name)
                    }),
                )
            });
            for name in ["b", "a", "a"] {
                members[0].queue(name).unwrap().send(name.as_bytes()[0].into(), b"", SOON).unwrap();
            }
            for (name, worker) in workers {
                assert_eq!(worker.join().unwrap(), u32::from(name.as_bytes()[0]));
            }
        });
    }
    assert_eq!(members[0].slots_in_use(), 0);
}

#[test]
fn geometries_out_of_bounds_are_errors() {
    let geometry = |config: PoolConfig| assert_err!(Pool::create(&config), Error::Join(JoinError::Geometry { .. }));
    geometry(PoolConfig::new([""; 0]));
    geometry(PoolConfig::new([""]));
    geometry(PoolConfig::new(["a", "a"]));
    geometry(PoolConfig::new(["a"]).members(0));
    geometry(PoolConfig::new(["a"]).members(448));
    geometry(PoolConfig::new([""; 0]).queue("a", 0));
    geometry(PoolConfig::new(["a"]).classes(vec![]));
    geometry(PoolConfig::new(["a"]).classes(vec![SizeClass { size: 64, count: 65_536 }]));
    geometry(PoolConfig::new((0..33).map(|i| i.to_string())));
}

// ---- processes

fn spawn(pool: &Pool, role: &str) -> MemberProcess {
    pool.spawn(Setup::default().command(role)).expect("spawn a member")
}

fn echoes() {
    let member = Member::attach().expect("attach");
    member.worker(["work"]).unwrap().serve(echo).expect("until closed");
}

fn echoes_two_queues() {
    let member = Member::attach().expect("attach");
    member.worker(["a", "b"]).unwrap().serve(echo).expect("until closed");
}

/// Takes two calls and answers neither.
fn takes_two() {
    let member = Member::attach().expect("attach");
    let worker = member.worker(["work"]).unwrap();
    let _held = [(); 2].map(|()| worker.recv(Deadline::NEVER).expect("a request"));
    say("taken");
    thread::sleep(SOON);
}

#[test]
fn workers_share_what_callers_ask() {
    let _watchdog = watchdog();
    let pool = Pool::create(&config()).unwrap();
    let workers: Vec<_> = (0..3).map(|_| spawn(&pool, "echoes")).collect();
    assert_eq!((pool.members(), pool.place()), (3, 1));
    thread::scope(|threads| {
        for thread in 0..4 {
            let queue = pool.queue("work").unwrap();
            threads.spawn(move || {
                for i in 0..500 {
                    let payload = bytes(thread * 1000 + i, (i * 7 % 1100) as usize);
                    assert_eq!(queue.call(ECHO, &payload, SOON).expect("a reply").to_vec(), payload);
                }
            });
        }
    });
    assert_eq!(pool.slots_in_use(), 0);
    pool.close(SOON);
    for worker in workers {
        assert!(worker.wait().unwrap().success(), "a worker failed");
    }
    assert_err!(pool.queue("work").unwrap().call(ECHO, b"", SOON), Error::Closed);
}

#[test]
fn a_killed_worker_ends_what_it_had_taken_and_no_more() {
    let _watchdog = watchdog();
    let pool = Pool::create(&config()).unwrap();
    let queue = pool.queue("work").unwrap();
    let mut command = Setup::default().command("takes_two");
    let mut reports = Reports::of(&mut command);
    let doomed = pool.spawn(command).unwrap();
    let place = doomed.place();
    let pending: Vec<_> = (0..4).map(|n| queue.submit(ECHO, &[n; 50], Deadline::NEVER).unwrap()).collect();
    assert_eq!(reports.expect(), "taken");
    doomed.kill().unwrap();
    assert!(pool.wait_members(0, SOON));
    let heir = spawn(&pool, "echoes");
    assert_eq!(heir.place(), place, "the place is given away again");
    let mut results: Vec<_> = pending.into_iter().map(|pending| pending.wait().map(|reply| reply.to_vec())).collect();
    results.drain(..2).for_each(|result| assert_err!(result, Error::PeerDied { maybe_executed: true }));
    for (n, result) in (2..).zip(results) {
        assert_eq!(result.expect("a reply"), [n; 50]);
    }
    assert_eq!(pool.slots_in_use(), 0);
}

/// Calls for ever, holding loans.
fn calls_forever() {
    let member = Member::attach().expect("attach");
    let queue = member.queue("work").unwrap();
    let _loans = [40, 100, 2000].map(|len| member.loan(len, SOON).unwrap());
    loop {
        let _ = queue.call(ECHO, &bytes(1, 100), SOON);
    }
}

#[test]
fn what_a_killed_caller_had_comes_back() {
    let _watchdog = watchdog();
    let pool = Pool::create(&config()).unwrap();
    let _worker = spawn(&pool, "echoes");
    for _ in 0..20 {
        let caller = spawn(&pool, "calls_forever");
        let before = pool.slots_in_use();
        until("it holds loans", || pool.slots_in_use() >= before.max(3));
        caller.kill().unwrap();
        assert!(pool.wait_members(1, SOON));
        until("the worker is done", || pool.slots_in_use() == 0);
    }
}

/// The host of a pool, which its argument's path leads to.
fn host_of_pool() {
    let pool = Pool::create(&config()).unwrap();
    let listener = pool.listen(argument()).unwrap();
    loop {
        listener.accept(SOON).unwrap().admit().unwrap();
    }
}

#[test]
fn everybody_is_told_when_the_host_dies() {
    let _watchdog = watchdog();
    let directory = common::directory::Directory::new();
    let path = directory.path().join("pool");
    let mut host = Setup::default().command_with("host_of_pool", path.display()).spawn().unwrap();
    until("it listens", || path.exists());
    let connect = || Member::connect(&path, Idle::default());
    let member = loop {
        // The file is there before anybody listens.
        if let Ok(member) = connect() {
            break member;
        }
    };
    let other = connect().unwrap();
    assert_eq!((member.place(), other.place()), (2, 3));
    thread::scope(|threads| {
        let queue = member.queue("work").unwrap();
        let untaken = threads.spawn(move || queue.call(1, b"", Deadline::NEVER).map(drop));
        until("one is sent", || member.stats().sent == 1);
        let worker: Worker<'_> = other.worker(["work"]).unwrap();
        let request = worker.recv(SOON).unwrap();
        let taken = queue.submit(2, b"", Deadline::NEVER).unwrap();
        let held = worker.recv(SOON).unwrap();
        let waits = threads.spawn(move || worker.recv(Deadline::NEVER).map(drop));
        let pending = queue.submit(3, &[0; 64], Deadline::NEVER);
        // The receiver has it, or the queue.
        drop(waits.join().unwrap());
        signal(host.id(), libc::SIGKILL);
        host.wait().unwrap();
        assert_err!(untaken.join().unwrap(), Error::PeerDied { maybe_executed: true });
        assert_err!(taken.wait(), Error::PeerDied { maybe_executed: true });
        drop(pending);
        until("all know", || member.is_closed() && other.is_closed());
        assert_err!(queue.call(1, b"", Deadline::NEVER), Error::PeerDied { maybe_executed: false });
        assert_err!(other.worker(["work"]).unwrap().recv(Deadline::NEVER), Error::PeerDied { maybe_executed: false });
        request.reply(b"").expect("to nobody");
        drop(held);
    });
}

/// A fork drops its copy of the pool, and another has all its descriptors.
fn host_forks() {
    if !common::fork::wipes_on_fork() {
        return common::skip("no MADV_WIPEONFORK here");
    }
    let pool = Pool::create(&config()).unwrap();
    let worker = spawn(&pool, "echoes");
    // SAFETY: the fork ends with the copy; the original is used here.
    common::fork::in_fork(|| drop(unsafe { std::ptr::read(&pool) }));
    // SAFETY: the fork makes two system calls and ends.
    let fork = unsafe { libc::fork() };
    if fork == 0 {
        // SAFETY: as above.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::pause();
            libc::_exit(0);
        }
    }
    assert_eq!(pool.queue("work").unwrap().call(ECHO, b"there", SOON).unwrap().to_vec(), b"there");
    worker.kill().unwrap();
    assert!(pool.wait_members(0, SOON));
    let cpu_time = || {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: writes the time.
        unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let before = cpu_time();
    thread::sleep(Duration::from_millis(300));
    assert!(cpu_time() - before < Duration::from_millis(100), "it looks for ever at who is gone");
    assert_eq!(spawn(&pool, "echoes").place(), 2);
    signal(fork as u32, libc::SIGKILL);
}

#[test]
fn a_host_that_forks_goes_on() {
    let _watchdog = watchdog();
    assert!(Setup::default().command("host_forks").status().unwrap().success());
}

fn link_plugin() {
    assert_err!(busway::Plugin::attach(), Error::Unsupported { .. });
}

#[test]
fn a_link_and_a_pool_do_not_mix() {
    let pool = Pool::create(&config()).unwrap();
    assert_err!(pool.spawn(Setup::default().command("link_plugin")), Error::Join(JoinError::Refused { .. }));
    assert_eq!(pool.members(), 0);
    assert_err!(
        Setup::default().host().spawn(Setup::default().command("echoes")),
        Error::Join(JoinError::Refused { .. })
    );
    assert_err!(pool.spawn(Command::new("true")), Error::Join(JoinError::ChildExited { .. }));
    let full = Pool::create(&config().members(1)).unwrap();
    assert_err!(full.spawn(Setup::default().command("echoes")), Error::Join(JoinError::Taken { .. }));
}

/// Waits until the descriptor is readable.
fn wait_readable(member: &Member) {
    poll(&mut [PollFd::new(&member.descriptor().unwrap(), PollFlags::IN)], None).expect("poll");
}

fn is_readable(member: &Member) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(&member.descriptor().unwrap(), PollFlags::IN)], Some(&now)).expect("poll") > 0
}

#[test]
fn an_event_loop_serves_and_calls() {
    let _watchdog = watchdog();
    let members = Member::group(&config().queue("other", 8), 2).unwrap();
    let (host, member) = (&members[0], &members[1]);
    let (queue, worker) = (host.queue("work").unwrap(), member.worker(["work"]).unwrap());
    thread::scope(|threads| {
        let serving = threads.spawn(|| {
            let mut served = 0;
            while served < 300 {
                while let Some(request) = worker.try_recv().unwrap() {
                    served += 1;
                    echo(request);
                }
                if served < 300 && member.arm(Some(&worker)).unwrap() {
                    wait_readable(member);
                }
                member.disarm();
            }
        });
        for n in 0..300 {
            let payload = bytes(n, n as usize);
            assert_eq!(queue.call(ECHO, &payload, Deadline::NEVER).expect("a reply").to_vec(), payload);
        }
        serving.join().unwrap();
    });
    // Nothing that is not waited for.
    assert!(host.arm(None).unwrap());
    host.queue("other").unwrap().try_send(1, b"").unwrap();
    assert!(!is_readable(host));
    // Replies.
    let pending = queue.submit(ECHO, b"x", Deadline::NEVER).unwrap();
    host.disarm();
    assert!(host.arm(None).unwrap());
    assert!(!pending.is_ready());
    thread::scope(|threads| {
        threads.spawn(|| echo(worker.recv(SOON).unwrap()));
        wait_readable(host);
    });
    assert!(pending.is_ready());
    host.disarm();
    assert!(!is_readable(host), "what was taken in is there still");
    assert_eq!(pending.wait().unwrap().to_vec(), b"x");
    // Something is there already.
    queue.try_send(1, b"").unwrap();
    assert!(!member.arm(Some(&worker)).unwrap());
    member.disarm();
    drop(worker.try_recv().unwrap().expect("the event"));
    // The end.
    assert!(member.arm(Some(&worker)).unwrap());
    member.leave();
    wait_readable(member);
    member.disarm();
    assert!(!member.arm(Some(&worker)).unwrap());
}

#[test]
fn an_event_loop_hands_on() {
    let _watchdog = watchdog();
    let members = Member::group(&config().idle(Idle::Park), 3).unwrap();
    let queue = members[0].queue("work").unwrap();
    let [woken, other] = [1, 2].map(|place: usize| members[place].worker(["work"]).unwrap());
    for _ in 0..100 {
        thread::scope(|threads| {
            assert!(members[1].arm(Some(&woken)).unwrap());
            queue.try_send(1, b"").unwrap();
            queue.try_send(1, b"").unwrap();
            wait_readable(&members[1]);
            // It sleeps before the other event is left to it, or finds it: then it was woken for it.
            let sleeper = threads.spawn(|| other.recv(SOON).map(drop));
            members[1].disarm();
            drop(woken.try_recv().unwrap().expect("an event"));
            sleeper.join().unwrap().expect("the other event");
        });
    }
}

#[test]
fn payload_kinds() {
    // A loan of a link is none of a pool.
    let (link, _other) = busway::Link::pair(&busway::Config::default()).unwrap();
    let members = Member::group(&config(), 1).unwrap();
    let queue = members[0].queue("work").unwrap();
    assert_err!(queue.try_send(1, Payload::Loan(link.try_loan(100).unwrap())), Error::Unsupported { .. });
    assert_eq!(link.stats().slots_in_use, 0);
}
