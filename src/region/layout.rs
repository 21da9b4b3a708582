//! The header page of a region and the table of its sections.
//!
//! ```text
//! offset  size  header
//!      0     8  magic, "busway\0\x01"
//!      8     4  version
//!     12     4  number of sections
//!     16     8  length of the region in bytes
//!     24    40  zero
//!     64  32 n  sections: kind u32, version u32, id u32, count u32, offset u64, stride u32, zero u32
//! ```
//!
//! All numbers are little endian. A reader skips sections of a kind it does not know.

use crate::error::JoinError;
use bytemuck::{Pod, Zeroable};
use core::alloc::Layout;

/// The magic number a region begins with.
pub const MAGIC: u64 = u64::from_le_bytes(*b"busway\0\x01");
/// The version of the layout and of the protocol over it.
pub const VERSION: u32 = 1;
/// The header and the section table fill one page of this size.
pub const HEADER_SIZE: usize = 4096;
/// No region is larger than this; keeps all offset arithmetic far from overflow.
pub const MAX_LENGTH: u64 = 1 << 46;

/// Where in the header page the section table begins.
pub const TABLE_AT: usize = 64;
/// More sections do not fit the page.
pub const MAX_SECTIONS: usize = (HEADER_SIZE - TABLE_AT) / size_of::<Section>();

/// What the header page begins with.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    pub magic: u64,
    pub version: u32,
    pub sections: u32,
    pub length: u64,
    pub zero: [u64; 5],
}

/// One array inside a region: `count` elements of `stride` bytes at `offset`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Section {
    /// What the elements are; the topology that uses the region defines the numbers.
    pub kind: u32,
    /// Version of the elements' layout.
    pub version: u32,
    /// Tells sections of one kind apart: lane number, size class.
    pub id: u32,
    /// Number of elements.
    pub count: u32,
    /// Where the first element lies, in bytes from the start of the region.
    pub offset: u64,
    /// Bytes from one element to the next.
    pub stride: u32,
    /// Zero.
    pub zero: u32,
}

/// Lays sections out one after the other. The creator of a region is the only one that plans; others read the table.
#[derive(Debug)]
pub struct Plan {
    sections: Vec<Section>,
    end: Option<u64>,
}

impl Default for Plan {
    fn default() -> Self {
        Self::new()
    }
}

impl Plan {
    /// An empty plan: only the header page.
    pub fn new() -> Self {
        Self { sections: Vec::new(), end: Some(HEADER_SIZE as u64) }
    }

    /// Adds `count` elements of `stride` bytes behind what is there, aligned to `align`, a power of two.
    pub fn add(&mut self, kind: u32, id: u32, count: u32, stride: usize, align: usize) -> &mut Self {
        let align = align as u64 - 1;
        let offset = self.end.and_then(|end| end.checked_add(align)).map(|end| end & !align);
        let bytes = u64::from(count).checked_mul(stride as u64);
        self.end = offset.zip(bytes).and_then(|(o, b)| o.checked_add(b)).filter(|end| *end <= MAX_LENGTH);
        let stride = u32::try_from(stride).ok();
        if self.end.is_none() || stride.is_none() || self.sections.len() == MAX_SECTIONS {
            self.end = None;
            return self;
        }
        let (offset, stride) = (offset.unwrap_or_default(), stride.unwrap_or_default());
        self.sections.push(Section { kind, version: 1, id, count, offset, stride, zero: 0 });
        self
    }

    /// The finished table, its length rounded up to whole pages of 4 KiB.
    ///
    /// # Errors
    /// [`JoinError::Geometry`] if the sections do not fit a region.
    pub fn finish(self) -> Result<Table, JoinError> {
        let end = self.end.ok_or(JoinError::Geometry { what: "too large, or too many sections" })?;
        Ok(Table { sections: self.sections, length: end.next_multiple_of(HEADER_SIZE as u64) })
    }
}

/// A validated table of sections, in private memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    sections: Vec<Section>,
    length: u64,
}

impl Table {
    /// Length of the region in bytes; never 0.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.length as usize
    }

    /// All sections.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The header page that says all this.
    pub fn to_page(&self) -> [u8; HEADER_SIZE] {
        let header = Header {
            magic: MAGIC,
            version: VERSION,
            sections: self.sections.len() as u32,
            length: self.length,
            zero: [0; 5],
        };
        let mut page = [0; HEADER_SIZE];
        page[..TABLE_AT].copy_from_slice(bytemuck::bytes_of(&header));
        let table = bytemuck::cast_slice::<Section, u8>(&self.sections);
        page[TABLE_AT..][..table.len()].copy_from_slice(table);
        page
    }

    /// Reads a table back from a private copy of the header page of a region that is `length` bytes long.
    ///
    /// # Errors
    /// [`JoinError::BadMagic`], or [`JoinError::Geometry`] if a section is misaligned, empty of stride, overlaps another or
    /// leaves the region. A version other than ours is the caller's to judge: see [`Table::version`].
    pub fn from_page(page: &[u8; HEADER_SIZE], length: u64) -> Result<Self, JoinError> {
        let header: Header = bytemuck::pod_read_unaligned(&page[..TABLE_AT]);
        let bad = |what| Err(JoinError::Geometry { what });
        if header.magic != MAGIC {
            return Err(JoinError::BadMagic);
        }
        if header.length != length || length > MAX_LENGTH {
            return bad("the header and the file differ in length");
        }
        if header.sections as usize > MAX_SECTIONS {
            return bad("more sections than fit the header");
        }
        let bytes = &page[TABLE_AT..][..header.sections as usize * size_of::<Section>()];
        let sections: Vec<Section> =
            bytes.chunks_exact(size_of::<Section>()).map(bytemuck::pod_read_unaligned).collect();
        let mut ranges: Vec<(u64, u64)> = Vec::with_capacity(sections.len());
        for s in &sections {
            // The product of 32 by 32 bits cannot overflow; with an offset on top it can.
            let end = s.offset.saturating_add(u64::from(s.count) * u64::from(s.stride));
            if s.offset < HEADER_SIZE as u64 || s.offset > length || end > length {
                return bad("a section leaves the region");
            }
            if s.offset % 64 != 0 || s.stride == 0 {
                return bad("a section is not aligned to a cache line");
            }
            if ranges.iter().any(|other| s.offset < other.1 && other.0 < end) {
                return bad("two sections overlap");
            }
            ranges.push((s.offset, end));
        }
        Ok(Self { sections, length })
    }

    /// All sections of this kind, whose ids count from 0.
    ///
    /// # Errors
    /// [`JoinError::Geometry`] if they do not.
    pub fn numbered(&self, kind: u32) -> Result<Vec<Section>, JoinError> {
        let of_kind = || self.sections.iter().filter(|s| s.kind == kind);
        let with_id = |id| of_kind().find(|s| s.id == id as u32).copied();
        let sections: Option<_> = (0..of_kind().count()).map(with_id).collect();
        sections.ok_or(JoinError::Geometry { what: "sections are not numbered from 0" })
    }

    /// The version that a header page claims, if it has our magic number.
    pub fn version(page: &[u8; HEADER_SIZE]) -> Result<u32, JoinError> {
        let header: Header = bytemuck::pod_read_unaligned(&page[..TABLE_AT]);
        if header.magic == MAGIC { Ok(header.version) } else { Err(JoinError::BadMagic) }
    }

    /// The one section of this kind and id, if its elements have the size and alignment of `T`.
    ///
    /// # Errors
    /// [`JoinError::Geometry`] if there is none or it does not fit.
    pub fn find<T>(&self, kind: u32, id: u32) -> Result<Section, JoinError> {
        self.find_of(Layout::new::<T>(), kind, id)
    }

    /// As [`find`](Self::find), where the layout of the elements is known, and their type need not be.
    pub fn find_of(&self, element: Layout, kind: u32, id: u32) -> Result<Section, JoinError> {
        let mut found = self.sections.iter().filter(|s| (s.kind, s.id) == (kind, id));
        match (found.next(), found.next()) {
            (Some(s), None) if s.version != 1 => Err(JoinError::Geometry { what: "a section is of another version" }),
            (Some(s), None) if s.stride as usize == element.size() && element.align() <= 64 => Ok(*s),
            (Some(_), None) => Err(JoinError::Geometry { what: "a section has elements of another size" }),
            _ => Err(JoinError::Geometry { what: "a section is missing or doubled" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page(sections: &[(u32, u32, usize)]) -> (Table, [u8; HEADER_SIZE]) {
        let mut plan = Plan::new();
        for (i, (kind, count, stride)) in sections.iter().enumerate() {
            plan.add(*kind, i as u32, *count, *stride, 64);
        }
        let table = plan.finish().unwrap();
        let page = table.to_page();
        (table, page)
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let mut plan = Plan::new();
        plan.add(1, 0, u32::MAX, 1 << 31, 64);
        assert!(matches!(plan.finish(), Err(JoinError::Geometry { .. })));
        let mut plan = Plan::new();
        for _ in 0..=MAX_SECTIONS {
            plan.add(1, 0, 1, 64, 64);
        }
        assert!(matches!(plan.finish(), Err(JoinError::Geometry { .. })));
    }

    #[test]
    fn a_section_whose_end_does_not_fit_a_number_leaves_the_region() {
        for offset in [4096, 1 << 33, MAX_LENGTH, u64::MAX - 63] {
            let section =
                Section { kind: 1, version: 1, count: u32::MAX, offset, stride: u32::MAX, ..Section::default() };
            let page = Table { sections: vec![section], length: MAX_LENGTH }.to_page();
            assert!(matches!(Table::from_page(&page, MAX_LENGTH), Err(JoinError::Geometry { .. })), "{offset}");
        }
    }

    #[test]
    fn wrong_magic_and_length() {
        let (table, mut page) = page(&[(1, 4, 64)]);
        assert!(matches!(Table::from_page(&page, table.length + 4096), Err(JoinError::Geometry { .. })));
        page[0] ^= 1;
        assert!(matches!(Table::from_page(&page, table.length), Err(JoinError::BadMagic)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 256 }))]

        #[test]
        fn a_table_survives_its_page(sections in proptest::collection::vec((0u32..9, 0u32..1000, 1usize..5000), 0..20)) {
            let (table, page) = page(&sections);
            prop_assert_eq!(Table::from_page(&page, table.length).unwrap(), table);
        }

        #[test]
        fn no_page_makes_a_section_outside_or_a_panic(at in 8usize..400, bytes in any::<[u8; 8]>()) {
            let (table, mut page) = page(&[(1, 4, 64), (2, 100, 4), (3, 7, 4096)]);
            page[at..at + 8].copy_from_slice(&bytes);
            if let Ok(read) = Table::from_page(&page, table.length) {
                for s in read.sections() {
                    prop_assert!(s.offset + u64::from(s.count) * u64::from(s.stride) <= table.length);
                }
            }
        }
    }
}
