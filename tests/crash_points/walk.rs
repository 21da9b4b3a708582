//! Walking through an operation of a traced child, an instruction at a time.
//!
//! Of two instructions between which the child neither stores to shared memory nor makes a system call it makes no difference
//! at which it dies: others cannot tell. So what a walk counts are [`Event`]s, and there is one crash point more than events.

use crate::common::procfs;
use crate::common::trace::{STOPS, Traced};
use std::thread::yield_now;

/// What others can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A word of shared memory changed: how far from the first byte that the child can write.
    Store(usize),
    /// A system call ended.
    Call(libc::c_long),
}

/// A walk, and how far it has come.
pub struct Walk<'a> {
    traced: &'a Traced,
    shared: Shared,
    /// The system call before which it ends.
    end: libc::c_long,
    pub instructions: u32,
    pub events: Vec<Event>,
}

impl<'a> Walk<'a> {
    /// Begins where the child stands.
    pub fn begin(traced: &'a Traced) -> Self {
        Self { traced, shared: Shared::of(traced.pid), end: STOPS, instructions: 0, events: Vec::new() }
    }

    /// Once through a loop that sleeps in a system call: from just before that to the next time.
    pub fn of_loop(traced: &'a Traced) -> Self {
        loop {
            if let (_, Some(end)) = traced.next() {
                return Self { end, ..Self::begin(traced) };
            }
            traced.begin_step();
            traced.wait();
        }
    }

    /// Goes to the last system call among the first of `known`, which are the events of an earlier walk, without looking at
    /// the instructions. Says whether it came so far: this time the operation may make fewer calls, and be at its end.
    pub fn skip(&mut self, known: &[Event]) -> bool {
        let is_call = |event: &Event| matches!(event, Event::Call(_));
        let Some(last) = known.iter().rposition(is_call) else { return true };
        for _ in known[..=last].iter().filter(|event| is_call(event)) {
            assert!(self.traced.next_system_call(), "it stopped before a call");
            if self.traced.call() == self.end {
                return false;
            }
            assert!(self.traced.next_system_call(), "it stopped in a call");
        }
        self.events.extend(&known[..=last]);
        self.shared = Shared::of(self.traced.pid);
        true
    }

    /// Goes on until there were so many events, or to the end; says whether there were. Others have their `turn` after each
    /// event, and while the child sleeps, which they are told.
    pub fn to(&mut self, events: usize, turn: &mut dyn FnMut(bool)) -> bool {
        while self.events.len() < events {
            let (_, call) = self.traced.next();
            if call == Some(self.end) && self.instructions > 0 {
                return false;
            }
            self.traced.begin_step();
            let stopped = match call {
                None => self.traced.wait(),
                Some(_) => self.wait(turn),
            };
            assert_eq!(stopped, libc::SIGTRAP);
            self.instructions += 1;
            if let Some(call) = call {
                self.events.push(Event::Call(call));
                // It may have mapped something.
                self.shared = Shared::of(self.traced.pid);
            } else if let Some(at) = self.shared.changed() {
                self.events.push(Event::Store(at));
            } else {
                continue;
            }
            if self.events.len() < events {
                turn(false);
                self.shared.changed();
            }
        }
        true
    }

    /// The end of a system call, while which others may have to do something.
    fn wait(&mut self, turn: &mut dyn FnMut(bool)) -> i32 {
        loop {
            if let Some(signal) = self.traced.has_stopped() {
                return signal;
            }
            if self.traced.sleeps() {
                turn(true);
            }
            yield_now();
        }
    }
}

/// The shared memory that a process can write, as it was.
struct Shared {
    pid: u32,
    ranges: Vec<libc::iovec>,
    seen: Vec<u8>,
    now: Vec<u8>,
}

impl Shared {
    fn of(pid: u32) -> Self {
        let writable = procfs::regions_of(pid).into_iter().filter(|(_, _, access)| access.contains('w'));
        let range = |(start, end, _): (usize, usize, _)| libc::iovec {
            iov_base: std::ptr::without_provenance_mut(start),
            iov_len: end - start,
        };
        let mut shared = Self { pid, ranges: writable.map(range).collect(), seen: Vec::new(), now: Vec::new() };
        shared.now.resize(shared.ranges.iter().map(|range| range.iov_len).sum(), 0);
        shared.seen = shared.now.clone();
        shared.changed();
        shared
    }

    /// The first byte that has changed since this was asked last.
    fn changed(&mut self) -> Option<usize> {
        if self.ranges.is_empty() {
            return None;
        }
        let local = libc::iovec { iov_base: self.now.as_mut_ptr().cast(), iov_len: self.now.len() };
        let (remote, count) = (self.ranges.as_ptr(), self.ranges.len() as libc::c_ulong);
        // SAFETY: writes no more than the buffer holds; the other process's memory is not ours to care for.
        let read = unsafe { libc::process_vm_readv(self.pid as i32, &local, 1, remote, count, 0) };
        assert_eq!(read, self.now.len() as isize, "{}", std::io::Error::last_os_error());
        if self.now == self.seen {
            return None;
        }
        let at = self.now.iter().zip(&self.seen).position(|(now, seen)| now != seen);
        std::mem::swap(&mut self.now, &mut self.seen);
        at
    }
}
