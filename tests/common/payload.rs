//! Payloads that can be told from others: of any length, filled from a seed, with a checksum.

/// A small pseudo-random generator (xorshift): tests that fail do so again.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Fills `bytes` from a seed.
pub fn fill(seed: u64, bytes: &mut [u8]) {
    let mut random = Random::new(seed);
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]);
    }
}

/// `len` bytes from a seed.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fill(seed, &mut bytes);
    bytes
}

/// Tells apart payloads that differ in any byte or in length.
pub fn checksum(bytes: &[u8]) -> u64 {
    let mut sum = bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        sum = (sum.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
    sum
}

/// Lengths that matter: the edges of inline payloads and of `classes`, and some between, up to `max`.
pub fn lengths(classes: &[u32], max: usize, random: &mut Random, some: usize) -> Vec<usize> {
    let edges = [0, 1, 7, 8, 31, 32, 33, 39, 40, 41].into_iter();
    let classes = classes.iter().flat_map(|&size| [size as usize - 1, size as usize, size as usize + 1]);
    let mut lengths: Vec<_> = edges.chain(classes).filter(|len| *len <= max).collect();
    lengths.extend((0..some).map(|_| random.below(max + 1)));
    lengths
}
