//! The host of a pool dies, or stands still, while it recovers a member that was killed.

use super::acts::QUEUES;
use super::scene::{Fate, Played, setup};
use super::walk::Walk;
use crate::common::directory::Directory;
use crate::common::pipe::{Reports, say};
use crate::common::trace::Traced;
use crate::common::{SOON, argument, assert_err, until};
use busway::pool::{Member, Pool, PoolConfig};
use busway::{Error, Idle, SizeClass};
use std::path::Path;
use std::process::Child;
use std::thread::sleep;

/// The host of two.
pub fn recovers() {
    let classes = [(64, 8), (1024, 4)].map(|(size, count)| SizeClass { size, count });
    let config = PoolConfig::new([""; 0]).queue(QUEUES[0], 8).queue(QUEUES[1], 8).classes(classes.into());
    let pool = Pool::create(&config.members(3).patience(SOON).idle(Idle::Park)).expect("a pool");
    let listener = pool.listen(argument()).expect("listen");
    say("listens");
    for _ in 0..2 {
        listener.accept(SOON).and_then(|guest| guest.admit()).expect("a member");
    }
    say("complete");
    sleep(SOON);
}

/// Has something of everything in hand.
pub fn victim() {
    let member = Member::connect(argument(), Idle::Park).expect("connect");
    let [asked, told] = QUEUES.map(|name| member.queue(name).expect("a queue"));
    let _executing = asked.worker().recv(SOON).expect("a call");
    let answered = asked.worker().recv(SOON).expect("a call");
    let mut reply = answered.loan(600).expect("a slot");
    reply.fill(7);
    answered.reply(reply).expect("the caller lives");
    let _taken = told.submit(0, &[1; 60], SOON).expect("room");
    let _queued = told.submit(0, &[2; 60], SOON).expect("room");
    let _loan = member.loan(600, SOON).expect("a slot");
    say("holds");
    sleep(SOON);
}

fn begin(role: &str, path: &Path) -> (Child, Reports) {
    let mut command = setup().command_with(role, path.display());
    let reports = Reports::of(&mut command);
    (command.spawn().expect("spawn"), reports)
}

pub fn play(fate: Fate) -> Played {
    let directory = Directory::new();
    let path = &directory.socket();
    let (mut host, mut of_host) = begin("recovers", path);
    assert_eq!(of_host.expect(), "listens");
    let ours = Member::connect(path, Idle::Park).expect("connect");
    let [asked, told] = QUEUES.map(|name| ours.queue(name).expect("a queue"));
    let executing = asked.submit(0, b"", SOON).expect("room");
    let answered = asked.submit(0, b"", SOON).expect("room");
    let (mut victim, mut of_victim) = begin("victim", path);
    assert_eq!((of_victim.expect().as_str(), of_host.expect().as_str()), ("holds", "complete"));
    let worker = told.worker();
    let taken = worker.recv(SOON).expect("a call");

    let watch = Traced::seize(host.id(), "busway-watch");
    let mut walk = Walk::of_loop(&watch);
    victim.kill().expect("kill");
    victim.wait().expect("reaped");
    walk.to(fate.events(), &mut |_| ());
    let played = Played { instructions: walk.instructions, events: walk.events, ..Played::default() };
    if let Fate::Killed(_) = fate {
        watch.kill();
        assert_err!(executing.wait(), Error::PeerDied { .. });
        match answered.wait() {
            Ok(reply) => assert_eq!(reply.to_vec(), [7; 600]),
            Err(e) => assert!(matches!(e, Error::PeerDied { maybe_executed: true }), "{e}"),
        }
        assert_err!(asked.call(0, b"", SOON), Error::PeerDied { maybe_executed: false });
        let _ = taken.reply(b"");
    } else {
        // Recovery stands still, and nobody else does.
        taken.reply(b"").expect("nobody waits");
        asked.send(9, b"", SOON).expect("room");
        assert_eq!(asked.worker().recv(SOON).expect("sent").method(), 9);
        watch.detach();
        assert_err!(executing.wait(), Error::PeerDied { maybe_executed: true });
        assert_eq!(answered.wait().expect("answered").to_vec(), [7; 600]);
        let queued = worker.recv(SOON).expect("it was sent");
        assert_eq!(queued.to_vec(), [2; 60]);
        drop(queued);
        until("all slots are free", || ours.slots_in_use() == 0);
        host.kill().expect("kill");
    }
    host.wait().expect("reaped");
    until("it is told", || ours.is_closed());
    played
}
