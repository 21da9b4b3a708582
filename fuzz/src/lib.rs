//! What the fuzz targets share: steps, which an input is made of, and a mutator that keeps to them.

pub mod link;

use bytemuck::{Pod, Zeroable};

/// One step of an input: what to do, and with what. Fixed in size, so that whatever the fuzzer does to an input makes
/// other steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Step {
    /// What to do, modulo the number of things that can be done.
    pub what: u8,
    /// Which one of several.
    pub a: u8,
    /// Another choice.
    pub b: u8,
    /// One more.
    pub c: u8,
    /// A word.
    pub value: u32,
}

impl Step {
    /// A step.
    pub const fn new(what: u8, a: u8, b: u8, c: u8, value: u32) -> Self {
        Self { what, a, b, c, value }
    }
}

/// Words that mean something somewhere.
const TELLING: [u32; 12] = [0, 1, 2, 3, 8, 32, 33, 64, 65, 1 << 30, i32::MAX as u32, u32::MAX];

/// The steps of an input, at most so many as end soon.
pub fn steps(data: &[u8]) -> impl Iterator<Item = Step> {
    data.chunks_exact(size_of::<Step>()).take(64).map(bytemuck::pod_read_unaligned)
}

/// Changes an input step by step: changes a field of one, repeats, drops or moves some, or leaves it to the fuzzer.
pub fn mutate(
    data: &mut [u8],
    size: usize,
    max: usize,
    seed: u32,
    other: fn(&mut [u8], usize, usize) -> usize,
) -> usize {
    const STEP: usize = size_of::<Step>();
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % bound.max(1)
    };
    let count = size / STEP;
    if count == 0 || below(5) == 0 {
        return other(data, size, max);
    }
    let at = below(count) * STEP;
    let size = count * STEP;
    match below(5) {
        0 => {
            data[at + below(4)] = below(256) as u8;
            size
        }
        1 => {
            let mut step: Step = bytemuck::pod_read_unaligned(&data[at..at + STEP]);
            step.value = match below(4) {
                0 => TELLING[below(TELLING.len())],
                1 => step.value ^ 1 << below(32),
                2 => step.value.wrapping_add(below(5) as u32).wrapping_sub(2),
                _ => below(usize::MAX) as u32,
            };
            data[at..at + STEP].copy_from_slice(bytemuck::bytes_of(&step));
            size
        }
        2 if size + STEP <= max => {
            data.copy_within(at..size, at + STEP);
            size + STEP
        }
        3 if count > 1 => {
            data.copy_within(at + STEP..size, at);
            size - STEP
        }
        _ => {
            let to = below(count) * STEP;
            for byte in 0..STEP {
                data.swap(at + byte, to + byte);
            }
            size
        }
    }
}
