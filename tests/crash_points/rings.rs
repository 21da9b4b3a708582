//! Members of a public ring: killed, or standing still, while they push, pop, recover another, join and leave.

use super::scene::{Fate, Played, setup};
use super::walk::Walk;
use crate::common::pipe::{Reports, say};
use crate::common::trace::{Traced, offer, stop};
use crate::common::{argument, assert_err, until};
use busway::ring::{Mpmc, MpmcMember, Recovered};
use busway::{Error, JoinError};
use std::io::stdin;
use std::os::fd::AsFd;
use std::process::Child;

pub const OPERATIONS: [&str; 6] = ["push", "pop", "full", "recover", "join", "leave"];

const CAPACITY: usize = 8;
const MEMBERS: usize = 4;
/// What the child pushes.
const PUSHED: u64 = 100;
/// What is there to be popped.
const THERE: [u64; 2] = [1, 2];

/// Does an operation, warm, between two stops, and says what it popped.
pub fn rings() {
    offer();
    let file = stdin().as_fd().try_clone_to_owned().expect("a descriptor");
    let ring = Mpmc::<u64>::open(file).expect("a ring");
    let what = argument();
    let member = (what != "join").then(|| ring.join().expect("a place"));
    if let Some(member) = &member {
        for i in 0..7 {
            member.push(i).expect("room");
            assert_eq!(member.pop().expect("not forked"), Some(i));
        }
    }
    say("warm");
    stop();
    let (mut popped, mut left) = (None, None);
    match what.as_str() {
        "push" => member.as_ref().expect("a member").push(PUSHED).expect("room"),
        "full" => assert_err!(member.as_ref().expect("a member").push(PUSHED), Error::Full),
        "pop" => popped = member.as_ref().expect("a member").pop().expect("not forked"),
        "recover" => drop(member.as_ref().expect("a member").recover_dead().expect("not forked")),
        "join" => left = Some(ring.join().expect("a place")),
        _ => drop(member),
    }
    stop();
    say(popped.unwrap_or_default());
    drop(left);
}

fn begin(ring: &Mpmc<u64>, what: &str) -> (Child, Reports, Traced) {
    let mut command = setup().command_with("rings", what);
    let mut reports = Reports::of(command.stdin(ring.as_fd().try_clone_to_owned().expect("a descriptor")));
    let child = command.spawn().expect("spawn");
    let traced = Traced::new(child.id(), &mut reports);
    (child, reports, traced)
}

fn comes_to(traced: &Traced) {
    assert_eq!(traced.wait(), libc::SIGSTOP);
    traced.bind();
}

/// An operation in one member.
pub fn play(what: &str, fate: Fate) -> Played {
    let ring = Mpmc::<u64>::create(CAPACITY, MEMBERS).expect("a ring");
    let ours = ring.join().expect("a place");
    let mut victims = 0;
    if what == "recover" {
        // It has claimed a slot, and not installed it.
        let (mut child, _reports, traced) = begin(&ring, "push");
        comes_to(&traced);
        Walk::begin(&traced).to(1, &mut |_| ());
        traced.kill();
        child.wait().expect("reaped");
        victims = 1;
    }
    let (mut child, mut reports, traced) = begin(&ring, what);
    assert_eq!(reports.expect(), "warm");
    comes_to(&traced);
    let there: Vec<_> = match what {
        "full" => (1..=CAPACITY as u64).collect(),
        _ => THERE.into(),
    };
    there.iter().for_each(|value| ours.push(*value).expect("room"));
    let mut walk = Walk::begin(&traced);
    let cut = walk.to(fate.events(), &mut |_| ());
    let played = Played { instructions: walk.instructions, events: walk.events, ..Played::default() };
    let mut seen: Vec<u64> = Vec::new();
    if let Fate::Killed(events) = fate {
        traced.kill();
        child.wait().expect("reaped");
        let recovered = ours.recover_dead().expect("not forked");
        assert!(recovered.members <= 1 + victims && recovered.elements <= 1 + victims, "{recovered:?}");
        if what == "push" && !(cut && events == 0) {
            // It is there, once it was pushed, and then once.
            seen.extend(pop_all(&ours));
            assert!(cut || seen.contains(&PUSHED), "{seen:?}");
        }
    } else {
        if fate != Fate::Walks {
            // Who stands still is not dead, and does not hinder others.
            let recovered = ours.recover_dead().expect("not forked");
            assert!(recovered.members <= victims, "{recovered:?}");
            seen.extend(pop_all(&ours));
            for i in 0..4 * CAPACITY as u64 {
                ours.push(1000 + i).expect("room");
                let popped = ours.pop().expect("not forked").expect("one");
                if popped != 1000 + i {
                    seen.push(popped);
                }
            }
            seen.extend(pop_all(&ours).into_iter().filter(|value| *value < 1000));
        }
        if what == "full" && fate != Fate::Walks {
            // It may find room where there was none.
            there.iter().for_each(|value| drop(ours.push(*value)));
        }
        traced.go_on();
        assert_eq!(traced.wait(), libc::SIGSTOP);
        traced.detach();
        seen.extend(Some(reports.number()).filter(|value| *value != 0));
        assert!(child.wait().expect("reaped").success());
    }
    seen.extend(pop_all(&ours));
    if what != "full" {
        seen.retain(|value| *value < 1000);
        seen.sort();
        let lost_one = what == "pop" && matches!(fate, Fate::Killed(_)) && seen.len() == 1;
        let pushed = matches!(seen.last(), Some(&PUSHED)) && what == "push";
        assert!(pushed || what != "push" || matches!(fate, Fate::Killed(_)), "what was pushed is lost");
        assert!(seen[..2 - usize::from(lost_one)] == there[usize::from(lost_one)..], "{seen:?}");
        assert_eq!(seen.len(), 2 - usize::from(lost_one) + usize::from(pushed), "{seen:?}");
    }
    all_is_there(&ring, &ours);
    played
}

fn pop_all(member: &MpmcMember<u64>) -> Vec<u64> {
    std::iter::from_fn(|| member.pop().expect("not forked")).collect()
}

/// Every element and every place, once.
fn all_is_there(ring: &Mpmc<u64>, ours: &MpmcMember<u64>) {
    let mut last = Recovered::default();
    until("nobody dead is left", || {
        last = ours.recover_dead().expect("not forked");
        last == Recovered::default()
    });
    for lap in 0..3 {
        (0..CAPACITY as u64).for_each(|i| ours.push(lap + i).expect("as much room as before"));
        assert_err!(ours.push(0), Error::Full);
        assert_eq!(pop_all(ours), (0..CAPACITY as u64).map(|i| lap + i).collect::<Vec<_>>());
    }
    let others: Vec<_> = (1..MEMBERS).map(|_| ring.join().expect("a place")).collect();
    assert_err!(ring.join(), Error::Join(JoinError::Taken { .. }));
    drop(others);
}
