//! All that a host reads of a link: entries, reply cells, positions, released words, marks, bells.
#![no_main]

use busway_fuzz::{link, mutate, steps};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|data: &[u8]| {
    let Some((nested, data)) = data.split_last() else { return };
    link::play(steps(data), nested & 1 == 1);
});

fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| {
    mutate(data, size, max, seed, |data, size, max| fuzzer_mutate(data, size, max))
});
