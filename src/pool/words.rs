//! Which words of a pool's segment lie where. Every process maps it for reading and writing; zeroed memory is an empty pool.

use super::PoolConfig;
use crate::error::{JoinError, Result};
use crate::region::{Array, Plan, Region, Table};
use crate::ring::mpmc::Ends;
use crate::slots::arena::SizeClass;
use crate::slots::owned::{self, Header, MAX_SLOTS, hint_words};
use crate::sync::{AtomicU32, AtomicU64, PeerCell};
use core::ptr::NonNull;
use std::sync::Arc;

/// Kinds of sections.
pub mod kind {
    pub const CONTROL: u32 = 48;
    pub const PLACES: u32 = 49;
    pub const QUEUES: u32 = 50;
    pub const QUEUE_ENTRIES: u32 = 51;
    pub const HEADERS: u32 = 52;
    pub const SLOT_BELLS: u32 = 53;
    pub const HINTS: u32 = 54;
    pub const SLOT_ROWS: u32 = 55;
    pub const PAYLOADS: u32 = 56;
}

/// Processes in a pool at a time.
pub const MAX_MEMBERS: u32 = 64 * ROW_WORDS as u32 - 1;
/// Named queues: as many as there are bits to sleep for.
pub const MAX_QUEUES: usize = 32;
/// Sizes of payloads.
pub const MAX_CLASSES: usize = 16;
/// Bytes of a queue's name.
pub const MAX_NAME: usize = 64;
/// Bytes of a request that travel without a slot's payload.
pub const INLINE_REQUEST: usize = 32;
/// A model has few members, and each word of one more that loom looks through.
const ROW_WORDS: usize = if cfg!(busway_loom) { 1 } else { 7 };

/// A word alone on its cache line.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Line(pub AtomicU32);

/// Words about the pool as a whole.
#[derive(Debug)]
#[repr(C)]
pub struct Control {
    /// One of [`state`]; written by the host.
    pub state: Line,
    /// Of a pool by name: changes, and wakes the host, when a member has come or gone.
    pub joins: Line,
}

/// Values of [`Control::state`].
pub mod state {
    pub const OPEN: u32 = 0;
    /// No new requests; those under way finish.
    pub const DRAINING: u32 = 1;
    pub const CLOSED: u32 = 2;
}

/// What the threads of one process sleep on, whoever wakes them.
#[derive(Debug)]
#[repr(C)]
pub struct Place {
    /// For receivers, by queue.
    pub requests: Line,
    /// For senders that wait for room, by queue.
    pub room: Line,
    /// For those who wait for a slot, by size class.
    pub slots: Line,
    /// For its event loop.
    pub events: Line,
    /// 1 while an event loop of it may sleep.
    pub armed: Line,
    /// Of a pool by name: the process that has the place, as [`Process`](crate::region::Process), and [`LEFT`]; 0 for nobody.
    pub who: AtomicU64,
}

/// A bit of [`Place::who`]: it has left, and does not touch the segment any more.
pub const LEFT: u64 = 1 << 63;

/// Who sleeps for one thing: a bit for each place.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Row {
    /// The place of a thread that spins for it, so that nobody need be woken; 0 for none.
    pub searcher: AtomicU32,
    pub zero: AtomicU32,
    /// Bit `p` is set while threads of place `p` sleep and nobody has set out to wake one of them.
    pub parked: [AtomicU64; ROW_WORDS],
}

/// One queue.
#[derive(Debug)]
#[repr(C)]
pub struct Queue {
    pub ends: Ends,
    /// Receivers that sleep.
    pub requests: Row,
    /// Senders that sleep for room.
    pub room: Row,
    /// UTF-8, zero bytes behind.
    pub name: PeerCell<[u8; MAX_NAME]>,
}

/// What travels in a slot's header: 48 bytes.
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Body {
    /// Of a request the payload, if it is no longer than 32 bytes, and last its deadline: nanoseconds of `CLOCK_MONOTONIC`, 0
    /// for none. Of a reply the payload, or the code of a refusal.
    pub words: [u64; 5],
    /// Of a request the method, of a reply one of [`reply`].
    pub what: u32,
    /// Length of the payload.
    pub length: u32,
}

/// Where the deadline of a request is.
pub const DEADLINE: usize = 4;

/// What a reply is.
pub mod reply {
    /// A payload of up to 40 bytes, in the header.
    pub const INLINE: u32 = 1;
    /// A payload in the answered slot, or in the one that is attached to it.
    pub const SLOT: u32 = 2;
    pub const REJECTED: u32 = 3;
    pub const PANICKED: u32 = 4;
    pub const NO_METHOD: u32 = 5;
}

impl Row {
    /// Nobody.
    #[cfg(busway_loom)]
    fn new() -> Self {
        let parked = core::array::from_fn(|_| AtomicU64::new(0));
        Self { searcher: AtomicU32::new(0), zero: AtomicU32::new(0), parked }
    }
}

/// Where everything lies in the segment of such a pool.
///
/// # Errors
/// [`JoinError::Geometry`] says which bound does not hold.
pub fn plan(config: &PoolConfig) -> Result<Table> {
    let PoolConfig { members, queues, classes, .. } = config;
    let slots: u64 = classes.iter().map(|class| u64::from(class.count)).sum();
    let distinct = |(i, (name, _)): (usize, &(String, u32))| queues[..i].iter().all(|(other, _)| other != name);
    let what = if !(1..=MAX_MEMBERS).contains(members) {
        "members must be from 1 to 447"
    } else if !(1..=MAX_QUEUES).contains(&queues.len()) {
        "there must be from 1 to 32 queues"
    } else if queues.iter().any(|(name, _)| name.is_empty() || name.len() > MAX_NAME || name.contains('\0')) {
        "names of queues must have from 1 to 64 bytes, none of them zero"
    } else if !queues.iter().enumerate().all(distinct) {
        "two queues have the same name"
    } else if queues.iter().any(|(_, capacity)| !(1..=1 << 16).contains(capacity)) {
        "capacities must be from 1 to 65,536"
    } else if !(1..=MAX_CLASSES).contains(&classes.len()) {
        "there must be from 1 to 16 size classes"
    } else if classes.iter().any(|c| c.size == 0 || c.size % 64 != 0 || c.size > 1 << 30 || c.count == 0) {
        "sizes must be multiples of 64 up to 1 GiB, counts at least 1"
    } else if !classes.is_sorted_by(|a, b| a.size < b.size) {
        "size classes must ascend"
    } else if slots > MAX_SLOTS.into() {
        "there must be fewer than 65,536 slots"
    } else {
        ""
    };
    if !what.is_empty() {
        return Err(JoinError::Geometry { what }.into());
    }
    let slots = slots as u32;
    let mut plan = Plan::new();
    plan.add(kind::CONTROL, 0, 1, size_of::<Control>(), 64)
        // Place 0 is nobody's.
        .add(kind::PLACES, 0, members + 1, size_of::<Place>(), 64)
        .add(kind::QUEUES, 0, queues.len() as u32, size_of::<Queue>(), 64)
        .add(kind::SLOT_ROWS, 0, classes.len() as u32, size_of::<Row>(), 64)
        .add(kind::HEADERS, 0, slots, size_of::<Header<Body>>(), 64)
        .add(kind::SLOT_BELLS, 0, slots, size_of::<AtomicU32>(), 64)
        .add(kind::HINTS, 0, hint_words(classes.iter().map(|class| class.count)), size_of::<AtomicU64>(), 64);
    for (id, (_, capacity)) in queues.iter().enumerate() {
        plan.add(kind::QUEUE_ENTRIES, id as u32, capacity.next_power_of_two(), size_of::<AtomicU64>(), 64);
    }
    for (id, class) in classes.iter().enumerate() {
        plan.add(kind::PAYLOADS, id as u32, class.count, class.size as usize, 4096);
    }
    Ok(plan.finish()?)
}

/// Both ends of a queue.
pub fn ends(view: &View, queue: usize) -> Array<Ends> {
    // SAFETY: in the region that the view keeps.
    unsafe { Array::of(core::slice::from_ref(&view.queues.at(queue as u32).ends)) }
}

/// The segment, mapped, and what lies in it.
#[derive(Debug)]
pub struct View {
    pub control: Array<Control>,
    pub places: Array<Place>,
    pub queues: Array<Queue>,
    pub entries: Box<[Array<AtomicU64>]>,
    pub headers: Array<Header<Body>>,
    pub slot_bells: Array<AtomicU32>,
    pub hints: Array<AtomicU64>,
    pub slot_rows: Array<Row>,
    pub classes: Box<[owned::Class]>,
    /// Kept beside the arrays, which lie in it.
    pub region: Arc<Region>,
}

// SAFETY: addresses in the region, and the region.
unsafe impl Send for View {}
// SAFETY: as above; what lies there are words and `PeerCell`s, and payloads that are handed out as addresses.
unsafe impl Sync for View {}

impl View {
    /// Finds everything in a region whose table was validated.
    ///
    /// # Errors
    /// [`JoinError::Geometry`] if a section is missing or is not one of a pool.
    pub fn new(region: Arc<Region>, table: &Table) -> Result<Self> {
        fn array<T>(region: &Region, table: &Table, kind: u32, id: u32) -> Result<Array<T>> {
            // SAFETY: found in the validated table; words and cells, which bear any bits; kept beside the region.
            Ok(unsafe { Array::new(region, table.find::<T>(kind, id)?) })
        }
        let payloads = table.numbered(kind::PAYLOADS)?;
        let queues = table.numbered(kind::QUEUE_ENTRIES)?;
        let config = PoolConfig {
            members: table.find::<Place>(kind::PLACES, 0)?.count.saturating_sub(1),
            queues: queues.iter().map(|s| (s.id.to_string(), s.count)).collect(),
            classes: payloads.iter().map(|s| SizeClass { size: s.stride, count: s.count }).collect(),
            ..PoolConfig::empty()
        };
        if plan(&config)? != *table {
            return Err(JoinError::Geometry { what: "not the sections of a pool" }.into());
        }
        let base = region.base();
        let class = |s: &crate::region::Section| {
            // SAFETY: inside the region by the validation of the table.
            let payload: NonNull<u8> = unsafe { base.add(s.offset as usize) };
            owned::Class { size: s.stride, count: s.count, payload }
        };
        let entries = queues.iter().map(|s| array(&region, table, kind::QUEUE_ENTRIES, s.id));
        Ok(Self {
            control: array(&region, table, kind::CONTROL, 0)?,
            places: array(&region, table, kind::PLACES, 0)?,
            queues: array(&region, table, kind::QUEUES, 0)?,
            entries: entries.collect::<Result<_>>()?,
            headers: array(&region, table, kind::HEADERS, 0)?,
            slot_bells: array(&region, table, kind::SLOT_BELLS, 0)?,
            hints: array(&region, table, kind::HINTS, 0)?,
            slot_rows: array(&region, table, kind::SLOT_ROWS, 0)?,
            classes: payloads.iter().map(class).collect(),
            region,
        })
    }

    /// Writes the names of the queues. Only before anybody else has the memory.
    pub fn name(&self, queues: &[(String, u32)]) {
        for (number, (name, _)) in (0..).zip(queues) {
            let mut bytes = [0; MAX_NAME];
            bytes[..name.len()].copy_from_slice(name.as_bytes());
            // SAFETY: nobody else has the memory, by this function's contract.
            unsafe { self.queues.at(number).name.write(bytes) }
        }
    }

    /// The number of the queue of this name.
    pub fn queue(&self, name: &str) -> Option<u8> {
        let named = |number: &u32| {
            let bytes = self.queues.at(*number).name.read();
            let len = bytes.iter().position(|byte| *byte == 0).unwrap_or(MAX_NAME);
            &bytes[..len] == name.as_bytes()
        };
        (0..self.queues.count()).find(named).map(|number| number as u8)
    }
}

/// Makes zeroed memory into the words of a pool, which under loom it is not by itself.
#[cfg(busway_loom)]
pub fn init(region: &Region, table: &Table) {
    use crate::region::Section;
    use crate::ring::mpmc::entry_at;
    fn fill<T>(region: &Region, section: &Section, make: impl Fn(u32) -> T) {
        for i in 0..section.count {
            // SAFETY: inside the region by the plan, aligned, and not shared yet.
            unsafe { region.base().add(section.offset as usize).cast::<T>().add(i as usize).write(make(i)) }
        }
    }
    let line = || Line(AtomicU32::new(0));
    for s in table.sections() {
        match s.kind {
            kind::CONTROL => fill(region, s, |_| Control { state: line(), joins: line() }),
            kind::PLACES => fill(region, s, |_| Place {
                requests: line(),
                room: line(),
                slots: line(),
                events: line(),
                armed: line(),
                who: AtomicU64::new(0),
            }),
            kind::QUEUES => fill(region, s, |_| Queue {
                ends: Ends::new(0),
                requests: Row::new(),
                room: Row::new(),
                name: PeerCell::new([0; MAX_NAME]),
            }),
            kind::QUEUE_ENTRIES => fill(region, s, |i| entry_at(i, s.count, 0)),
            kind::HEADERS => fill(region, s, |_| Header::new(0, Body::default())),
            kind::SLOT_BELLS => fill(region, s, |_| AtomicU32::new(0)),
            kind::HINTS => fill(region, s, |_| AtomicU64::new(0)),
            kind::SLOT_ROWS => fill(region, s, |_| Row::new()),
            _ => {}
        }
    }
}
