//! Which words of the regions lie where. `docs/layout.md` is this file in prose; a test keeps them equal.
//!
//! What lies in a region of one writer is generic over its words: [`AtomicU32`] for the writer, [`PeerWord`] for the other
//! side. [`Bells`] lie in the region that both write, and are [`AtomicU32`] for both.

use crate::error::{JoinError, Result};
use crate::region::{Array, Plan, Region, Table};
use crate::ring::spsc::Entry;
use crate::slots::arena::SizeClass;
use crate::sync::{AtomicU32, AtomicU64, PeerCell, PeerWord};
use crate::wake::HOW_BITS;
use core::ptr::NonNull;

/// Kinds of sections.
pub mod kind {
    pub const CONTROL: u32 = 1;
    pub const LANE: u32 = 2;
    pub const ENTRIES: u32 = 3;
    pub const INTAKE: u32 = 4;
    pub const CELLS: u32 = 5;
    pub const CALL_WORDS: u32 = 6;
    pub const RELEASED: u32 = 7;
    pub const STATS: u32 = 8;
    pub const CLASS: u32 = 9;
    pub const BELLS: u32 = 10;
    pub const REPLY_BELLS: u32 = 11;
}

/// A word alone on its cache line.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Line<W>(pub W);

/// Words about the end as a whole.
#[derive(Debug)]
#[repr(C)]
pub struct Control<W> {
    /// One of [`state`].
    pub state: Line<W>,
    /// The gate: how many threads of the writer sleep on anything of the link.
    pub sleepers: Line<W>,
    /// CPU + 1 of the thread that waited last, 0 unknown; a hint.
    pub cpu: Line<W>,
    /// Mark of an event loop that waits for anything at all.
    pub fd_armed: Line<W>,
    /// Mark of threads that wait for a slot of the writer's arena.
    pub arena_wait: Line<W>,
    /// How often the writer has rung the peer's doorbell: bytes that the peer has to read sooner or later.
    pub rings: Line<W>,
}

/// Values of [`Control::state`].
pub mod state {
    pub const OPEN: u32 = 0;
    /// No new requests; those under way finish.
    pub const DRAINING: u32 = 1;
    pub const CLOSED: u32 = 2;
}

/// Words of the sending side of a lane.
#[derive(Debug)]
#[repr(C)]
pub struct Lane<W> {
    /// Mark of the writer's senders that wait for room.
    pub space_wait: Line<W>,
}

/// Words of the receiving side of a lane.
#[derive(Debug)]
#[repr(C)]
pub struct Intake<W> {
    /// How many entries were taken.
    pub pos: Line<W>,
    /// Mark of the writer's receivers.
    pub park: Line<W>,
}

/// What the threads of one side sleep on, in the one region that both sides write.
///
/// A bell says nothing but that it changed, so a side that lies here wakes threads for nothing, or not at all, which it can do
/// anyway. Sleeping on a read-only mapping would do too, but the kernel takes 150 ns longer to find its page, and threads of
/// one process could not ring for each other.
#[derive(Debug)]
#[repr(C)]
pub struct Bells {
    /// For receivers, under the mark `park`.
    pub requests: Line<AtomicU32>,
    /// For senders, under the mark `space_wait`.
    pub room: Line<AtomicU32>,
    /// For loaners, under the mark `arena_wait`.
    pub slots: Line<AtomicU32>,
}

/// What a request's entry carries beside its word: 56 bytes.
///
/// The tag of the entry is `kind: 8, flags: 8, parent: 16`, from the bottom.
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Body {
    pub method: u32,
    /// Length of an inline payload, 0 for one in a slot.
    pub length: u32,
    /// Reply cell in the low half, generation in the high half; 0 for an event.
    pub call: u64,
    /// The payload, or a slot reference and a 64-bit length.
    pub inline: [u64; 4],
    /// Nanoseconds of `CLOCK_MONOTONIC`, 0 for none.
    pub deadline: u64,
}

/// Bytes of a payload that fit an entry.
pub const INLINE_REQUEST: usize = 32;

/// Entry kinds: the low byte of a tag.
pub mod entry {
    pub const CALL: u8 = 1;
    pub const EVENT: u8 = 2;
    /// Flag: the payload is in a slot.
    pub const SLOT: u8 = 1;
    /// Flag, reserved: the next position is an extension of this entry.
    pub const EXT: u8 = 2;
}

/// Where a reply is written: 64 bytes, in the replier's region.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct ReplyCell<W> {
    /// Generation of the call whose reply is here.
    pub word: W,
    /// `status: 8, flags: 8`, from the bottom.
    pub flags: W,
    pub body: PeerCell<ReplyBody>,
}

/// What a reply carries: 56 bytes.
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct ReplyBody {
    /// The code of a rejection.
    pub code: u32,
    pub zero: u32,
    /// Length of the payload.
    pub length: u64,
    /// The payload, or a slot reference.
    pub inline: [u64; 5],
}

pub use crate::call::INLINE_REPLY;

/// Reply flags and statuses.
pub mod reply {
    pub const OK: u32 = 1;
    pub const REJECTED: u32 = 2;
    pub const PANICKED: u32 = 3;
    pub const NO_METHOD: u32 = 4;
    /// The caller has given up; there is no payload.
    pub const DISCARDED: u32 = 5;
    pub const STATUS: u32 = 0xff;
    /// Flag: the payload is in a slot.
    pub const SLOT: u32 = 0x100;
    /// Flag: the slot of the request is free again.
    pub const RELEASED: u32 = 0x200;
}

/// A generation has 30 bits, so that a call word can carry it beside two bits of how its thread sleeps.
pub const CALL_GENERATION: u32 = (1 << 30) - 1;
/// Both bits of `how` in a call word: the call was given up.
pub const GIVEN_UP: u32 = 3;

/// How the caller sleeps, by its call word: a value of [`How`](crate::wake::How), or 0 if it is awake or gave the call up.
pub fn asleep(call_word: u32) -> u32 {
    match call_word & ((1 << HOW_BITS) - 1) {
        GIVEN_UP => 0,
        how => how,
    }
}

/// Counters in the `stats` section, for tools.
#[derive(Debug)]
#[repr(C)]
pub struct Counters {
    pub sent: AtomicU64,
    pub sent_bytes: AtomicU64,
    pub received: AtomicU64,
    pub received_bytes: AtomicU64,
    pub full: AtomicU64,
    pub parks: AtomicU64,
    pub wakes: AtomicU64,
    pub spins_paid: AtomicU64,
    pub spins_missed: AtomicU64,
    pub violations: AtomicU64,
}

impl Counters {
    #[cfg(busway_loom)]
    fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            sent: zero(),
            sent_bytes: zero(),
            received: zero(),
            received_bytes: zero(),
            full: zero(),
            parks: zero(),
            wakes: zero(),
            spins_paid: zero(),
            spins_missed: zero(),
            violations: zero(),
        }
    }
}

/// How large the parts of a link are.
///
/// The same for both directions. The default serves payloads from 0 bytes to 1 MiB and takes 11 MiB of memory a direction.
///
/// ```
/// use busway::{Geometry, SizeClass};
///
/// let small = Geometry { entries: 64, cells: 16, classes: vec![SizeClass { size: 4096, count: 8 }] };
/// small.check().unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Entries of a ring: how many requests can be under way in one direction. A power of two from 8 to 65,536.
    pub entries: u32,
    /// Reply cells: how many calls can await their reply in one direction. From 8 to 65,535.
    pub cells: u32,
    /// Slots, in ascending order of size. At most 32 classes; sizes are multiples of 64 up to 1 GiB.
    pub classes: Vec<SizeClass>,
}

impl Default for Geometry {
    fn default() -> Self {
        let classes = [
            (64, 256),
            (256, 256),
            (1024, 128),
            (4096, 64),
            (16 << 10, 32),
            (64 << 10, 16),
            (256 << 10, 8),
            (1 << 20, 7),
        ];
        let classes = classes.map(|(size, count)| SizeClass { size, count }).into();
        Self { entries: 1024, cells: 256, classes }
    }
}

impl Geometry {
    /// Checks the bounds that the fields name.
    ///
    /// # Errors
    /// [`JoinError::Geometry`] says which bound does not hold.
    pub fn check(&self) -> Result<()> {
        let what = if !self.entries.is_power_of_two() || !(8..=1 << 16).contains(&self.entries) {
            "entries must be a power of two from 8 to 65,536"
        } else if !(8..=0xffff).contains(&self.cells) {
            "cells must be from 8 to 65,535"
        } else if self.classes.is_empty() || self.classes.len() > 32 {
            "there must be from 1 to 32 size classes"
        } else if self.classes.iter().any(|c| c.size == 0 || c.size % 64 != 0 || c.size > 1 << 30 || c.count == 0) {
            "sizes must be multiples of 64 up to 1 GiB, counts at least 1"
        } else if !self.classes.is_sorted_by(|a, b| a.size < b.size) {
            "size classes must ascend"
        } else if self.slots() >= 1 << 24 {
            "there must be fewer than 2^24 slots"
        } else {
            return Ok(());
        };
        Err(JoinError::Geometry { what }.into())
    }

    fn slots(&self) -> u64 {
        self.classes.iter().map(|c| u64::from(c.count)).sum()
    }

    /// Where everything lies in a region of this geometry.
    ///
    /// # Errors
    /// [`JoinError::Geometry`] if a bound does not hold.
    #[doc(hidden)]
    pub fn plan(&self) -> Result<Table> {
        self.check()?;
        let mut plan = Plan::new();
        plan.add(kind::CONTROL, 0, 1, size_of::<Control<AtomicU32>>(), 64)
            .add(kind::LANE, 0, 1, size_of::<Lane<AtomicU32>>(), 64)
            .add(kind::INTAKE, 0, 1, size_of::<Intake<AtomicU32>>(), 64)
            .add(kind::STATS, 0, 1, size_of::<Counters>(), 64)
            .add(kind::ENTRIES, 0, self.entries, size_of::<Entry<Body>>(), 64)
            .add(kind::CELLS, 0, self.cells, size_of::<ReplyCell<AtomicU32>>(), 64)
            .add(kind::CALL_WORDS, 0, self.cells, size_of::<AtomicU32>(), 64)
            .add(kind::RELEASED, 0, self.slots() as u32, size_of::<AtomicU32>(), 64);
        for (id, class) in self.classes.iter().enumerate() {
            plan.add(kind::CLASS, id as u32, class.count, class.size as usize, 4096);
        }
        Ok(plan.finish()?)
    }

    /// Where everything lies in the region of the bells.
    ///
    /// # Errors
    /// [`JoinError::Geometry`] if a bound does not hold.
    #[doc(hidden)]
    pub fn plan_bells(&self) -> Result<Table> {
        self.check()?;
        let mut plan = Plan::new();
        for side in [Side::Host, Side::Plugin] {
            plan.add(kind::BELLS, side as u32, 1, size_of::<Bells>(), 64).add(
                kind::REPLY_BELLS,
                side as u32,
                self.cells,
                size_of::<AtomicU32>(),
                64,
            );
        }
        Ok(plan.finish()?)
    }

    /// The geometry that a validated table describes.
    pub(crate) fn of(table: &Table) -> Result<Self> {
        let classes = table.numbered(kind::CLASS)?;
        let geometry = Self {
            entries: table.find::<Entry<Body>>(kind::ENTRIES, 0)?.count,
            cells: table.find::<ReplyCell<AtomicU32>>(kind::CELLS, 0)?.count,
            classes: classes.iter().map(|s| SizeClass { size: s.stride, count: s.count }).collect(),
        };
        geometry.check()?;
        Ok(geometry)
    }

    /// The largest payload, in bytes.
    pub fn max_payload(&self) -> usize {
        self.classes.last().map_or(INLINE_REQUEST, |c| c.size as usize)
    }
}

/// One region, as seen by its writer (`W` is [`AtomicU32`]) or by the other side ([`PeerWord`]).
#[derive(Debug)]
pub struct View<W> {
    pub control: Array<Control<W>>,
    pub lane: Array<Lane<W>>,
    pub intake: Array<Intake<W>>,
    pub counters: Array<Counters>,
    pub entries: Array<Entry<Body>>,
    pub cells: Array<ReplyCell<W>>,
    pub call_words: Array<W>,
    pub released: Array<W>,
    pub classes: Box<[Slots]>,
    region: Region,
}

/// The two ends of a link. As a number: the id of its bells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Host = 0,
    Plugin = 1,
}

/// The bells of one side.
#[derive(Clone, Copy, Debug)]
pub struct BellsOf {
    bells: Array<Bells>,
    /// For each reply cell of the other side the bell of the one thread that waits for it.
    pub replies: Array<AtomicU32>,
}

impl core::ops::Deref for BellsOf {
    type Target = Bells;

    #[inline(always)]
    fn deref(&self) -> &Bells {
        &self.bells
    }
}

/// The bells of both sides, seen from one of them.
#[derive(Debug)]
pub struct BellView {
    pub ours: BellsOf,
    pub theirs: BellsOf,
    region: Region,
}

impl BellView {
    /// The region.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Finds the bells in a region whose table was validated, for a link of `cells` reply cells, seen from `side`.
    ///
    /// # Errors
    /// [`JoinError::Geometry`] if a section is missing or its count is wrong.
    pub fn new(region: Region, table: &Table, cells: u32, side: Side) -> Result<Self> {
        let of = |side: Side| -> Result<BellsOf> {
            let bells = table.find::<Bells>(kind::BELLS, side as u32)?;
            let replies = table.find::<AtomicU32>(kind::REPLY_BELLS, side as u32)?;
            if (bells.count, replies.count) != (1, cells) {
                return Err(JoinError::Geometry { what: "a section of bells has the wrong count" }.into());
            }
            // SAFETY: found in the validated table; words that bear any value; the region is kept beside the arrays.
            unsafe { Ok(BellsOf { bells: Array::new(&region, bells), replies: Array::new(&region, replies) }) }
        };
        let (host, plugin) = (of(Side::Host)?, of(Side::Plugin)?);
        let (ours, theirs) = match side {
            Side::Host => (host, plugin),
            Side::Plugin => (plugin, host),
        };
        Ok(Self { ours, theirs, region })
    }
}

/// The payload bytes of one size class.
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    base: NonNull<u8>,
    pub size: u32,
    pub count: u32,
}

// SAFETY: an address range; what may be done with it is said where it is done.
unsafe impl Send for Slots {}
// SAFETY: as above.
unsafe impl Sync for Slots {}

impl Slots {
    /// Address of a slot.
    #[inline(always)]
    pub fn at(&self, index: u32) -> NonNull<u8> {
        assert!(index < self.count);
        // SAFETY: in bounds of the section.
        unsafe { self.base.add(index as usize * self.size as usize) }
    }
}

/// Makes zeroed memory into words and cells, which under loom it is not by itself.
#[cfg(busway_loom)]
pub fn init(region: &Region, table: &Table) {
    use crate::region::Section;
    fn fill<T>(region: &Region, section: &Section, make: impl Fn(u32) -> T) {
        for i in 0..section.count {
            // SAFETY: inside the region by the plan, aligned, and not shared yet.
            unsafe { region.base().add(section.offset as usize).cast::<T>().add(i as usize).write(make(i)) }
        }
    }
    let word = || AtomicU32::new(0);
    let line = || Line(word());
    for s in table.sections() {
        match s.kind {
            kind::CONTROL => fill(region, s, |_| Control {
                state: line(),
                sleepers: line(),
                cpu: line(),
                fd_armed: line(),
                arena_wait: line(),
                rings: line(),
            }),
            kind::LANE => fill(region, s, |_| Lane { space_wait: line() }),
            kind::BELLS => fill(region, s, |_| Bells { requests: line(), room: line(), slots: line() }),
            kind::INTAKE => fill(region, s, |_| Intake { pos: line(), park: line() }),
            kind::STATS => fill(region, s, |_| Counters::new()),
            kind::ENTRIES => fill(region, s, |i| Entry::new(i, s.count, 0, Body::default())),
            kind::CELLS => fill(region, s, |_| ReplyCell {
                word: word(),
                flags: word(),
                body: PeerCell::new(ReplyBody::default()),
            }),
            kind::CALL_WORDS | kind::RELEASED | kind::REPLY_BELLS => fill(region, s, |_| word()),
            _ => {}
        }
    }
}

/// Kinds of words a view can have.
pub trait Word: Sync {}
impl Word for AtomicU32 {}
impl Word for PeerWord {}

impl<W: Word> View<W> {
    /// Whether this process was forked from the one that mapped the region.
    #[inline(always)]
    pub fn forked(&self) -> bool {
        self.region.forked()
    }

    /// The region.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Finds everything in a region whose table was validated.
    ///
    /// # Errors
    /// [`JoinError::Geometry`] if a section is missing or its counts do not belong together.
    ///
    /// # Safety
    /// `W` is [`AtomicU32`] only for a region that this process alone writes.
    pub unsafe fn new(region: Region, table: &Table) -> Result<Self> {
        let geometry = Geometry::of(table)?;
        macro_rules! section {
            ($ty:ty, $kind:expr, $count:expr) => {{
                let section = table.find::<$ty>($kind, 0)?;
                if u64::from(section.count) != u64::from($count) {
                    return Err(JoinError::Geometry { what: "a section has the wrong count" }.into());
                }
                // SAFETY: found in the validated table; all are words and cells that tolerate writes of another process; the
                // region is kept beside the arrays.
                unsafe { Array::<$ty>::new(&region, section) }
            }};
        }
        let mut classes = Vec::new();
        for (id, class) in geometry.classes.iter().enumerate() {
            let section = table.sections().iter().find(|s| (s.kind, s.id) == (kind::CLASS, id as u32));
            let section = section.ok_or(JoinError::Geometry { what: "a size class is missing" })?;
            // SAFETY: inside the region by the validation of the table.
            let base = unsafe { region.base().add(section.offset as usize) };
            classes.push(Slots { base, size: class.size, count: class.count });
        }
        Ok(Self {
            control: section!(Control<W>, kind::CONTROL, 1u32),
            lane: section!(Lane<W>, kind::LANE, 1u32),
            intake: section!(Intake<W>, kind::INTAKE, 1u32),
            counters: section!(Counters, kind::STATS, 1u32),
            entries: section!(Entry<Body>, kind::ENTRIES, geometry.entries),
            cells: section!(ReplyCell<W>, kind::CELLS, geometry.cells),
            call_words: section!(W, kind::CALL_WORDS, geometry.cells),
            released: section!(W, kind::RELEASED, geometry.slots()),
            classes: classes.into(),
            region,
        })
    }
}
