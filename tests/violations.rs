//! A plugin that breaks the protocol: its host finds out, gives this link up with the reason, and goes on with all others.
//!
//! The plugin attaches as any other and then writes what it likes where its side of the link lies in memory.

mod common;

use busway::internals::link::words::{
    Bells, Body, CALL_GENERATION, Control, Intake, Lane, ReplyBody, ReplyCell, entry, kind, reply,
};
use busway::region::{HEADER_SIZE, Table};
use busway::ring::spsc::Entry;
use busway::slots::SlotRef;
use busway::{Deadline, Error, Link, Process, Violation};
use common::payload::{Random, bytes};
use common::procfs::regions;
use common::{SOON, Setup, argument, assert_err, attach, emulated, finish, roles, serve, spawn, until, watchdog};
use rustix::thread::futex;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::Release};
use std::thread;
use std::time::Duration;

roles!(lies, echo, scribbles, rings_on);

const CALL: u32 = 1;

/// A region that this process may write as it likes.
struct Region {
    base: usize,
    table: Table,
}

impl Region {
    /// That of this process.
    fn own() -> Self {
        Self::with(kind::ENTRIES)
    }

    /// The one with sections of this kind.
    fn with(kind: u32) -> Self {
        let regions = regions();
        let writable = regions.iter().filter(|(.., access)| access.starts_with("rw")).map(|(start, end, _)| {
            // SAFETY: mapped and readable; the header never changes.
            let page = unsafe { *(*start as *const [u8; HEADER_SIZE]) };
            Self { base: *start, table: Table::from_page(&page, (end - start) as u64).expect("a valid header") }
        });
        let has_it = |region: &Self| region.table.sections().iter().any(|section| section.kind == kind);
        writable.into_iter().find(has_it).expect("a region of this kind")
    }

    /// The elements of a section.
    fn section<T>(&self, kind: u32) -> &[T] {
        let section = self.table.find::<T>(kind, 0).expect("a section");
        let base = (self.base + section.offset as usize) as *const T;
        // SAFETY: in the region by the table; all are words and cells that tolerate writes, and the mapping stays.
        unsafe { std::slice::from_raw_parts(base, section.count as usize) }
    }

    /// Publishes an entry, as if it were the one of this position.
    fn publish(&self, position: u32, tag: u32, body: Body) {
        let entries = self.section::<Entry<Body>>(kind::ENTRIES);
        let entry = &entries[position as usize % entries.len()];
        // SAFETY: no other thread of this process writes it.
        unsafe { entry.value.write(body) };
        entry.word.store(u64::from(tag) << 32 | u64::from(position + 1), Release);
    }

    fn cells(&self) -> &[ReplyCell<AtomicU32>] {
        self.section(kind::CELLS)
    }

    /// Writes a reply.
    fn reply(&self, cell: u32, generation: u32, flags: u32, body: ReplyBody) {
        let cell = &self.cells()[cell as usize];
        // SAFETY: no other thread of this process writes it.
        unsafe { cell.body.write(body) };
        cell.flags.store(flags, Relaxed);
        cell.word.store(generation, Release);
    }
}

const EVENT_IN_SLOT: u32 = entry::EVENT as u32 | (entry::SLOT as u32) << 8;
const CALLING: u32 = entry::CALL as u32;

fn in_slot(slot: SlotRef, len: u64) -> Body {
    Body { inline: [slot.bits(), len, 0, 0], ..Body::default() }
}

fn calling(cell: u32, generation: u32) -> Body {
    Body { call: u64::from(generation) << 32 | u64::from(cell), ..Body::default() }
}

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
        lie("an inline length that does not fit", Receives, InlineLength, |region| {
            region.publish(0, entry::EVENT.into(), Body { length: 33, ..Body::default() });
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
            region.section::<Intake<AtomicU32>>(kind::INTAKE)[0].pos.0.store(1 << 20, Release);
        }),
        lie("a position that goes back", Sends, Position, |region| {
            region.section::<Intake<AtomicU32>>(kind::INTAKE)[0].pos.0.store(u32::MAX, Release);
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
    let socket = unsafe { std::os::fd::BorrowedFd::borrow_raw(socket) };
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
    let region = Region::with(kind::BELLS);
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

/// Serves as an honest plugin does, while another thread writes over everything that the host reads.
fn scribbles() {
    let link = attach();
    let (region, bells) = (Region::own(), Region::with(kind::BELLS));
    let mut random = Random::new(argument().parse().expect("a seed"));
    thread::scope(|threads| {
        threads.spawn(|| {
            let result = link.serve(|request| {
                let bytes = request.to_vec();
                let _ = request.reply(&bytes);
            });
            // Its own words lie to it as well.
            drop(result);
            std::process::exit(0);
        });
        loop {
            scribble(&region, &bells, &mut random);
            thread::yield_now();
        }
    });
}

/// Writes one word somewhere, mostly one that is nearly right.
fn scribble(region: &Region, bells: &Region, random: &mut Random) {
    fn words<T>(region: &Region, kind: u32) -> &[AtomicU32] {
        let elements = region.section::<T>(kind);
        // SAFETY: all of it is 32-bit words or holds plain data of such units; this process may write all of it.
        unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements) / 4) }
    }
    let words = match random.below(13) {
        // A state of closed, or an end of it all, says little.
        0 => &words::<Control<AtomicU32>>(region, kind::CONTROL)[16..],
        1 => words::<Lane<AtomicU32>>(region, kind::LANE),
        2 => words::<Intake<AtomicU32>>(region, kind::INTAKE),
        3 => words::<AtomicU32>(region, kind::CALL_WORDS),
        4 => words::<AtomicU32>(region, kind::RELEASED),
        5..8 => words::<ReplyCell<AtomicU32>>(region, kind::CELLS),
        // The host's bells; all else there is the plugin's own loss.
        8 => [words::<Bells>(bells, kind::BELLS), words::<AtomicU32>(bells, kind::REPLY_BELLS)][random.below(2)],
        _ => words::<Entry<Body>>(region, kind::ENTRIES),
    };
    // The first elements are those in use.
    let within = if random.below(2) == 0 { words.len().min(64) } else { words.len() };
    let word = &words[random.below(within)];
    let value = match random.below(6) {
        0 => random.next() as u32,
        1 => word.load(Relaxed).wrapping_add(random.below(3) as u32).wrapping_sub(1),
        2 => word.load(Relaxed) ^ 1 << random.below(32),
        3 => random.below(300) as u32,
        4 => u32::MAX - random.below(3) as u32,
        _ => CALL_GENERATION & random.next() as u32,
    };
    word.store(value, Relaxed);
}

/// Uses a link in every way there is for a while; all that is asked of it is to come to an end.
fn use_up(plugin: &Process, random: &mut Random) {
    let short = Duration::from_micros(500);
    for _ in 0..300 {
        let payload = bytes(random.next(), [0, 20, 40, 1000][random.below(4)]);
        match random.below(8) {
            0 | 1 => drop(plugin.call(CALL, &payload, short)),
            2 => drop(plugin.send(CALL, &payload, short)),
            3 => drop(plugin.submit(CALL, &payload, short).map(|call| call.is_ready())),
            4 => drop(plugin.loan(payload.len(), short)),
            5 => drop(plugin.recv_batch(10, short).map(|batch| batch.map(|r| r.to_vec().len()).sum::<usize>())),
            6 => drop((plugin.stats(), plugin.arm(), plugin.disarm())),
            _ => drop(plugin.recv(short).map(|request| {
                let bytes = request.to_vec();
                request.reply(&bytes)
            })),
        }
        if plugin.is_closed() {
            return;
        }
    }
}

#[test]
fn a_plugin_that_scribbles_over_its_memory_neither_panics_nor_hangs_its_host() {
    let _watchdog = watchdog();
    let innocent = spawn("echo");
    let mut poisoned = 0;
    for seed in 0..if emulated() { 5 } else { 40 } {
        let idle = ["adaptive", "spin", "park", "poll"][seed as usize % 4];
        let plugin = Setup::default().idle(idle).spawn_with("scribbles", seed);
        thread::scope(|threads| {
            for thread in 0..2 {
                let plugin = &plugin;
                threads.spawn(move || use_up(plugin, &mut Random::new(seed * 10 + thread)));
            }
        });
        poisoned += u64::from(plugin.stats().violations > 0);
        plugin.close(Duration::from_millis(1));
        common::signal(plugin.id(), libc::SIGKILL);
        drop(plugin);
        assert_eq!(innocent.call(CALL, &bytes(1, 300), SOON).expect("another link").to_vec(), bytes(1, 300));
    }
    assert!(poisoned > 0, "none of it was noticed");
    finish(innocent);
}
