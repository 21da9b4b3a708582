//! What a process can do that has joined one link and writes its side of the memory as it likes.

use super::payload::Random;
use super::procfs::regions;
use busway::Link;
use busway::internals::link::words::{Bells, Body, Control, Intake, Lane, ReplyBody, ReplyCell, entry, kind};
use busway::region::{HEADER_SIZE, Table};
use busway::ring::spsc::Entry;
use busway::slots::SlotRef;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::Release};

/// A region of the link of this process, which it may write as it likes if it is its own.
pub struct Region {
    base: usize,
    len: usize,
    table: Table,
}

impl Region {
    /// That of this process.
    pub fn own() -> Self {
        Self::with(kind::ENTRIES, "rw")
    }

    /// That of the other side, to be read.
    pub fn theirs() -> Self {
        Self::with(kind::ENTRIES, "r-")
    }

    /// That of the bells.
    pub fn bells() -> Self {
        Self::with(kind::BELLS, "rw")
    }

    /// The one with sections of this kind and this access.
    fn with(kind: u32, access: &str) -> Self {
        let regions = regions();
        let mut regions = regions.iter().filter(|(.., of)| of.starts_with(access)).map(|(start, end, _)| {
            // SAFETY: mapped and readable; nobody has written the header yet.
            let page = unsafe { *(*start as *const [u8; HEADER_SIZE]) };
            let table = Table::from_page(&page, (end - start) as u64).expect("a valid header");
            Self { base: *start, len: end - start, table }
        });
        let has_it = |region: &Self| region.table.sections().iter().any(|section| section.kind == kind);
        regions.find(has_it).expect("a region of this kind")
    }

    /// The elements of a section.
    pub fn section<T>(&self, kind: u32) -> &[T] {
        let section = self.table.find::<T>(kind, 0).expect("a section");
        let base = (self.base + section.offset as usize) as *const T;
        // SAFETY: in the region by the table; all are words and cells that tolerate writes, and the mapping stays.
        unsafe { std::slice::from_raw_parts(base, section.count as usize) }
    }

    /// Everything, the header included.
    pub fn words(&self) -> &[AtomicU32] {
        // SAFETY: mapped and writable to its end, all of it plain data; the mapping stays.
        unsafe { std::slice::from_raw_parts(self.base as *const AtomicU32, self.len / size_of::<AtomicU32>()) }
    }

    /// The elements of a section, word by word.
    pub fn words_of<T>(&self, kind: u32) -> &[AtomicU32] {
        let elements = self.section::<T>(kind);
        // SAFETY: all of it is 32-bit words or holds plain data of such units; this process may write all of it.
        unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements) / 4) }
    }

    /// How many requests this process says that it has taken.
    pub fn pos(&self) -> &AtomicU32 {
        &self.section::<Intake<AtomicU32>>(kind::INTAKE)[0].pos.0
    }

    pub fn control(&self) -> &Control<AtomicU32> {
        &self.section(kind::CONTROL)[0]
    }

    pub fn cells(&self) -> &[ReplyCell<AtomicU32>] {
        self.section(kind::CELLS)
    }

    /// Publishes an entry, as if it were the one of this position.
    pub fn publish(&self, position: u32, tag: u32, body: Body) {
        let entries = self.section::<Entry<Body>>(kind::ENTRIES);
        let entry = &entries[position as usize % entries.len()];
        // SAFETY: no other thread of this process writes it.
        unsafe { entry.value.write(body) };
        entry.word.store(u64::from(tag) << 32 | u64::from(position.wrapping_add(1)), Release);
    }

    /// Keeps the ring full from `position` on, until the link ends.
    pub fn publish_on(&self, link: &Link, mut position: u32, entry: impl Fn(u32) -> (u32, Body)) {
        let (theirs, entries) = (Self::theirs(), self.section::<Entry<Body>>(kind::ENTRIES).len() as u32);
        while !link.is_closed() {
            for _ in 0..1000 {
                while position.wrapping_sub(theirs.pos().load(Relaxed)) < entries {
                    let (tag, body) = entry(position);
                    self.publish(position, tag, body);
                    position = position.wrapping_add(1);
                }
            }
            // To learn of the end. Dropped, a request would be answered.
            std::mem::forget(link.try_recv());
        }
    }

    /// Writes a reply.
    pub fn reply(&self, cell: u32, generation: u32, flags: u32, body: ReplyBody) {
        let cell = &self.cells()[cell as usize];
        // SAFETY: no other thread of this process writes it.
        unsafe { cell.body.write(body) };
        cell.flags.store(flags, Relaxed);
        cell.word.store(generation, Release);
    }
}

/// Tags of entries.
pub const EVENT: u32 = entry::EVENT as u32;
pub const EVENT_IN_SLOT: u32 = EVENT | (entry::SLOT as u32) << 8;
pub const CALLING: u32 = entry::CALL as u32;

pub fn in_slot(slot: SlotRef, len: u64) -> Body {
    Body { inline: [slot.bits(), len, 0, 0], ..Body::default() }
}

pub fn calling(cell: u32, generation: u32) -> Body {
    Body { call: u64::from(generation) << 32 | u64::from(cell), ..Body::default() }
}

/// Writes over everything that the other side reads.
pub struct Scribbler<'a> {
    region: &'a Region,
    bells: &'a Region,
    random: Random,
}

impl<'a> Scribbler<'a> {
    pub fn new(region: &'a Region, bells: &'a Region, seed: u64) -> Self {
        Self { region, bells, random: Random::new(seed) }
    }

    /// Flips bits of any word there is, most of which are payload.
    pub fn flip_anywhere(&mut self) {
        let words = self.region.words();
        let random = self.random.next();
        let word = &words[(random >> 32) as usize % words.len()];
        word.store(word.load(Relaxed) ^ random as u32, Relaxed);
    }

    /// Writes a word that the protocol is made of, mostly one that is nearly right.
    pub fn aim(&mut self) {
        let Self { region, bells, random } = self;
        let words = match random.below(13) {
            // A state of closed, or an end of it all, says little.
            0 => &region.words_of::<Control<AtomicU32>>(kind::CONTROL)[16..],
            1 => region.words_of::<Lane<AtomicU32>>(kind::LANE),
            2 => region.words_of::<Intake<AtomicU32>>(kind::INTAKE),
            3 => region.words_of::<AtomicU32>(kind::CALL_WORDS),
            4 => region.words_of::<AtomicU32>(kind::RELEASED),
            5..8 => region.words_of::<ReplyCell<AtomicU32>>(kind::CELLS),
            // The host's bells; all else there is the plugin's own loss.
            8 => {
                [bells.words_of::<Bells>(kind::BELLS), bells.words_of::<AtomicU32>(kind::REPLY_BELLS)][random.below(2)]
            }
            _ => region.words_of::<Entry<Body>>(kind::ENTRIES),
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
            _ => random.next() as u32 >> 2,
        };
        word.store(value, Relaxed);
    }

    /// Publishes an entry that is nearly right where the other side looks for the next one.
    pub fn publish(&mut self, position: u32) {
        let Self { region, random, .. } = self;
        let kind = [entry::CALL, entry::CALL, entry::EVENT, entry::EVENT, random.next() as u8][random.below(5)];
        let flags = [0, 0, entry::SLOT, random.next() as u8][random.below(4)];
        let parent = [0, 0, 1, random.next() as u16][random.below(4)];
        let slot = SlotRef::new(random.below(5) as u8, random.below(70) as u32, random.below(3) as u32);
        let mut body = in_slot(slot, [0, 40, 64, 65, random.next()][random.below(5)]);
        body.length = [0, 7, 32, 33, random.next() as u32][random.below(5)];
        body.call = [random.below(65) as u64, random.next()][random.below(2)];
        body.deadline = [0, 1, random.next()][random.below(3)];
        region.publish(position, u32::from(kind) | u32::from(flags) << 8 | u32::from(parent) << 16, body);
    }
}
