//! A process with links that forks: the child can do nothing with them, and nothing to them.
//!
//! The forking is done by a child program; nothing forks inside the test harness.

mod common;

use busway::{Deadline, Error, Link, Result};
use common::directory::Directory;
use common::fork::{in_fork, wipes_on_fork};
use common::payload::bytes;
use common::pipe::{Reports, say};
use common::{IDLE_MODES, SOON, Setup, argument, attach, finish, procfs, roles, serve, skip, watchdog};
use std::process::Child;

roles!(host_forks, plugin_forks, echo, wipes, host_forks_in_parts, fork_connects);

const ECHO: u32 = 1;
const FORK: u32 = 2;

/// A forked child's copy of a value of its parent.
///
/// # Safety
/// Once for each value, and only where the original is neither used nor dropped afterwards.
unsafe fn taken<T>(value: &T) -> T {
    // SAFETY: by this function's contract.
    unsafe { std::ptr::read(value) }
}

fn wipes() {
    say(wipes_on_fork());
}

/// Whether the tests can run here.
fn can_notice_forks() -> bool {
    let mut command = Setup::default().command("wipes");
    let mut reports = Reports::of(&mut command);
    let mut probe = command.spawn().expect("spawn a probe");
    let can = reports.expect() == "true";
    assert!(probe.wait().expect("wait for the probe").success());
    if !can {
        skip("no MADV_WIPEONFORK here");
    }
    can
}

fn echo() {
    serve(&attach(), |request| {
        if request.bytes() == b"from the fork"[..] {
            std::process::exit(1);
        }
        let bytes = request.to_vec();
        request.reply(&bytes).expect("answer");
    });
}

fn is_forked<T: std::fmt::Debug>(what: &str, result: Result<T>) {
    assert!(matches!(result, Err(Error::Forked)), "{what}: {result:?}");
}

/// Everything that one can ask of a link.
fn nothing_works(link: &Link) {
    let large = bytes(1, 500);
    for payload in [&b"small"[..], &large] {
        is_forked("call", link.call(ECHO, payload, SOON));
        is_forked("submit", link.submit(ECHO, payload, SOON));
        is_forked("try_submit", link.try_submit(ECHO, payload, SOON));
        is_forked("send", link.send(ECHO, payload, SOON));
        is_forked("try_send", link.try_send(ECHO, payload));
        is_forked("batch", link.batch().send(ECHO, payload, SOON));
        is_forked("loan", link.loan(payload.len(), SOON));
        is_forked("try_loan", link.try_loan(payload.len()));
    }
    is_forked("recv", link.recv(SOON));
    is_forked("try_recv", link.try_recv());
    is_forked("recv_batch", link.recv_batch(4, SOON));
    is_forked("serve", link.serve(|_| ()));
    link.close(Deadline::NEVER);
    assert!(!link.is_closed());
    let _ = (link.stats(), link.arm(), link.peer(), link.max_payload(), format!("{link:?}"));
    link.disarm();
}

fn works(link: &Link) {
    for len in [5, 500, 5000] {
        assert_eq!(link.call(ECHO, &bytes(2, len), SOON).expect("call").to_vec(), bytes(2, len));
    }
}

/// A host that forks, with one of everything in its hands.
fn host_forks() {
    let idle = IDLE_MODES.into_iter().find(|mode| *mode == argument()).expect("an idle mode");
    let plugin = Setup::default().idle(idle).spawn("echo");
    let directory = Directory::new();
    let listener = Setup::default().host().listen(directory.socket()).expect("listen");
    works(&plugin);

    let reply = plugin.call(ECHO, &bytes(3, 600), SOON).expect("call");
    let owned = plugin.call(ECHO, &bytes(4, 600), SOON).expect("call").into_owned();
    let mut loan = plugin.loan(700, SOON).expect("loan");
    loan.copy_from_slice(&bytes(5, 700));
    let pending = plugin.submit(ECHO, &bytes(6, 800), SOON).expect("submit");
    let dropped = plugin.submit(ECHO, &bytes(7, 800), SOON).expect("submit");
    let mut batch = plugin.batch();
    batch.send(ECHO, b"gathered", SOON).expect("gather");

    in_fork(|| nothing_works(&plugin));
    in_fork(|| {
        // SAFETY: each value is taken once in this process, which ends without dropping the original.
        let (reply, owned, loan) = unsafe { (taken(&reply), taken(&owned), taken(&loan)) };
        // SAFETY: as above.
        let (pending, dropped, mut batch) = unsafe { (taken(&pending), taken(&dropped), taken(&batch)) };
        assert!(pending.is_ready(), "waiting does not wait");
        is_forked("wait", pending.wait());
        is_forked("gather", batch.send(ECHO, b"from the fork", SOON));
        batch.flush();
        drop((reply, owned, loan, dropped, batch));
    });
    in_fork(|| {
        // SAFETY: as above.
        drop(unsafe { (taken(&plugin), taken(&listener)) });
        assert!(directory.socket().exists(), "the file is the parent's");
    });
    in_fork(|| {
        // SAFETY: as above.
        let plugin = unsafe { taken(&plugin) };
        is_forked("kill", plugin.kill());
        is_forked("shut_down", plugin.shut_down(SOON));
    });

    works(&plugin);
    assert!(directory.socket().exists() && listener.path().exists());
    assert!(reply.bytes() == bytes(3, 600)[..] && owned.bytes() == bytes(4, 600)[..]);
    assert_eq!(plugin.call(ECHO, loan, SOON).expect("call").to_vec(), bytes(5, 700));
    assert_eq!(pending.wait().expect("the reply is the parent's").to_vec(), bytes(6, 800));
    drop((reply, owned, dropped, batch));
    works(&plugin);
    common::until("all is back", || (plugin.stats().calls_in_use, plugin.stats().slots_in_use) == (0, 0));
    finish(plugin);
    say("ok");
}

fn run(role: &str, argument: &str) -> (Child, Reports) {
    let mut command = Setup::default().command_with(role, argument);
    let reports = Reports::of(&mut command);
    (command.spawn().expect("spawn"), reports)
}

#[test]
fn a_forked_child_of_a_host_can_do_nothing_to_its_links() {
    let _watchdog = watchdog();
    if !can_notice_forks() {
        return;
    }
    for idle in IDLE_MODES {
        let (mut host, mut reports) = run("host_forks", idle);
        assert_eq!(reports.next().as_deref(), Some("ok"), "{idle}");
        assert!(host.wait().unwrap().success());
    }
}

/// Forks in the middle of a call, with the request in its hands.
fn plugin_forks() {
    let link = attach();
    let slot = std::cell::RefCell::new(None);
    serve(&link, |request| {
        if request.method() == FORK {
            *slot.borrow_mut() = Some(request.into_owned());
            in_fork(|| {
                nothing_works(&link);
                let request = slot.take().expect("a request");
                is_forked("loan", request.loan(500));
                is_forked("nested call", request.call(ECHO, b"", SOON).map(drop));
                is_forked("reply", request.reply(b"from the fork"));
            });
            in_fork(|| is_forked("long reply", slot.take().expect("a request").reply(&bytes(2, 500))));
            in_fork(|| drop(slot.take()));
            let request = slot.take().expect("a request");
            assert!(request.bytes() == bytes(1, request.len())[..]);
            return request.reply(b"from the plugin").expect("answer");
        }
        let bytes = request.to_vec();
        request.reply(&bytes).expect("answer");
    });
}

#[test]
fn a_forked_child_of_a_plugin_can_do_nothing_to_its_link() {
    let _watchdog = watchdog();
    if !can_notice_forks() {
        return;
    }
    for idle in IDLE_MODES {
        let plugin = Setup::default().idle(idle).spawn("plugin_forks");
        for len in [10, 3000] {
            let reply = plugin.call(FORK, &bytes(1, len), SOON).expect(idle).to_vec();
            assert_eq!(reply, b"from the plugin");
            works(&plugin);
        }
        finish(plugin);
    }
}

/// Memory that a forked child maps where its parent has a region is its own.
fn host_forks_in_parts() {
    let plugin = Setup::default().spawn("echo");
    let regions = procfs::regions();
    assert_eq!(regions.len(), 3);
    in_fork(|| {
        assert_eq!(procfs::regions(), [], "a forked child has no region mapped");
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let mine: Vec<_> = regions
            .iter()
            .map(|(start, end, _)| {
                // SAFETY: nothing is mapped there, and if something were this would fail.
                let map = unsafe { libc::mmap(*start as *mut _, end - start, access, flags, -1, 0) };
                assert_eq!(map.addr(), *start);
                map.cast::<u8>()
            })
            .collect();
        // SAFETY: our own fresh mappings.
        mine.iter().for_each(|map| unsafe { map.write_volatile(7) });
        // SAFETY: the original is the parent's to drop.
        drop(unsafe { taken(&plugin) });
        // SAFETY: as above.
        assert!(mine.iter().all(|map| unsafe { map.read_volatile() } == 7));
    });
    works(&plugin);
    finish(plugin);
    say("ok");
}

#[test]
fn dropping_a_link_in_a_forked_child_unmaps_nothing_of_the_childs() {
    let _watchdog = watchdog();
    if !can_notice_forks() {
        return;
    }
    let (mut host, mut reports) = run("host_forks_in_parts", "");
    assert_eq!(reports.next().as_deref(), Some("ok"));
    assert!(host.wait().unwrap().success());
}

/// Forks workers that each open a link of their own, as a prefork server does.
fn fork_connects() {
    let path = argument();
    let connect = || busway::Plugin::connect(&path, &common::child_config()).expect("connect");
    let parent = connect();
    in_fork(|| {
        is_forked("the parent's link", parent.call(ECHO, b"", SOON));
        let own = connect();
        works(&own);
        is_forked("the parent's link", parent.call(ECHO, b"", SOON));
        in_fork(|| {
            is_forked("the child's link", own.call(ECHO, b"", SOON));
            works(&connect());
        });
        works(&own);
    });
    works(&parent);
    say("ok");
}

#[test]
fn a_forked_child_can_open_links_of_its_own() {
    let _watchdog = watchdog();
    if !can_notice_forks() {
        return;
    }
    let directory = Directory::new();
    let listener = Setup::default().host().listen(directory.socket()).unwrap();
    let (mut workers, mut reports) = run("fork_connects", &directory.socket().display().to_string());
    std::thread::scope(|threads| {
        for _ in 0..3 {
            let link = listener.accept(SOON).unwrap().admit().unwrap();
            threads.spawn(move || {
                let echo = link.serve(|request| {
                    let bytes = request.to_vec();
                    let _ = request.reply(&bytes);
                });
                // A worker that ends without closing its link has died.
                assert!(matches!(echo, Ok(()) | Err(Error::PeerDied { .. })), "{echo:?}");
            });
        }
        assert_eq!(reports.next().as_deref(), Some("ok"));
    });
    assert!(workers.wait().unwrap().success());
}
