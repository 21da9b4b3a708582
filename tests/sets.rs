//! Many links, one receiver.

#![cfg(not(busway_loom))]

mod common;

use busway::{Config, Deadline, Error, Link, LinkSet, Plugin, Token};
use common::directory::Directory;
use common::{IDLE_MODES, SOON, Setup, argument, attach, roles, serve, until, watchdog};
use std::collections::{BTreeMap, HashMap};
use std::thread;
use std::time::Duration;

roles!(clients, echo);

const ECHO: u32 = 1;
const EVENT: u32 = 2;
const LINKS: u64 = 30;
const ROUNDS: u64 = 20;

/// Opens many links; calls over each of them in turn, then sends events over all, then drops them one by one.
fn clients() {
    let links: Vec<_> =
        (0..LINKS).map(|_| Plugin::connect(argument(), &Config::default()).expect("a host that listens")).collect();
    for round in 0..ROUNDS {
        for (link, number) in links.iter().zip(0u64..) {
            let sum: u64 = link.call_as(ECHO, &[number, round], SOON).expect("a reply");
            assert_eq!(sum, number + round);
        }
    }
    for round in 0..ROUNDS {
        links.iter().for_each(|link| link.send(EVENT, &round.to_le_bytes(), SOON).expect("send"));
    }
    links.iter().for_each(|link| link.close(SOON));
}

fn echo() {
    let link = attach();
    serve(&link, |request| {
        let bytes = request.to_vec();
        request.reply(&bytes).expect("answer");
    });
}

/// Accepts the links of a child that plays `clients`, into a set.
fn accept(idle: &'static str, set: &LinkSet) -> (BTreeMap<Token, Link>, std::process::Child, Directory) {
    let directory = Directory::new();
    let setup = Setup::default().idle(idle);
    let path = directory.socket();
    let listener = setup.host().listen(&path).expect("listen");
    let child = setup.command_with("clients", path.display()).spawn().expect("a child");
    let accept = || {
        let link = listener.accept(SOON).expect("a guest").admit().expect("admitted");
        (set.insert(&link).expect("its first set"), link)
    };
    ((0..LINKS).map(|_| accept()).collect(), child, directory)
}

/// What came over each link.
#[derive(Default)]
struct Seen(HashMap<Token, (u64, u64)>);

impl Seen {
    /// Returns whether a link ended.
    fn take(&mut self, (token, received): busway::Received) -> bool {
        let (calls, events) = self.0.entry(token).or_default();
        match received {
            Ok(request) if request.method() == ECHO => {
                *calls += 1;
                let [number, round] = request.read::<[u64; 2]>().expect("two numbers");
                request.reply_as(&(number + round)).expect("answer");
                false
            }
            Ok(request) => {
                assert_eq!(request.read::<u64>().expect("a number"), *events, "in order");
                *events += 1;
                false
            }
            Err(error) => {
                assert!(matches!(error, Error::Closed), "{error:?}");
                assert_eq!((*calls, *events), (ROUNDS, ROUNDS));
                true
            }
        }
    }
}

#[test]
fn whatever_link_it_comes_over() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let set = LinkSet::new().expect("a set");
        let (mut links, mut child, _directory) = accept(idle, &set);
        let mut seen = Seen::default();
        while !links.is_empty() {
            let received = set.recv(SOON).expect("something");
            let token = received.0;
            if seen.take(received) {
                assert!(!set.remove(token), "a link that has ended is in the set no more");
                drop(links.remove(&token).expect("a link that had not ended"));
            }
        }
        assert!(set.is_empty());
        assert!(child.wait().expect("reaped").success());
    }
}

#[test]
fn in_async_code() {
    let _watchdog = watchdog();
    for driven in [true, false] {
        for idle in IDLE_MODES {
            let set = LinkSet::new().expect("a set");
            let (mut links, mut child, _directory) = accept(idle, &set);
            let mut seen = Seen::default();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                if driven {
                    set.drive_on_tokio().expect("the first driver");
                }
                while !links.is_empty() {
                    let received = set.recv_async(SOON).await.expect("something");
                    let token = received.0;
                    if seen.take(received) {
                        drop(links.remove(&token));
                    }
                }
                let nothing = set.recv_async(Duration::from_millis(5)).await.map(drop);
                assert!(matches!(nothing, Err(Error::Timeout { .. })));
            });
            assert!(child.wait().expect("reaped").success());
        }
    }
}

#[test]
fn several_threads_share_a_set() {
    let _watchdog = watchdog();
    let set = LinkSet::new().expect("a set");
    let (links, mut child, _directory) = accept("adaptive", &set);
    let counts: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut count = 0;
                    while !set.is_empty() {
                        let Ok((_, received)) = set.recv(Duration::from_millis(100)) else { continue };
                        if let Ok(request) = received {
                            count += 1;
                            if request.method() == ECHO {
                                let [number, round] = request.read::<[u64; 2]>().expect("two numbers");
                                request.reply_as(&(number + round)).expect("answer");
                            }
                        }
                    }
                    count
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread")).collect()
    });
    assert_eq!(counts.iter().sum::<u64>(), 2 * LINKS * ROUNDS);
    drop(links);
    assert!(child.wait().expect("reaped").success());
}

#[test]
fn a_set_drives_the_tasks_of_its_links() {
    let _watchdog = watchdog();
    let set = LinkSet::new().expect("a set");
    let plugins = [(); 3].map(|()| Setup::default().spawn("echo"));
    let tokens = plugins.each_ref().map(|plugin| set.insert(plugin).expect("its first set"));
    assert!(matches!(set.insert(&plugins[0]), Err(Error::Unsupported { .. })), "twice");
    assert!(matches!(plugins[0].drive_on_tokio(), Err(Error::Unsupported { .. })));
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            while !set.is_empty() {
                let (token, received) = set.recv(SOON).expect("the end of each link");
                assert!(tokens.contains(&token) && received.is_err());
            }
        });
        smol::block_on(async {
            for plugin in &plugins {
                plugin.set_poll_spin(Duration::ZERO);
                for number in 0..100u64 {
                    let answer: u64 = plugin.call_as_async(ECHO, &number, SOON).await.expect("a reply");
                    assert_eq!(answer, number);
                    // While it waits longer than any spin.
                    if number % 25 == 0 {
                        let nothing = plugin.recv_async(Duration::from_millis(2)).await.map(drop);
                        assert!(matches!(nothing, Err(Error::Timeout { .. })));
                    }
                }
            }
            // Taken out, a link finds another driver.
            assert!(set.remove(tokens[2]) && !set.remove(tokens[2]));
            plugins[2].call_as_async::<u64>(ECHO, &1u64, SOON).await.expect("a reply");
            let nothing = plugins[2].recv_async(Duration::from_millis(2)).await.map(drop);
            assert!(matches!(nothing, Err(Error::Timeout { .. })));
        });
        for plugin in plugins {
            plugin.shut_down(SOON).expect("reaped");
        }
        receiver.join().expect("the receiver");
    });
}

#[test]
fn a_dead_peer_is_told_of() {
    let _watchdog = watchdog();
    let set = LinkSet::new().expect("a set");
    let plugin = Setup::default().idle("spin").spawn("echo");
    let other = Setup::default().spawn("echo");
    let token = set.insert(&plugin).expect("its first set");
    set.insert(&other).expect("its first set");
    assert!(matches!(set.recv(Duration::from_millis(2)), Err(Error::Timeout { .. })));
    thread::scope(|scope| {
        // A task that waits for the link hears of it too.
        let link: &Link = &plugin;
        let task = scope.spawn(|| smol::block_on(link.recv_async(SOON)).map(drop));
        until("the task waits", || set.recv(Duration::from_millis(20)).is_err());
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(plugin.id() as i32).expect("a pid"),
            rustix::process::Signal::KILL,
        )
        .expect("killed");
        let (dead, how) = set.recv(Deadline::NEVER).expect("how it ended");
        assert!(dead == token && matches!(how, Err(Error::PeerDied { .. })));
        let told = task.join().expect("a task");
        assert!(matches!(told, Err(Error::PeerDied { .. })), "{told:?}");
    });
    until("the other one is in the set", || set.len() == 1);
    other.shut_down(SOON).expect("reaped");
    assert!(matches!(set.recv(SOON), Ok((_, Err(Error::Closed)))));
}
