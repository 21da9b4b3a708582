//! The floor: what two processes on this machine cost at least, with nothing in between.
//!
//! One mapping, one process on each side, a pause in every spin, a clock read around each round trip. Each side writes
//! a sequence line of its own and polls the other's:
//!
//! - `call` up to 48 bytes: the payload travels in the sequence line, so one line goes each way.
//! - `call` above: one warm buffer each way. The caller copies in from private memory, the peer copies the request to
//!   the reply, the caller copies out.
//! - `call-in`: the caller fills the request in place, the peer sums it in place, the sum returns in the peer's line.
//! - `call`, parked: the same copies, but the lines are futexes and both sides sleep at once: a round trip is two
//!   wake-ups.
//! - `pool-call`, `pool-call-in`: as without `pool-`.
//! - `event`: a ring of 64-byte entries, one way; the reader says how far it is once in a quarter of the ring.
//! - `spsc`, `mpmc`: the same with entries of 16 bytes and as many as the case says; one under way is a `call` of 8 bytes.
//!
//! Payload is touched: every copy is made and its result looked at. What a side works on moves into its closure: held by
//! reference it would be read from memory anew after each store, which alone is a tenth of an event.

#![allow(clippy::disallowed_types, reason = "bare on purpose: below the library, and not for loom")]

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::Instant;
use std::{hint, ptr};

use super::machine::PEER_CPU;
use super::measure::{Case, Regime, Sample, System, time_trips};
use super::process::{Peer, Shared, sleep_until, spin_until, wake};

const LINE: usize = 64;
/// The line the caller writes.
const CALLER: usize = 0;
/// The line the peer writes: not next to the caller's, since prefetchers fetch lines in pairs.
const PEER: usize = 2 * LINE;
/// Where payload starts in a line, past the sequence word.
const INLINE: usize = 16;
/// The largest payload of a buffer.
const SPAN: usize = 4 << 20;
const REQUEST: usize = 4096;
const REPLY: usize = REQUEST + SPAN;
/// The entries of the ring of events.
const RING: u32 = 1024;
/// The payload of an event.
const EVENT: usize = 32;

/// The system that every other one is divided by.
pub struct Floor;

impl System for Floor {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn round(&mut self, case: &Case) -> Option<Sample> {
        // Nothing is left of an earlier round: the sequence words start at zero.
        let shared = Shared::new(REPLY + SPAN);
        let (len, n) = (case.bytes, case.n);
        // One message is under way, whatever the case asks of the others.
        match (case.name, case.regime) {
            ("call" | "pool-call" | "set-of-1" | "set-of-1000", Regime::Hot) => {
                Some(call::<false>(&shared, len, PEER_CPU, n))
            }
            // However a system sleeps, the floor is the bare futex.
            ("call" | "call-fd" | "pool-call", Regime::ParkedSame | Regime::ParkedCross) => {
                Some(call::<true>(&shared, len, case.regime.peer_cpu(), n))
            }
            ("call-in" | "pool-call-in", Regime::Hot) => Some(call_in(&shared, len, n)),
            ("event", Regime::Hot) if len == EVENT => Some(stream::<RING, LINE, INLINE, EVENT>(&shared, n)),
            ("spsc" | "mpmc", Regime::Hot) if len == 8 => match case.inflight {
                1 => Some(call::<false>(&shared, len, PEER_CPU, n)),
                1024 => Some(stream::<1024, 16, 8, 8>(&shared, n)),
                256 => Some(stream::<256, 16, 8, 8>(&shared, n)),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Says that `value` was reached, to a side that may sleep if both are `PARKED`.
fn tell<const PARKED: bool>(word: &AtomicU32, value: u32) {
    word.store(value, Release);
    if PARKED {
        wake(word);
    }
}

/// Waits until the other side has told `value`.
fn wait<const PARKED: bool>(word: &AtomicU32, value: u32) {
    if PARKED { sleep_until(word, value - 1, value) } else { spin_until(word, value) }
}

fn call<const PARKED: bool>(shared: &Shared, len: usize, peer_cpu: usize, n: u32) -> Sample {
    let (request, reply) = if len <= LINE - INLINE {
        (shared.bytes(CALLER + INLINE, len), shared.bytes(PEER + INLINE, len))
    } else {
        (shared.bytes(REQUEST, len), shared.bytes(REPLY, len))
    };
    let (asked, answered) = (shared.word(CALLER), shared.word(PEER));
    let _peer = Peer::fork(peer_cpu, move || {
        for i in 1.. {
            wait::<PARKED>(asked, i);
            // SAFETY: two ranges of `len` mapped bytes that do not overlap; the caller waits for the answer.
            unsafe { ptr::copy_nonoverlapping(request, reply, len) };
            tell::<PARKED>(answered, i);
        }
    });
    let (mut out, mut back) = (vec![0u8; len], vec![0u8; len]);
    time_trips(n, |i| {
        out[len - 1] = i as u8;
        // SAFETY: `len` private bytes into as many mapped ones, which the peer leaves alone until it is asked.
        unsafe { ptr::copy_nonoverlapping(out.as_ptr(), request, len) };
        tell::<PARKED>(asked, i);
        wait::<PARKED>(answered, i);
        // SAFETY: the reverse; the peer has answered and waits for the next request.
        unsafe { ptr::copy_nonoverlapping(reply, back.as_mut_ptr(), len) };
        assert_eq!(back[len - 1], i as u8);
    })
}

fn call_in(shared: &Shared, len: usize, n: u32) -> Sample {
    let request = shared.bytes(REQUEST, len);
    let result = shared.bytes(PEER + INLINE, size_of::<u64>()).cast::<u64>();
    let (asked, answered) = (shared.word(CALLER), shared.word(PEER));
    let _peer = Peer::fork(PEER_CPU, move || {
        for i in 1.. {
            spin_until(asked, i);
            // SAFETY: the request is `len` mapped bytes from a page's start, filled and left by the caller; the result
            // is aligned, in our own line, and not read before the answer.
            unsafe { result.write(sum(request.cast(), len / 8)) };
            answered.store(i, Release);
        }
    });
    time_trips(n, |i| {
        // SAFETY: `len` mapped bytes that the peer leaves alone until it is asked.
        unsafe { ptr::write_bytes(request, i as u8, len) };
        asked.store(i, Release);
        spin_until(answered, i);
        let want = u64::from_ne_bytes([i as u8; 8]).wrapping_mul((len / 8) as u64);
        // SAFETY: the peer has answered and leaves its line alone until it is asked again.
        assert_eq!(unsafe { result.read() }, want);
    })
}

/// # Safety
///
/// `words` is valid for `count` aligned reads, and nobody writes there meanwhile.
unsafe fn sum(words: *const u64, count: usize) -> u64 {
    // SAFETY: the caller vouches for every index below `count`.
    let word = |i| unsafe { words.add(i).read() };
    (0..count).map(word).fold(0, u64::wrapping_add)
}

/// Messages one way, through a ring of `COUNT` entries of `SIZE` bytes, whose payload of `LEN` bytes begins at `AT`.
fn stream<const COUNT: u32, const SIZE: usize, const AT: usize, const LEN: usize>(shared: &Shared, n: u32) -> Sample {
    let quarter = COUNT / 4;
    let ring = shared.bytes(REQUEST, COUNT as usize * SIZE);
    // SAFETY: the remainder keeps each entry inside the ring.
    let entry = move |i: u32| unsafe { ring.add((i % COUNT) as usize * SIZE) };
    // SAFETY: an entry starts aligned, and its first bytes are only ever used as an atomic.
    let word = move |i: u32| unsafe { AtomicU32::from_ptr(entry(i).cast()) };
    let position = shared.word(PEER);
    let _peer = Peer::fork(PEER_CPU, move || {
        let mut got = [0u8; LEN];
        for i in 1.. {
            spin_until(word(i), i);
            // SAFETY: an entry that is published, and not written again until we have passed it.
            unsafe { ptr::copy_nonoverlapping(entry(i).add(AT), got.as_mut_ptr(), LEN) };
            hint::black_box(&got);
            if i % quarter == 0 {
                position.store(i, Release);
            }
        }
    });
    let mut passed = 0;
    let mut send = move |i: u32| {
        while i - passed > COUNT {
            passed = position.load(Acquire);
            hint::spin_loop();
        }
        // SAFETY: an entry that the reader has passed.
        unsafe { ptr::write_bytes(entry(i).add(AT), i as u8, LEN) };
        word(i).store(i, Release);
    };
    // The reader's start is not part of the rate. The ring is left full: a writer that starts a lap ahead stays ahead,
    // one that starts abreast may fight its reader for every line.
    let (warm, last) = (n / 10, n / 10 + n);
    (1..=warm).for_each(&mut send);
    let start = Instant::now();
    (warm + 1..=last).for_each(&mut send);
    spin_until(position, last / quarter * quarter);
    Sample::rate(f64::from(n) / start.elapsed().as_secs_f64())
}
