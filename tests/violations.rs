//! A plugin that breaks the protocol: its host finds out, gives this link up with the reason, and goes on with all others.
//!
//! The plugin attaches as any other and then writes what it likes where its side of the link lies in memory.

mod common;

use busway::internals::link::words::{Bells, Body, ReplyBody, entry, kind, reply};
use busway::region::HEADER_SIZE;
use busway::ring::spsc::Entry;
use busway::slots::SlotRef;
use busway::{Deadline, Error, Link, Plugin, Violation};
use common::directory::Directory;
use common::payload::{Random, bytes, lengths};
use common::peer::{CALLING, EVENT, EVENT_IN_SLOT, Region, calling, in_slot};
use common::pipe::{Reports, say};
use common::procfs::descriptors;
use common::{SOON, Setup, argument, assert_err, attach, child_config, finish, roles, serve, spawn, until, watchdog};
use rustix::event::{PollFd, PollFlags};
use rustix::io::IoSlice;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketType, sendmsg, sockopt};
use rustix::thread::futex;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed, Ordering::Release};
use std::thread;
use std::time::Duration;

roles!(
    lies,
    echo,
    rings_on,
    changes_lengths,
    sends_runts,
    answers_under_other_generations,
    releases_under_other_generations,
    rewrites_the_geometry,
    sends_descriptors,
    counts_descriptors,
);

const CALL: u32 = 1;

/// What the host does when it is lied to.
#[derive(Clone, Copy)]
enum Victim {
    Receives,
    Calls,
    Sends,
}

struct Lie {
    name: &'static str,
    victim: Victim,
    violation: Violation,
    tell: fn(&Region),
}

const fn lie(name: &'static str, victim: Victim, violation: Violation, tell: fn(&Region)) -> Lie {
    Lie { name, victim, violation, tell }
}

/// Flag: the next position is an extension of this entry.
const EXTENDED: u32 = (entry::EXT as u32) << 8;

/// The first call of the host, of which the first reply cell and generation are.
const FIRST: (u32, u32) = (0, 1);

const LIES: &[Lie] = {
    use Victim::*;
    use Violation::*;
    &[
        lie("a slot index beyond its class", Receives, SlotReference, |region| {
            region.publish(0, EVENT_IN_SLOT, in_slot(SlotRef::new(0, 64, 1), 40));
        }),
        lie("the largest slot index", Receives, SlotReference, |region| {
            region.publish(0, EVENT_IN_SLOT, in_slot(SlotRef::new(0, (1 << 24) - 1, 1), 40));
        }),
        lie("a size class that does not exist", Receives, SlotReference, |region| {
            region.publish(0, EVENT_IN_SLOT, in_slot(SlotRef::new(4, 0, 1), 40));
        }),
        lie("another segment", Receives, SlotReference, |region| {
            region.publish(0, EVENT_IN_SLOT, in_slot(SlotRef::from_bits(1 << 56), 40));
        }),
        lie("a length beyond the slot", Receives, SlotReference, |region| {
            region.publish(0, EVENT_IN_SLOT, in_slot(SlotRef::new(0, 0, 1), 65));
        }),
        lie("the largest length", Receives, SlotReference, |region| {
            region.publish(0, EVENT_IN_SLOT, in_slot(SlotRef::new(3, 0, 1), u64::MAX));
        }),
        lie("the last slot and a byte beyond its end", Receives, SlotReference, |region| {
            region.publish(0, EVENT_IN_SLOT, in_slot(SlotRef::new(3, 7, 1), (64 << 10) + 1));
        }),
        lie("an entry that is continued in the next, for ever", Receives, EntryKind, |region| {
            (0..256).for_each(|position| region.publish(position, EVENT | EXTENDED, Body::default()));
        }),
        lie("an inline length that does not fit", Receives, InlineLength, |region| {
            region.publish(0, EVENT, Body { length: 33, ..Body::default() });
        }),
        lie("the largest inline length", Receives, InlineLength, |region| {
            region.publish(0, EVENT, Body { length: u32::MAX, ..Body::default() });
        }),
        lie("an unknown kind of entry", Receives, EntryKind, |region| region.publish(0, 77, Body::default())),
        lie("no kind of entry", Receives, EntryKind, |region| region.publish(0, 0, Body::default())),
        lie("a reply cell out of range", Receives, ReplyCell, |region| region.publish(0, CALLING, calling(64, 1))),
        lie("the largest reply cell", Receives, ReplyCell, |region| region.publish(0, CALLING, calling(u32::MAX, 1))),
        lie("a reply cell named twice", Receives, ReplyCell, |region| {
            region.publish(0, CALLING, calling(3, 1));
            region.publish(1, CALLING, calling(3, 2));
        }),
        lie("a position beyond what was sent", Sends, Position, |region| {
            region.pos().store(1 << 20, Release);
        }),
        lie("a position that goes back", Sends, Position, |region| {
            region.pos().store(u32::MAX, Release);
        }),
        lie("a position one beyond what was sent", Sends, Position, |region| {
            // The host looks when an eighth of its 256 entries is left.
            region.pos().store(225, Release);
        }),
        lie("an unknown status of a reply", Calls, ReplyStatus, |region| {
            region.reply(FIRST.0, FIRST.1, 77, ReplyBody::default());
        }),
        lie("no status of a reply", Calls, ReplyStatus, |region| {
            region.reply(FIRST.0, FIRST.1, 0, ReplyBody::default());
        }),
        lie("an inline reply that does not fit", Calls, InlineLength, |region| {
            region.reply(FIRST.0, FIRST.1, reply::OK, ReplyBody { length: 41, ..ReplyBody::default() });
        }),
        lie("an endless inline reply", Calls, InlineLength, |region| {
            region.reply(FIRST.0, FIRST.1, reply::OK, ReplyBody { length: u64::MAX, ..ReplyBody::default() });
        }),
        lie("a reply in no slot", Calls, SlotReference, |region| {
            let inline = [SlotRef::new(9, 0, 1).bits(), 0, 0, 0, 0];
            region.reply(
                FIRST.0,
                FIRST.1,
                reply::OK | reply::SLOT,
                ReplyBody { length: 50, inline, ..ReplyBody::default() },
            );
        }),
        lie("a reply longer than its slot", Calls, SlotReference, |region| {
            let inline = [SlotRef::new(0, 0, 1).bits(), 0, 0, 0, 0];
            region.reply(
                FIRST.0,
                FIRST.1,
                reply::OK | reply::SLOT,
                ReplyBody { length: 65, inline, ..ReplyBody::default() },
            );
        }),
        lie("a message on the control socket", Receives, ControlMessage, |_| speak_unasked()),
    ]
};

/// Sends something over the control socket.
fn speak_unasked() {
    let socket: i32 = std::env::var("BUSWAY_SOCKET").expect("spawned").parse().expect("a number");
    // SAFETY: the link keeps it open as long as it lives.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    rustix::net::send(socket, b"boo", rustix::net::SendFlags::empty()).expect("send");
}

/// Tells the lie it is told to, once the host has called if that is whom it lies to.
fn lies() {
    let link = attach();
    let lie = LIES.iter().find(|lie| lie.name == argument()).expect("a lie of this file");
    let region = Region::own();
    let mut held = Vec::new();
    if matches!(lie.victim, Victim::Calls) {
        held.push(link.recv(SOON).expect("the host calls"));
    }
    (lie.tell)(&region);
    // Nothing more is said, which might cover the lie up, until the link ends.
    match lie.victim {
        Victim::Sends => until("the host gives up", || matches!(link.try_send(CALL, b""), Err(Error::Closed))),
        _ => held.extend(std::iter::from_fn(|| link.recv(Deadline::NEVER).ok())),
    }
    // Dropped, they would be answered, and an answer that is in time counts.
    std::mem::forget(held);
}

fn echo() {
    serve(&attach(), |request| {
        let bytes = request.to_vec();
        request.reply(&bytes).expect("answer");
    });
}

fn reason(error: Error) -> Violation {
    match error {
        Error::Poisoned { reason } => reason,
        other => panic!("{other:?}"),
    }
}

/// How the host finds out.
fn find_out(plugin: &Link, victim: Victim) -> Violation {
    match victim {
        Victim::Receives => {
            let mut held = Vec::new();
            loop {
                match plugin.recv(SOON) {
                    // Keeps what it gets: a reply cell is busy until its call is answered.
                    Ok(request) => held.push(request.into_owned()),
                    Err(e) => return reason(e),
                }
            }
        }
        Victim::Calls => reason(plugin.call(CALL, &bytes(1, 500), SOON).expect_err("the reply is a lie")),
        Victim::Sends => loop {
            if let Err(e) = plugin.send(CALL, b"", SOON) {
                return reason(e);
            }
        },
    }
}

#[test]
fn every_violation_ends_its_own_link_with_its_reason_and_no_other() {
    let _watchdog = watchdog();
    let innocent = spawn("echo");
    for lie in LIES {
        // The liar rings no bell, so the host looks at the memory itself.
        let plugin = Setup::default().idle("spin").spawn_with("lies", lie.name);
        assert_eq!(find_out(&plugin, lie.victim), lie.violation, "{}", lie.name);
        assert!(plugin.is_closed());
        assert!(plugin.stats().violations > 0);
        // Events of before are received first.
        while plugin.recv(SOON).is_ok() {}
        let again = [
            plugin.call(CALL, b"", SOON).map(drop),
            plugin.send(CALL, b"", SOON),
            plugin.recv(SOON).map(drop),
            plugin.submit(CALL, b"", SOON).map(drop),
        ];
        for result in again {
            assert_eq!(reason(result.expect_err("the link is given up")), lie.violation, "{}", lie.name);
        }
        assert_eq!(innocent.call(CALL, &bytes(1, 300), SOON).expect("another link").to_vec(), bytes(1, 300));
        plugin.close(Deadline::NEVER);
        finish(plugin);
    }
    finish(innocent);
}

#[test]
fn every_violation_has_a_lie() {
    use Violation::*;
    for violation in [Position, SlotReference, ReplyCell, EntryKind, InlineLength, ReplyStatus, ControlMessage] {
        assert!(LIES.iter().any(|lie| lie.violation == violation), "{violation:?}");
    }
}

#[test]
fn a_violation_ends_the_calls_of_all_threads() {
    let _watchdog = watchdog();
    let plugin = Setup::default().idle("spin").spawn_with("lies", "an unknown kind of entry");
    thread::scope(|threads| {
        let callers = [0; 3].map(|_| threads.spawn(|| plugin.call(CALL, b"", Deadline::NEVER).map(drop)));
        assert_eq!(find_out(&plugin, Victim::Receives), Violation::EntryKind);
        for caller in callers {
            assert_err!(caller.join().unwrap(), Error::Poisoned { reason: Violation::EntryKind });
        }
    });
    finish(plugin);
}

/// Rings all the time for who waits for the host's requests and for the reply of its first call.
fn rings_on() {
    let link = attach();
    let region = Region::bells();
    // SAFETY: a word, which comes first among the host's bells; the mapping stays.
    let requests = unsafe { &*region.section::<Bells>(kind::BELLS).as_ptr().cast::<AtomicU32>() };
    let reply = &region.section::<AtomicU32>(kind::REPLY_BELLS)[FIRST.0 as usize];
    speak_unasked();
    while !link.is_closed() {
        for bell in [requests, reply] {
            bell.fetch_add(1, Release);
            futex::wake(bell, futex::Flags::empty(), i32::MAX as u32).expect("wake");
        }
        // To learn of the end. Dropped, a request would be answered.
        std::mem::forget(link.try_recv());
    }
}

#[test]
fn a_plugin_that_rings_all_the_time_keeps_nobody_from_looking_at_the_descriptors() {
    let _watchdog = watchdog();
    for idle in ["adaptive", "park"] {
        for victim in [Victim::Receives, Victim::Calls] {
            let plugin = Setup::default().idle(idle).spawn("rings_on");
            assert_eq!(find_out(&plugin, victim), Violation::ControlMessage, "{idle}");
            finish(plugin);
        }
    }
}

/// Publishes events whose length it changes all the time.
fn changes_lengths() {
    while let Ok(link) = Plugin::connect(argument(), &child_config()) {
        let region = Region::own();
        let bodies: &[Entry<Body>] = region.section(kind::ENTRIES);
        // SAFETY: plain data of 32-bit words, which this process may write.
        let words = |entry: &Entry<Body>| unsafe { &*(&raw const entry.value).cast::<[AtomicU32; 14]>() };
        let done = AtomicBool::new(false);
        thread::scope(|threads| {
            threads.spawn(|| {
                while !done.load(Relaxed) {
                    for body in &bodies[..64] {
                        // The length, and that of a payload in a slot.
                        let [_, length, _, _, _, _, in_slot, ..] = words(body);
                        length.store(u32::MAX, Relaxed);
                        in_slot.store(65, Relaxed);
                        length.store(32, Relaxed);
                        in_slot.store(64, Relaxed);
                    }
                }
            });
            for position in 0..64 {
                let tag = if position % 2 == 0 { EVENT } else { EVENT_IN_SLOT };
                let slot = SlotRef::new(0, position, 1);
                region.publish(position, tag, Body { length: 32, ..in_slot(slot, 64) });
            }
            until("the host has seen enough", || {
                std::mem::forget(link.try_recv());
                link.is_closed()
            });
            done.store(true, Relaxed);
        });
    }
}

#[test]
fn a_length_that_changes_between_check_and_use_is_one_or_the_other() {
    let _watchdog = watchdog();
    let directory = Directory::new();
    let setup = Setup::default().idle("spin");
    let listener = setup.host().listen(directory.socket()).expect("listen");
    let mut child = setup.command_with("changes_lengths", directory.socket().display()).spawn().expect("a child");
    let (mut accepted, mut refused) = (0, 0);
    while accepted < 30 || refused < 30 {
        let link = listener.accept(SOON).expect("a guest").admit().expect("admitted");
        // All may be read before the thread that changes them has a processor, every time.
        thread::sleep(Duration::from_millis(1));
        let reason = loop {
            match link.recv(SOON) {
                Ok(event) => {
                    assert!([32, 64].contains(&event.len()), "{}", event.len());
                    assert_eq!((event.to_vec().len(), event.bytes().iter().count()), (event.len(), event.len()));
                    accepted += 1;
                }
                Err(error) => break error,
            }
            if accepted % 64 == 0 {
                link.close(Deadline::from_nanos(1));
            }
        };
        match reason {
            Error::Poisoned { reason: Violation::InlineLength | Violation::SlotReference } => refused += 1,
            Error::Closed => {}
            other => panic!("{other:?}"),
        }
    }
    drop(listener);
    child.kill().and_then(|()| child.wait()).expect("our child");
}

/// Sends payloads that are shorter than what is read from them.
fn sends_runts() {
    let link = attach();
    for len in [0, 1, 7, 33, 63] {
        link.send(CALL, &bytes(1, len), SOON).expect("send");
    }
    serve(&link, |_| ());
}

#[test]
fn a_runt_is_an_error_and_nothing_beyond_it_is_read() {
    let _watchdog = watchdog();
    let plugin = spawn("sends_runts");
    for len in [0, 1, 7, 33, 63] {
        let event = plugin.recv(SOON).expect("an event");
        assert_err!(event.read::<[u64; 8]>(), Error::WrongSize { len: was, want: 64 } if was == len);
        assert_eq!(event.bytes().read::<[u64; 8]>(0), None);
        assert!(event.bytes().get(0..len + 1).is_none() && event.bytes().get(0..len).is_some());
    }
    finish(plugin);
}

/// Answers calls under generations of others before and after.
fn answers_under_other_generations() {
    let link = attach();
    let region = Region::own();
    link.recv(SOON).expect("a call").reply(b"first").expect("answer");
    let second = link.recv(SOON).expect("a call");
    let cell = region.cells().iter().position(|cell| cell.word.load(Relaxed) != 0).expect("that of the first call");
    let generation = region.cells()[cell].word.load(Relaxed);
    for other in [generation, generation.wrapping_sub(1), generation + 2, generation + 1 + (1 << 30), u32::MAX] {
        region.reply(cell as u32, other, reply::OK, ReplyBody { length: 5, ..ReplyBody::default() });
    }
    link.recv(SOON).expect("a call").reply(b"third").expect("answer");
    second.reply(b"late").expect("answer");
    serve(&link, |_| ());
}

#[test]
fn a_reply_of_another_generation_answers_nothing() {
    let _watchdog = watchdog();
    let plugin = spawn("answers_under_other_generations");
    assert_eq!(plugin.call(CALL, b"", SOON).expect("a reply").to_vec(), b"first");
    let patience = Duration::from_millis(50);
    assert_err!(plugin.call(CALL, b"", patience), Error::Timeout { maybe_executed: true });
    assert_eq!(plugin.call(CALL, b"", SOON).expect("a reply").to_vec(), b"third");
    until("the late reply is discarded", || plugin.stats().calls_in_use == 0);
    finish(plugin);
}

/// Gives a slot back under every generation but its own, then under its own.
fn releases_under_other_generations() {
    let link = attach();
    let event = link.recv(SOON).expect("an event in a slot");
    let region = Region::own();
    let released = &region.section::<AtomicU32>(kind::RELEASED)[0];
    for generation in [0, 2, 3, 1 << 24, (1 << 24) + 1, 1 << 31, (1 << 31) + 1, u32::MAX] {
        released.store(generation, Release);
        link.call(CALL, b"", SOON).expect("the host looks");
    }
    drop(event);
    link.call(CALL, b"", SOON).expect("the host looks");
    serve(&link, |_| ());
}

#[test]
fn a_slot_given_back_under_another_generation_stays_lent() {
    let _watchdog = watchdog();
    let plugin = Setup::tiny(64, 1).spawn("releases_under_other_generations");
    plugin.send(CALL, &[7; 64], SOON).expect("the first loan of the only slot");
    for _ in 0..8 {
        let asked = plugin.recv(SOON).expect("a call");
        assert_err!(plugin.try_loan(64), Error::Full);
        asked.reply(b"").expect("answer");
    }
    let asked = plugin.recv(SOON).expect("a call");
    drop(plugin.try_loan(64).expect("it is back"));
    asked.reply(b"").expect("answer");
    finish(plugin);
}

/// Writes over the headers of all that it can write, before each answer.
fn rewrites_the_geometry() {
    let link = attach();
    let (region, bells) = (Region::own(), Region::bells());
    serve(&link, |request| {
        let mut random = Random::new(request.len() as u64);
        for header in [&region, &bells].map(|region| &region.words()[..HEADER_SIZE / 4]) {
            for word in header {
                let any = random.next() as u32;
                word.store([0, 1, u32::MAX, any][random.below(4)], Relaxed);
            }
        }
        let bytes = request.to_vec();
        request.reply(&bytes).expect("answer");
    });
}

#[test]
fn a_geometry_that_is_changed_after_the_handshake_changes_nothing() {
    let _watchdog = watchdog();
    let plugin = spawn("rewrites_the_geometry");
    let max = plugin.max_payload();
    let classes = [64, 1024, 8 << 10, 64 << 10];
    for len in lengths(&classes, max, &mut Random::new(1), 20) {
        let sent = bytes(len as u64, len);
        assert_eq!(plugin.call(CALL, &sent, SOON).expect("a reply").to_vec(), sent);
    }
    assert_eq!(plugin.max_payload(), max);
    finish(plugin);
}

/// Sends descriptors along where none are expected: with rings, then over the control socket.
fn sends_descriptors() {
    let link = attach();
    let extra = File::open("/").expect("any file");
    let sockets = std::fs::read_dir("/proc/self/fd").expect("our descriptors").flatten().filter_map(|fd| {
        let fd = fd.file_name().to_str()?.parse().ok()?;
        // SAFETY: only looked at, by calls that fail if it is not open or no socket.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        Some((fd, sockopt::socket_type(fd).ok()?))
    });
    let sockets: Vec<_> = sockets.collect();
    let along = |kind| {
        let (socket, _) = sockets.iter().find(|(_, of)| *of == kind).expect("a socket of this kind");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [extra.as_fd(); 8];
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        sendmsg(socket, &[IoSlice::new(&[1])], &mut control, SendFlags::DONTWAIT).expect("send descriptors along");
    };
    // The host reads its doorbell when it was told of enough.
    let region = Region::own();
    for _ in 0..20 {
        along(SocketType::STREAM);
        region.control().rings.0.fetch_add(1, Relaxed);
    }
    link.call(CALL, b"", SOON).expect("the host has looked");
    along(SocketType::SEQPACKET);
    while link.recv(SOON).is_ok() {}
}

/// The host of it, a process of its own: says how many descriptors it has.
fn counts_descriptors() {
    say(descriptors());
    let plugin = spawn("sends_descriptors");
    let before = descriptors();
    let asked = loop {
        if plugin.arm() {
            rustix::event::poll(&mut [PollFd::new(&*plugin, PollFlags::IN)], None).expect("poll");
        }
        plugin.disarm();
        if let Some(request) = plugin.try_recv().expect("a call to come") {
            break request;
        }
    };
    say(descriptors() as i64 - before as i64);
    asked.reply(b"").expect("answer");
    assert_eq!(find_out(&plugin, Victim::Receives), Violation::ControlMessage);
    say(descriptors() as i64 - before as i64);
    drop(plugin);
    say(descriptors());
}

#[test]
fn descriptors_sent_along_after_the_handshake_are_closed() {
    let _watchdog = watchdog();
    let mut command = Setup::default().command("counts_descriptors");
    let mut reports = Reports::of(&mut command);
    let mut host = command.spawn().expect("a host");
    let first = reports.number();
    assert_eq!([reports.number(), reports.number()], [0, 0], "more descriptors than before");
    assert_eq!(reports.number(), first, "none is left");
    assert!(host.wait().expect("our child").success());
}
