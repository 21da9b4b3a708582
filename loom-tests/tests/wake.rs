//! x
#![cfg(busway_loom)]

use busway::{Config, Deadline, Geometry, Idle, Link, SizeClass};
use busway_loom_tests::{Failure, Model};
use std::sync::Arc;

fn pair() -> (Arc<Link>, Arc<Link>) {
    let geometry = Geometry { entries: 8, cells: 8, classes: vec![SizeClass { size: 64, count: 1 }] };
    let (host, plugin) = Link::pair(&Config::default().idle(Idle::Park).geometry(geometry)).unwrap();
    (Arc::new(host), Arc::new(plugin))
}

fn event() {
    let (host, plugin) = pair();
    let h = host.clone();
    let p = plugin.clone();
    let t = loom::thread::spawn(move || h.try_send(1, b"x").unwrap());
    let r = p.recv(Deadline::NEVER).unwrap();
    assert_eq!(r.method(), 1);
    t.join().unwrap();
}

fn call() {
    let (host, plugin) = pair();
    let h = host.clone();
    let p = plugin.clone();
    let t = loom::thread::spawn(move || {
        p.recv(Deadline::NEVER).unwrap().reply(b"x").unwrap();
    });
    let r = h.call(1, b"y", Deadline::NEVER).unwrap();
    assert_eq!(r.to_vec(), b"x");
    t.join().unwrap();
}

#[test]
fn t_event() {
    Model::new("event").holds(event);
}
#[test]
fn t_call() {
    Model::new("call").bound(2).holds(call);
}
#[test]
fn t_call3() {
    Model::new("call").bound(3).holds(call);
}
#[test]
fn t_call4() {
    Model::new("call").holds(call);
}
