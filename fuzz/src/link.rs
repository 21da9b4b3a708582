//! A host's end of a link, and a peer that writes its words one by one.
//!
//! Both ends lie in one process, on the heap, so that a sanitizer sees every access. The peer's end is used too, as an honest
//! one is, so that its lies fall into the midst of things.

use crate::Step;
use busway::internals::link::words::{self, Body, ReplyBody, ReplyCell, entry, kind, reply};
use busway::region::Table;
use busway::ring::spsc::Entry;
use busway::slots::SlotRef;
use busway::{Config, Deadline, Error, Geometry, Idle, Link, Loan, Message, Pending, Request, SizeClass};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering::*};
use std::time::Duration;

/// Deadline of what may wait: it has passed, so nothing does.
const PASSED: Deadline = Deadline::from_nanos(1);
const CELLS: u32 = 8;
const ENTRIES: u32 = 8;
const CLASSES: [SizeClass; 2] = [SizeClass { size: 64, count: 3 }, SizeClass { size: 2048, count: 2 }];
const LENGTHS: [usize; 10] = [0, 1, 31, 32, 33, 40, 41, 64, 65, 2048];

fn geometry() -> Geometry {
    Geometry { entries: ENTRIES, cells: CELLS, classes: CLASSES.into() }
}

/// What can be done.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub enum What {
    // The peer, word by word.
    Set,
    Add,
    Flip,
    SetBell,
    Publish,
    Reply,
    ReplyInSlot,
    Position,
    Release,
    GiveUp,
    // The host.
    Recv,
    TryRecv,
    RecvBatch,
    Send,
    Submit,
    Call,
    Wait,
    IsReady,
    DropPending,
    Loan,
    SendLoan,
    DropLoan,
    Answer,
    AnswerLoan,
    Reject,
    DropRequest,
    Nested,
    Read,
    DropMessage,
    Batch,
    Stats,
    Arm,
    // The peer, as it should.
    PeerRecv,
    PeerAnswer,
    PeerSend,
    PeerSubmit,
    PeerWait,
    // Close.
    Close,
}

const ALL: u8 = What::Close as u8 + 1;

/// The words that one side writes.
struct Words<'a> {
    table: Table,
    words: &'a [AtomicU32],
}

impl<'a> Words<'a> {
    fn of(region: &'a busway::region::Region, table: Table) -> Self {
        // SAFETY: the region is as long as its table says, of plain words, and outlives this.
        let words = unsafe { core::slice::from_raw_parts(region.base().as_ptr().cast(), region.len() / 4) };
        Self { table, words }
    }

    fn section<T>(&self, kind: u32) -> &'a [T] {
        let section = self.table.find::<T>(kind, 0).expect("a section of every link");
        let first = &self.words[section.offset as usize / 4..][..section.count as usize * size_of::<T>() / 4];
        // SAFETY: as long, aligned to a cache line; words and cells bear any bits.
        unsafe { core::slice::from_raw_parts(first.as_ptr().cast(), section.count as usize) }
    }

    /// A word of some section.
    fn word(&self, section: u8, at: u32) -> &'a AtomicU32 {
        let sections = self.table.sections();
        let section = sections[usize::from(section) % sections.len()];
        let len = section.count as usize * section.stride as usize / 4;
        &self.words[section.offset as usize / 4 + at as usize % len]
    }
}

/// Everything at hand.
struct Play<'a> {
    host: &'a Link,
    peer: &'a Link,
    theirs: Words<'a>,
    ours: Words<'a>,
    bells: Words<'a>,
    requests: Vec<Request<'a>>,
    pending: Vec<Pending<'a>>,
    messages: Vec<Message<'a>>,
    loans: Vec<Loan<'a>>,
    peer_requests: Vec<Request<'a>>,
    peer_pending: Vec<Pending<'a>>,
}

fn take<T>(from: &mut Vec<T>, at: u8) -> Option<T> {
    if from.is_empty() { None } else { Some(from.swap_remove(usize::from(at) % from.len())) }
}

fn len(of: u8) -> usize {
    LENGTHS[usize::from(of) % LENGTHS.len()]
}

fn read(message: &Message<'_>) {
    let bytes = message.bytes();
    assert!(bytes.len() <= 2048, "longer than any slot");
    assert_eq!(bytes.to_vec().len(), bytes.len());
    let half = bytes.len() / 2;
    let _ = bytes.get(half..bytes.len()).map(|rest| rest.iter().map(u64::from).sum::<u64>());
    let _ = (bytes.read::<u64>(half), message.as_slice().map(<[u8]>::len), message.read::<[u8; 64]>().is_ok());
}

impl<'a> Play<'a> {
    fn step(&mut self, Step { what, a, b, c, value }: Step) {
        // SAFETY: of this type, all values below the number of them.
        let what: What = unsafe { core::mem::transmute(what % ALL) };
        let Self { host, peer, theirs, ours, .. } = self;
        match what {
            What::Set => theirs.word(a, u32::from(b)).store(value, Release),
            What::Add => drop(theirs.word(a, u32::from(b)).fetch_add(value, AcqRel)),
            What::Flip => drop(theirs.word(a, value).fetch_xor(1 << (b & 31), AcqRel)),
            What::SetBell => self.bells.word(a, u32::from(b)).store(value, Release),
            What::Publish => self.publish(a, b, c, value),
            What::Reply | What::ReplyInSlot => {
                let cell = u32::from(a) % CELLS;
                // The generation of the call there, as the host says it when it sleeps or gives up; or any other.
                let said = ours.section::<AtomicU32>(kind::CALL_WORDS)[cell as usize].load(Relaxed) >> 2;
                let generation = if b & 1 == 0 { value } else { said.wrapping_add(value & 1) };
                let cell = &theirs.section::<ReplyCell<AtomicU32>>(kind::CELLS)[cell as usize];
                let slot = SlotRef::new(b >> 6, u32::from(b >> 2 & 7), value);
                let in_slot = matches!(what, What::ReplyInSlot);
                let length = if in_slot { len(c) as u64 + u64::from(value >> 31) } else { u64::from(c) };
                let body = ReplyBody { code: value, zero: 0, length, inline: [slot.bits(), 0, 0, 0, 0] };
                // SAFETY: this thread is the only one there is.
                unsafe { cell.body.write(body) };
                let flags = if in_slot { reply::OK | reply::SLOT } else { u32::from(b >> 4) };
                cell.flags.store(flags | u32::from(b & 2) << 8, Relaxed);
                cell.word.store(generation, Release);
            }
            What::Position => drop(self.position().fetch_add(u32::from(a).wrapping_sub(u32::from(b)), AcqRel)),
            What::Release => theirs.word_of(kind::RELEASED, a).store(value, Release),
            What::GiveUp => theirs.word_of(kind::CALL_WORDS, a).store(value << 2 | u32::from(b & 3), Release),

            What::Recv => self.requests.extend(host.recv(PASSED).ok()),
            What::TryRecv => self.requests.extend(host.try_recv().ok().flatten()),
            What::RecvBatch => self.requests.extend(host.recv_batch(a.into(), PASSED).into_iter().flatten()),
            What::Send => drop(host.try_send(value, &[a; 2048][..len(b)])),
            What::Submit => {
                let deadline = if a & 1 == 0 { Deadline::NEVER } else { PASSED };
                self.pending.extend(host.try_submit(value, &[a; 2048][..len(b)], deadline).ok());
            }
            What::Call => self.messages.extend(host.call(value, &[a; 2048][..len(b)], PASSED).ok()),
            What::Wait => {
                if let Some(pending) = take(&mut self.pending, a) {
                    // Without a deadline it would wait for ever.
                    if pending.is_ready() {
                        self.messages.extend(pending.wait().ok());
                    }
                }
            }
            What::IsReady => drop(self.pending.iter().map(Pending::is_ready).filter(|ready| *ready).count()),
            What::DropPending => drop(take(&mut self.pending, a)),
            What::Loan => self.loans.extend(host.try_loan(len(a)).ok()),
            What::SendLoan => {
                if let Some(mut loan) = take(&mut self.loans, a) {
                    loan.fill(b);
                    match c % 3 {
                        0 => drop(host.try_send(value, loan)),
                        1 => self.pending.extend(host.try_submit(value, loan, Deadline::NEVER).ok()),
                        _ => self.messages.extend(host.call(value, loan, PASSED).ok()),
                    }
                }
            }
            What::DropLoan => drop(take(&mut self.loans, a)),
            What::Answer => drop(take(&mut self.requests, a).map(|request| request.reply(&[a; 2048][..len(b)]))),
            What::AnswerLoan => {
                if let Some(request) = take(&mut self.requests, a)
                    && let Ok(mut loan) = request.loan(len(b))
                {
                    loan.fill(c);
                    let _ = request.reply(loan);
                }
            }
            What::Reject => drop(take(&mut self.requests, a).map(|request| request.reject(value))),
            What::DropRequest => drop(take(&mut self.requests, a)),
            What::Nested => {
                if let Some(request) = self.requests.first() {
                    let _ = request.call(value, &[a; 2048][..len(b)], PASSED).map(|message| read(&message));
                }
            }
            What::Read => {
                self.requests.iter().for_each(|request| read(request.message()));
                self.messages.iter().for_each(read);
            }
            What::DropMessage => drop(take(&mut self.messages, a)),
            What::Batch => {
                let mut batch = host.batch();
                for number in 0..a % 12 {
                    if b >> (number & 7) & 1 == 0 {
                        let _ = batch.try_send(value, &[c; 2048][..len(c)]);
                    } else {
                        self.pending.extend(batch.try_submit(value, &[c; 2048][..len(c)], Deadline::NEVER).ok());
                    }
                }
            }
            What::Stats => drop(host.stats()),
            What::Arm => drop((host.arm(), host.disarm())),

            What::PeerRecv => self.peer_requests.extend(peer.try_recv().ok().flatten()),
            What::PeerAnswer => {
                drop(take(&mut self.peer_requests, a).map(|request| request.reply(&[a; 2048][..len(b)])));
            }
            What::PeerSend => drop(peer.try_send(value, &[a; 2048][..len(b)])),
            What::PeerSubmit => {
                let deadline = if a & 1 == 0 { Deadline::NEVER } else { PASSED };
                self.peer_pending.extend(peer.try_submit(value, &[a; 2048][..len(b)], deadline).ok());
            }
            What::PeerWait => {
                drop(take(&mut self.peer_pending, a).filter(Pending::is_ready).map(|pending| pending.wait().map(drop)));
            }
            What::Close => {
                // Seldom: everything ends here.
                if value & 0xf == 0xf {
                    host.close(PASSED);
                }
            }
        }
    }

    fn position(&self) -> &'a AtomicU32 {
        &self.theirs.section::<words::Intake<AtomicU32>>(kind::INTAKE)[0].pos.0
    }

    /// An entry where the host looks for the next one, or near it.
    fn publish(&self, a: u8, b: u8, c: u8, value: u32) {
        let position = self.ours.section::<words::Intake<AtomicU32>>(kind::INTAKE)[0].pos.0.load(Relaxed);
        let position = position.wrapping_add(u32::from(a & 3));
        let entry = &self.theirs.section::<Entry<Body>>(kind::ENTRIES)[(position % ENTRIES) as usize];
        let kind = [entry::CALL, entry::EVENT, entry::CALL, c][usize::from(a >> 2 & 3)];
        let flags = [0, entry::SLOT, 0, c][usize::from(a >> 4 & 3)];
        let slot = SlotRef::new(b & 3, u32::from(b >> 2 & 7), value);
        let body = Body {
            method: value,
            length: if b >> 7 == 0 { u32::from(c & 63) } else { value },
            call: u64::from(value) << 32 | u64::from(b & 15),
            inline: [slot.bits(), len(c) as u64 + u64::from(value & 1), 0, 0],
            deadline: [0, 1, u64::from(value), u64::MAX >> 1][usize::from(a >> 6)],
        };
        // SAFETY: this thread is the only one there is.
        unsafe { entry.value.write(body) };
        let tag = u32::from(kind) | u32::from(flags) << 8 | u32::from(c & 15) << 16;
        entry.word.store(u64::from(tag) << 32 | u64::from(position.wrapping_add(1)), Release);
    }
}

impl<'a> Words<'a> {
    fn word_of(&self, kind: u32, at: u8) -> &'a AtomicU32 {
        let words = self.section::<AtomicU32>(kind);
        &words[usize::from(at) % words.len()]
    }
}

/// Plays the steps, then looks whether the host has all that it had.
pub fn play(steps: impl Iterator<Item = Step>, nested: bool) {
    let config = Config::default().idle(Idle::Park).geometry(geometry()).reply_patience(Duration::ZERO);
    let (host, peer) = Link::pair(&config).expect("a geometry within bounds");
    if nested {
        host.set_handler(|request| read(request.message())).expect("the first");
    }
    let (table, bells) = (geometry().plan().expect("a plan"), geometry().plan_bells().expect("a plan"));
    let [theirs, bells_region] = peer.memory();
    let [ours, _] = host.memory();
    let mut play = Play {
        host: &host,
        peer: &peer,
        theirs: Words::of(theirs, table.clone()),
        ours: Words::of(ours, table),
        bells: Words::of(bells_region, bells),
        requests: Vec::new(),
        pending: Vec::new(),
        messages: Vec::new(),
        loans: Vec::new(),
        peer_requests: Vec::new(),
        peer_pending: Vec::new(),
    };
    steps.for_each(|step| play.step(step));
    let Play { theirs, ours, requests, pending, messages, loans, peer_requests, peer_pending, .. } = play;
    drop((requests, pending, messages, loans, peer_requests, peer_pending));
    check(&host, &theirs, &ours);
}

/// What was sent is completed exactly once, or the link has ended; and no slot is anybody's twice.
fn check(host: &Link, theirs: &Words<'_>, ours: &Words<'_>) {
    let said = ours.section::<AtomicU32>(kind::CALL_WORDS);
    let cells = theirs.section::<ReplyCell<AtomicU32>>(kind::CELLS);
    // All calls have been dropped by now. The peer answers those that were given up.
    for (cell, said) in cells.iter().zip(said) {
        cell.flags.store(reply::DISCARDED, Relaxed);
        cell.word.store(said.load(Relaxed) >> 2, Release);
    }
    let stats = host.stats();
    if !host.is_closed() {
        assert_eq!(stats.calls_in_use, 0, "a call is neither under way nor complete");
    }
    let poisoned = matches!(host.try_send(0, b""), Err(Error::Poisoned { .. }));
    assert!(!poisoned || (host.stats().violations > 0 && host.is_closed()), "poisoned for nothing");
    for class in CLASSES {
        let loans: Vec<_> = std::iter::from_fn(|| host.try_loan(class.size as usize).ok()).collect();
        assert!(loans.len() <= class.count as usize, "more slots than there are");
        let places: BTreeSet<_> = loans.iter().map(|loan| loan.as_ptr()).collect();
        assert_eq!(places.len(), loans.len(), "a slot is loaned twice");
    }
}

/// Inputs that do what links are for, to begin with.
pub fn seeds() -> Vec<Vec<Step>> {
    use What::*;
    let step = |what: What, a, b, c, value| Step::new(what as u8, a, b, c, value);
    let each_length = |steps: &dyn Fn(u8) -> Vec<Step>| (0..LENGTHS.len() as u8).flat_map(steps).collect::<Vec<_>>();
    vec![
        each_length(&|len| {
            vec![
                step(Submit, 0, len, 0, 1),
                step(PeerRecv, 0, 0, 0, 0),
                step(PeerAnswer, 0, len, 0, 0),
                step(Wait, 0, 0, 0, 0),
                step(Read, 0, 0, 0, 0),
                step(DropMessage, 0, 0, 0, 0),
            ]
        }),
        each_length(&|len| {
            vec![
                step(PeerSubmit, 1, len, 0, 1),
                step(Recv, 0, 0, 0, 0),
                step(Read, 0, 0, 0, 0),
                step(AnswerLoan, 0, len, 7, 0),
                step(PeerWait, 0, 0, 0, 0),
            ]
        }),
        each_length(&|len| {
            vec![
                step(Loan, len, 0, 0, 0),
                step(SendLoan, 0, 1, len, 2),
                step(PeerRecv, 0, 0, 0, 0),
                step(PeerAnswer, 0, 0, 0, 0),
                step(Stats, 0, 0, 0, 0),
            ]
        }),
        vec![
            step(Batch, 7, 0x55, 3, 1),
            step(PeerRecv, 0, 0, 0, 0),
            step(PeerRecv, 0, 0, 0, 0),
            step(PeerAnswer, 1, 6, 0, 0),
            step(DropPending, 0, 0, 0, 0),
            step(PeerAnswer, 0, 6, 0, 0),
        ],
        (0..16)
            .flat_map(|turn| [step(Publish, turn * 4, turn, 40 + turn, turn.into()), step(RecvBatch, 4, 0, 0, 0)])
            .collect(),
        (0..16)
            .flat_map(|turn| [step(Submit, 1, 6, 0, 1), step(Reply, turn, 0x11, turn, 0), step(Stats, 0, 0, 0, 0)])
            .collect(),
        (0..8)
            .flat_map(|turn| {
                [step(Submit, 0, 6, 0, 1), step(ReplyInSlot, turn, 1 + 64 * (turn % 4), 7, 0), step(Wait, 0, 0, 0, 0)]
            })
            .collect(),
        (0..10)
            .flat_map(|turn| {
                [step(Send, 0, 6, 0, 1), step(Position, turn, turn / 2, 0, 0), step(Release, turn, 0, 0, 1)]
            })
            .collect(),
        (0..12)
            .flat_map(|turn| {
                [
                    step(Set, turn, turn, 0, 1),
                    step(Flip, turn, turn, 0, 3),
                    step(TryRecv, 0, 0, 0, 0),
                    step(Call, 0, 6, 0, 1),
                ]
            })
            .collect(),
    ]
}
