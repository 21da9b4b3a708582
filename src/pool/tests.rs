//! Whole pools inside one process, over heap memory: what Miri can follow.

use super::{Member, PoolConfig};
use crate::{Deadline, Error, Idle, SizeClass};
use core::time::Duration;
use std::thread;

fn group(idle: Idle) -> [Member; 3] {
    let classes = [(64, 6), (512, 5)].map(|(size, count)| SizeClass { size, count }).into();
    let config = PoolConfig::new(["work"]).queue("more", 4).members(3).classes(classes).idle(idle);
    Member::group(&config, 3).unwrap().try_into().expect("three members")
}

fn payload(number: usize) -> Vec<u8> {
    let len = [0, 8, 32, 33, 40, 41, 64, 65, 512][number % 9];
    (0..len).map(|i| (number + i) as u8).collect()
}

const ROUNDS: usize = if cfg!(miri) { 9 } else { 3000 };
const ECHO: u32 = 1;
const SOON: Duration = Duration::from_millis(5);

/// Every size on both sides of each limit comes back as it was sent, by copy and by loan, in the request's slot and apart,
/// and nothing stays in use.
#[test]
fn payloads_come_back() {
    for idle in [Idle::Park, Idle::default()] {
        let [host, worker, other] = group(idle);
        let call_all = |member: &Member, shift: usize| {
            let queue = member.queue("work").unwrap();
            for number in 0..ROUNDS {
                let sent = payload(number + shift);
                // Of another length than the request, so that it may not fit its slot.
                let method = ECHO + (number / 9 + shift) as u32 % 2;
                let reply = if number % 2 == 0 {
                    queue.call(method, &sent, Deadline::NEVER).unwrap()
                } else {
                    let mut loan = member.loan(sent.len(), Deadline::NEVER).unwrap();
                    loan.copy_from_slice(&sent);
                    queue.call(method, loan, Deadline::NEVER).unwrap()
                };
                let want =
                    if method == ECHO { sent } else { [&sent[..], &[7; 100]].concat()[..sent.len().max(100)].into() };
                assert_eq!(reply.as_slice(), Some(&want[..]));
            }
        };
        thread::scope(|threads| {
            let serving = threads.spawn(|| {
                worker.queue("work").unwrap().worker().serve(|request| {
                    let bytes = request.as_slice().expect("members trust each other");
                    if request.method() == ECHO {
                        let bytes = bytes.to_vec();
                        return request.reply(&bytes).unwrap();
                    }
                    let mut reply = request.loan(bytes.len().max(100)).unwrap();
                    reply.fill(7);
                    reply[..bytes.len()].copy_from_slice(bytes);
                    request.reply(reply).unwrap();
                })
            });
            let calling = threads.spawn(|| call_all(&other, 1));
            call_all(&host, 0);
            calling.join().unwrap();
            worker.leave();
            serving.join().unwrap().unwrap();
        });
        assert_eq!(host.slots_in_use(), 0);
    }
}

/// Events of two members, into two queues of which one is often full, arrive once, and in their sender's order.
#[test]
fn events_arrive_once() {
    let [host, worker, other] = group(Idle::Park);
    let send_all = |member: &Member, queue: &str, method: u32| {
        let queue = member.queue(queue).unwrap();
        for number in 0..2 * ROUNDS {
            let mut bytes = payload(number);
            bytes.truncate(500);
            bytes.extend((number as u64).to_ne_bytes());
            queue.send(method, &bytes, Deadline::NEVER).unwrap();
        }
    };
    thread::scope(|threads| {
        threads.spawn(|| send_all(&host, "work", 0));
        threads.spawn(|| send_all(&other, "more", 1));
        let receiver = worker.worker(["work", "more"]).unwrap();
        let mut next = [0; 2];
        while next.iter().sum::<u64>() < 4 * ROUNDS as u64 {
            for event in receiver.recv_batch(3, Deadline::NEVER).unwrap() {
                let bytes = event.as_slice().unwrap();
                let number = u64::from_ne_bytes(bytes[bytes.len() - 8..].try_into().unwrap());
                let next = &mut next[event.method() as usize];
                assert_eq!(number, *next);
                *next += 1;
            }
        }
    });
    assert_eq!(host.slots_in_use(), 0);
}

/// A call that is given up while it is queued is never executed; one that executes has its reply dropped.
#[test]
fn giving_up() {
    for len in [3, 300] {
        let [host, worker, _] = group(Idle::Park);
        let (queue, receiver) = (host.queue("work").unwrap(), worker.worker(["work"]).unwrap());
        drop(queue.submit(ECHO, &vec![1; len], Deadline::NEVER).unwrap());
        let late = queue.call(ECHO, &vec![2; len], SOON);
        assert!(matches!(late, Err(Error::Timeout { maybe_executed: false })), "{late:?}");
        drop(late);
        assert!(receiver.try_recv().unwrap().is_none());

        let call = queue.submit(ECHO, &vec![3; len], Deadline::NEVER).unwrap();
        let request = receiver.recv(Deadline::NEVER).unwrap();
        drop(call);
        let bytes = request.to_vec();
        request.reply(&bytes).unwrap();

        thread::scope(|threads| {
            let call = threads.spawn(|| queue.call(ECHO, &vec![4; len], Duration::from_millis(50)).map(drop));
            let request = receiver.recv(Deadline::NEVER).unwrap();
            let late = call.join().unwrap();
            assert!(matches!(late, Err(Error::Timeout { maybe_executed: true })), "{late:?}");
            request.reply(&[5; 400]).unwrap();
        });
        assert_eq!(host.slots_in_use(), 0);
    }
}

/// Who waits for a dead worker is told so, asleep or not. What the dead had sent is served, what it had in hand comes back, and
/// its place can be given away.
#[test]
fn recovery() {
    for idle in [Idle::Park, Idle::default()] {
        let [host, dead, survivor] = group(idle);
        let (queue, receiver) = (host.queue("work").unwrap(), dead.worker(["work"]).unwrap());
        thread::scope(|threads| {
            let call = threads.spawn(|| queue.call(ECHO, &[1; 100], Deadline::NEVER).map(drop));
            core::mem::forget(receiver.recv(Deadline::NEVER).unwrap());
            if idle == Idle::Park {
                thread::sleep(SOON);
            }
            core::mem::forget(dead.try_loan(500).unwrap());
            core::mem::forget(dead.queue("work").unwrap().submit(ECHO, &[2; 100], Deadline::NEVER).unwrap());
            dead.queue("more").unwrap().try_send(ECHO, b"sent").unwrap();
            let recovered = host.recover(dead.place());
            assert_eq!((recovered.freed, recovered.died, recovered.orphaned), (1, 1, 2));
            let died = call.join().unwrap();
            assert!(matches!(died, Err(Error::PeerDied { maybe_executed: true })), "{died:?}");
        });
        let receiver = survivor.worker(["work", "more"]).unwrap();
        let left: Vec<_> = receiver.recv_batch(9, Deadline::NEVER).unwrap().map(|request| request.to_vec()).collect();
        assert_eq!(left.len(), 2);
        assert!(left.contains(&vec![2; 100]) && left.contains(&b"sent".to_vec()));
        assert_eq!(host.slots_in_use(), 0);

        // In the place of the dead one, which is this one to the others.
        let call = queue.submit(ECHO, b"again", Deadline::NEVER).unwrap();
        dead.worker(["work"]).unwrap().recv(Deadline::NEVER).unwrap().reply(b"alive").unwrap();
        assert_eq!(call.wait().unwrap().to_vec(), b"alive");
    }
}

/// Whoever leaves wakes its threads, whatever they sleep for.
#[test]
fn leaving_wakes() {
    let [host, member, _] = group(Idle::Park);
    let loans: Vec<_> = (0..5).map(|_| host.try_loan(500).unwrap()).collect();
    thread::scope(|threads| {
        let receiver = threads.spawn(|| member.worker(["work"]).unwrap().recv(Deadline::NEVER).map(drop));
        let caller = threads.spawn(|| member.queue("more").unwrap().call(ECHO, b"", Deadline::NEVER).map(drop));
        let lender = threads.spawn(|| member.loan(500, Deadline::NEVER).map(drop));
        thread::sleep(SOON);
        member.leave();
        assert!(matches!(receiver.join().unwrap(), Err(Error::Closed)));
        assert!(matches!(caller.join().unwrap(), Err(Error::Cancelled | Error::Closed)));
        assert!(matches!(lender.join().unwrap(), Err(Error::Closed)));
    });
    drop(loans);
    assert_eq!(host.slots_in_use(), 0);
}
