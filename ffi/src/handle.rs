//! Handles: what names a link, a listener and all else that lives long.
//!
//! A handle has the type of a pointer and is a number: which cell of a table, what kind of thing is in it, and how often the cell
//! was used before. So anything at all may be passed as a handle: what is not one, not any more, or one of another kind
//! is found out by a comparison. The upper byte makes it an address that no object can have.
//!
//! # Freeing what is in use
//!
//! A thread that is inside a function says in a record of its own which handle it uses, then looks whether that is still valid. Who
//! frees makes the handle invalid, then looks at all records, and waits until none names it. One of the two sees the other:
//!
//! ```text
//! user:   record = handle; fence; cell == handle ? use : stale;  record = 0
//! freer:  cell = next generation; fence; end what threads wait for; wait until no record == handle; drop
//! ```
//!
//! The user's fence would cost each call 10 ns and more, so it is one of the compiler alone where the kernel makes a fence on all
//! threads at the freer's request (`membarrier`). Nothing else is written, so a call takes no cache line from another thread.

mod steps;

use crate::error::Failure;
use busway::sync::mutant;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, compiler_fence, fence};
use rustix::thread::{MembarrierCommand, membarrier};
use std::cell::Cell as Local;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// What can have a handle.
pub(crate) trait Held: Send + Sync + 'static {
    /// Its number among all that can, from 1 to 15.
    const KIND: u64;
    /// What a wrong handle is said to be.
    const NOT: &'static str;
    /// Wakes the threads that wait in it, since it is being freed.
    fn end(&self) {}
}

/// One place of the table.
struct Cell {
    /// The handle that is valid, or the last one that was, without its kind.
    word: AtomicU64,
    value: AtomicPtr<()>,
    /// The process that made it.
    owner: AtomicU32,
}

const MARK: u64 = 0xb5 << 56;
const KIND_SHIFT: u32 = 24;
const GENERATION_SHIFT: u32 = 28;
const GENERATIONS: u64 = 1 << 28;
const INDEX: u64 = (1 << KIND_SHIFT) - 1;
const KIND: u64 = 15 << KIND_SHIFT;

/// Chunks of the table, each twice as large as the one before; never given back, so that a cell can be looked at by whoever has
/// its number.
static TABLE: [AtomicPtr<Cell>; CHUNKS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; CHUNKS];
const CHUNKS: usize = 18;
const FIRST_CHUNK: usize = 64;

struct Vacant {
    /// The one that was freed longest ago first.
    cells: VecDeque<u32>,
    /// Cells of the chunks that there are.
    made: usize,
}

/// A lock that a process which was forked while another thread had it finds out: no `Mutex`, in which it would wait for ever.
struct Locked {
    /// The process whose thread has it, or 0.
    holder: AtomicU32,
    vacant: UnsafeCell<Vacant>,
}

// SAFETY: who has the lock is alone with what is inside.
unsafe impl Sync for Locked {}

static VACANT: Locked =
    Locked { holder: AtomicU32::new(0), vacant: UnsafeCell::new(Vacant { cells: VecDeque::new(), made: 0 }) };

impl Locked {
    /// Runs `body` with the lock.
    fn with<R>(&self, body: impl FnOnce(&mut Vacant) -> R) -> R {
        /// Gives the lock back, also in a panic.
        struct Held<'a>(&'a AtomicU32);
        impl Drop for Held<'_> {
            fn drop(&mut self) {
                self.0.store(0, Ordering::Release);
            }
        }
        let own = std::process::id();
        let mut looks = 0;
        let abandoned = loop {
            let swap = |from| self.holder.compare_exchange(from, own, Ordering::Acquire, Ordering::Relaxed);
            match swap(0) {
                Ok(_) => break false,
                Err(holder) if holder != own && swap(holder).is_ok() => break true,
                Err(_) => pause(&mut looks),
            }
        };
        let _held = Held(&self.holder);
        if abandoned {
            // Of what the thread was about nothing is known but the chunks; cells that were vacant stay so.
            let chunks = TABLE.iter().take_while(|chunk| !chunk.load(Ordering::Acquire).is_null()).count();
            let vacant = Vacant { cells: VecDeque::new(), made: FIRST_CHUNK * ((1 << chunks) - 1) };
            // SAFETY: the lock is held. What was there is not dropped: it may be in any state.
            unsafe { self.vacant.get().write(vacant) };
        }
        // SAFETY: the lock is held.
        body(unsafe { &mut *self.vacant.get() })
    }
}

/// Passes a moment, a longer one after some.
fn pause(looks: &mut u32) {
    *looks += 1;
    if *looks < 100 { std::thread::yield_now() } else { std::thread::sleep(Duration::from_micros(100)) }
}

/// Which chunk a cell is in, and where.
#[inline(always)]
fn place(index: usize) -> (usize, usize) {
    let chunk = (index / FIRST_CHUNK + 1).ilog2() as usize;
    (chunk, index - FIRST_CHUNK * ((1 << chunk) - 1))
}

#[inline(always)]
fn cell(handle: u64) -> Option<&'static Cell> {
    let (chunk, at) = place((handle & INDEX) as usize);
    let first = TABLE.get(chunk)?.load(Ordering::Acquire);
    // SAFETY: a chunk has `FIRST_CHUNK << chunk` cells, which `at` is below, and stays.
    (!first.is_null()).then(|| unsafe { &*first.add(at) })
}

/// Gives it a handle.
pub(crate) fn insert<T: Held, H>(value: T) -> Result<*mut H, Failure> {
    prepare();
    let index: Result<_, Failure> = VACANT.with(|vacant| {
        if vacant.cells.is_empty() {
            grow(vacant)?;
        }
        Ok(vacant.cells.pop_front())
    });
    let Some(index) = index? else { unreachable!("there were some") };
    let Some(cell) = cell(index.into()) else { unreachable!("made before it was vacant") };
    let handle = cell.word.load(Ordering::Relaxed) | T::KIND << KIND_SHIFT;
    cell.owner.store(std::process::id(), Ordering::Relaxed);
    cell.value.store(Arc::into_raw(Arc::new(value)).cast_mut().cast(), Ordering::Relaxed);
    cell.word.store(handle, Ordering::Release);
    Ok(core::ptr::without_provenance_mut(handle as usize))
}

fn grow(vacant: &mut Vacant) -> Result<(), Failure> {
    let (chunk, _) = place(vacant.made);
    let Some(first) = TABLE.get(chunk) else {
        return Err(busway::Error::Unsupported { what: "more than 16 million handles" }.into());
    };
    let count = FIRST_CHUNK << chunk;
    let new = |i: usize| Cell {
        word: AtomicU64::new(MARK | 1 << GENERATION_SHIFT | i as u64),
        value: AtomicPtr::default(),
        owner: AtomicU32::new(0),
    };
    let cells: Box<[Cell]> = (vacant.made..vacant.made + count).map(new).collect();
    first.store(Box::leak(cells).as_mut_ptr(), Ordering::Release);
    vacant.cells.extend(vacant.made as u32..(vacant.made + count) as u32);
    vacant.made += count;
    Ok(())
}

/// Whether a handle, valid or not, is one of this kind.
pub(crate) fn is_kind<T: Held>(handle: *const ()) -> bool {
    handle.addr() as u64 & KIND == T::KIND << KIND_SHIFT
}

/// Runs `body` with what a handle names, which stays meanwhile.
#[inline(always)]
pub(crate) fn with<T: Held, H, R>(handle: *const H, body: impl FnOnce(&T) -> Result<R, Failure>) -> Result<R, Failure> {
    let handle = handle.addr() as u64;
    if handle & KIND != T::KIND << KIND_SHIFT {
        return Err(Failure::Stale(T::NOT));
    }
    let used = enter(handle).ok_or(Failure::Stale(T::NOT))?;
    // SAFETY: its kind says that it is a `T`, which stays.
    body(unsafe { &*used.value.cast::<T>() })
}

/// What a handle of whatever kind names; it stays while this lives. `None` if the handle is not valid.
#[inline(always)]
pub(crate) fn enter(handle: u64) -> Option<Used> {
    let inside = Inside::enter(handle);
    let cell = cell(handle).filter(|cell| cell.word.load(Ordering::Acquire) == handle)?;
    // Who frees it waits until this thread is outside, as the module says.
    Some(Used { _inside: inside, value: cell.value.load(Ordering::Relaxed) })
}

/// What a thread inside a function uses.
pub(crate) struct Used {
    _inside: Inside,
    value: *const (),
}

/// What a handle names, to stay with for as long as it takes: threads that wait in it keep nobody from freeing it.
pub(crate) fn share<T: Held, H>(handle: *const H) -> Result<Arc<T>, Failure> {
    with(handle, |value: &T| {
        // SAFETY: it was made by `Arc::into_raw`, and is there.
        unsafe {
            Arc::increment_strong_count(core::ptr::from_ref(value));
            Ok(Arc::from_raw(core::ptr::from_ref(value)))
        }
    })
}

/// Makes a handle invalid, and waits until no thread uses it any more, whom `end` wakes. `None` in a forked child: what it names
/// is the parent's.
pub(crate) fn retire<T: Held, H>(handle: *mut H, end: impl FnOnce(&T)) -> Result<Option<Arc<T>>, Failure> {
    let handle = handle.addr() as u64;
    let stale = Failure::Stale(T::NOT);
    if handle & KIND != T::KIND << KIND_SHIFT {
        return Err(stale);
    }
    let Some(cell) = cell(handle) else { return Err(stale) };
    let owner = cell.owner.load(Ordering::Relaxed);
    let value = cell.value.load(Ordering::Relaxed).cast::<T>();
    let generation = (handle >> GENERATION_SHIFT) % GENERATIONS;
    let next = (handle & !KIND & !((GENERATIONS - 1) << GENERATION_SHIFT))
        | ((generation + 1) % GENERATIONS) << GENERATION_SHIFT;
    if !steps::invalidate(&cell.word, handle, next) {
        return Err(stale);
    }
    if owner != std::process::id() {
        return Ok(None); // The threads that might use it are not here, nor is what they hold to be touched.
    }
    // SAFETY: its handle was valid until just now, so nobody else frees it.
    end(unsafe { &*value });
    if !wait_outside(handle) {
        return Ok(None);
    }
    // SAFETY: made by `Arc::into_raw`; the handle's own reference is given up once, by whoever made it invalid.
    let value = unsafe { Arc::from_raw(value) };
    VACANT.with(|vacant| vacant.cells.push_back((handle & INDEX) as u32));
    Ok(Some(value))
}

/// Frees what a handle names.
pub(crate) fn free<T: Held, H>(handle: *mut H) -> Result<(), Failure> {
    retire(handle, T::end).map(drop)
}

/// Which handle a thread uses.
struct Record {
    handle: AtomicU64,
    used: AtomicBool,
    next: AtomicPtr<Record>,
}

/// All records there ever were.
static RECORDS: AtomicPtr<Record> = AtomicPtr::new(core::ptr::null_mut());

/// Whether the kernel makes fences.
static ASKED_FOR: AtomicBool = AtomicBool::new(false);

/// Before there is any handle.
fn prepare() {
    if !ASKED_FOR.load(Ordering::Relaxed) && membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok() {
        ASKED_FOR.store(true, Ordering::Relaxed);
    }
}

thread_local! {
    static MINE: Local<Option<&'static Record>> = const { Local::new(None) };
    static LEASE: Lease = const { Lease };
}

/// Gives a thread's record back when the thread ends.
struct Lease;

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(record) = MINE.take() {
            record.used.store(false, Ordering::Release);
        }
    }
}

#[cold]
fn record() -> &'static Record {
    let mut at = RECORDS.load(Ordering::Acquire);
    let record = loop {
        // SAFETY: records are never given back.
        let Some(record) = (unsafe { at.as_ref() }) else { break new_record() };
        if !record.used.load(Ordering::Relaxed) && !record.used.swap(true, Ordering::Acquire) {
            break record;
        }
        at = record.next.load(Ordering::Acquire);
    };
    MINE.set(Some(record));
    // A thread that is past its end keeps the record for good.
    let _ = LEASE.try_with(|_| ());
    record
}

fn new_record() -> &'static Record {
    let record: &'static Record = Box::leak(Box::new(Record {
        handle: AtomicU64::new(0),
        used: AtomicBool::new(true),
        next: AtomicPtr::default(),
    }));
    let mut first = RECORDS.load(Ordering::Relaxed);
    loop {
        record.next.store(first, Ordering::Relaxed);
        let this = core::ptr::from_ref(record).cast_mut();
        // SeqCst, as the freer's fence: one that does not see this record is before its thread's look at the cell.
        match RECORDS.compare_exchange(first, this, Ordering::SeqCst, Ordering::Relaxed) {
            Ok(_) => return record,
            Err(now) => first = now,
        }
    }
}

/// A thread inside a function. One inside another is about the same handle.
struct Inside(&'static Record, u64);

impl Inside {
    #[inline(always)]
    fn enter(handle: u64) -> Self {
        let record = MINE.get().unwrap_or_else(record);
        let before = record.handle.load(Ordering::Relaxed);
        debug_assert!(before == 0 || before == handle, "inside a function for another handle");
        steps::announce(&record.handle, handle, || match ASKED_FOR.load(Ordering::Relaxed) {
            true => compiler_fence(Ordering::SeqCst),
            false => fence(Ordering::SeqCst),
        });
        Self(record, before)
    }
}

impl Drop for Inside {
    #[inline(always)]
    fn drop(&mut self) {
        steps::withdraw(&self.0.handle, self.1);
    }
}

/// Waits until no thread uses a handle, which is invalid by now. Returns false if that cannot be known.
fn wait_outside(handle: u64) -> bool {
    fence(Ordering::SeqCst);
    let asked = ASKED_FOR.load(Ordering::Relaxed);
    // A forked child has to register anew.
    let fence_all = || membarrier(MembarrierCommand::PrivateExpedited);
    if asked
        && fence_all().is_err()
        && (membarrier(MembarrierCommand::RegisterPrivateExpedited).is_err() || fence_all().is_err())
    {
        return false;
    }
    let mut at = RECORDS.load(Ordering::SeqCst);
    // SAFETY: records are never given back.
    while let Some(record) = unsafe { at.as_ref() } {
        let mut looks = 0;
        while steps::is_used(&record.handle, handle) {
            pause(&mut looks);
        }
        at = record.next.load(Ordering::Acquire);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    struct Thing {
        alive: Arc<AtomicUsize>,
        ended: AtomicBool,
    }

    impl Held for Thing {
        const KIND: u64 = 14;
        const NOT: &'static str = "no thing";
        fn end(&self) {
            self.ended.store(true, Ordering::Release);
        }
    }

    impl Drop for Thing {
        fn drop(&mut self) {
            self.alive.fetch_sub(1, Ordering::Relaxed);
        }
    }

    struct Other;

    impl Held for Other {
        const KIND: u64 = 13;
        const NOT: &'static str = "no other";
    }

    fn thing(alive: &Arc<AtomicUsize>) -> *mut Thing {
        alive.fetch_add(1, Ordering::Relaxed);
        insert(Thing { alive: alive.clone(), ended: AtomicBool::new(false) }).unwrap()
    }

    #[test]
    fn what_is_no_handle_is_found_out() {
        let alive = Arc::default();
        let handle = thing(&alive);
        let valid = |handle: *const Thing| with(handle, |_: &Thing| Ok(())).is_ok();
        assert!(valid(handle));
        assert!(with(handle, |_: &Other| Ok(())).is_err(), "of another kind");
        let local = 0u64;
        for number in [0, 1, usize::MAX, MARK as usize, core::ptr::from_ref(&local).addr(), handle.addr() ^ 1 << 40] {
            assert!(!valid(core::ptr::without_provenance(number)), "{number:x}");
        }
        // Below are numbers of cells, of which another test may have one.
        for bit in KIND_SHIFT..64 {
            assert!(!valid(core::ptr::without_provenance(handle.addr() ^ 1 << bit)), "bit {bit}");
        }
        free::<Thing, _>(handle).unwrap();
        assert!(!valid(handle) && free::<Thing, _>(handle).is_err(), "freed");
        assert_eq!(alive.load(Ordering::Relaxed), 0);
        // Used again, each cell has another handle.
        let later: Vec<_> = (0..FIRST_CHUNK * 4).map(|_| thing(&alive)).collect();
        assert!(!valid(handle) && later.iter().all(|other| *other != handle && valid(*other)));
        later.into_iter().for_each(|other| free::<Thing, _>(other).unwrap());
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    }

    /// Threads use a handle until they are told that it is stale; what they use is there.
    #[test]
    fn nothing_is_freed_under_its_users() {
        let alive: Arc<AtomicUsize> = Arc::default();
        for _ in 0..200 {
            let handle = thing(&alive).addr();
            std::thread::scope(|threads| {
                for _ in 0..3 {
                    threads.spawn(|| {
                        let handle: *const Thing = core::ptr::without_provenance(handle);
                        let look = |thing: &Thing| {
                            let waits = Arc::strong_count(&thing.alive).is_multiple_of(2);
                            while waits && !thing.ended.load(Ordering::Acquire) {
                                std::hint::spin_loop();
                            }
                            assert_eq!(thing.alive.load(Ordering::Relaxed), 1, "freed while it is in use");
                            Ok(())
                        };
                        while with(handle, look).is_ok() {}
                    });
                }
                threads.spawn(|| free::<Thing, Thing>(core::ptr::without_provenance_mut(handle)).unwrap());
            });
            assert_eq!(alive.load(Ordering::Relaxed), 0);
        }
    }
}
