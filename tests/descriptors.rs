//! Links in event loops: one descriptor says when to look.

mod common;

use busway::{Deadline, Error, Link, Request};
use common::payload::bytes;
use common::pipe::{Go, Reports, say, wait_for_go};
use common::{IDLE_MODES, SOON, Setup, assert_err, attach, finish, roles, serve, signal, spawn, watchdog};
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::thread;

roles!(sends_on_go, echo, looping, closes_on_go);

const ECHO: u32 = 1;
const SEND: u32 = 2;

/// Sleeps until the descriptor is readable, which it has to become.
fn sleep_on(link: &Link) {
    let limit = Timespec { tv_sec: SOON.as_secs() as i64, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(link, PollFlags::IN)], Some(&limit)).expect("poll");
    assert_eq!(ready, 1, "the descriptor did not become readable in time");
}

/// Whether the descriptor is readable now.
fn is_readable(link: &Link) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(link, PollFlags::IN)], Some(&now)).expect("poll") == 1
}

/// The next request, as an event loop receives it.
fn receive(link: &Link) -> Result<Request<'_>, Error> {
    loop {
        if let Some(request) = link.try_recv()? {
            return Ok(request);
        }
        if link.arm() {
            sleep_on(link);
        }
        link.disarm();
    }
}

/// Waits for a reply, as an event loop does.
fn finish_call(link: &Link, method: u32, payload: &[u8]) -> Vec<u8> {
    let pending = link.submit(method, payload, Deadline::NEVER).expect("submit");
    while !pending.is_ready() {
        let armed = link.arm();
        // The reply may have come before the other side could see that we sleep.
        if armed && !pending.is_ready() {
            sleep_on(link);
        }
        link.disarm();
        if !armed {
            // There is a request, which is not what this waits for.
            thread::yield_now();
        }
    }
    pending.wait().expect("a reply").to_vec()
}

fn echo() {
    let link = attach();
    serve(&link, |request| {
        if request.method() == SEND {
            link.send(ECHO, b"asked for", SOON).expect("send");
        }
        let bytes = request.to_vec();
        request.reply(&bytes).expect("answer");
    });
}

/// Sends an event each time it is told to.
fn sends_on_go() {
    let link = attach();
    for number in 0..10u64 {
        wait_for_go();
        link.send(ECHO, &number.to_le_bytes(), SOON).expect("send");
    }
    serve(&link, |_| ());
}

#[test]
fn a_message_makes_the_descriptor_of_an_armed_link_readable() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let setup = Setup::default().idle(idle);
        let mut command = setup.command("sends_on_go");
        let mut go = Go::of(&mut command);
        let plugin = setup.host().spawn(command).unwrap();
        for number in 0..10u64 {
            assert!(plugin.try_recv().unwrap().is_none());
            assert!(plugin.arm(), "there is nothing to receive");
            assert!(!is_readable(&plugin));
            go.go();
            sleep_on(&plugin);
            plugin.disarm();
            assert_eq!(plugin.try_recv().unwrap().expect("a message").read::<u64>().unwrap(), number);
            assert!(!is_readable(&plugin), "{idle}: the ring was taken in");
        }
        finish(plugin);
    }
}

#[test]
fn a_link_with_something_to_receive_need_not_be_slept_on() {
    let _watchdog = watchdog();
    let plugin = spawn("echo");
    plugin.call(SEND, b"", SOON).unwrap();
    assert!(!plugin.arm(), "a message is there already");
    plugin.disarm();
    assert_eq!(plugin.try_recv().unwrap().expect("a message").to_vec(), b"asked for");
    assert!(plugin.arm());
    assert!(plugin.arm(), "arming twice is arming once");
    plugin.disarm();
    plugin.disarm();
    plugin.call(ECHO, b"", SOON).expect("other threads need not care");
    finish(plugin);
}

#[test]
fn replies_are_waited_for_by_descriptor() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let plugin = Setup::default().idle(idle).spawn("echo");
        for n in 0..50 {
            let payload = bytes(n, [10, 2000][n as usize % 2]);
            assert_eq!(finish_call(&plugin, ECHO, &payload), payload, "{idle}");
        }
        // A message and a reply at once.
        for _ in 0..50 {
            let pending = plugin.submit(SEND, b"", SOON).unwrap();
            assert_eq!(receive(&plugin).unwrap().to_vec(), b"asked for");
            pending.wait().unwrap();
        }
        finish(plugin);
    }
}

/// A plugin that is an event loop.
fn looping() {
    let link = attach();
    loop {
        match receive(&link) {
            Ok(request) if request.method() == SEND => {
                let reply = finish_call(&link, ECHO, &request.to_vec());
                request.reply(&reply).expect("answer");
            }
            Ok(request) => {
                let bytes = request.to_vec();
                request.reply(&bytes).expect("answer");
            }
            Err(Error::Closed) => return say("closed"),
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn a_plugin_can_be_an_event_loop() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let setup = Setup::default().idle(idle);
        let mut command = setup.command("looping");
        let mut reports = Reports::of(&mut command);
        let plugin = setup.host().spawn(command).unwrap();
        for n in 0..100 {
            let payload = bytes(n, [10, 2000][n as usize % 2]);
            assert_eq!(plugin.call(ECHO, &payload, SOON).expect(idle).to_vec(), payload);
        }
        thread::scope(|threads| {
            // The plugin calls back while it serves; that is not a nested call, so it takes a receiver.
            let caller = threads.spawn(|| plugin.call(SEND, b"there and back", SOON).map(|reply| reply.to_vec()));
            let request = plugin.recv(SOON).unwrap();
            let bytes = request.to_vec();
            request.reply(&bytes).unwrap();
            assert_eq!(caller.join().unwrap().unwrap(), b"there and back");
        });
        plugin.close(SOON);
        assert_eq!(reports.expect(), "closed");
        finish(plugin);
    }
}

#[test]
fn one_epoll_watches_many_links() {
    let _watchdog = watchdog();
    let plugins = [0; 4].map(|_| spawn("echo"));
    let loop_fd = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    for (n, plugin) in plugins.iter().enumerate() {
        epoll::add(&loop_fd, plugin.as_fd(), epoll::EventData::new_u64(n as u64), epoll::EventFlags::IN).unwrap();
        assert!(plugin.arm());
    }
    let mut replies = 0;
    let pending = [0, 1, 2, 3].map(|n: u64| plugins[n as usize].submit(ECHO, &n.to_le_bytes(), SOON).unwrap());
    while replies < plugins.len() {
        let mut events = [MaybeUninit::uninit(); 4];
        let limit = Timespec { tv_sec: SOON.as_secs() as i64, tv_nsec: 0 };
        let (ready, _) = epoll::wait(&loop_fd, &mut events, Some(&limit)).unwrap();
        assert!(!ready.is_empty(), "no reply in time");
        for event in ready {
            let n = event.data.u64() as usize;
            plugins[n].disarm();
            // It may have rung for something else, like room in its ring.
            if pending[n].is_ready() || !plugins[n].arm() || pending[n].is_ready() {
                replies += 1;
            }
        }
    }
    for (n, call) in (0u64..).zip(pending) {
        assert_eq!(call.wait().unwrap().read::<u64>().unwrap(), n);
    }
    plugins.into_iter().for_each(finish);
}

#[test]
fn death_makes_the_descriptor_readable() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let plugin = Setup::default().idle(idle).spawn("echo");
        let pending = plugin.submit(ECHO, b"", Deadline::NEVER).unwrap();
        pending.wait().unwrap();
        assert!(plugin.arm());
        signal(plugin.id(), libc::SIGKILL);
        assert_err!(receive(&plugin), Error::PeerDied { .. });
        assert!(!plugin.arm(), "the end is something to look at");
    }
}

/// Closes its link when it is told to.
fn closes_on_go() {
    let link = attach();
    wait_for_go();
    link.close(SOON);
}

#[test]
fn closing_makes_the_descriptor_readable() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let setup = Setup::default().idle(idle);
        let mut command = setup.command("closes_on_go");
        let mut go = Go::of(&mut command);
        let plugin = setup.host().spawn(command).unwrap();
        assert!(plugin.arm());
        go.go();
        sleep_on(&plugin);
        plugin.disarm();
        assert_err!(receive(&plugin), Error::Closed);
        finish(plugin);
    }
}

#[test]
fn an_event_loop_and_blocking_threads_share_a_link_and_no_ring_is_lost() {
    let _watchdog = watchdog();
    for idle in ["adaptive", "park", "poll"] {
        let plugin = Setup::default().idle(idle).spawn("echo");
        thread::scope(|threads| {
            // Without deadlines: a ring that is lost is a hang, and not a reply that is found when the time is up.
            let receiver = threads.spawn(|| {
                (0..200).for_each(|_| assert_eq!(plugin.recv(Deadline::NEVER).expect(idle).to_vec(), b"asked for"));
            });
            let caller = threads.spawn(|| {
                (0..400).for_each(|_| drop(plugin.call(ECHO, b"", Deadline::NEVER).expect(idle)));
            });
            for n in 0..400 {
                finish_call(&plugin, if n % 2 == 0 { SEND } else { ECHO }, b"");
            }
            caller.join().unwrap();
            receiver.join().unwrap();
        });
        finish(plugin);
    }
}

#[test]
fn a_sleeping_thread_and_a_sleeping_event_loop_leave_each_other_their_rings() {
    let _watchdog = watchdog();
    for idle in ["adaptive", "park", "poll"] {
        let plugin = Setup::default().idle(idle).spawn("echo");
        // Each in turn is the only one for whom anything happens; a ring that the other one takes in is the last for a while.
        thread::scope(|threads| {
            let receiver = threads.spawn(|| plugin.recv(Deadline::NEVER).map(|request| request.to_vec()));
            (0..300).for_each(|_| drop(finish_call(&plugin, ECHO, b"")));
            plugin.call(SEND, b"", Deadline::NEVER).unwrap();
            assert_eq!(receiver.join().unwrap().unwrap(), b"asked for");
        });
        thread::scope(|threads| {
            let looping = threads.spawn(|| receive(&plugin).map(|request| request.to_vec()));
            (0..300).for_each(|_| drop(plugin.call(ECHO, b"", Deadline::NEVER).unwrap()));
            plugin.call(SEND, b"", Deadline::NEVER).unwrap();
            assert_eq!(looping.join().unwrap().unwrap(), b"asked for");
        });
        finish(plugin);
    }
}

#[test]
fn the_descriptor_is_closed_on_exec_and_stays_the_same() {
    let _watchdog = watchdog();
    let plugin = spawn("echo");
    let fd = plugin.as_fd();
    assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    plugin.call(ECHO, b"", SOON).unwrap();
    use std::os::fd::AsRawFd;
    assert_eq!(fd.as_raw_fd(), plugin.as_fd().as_raw_fd());
    finish(plugin);
}
