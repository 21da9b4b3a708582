//! Slots: where payloads live that do not fit an entry. No system calls, no policy.

pub mod arena;
pub mod owned;

/// Names a slot to the other side: segment 8 bits, class 8, index 24, generation 24, from the top.
///
/// Segment 0 is the region itself. The generation changes each time the slot is lent, so that giving it back twice, or late,
/// names something that no longer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRef(u64);

/// Bits of a generation.
pub const GENERATION_BITS: u32 = 24;
const MASK: u64 = (1 << GENERATION_BITS) - 1;

impl SlotRef {
    /// A slot of segment 0.
    pub fn new(class: u8, index: u32, generation: u32) -> Self {
        Self(u64::from(class) << 48 | (u64::from(index) & MASK) << GENERATION_BITS | u64::from(generation) & MASK)
    }

    /// From the bits that travelled. Nothing about them is true yet.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits that travel.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Segment; 0 is the region itself.
    pub fn segment(self) -> u8 {
        (self.0 >> 56) as u8
    }

    /// Size class.
    pub fn class(self) -> u8 {
        (self.0 >> 48) as u8
    }

    /// Index in the class.
    pub fn index(self) -> u32 {
        (self.0 >> GENERATION_BITS & MASK) as u32
    }

    /// How often the slot was lent, modulo 2^24.
    pub fn generation(self) -> u32 {
        (self.0 & MASK) as u32
    }
}
