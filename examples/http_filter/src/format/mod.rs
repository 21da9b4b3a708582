//! What server and filter say to each other: one flat request, one flat verdict.
//!
//! Both have a head of fixed size, a table of headers, and then text that the head and the table point into. All integers are
//! little-endian, all offsets count from the first byte of the payload, and nothing need be aligned or in any order. So a
//! reader looks at what it wants to know and at nothing else; there is nothing to parse and nothing to allocate. Each range is
//! checked when it is looked at.
//!
//! `docs/http_filter.md` has the bytes for those who write a filter in another language.

pub mod names;
pub mod request;
pub mod verdict;

use bytemuck::{Pod, Zeroable};

/// Of both formats.
pub const VERSION: u8 = 1;

/// The length of a value that is no value: the header is to be removed. In verdicts alone.
pub const REMOVED: u32 = u32::MAX;

/// A payload breaks the rules of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed: {0}")]
pub struct Malformed(pub &'static str);

/// A part of the payload.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
struct Range {
    offset: u32,
    len: u32,
}

impl Range {
    fn of(self, payload: &[u8]) -> Result<&[u8], Malformed> {
        let start = self.offset as usize;
        let end = start.checked_add(self.len as usize);
        end.and_then(|end| payload.get(start..end)).ok_or(Malformed("a range beyond the end"))
    }
}

/// A line of the table of headers: 16 bytes.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
struct Line {
    /// Number of the name, or 0 if it is a text.
    number: u16,
    name_len: u16,
    name_offset: u32,
    value: Range,
}

const LINE: usize = size_of::<Line>();

/// The table of headers of a payload.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a> {
    payload: &'a [u8],
    table: &'a [u8],
}

impl<'a> Headers<'a> {
    /// The table of `count` lines at `at`.
    fn new(payload: &'a [u8], at: usize, count: u32) -> Result<Self, Malformed> {
        let end = (count as usize).checked_mul(LINE).and_then(|len| len.checked_add(at));
        let table = end.and_then(|end| payload.get(at..end)).ok_or(Malformed("more headers than bytes"))?;
        Ok(Self { payload, table })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.table.len() / LINE
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        let (line, rest) = self.table.split_at_checked(LINE)?;
        self.table = rest;
        Some(Header { payload: self.payload, line: bytemuck::pod_read_unaligned(line) })
    }
}

/// One header, whose name and value have not been looked at.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    payload: &'a [u8],
    line: Line,
}

impl<'a> Header<'a> {
    /// The number of its name; 0 if it is a text.
    pub fn number(&self) -> u16 {
        self.line.number
    }

    /// Its name.
    pub fn name(&self) -> Result<&'a [u8], Malformed> {
        match self.line.number {
            0 => Range { offset: self.line.name_offset, len: self.line.name_len.into() }.of(self.payload),
            number => names::NAMES
                .get(usize::from(number))
                .map(|name| name.as_bytes())
                .ok_or(Malformed("a name of unknown number")),
        }
    }

    /// Its value; `None` if it is to be removed.
    pub fn value(&self) -> Result<Option<&'a [u8]>, Malformed> {
        (self.line.value.len != REMOVED).then(|| self.line.value.of(self.payload)).transpose()
    }
}
