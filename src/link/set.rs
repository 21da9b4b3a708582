//! Many links, one receiver.

use super::Link;
use super::end::End;
use crate::call::{Request, Stop};
use crate::error::{Error, Result};
use crate::sync::{self, AtomicU32, ForkGuard, Mutex, Ordering, fence};
use crate::tasks::{self, Driven, Kind, Pace, Tasks, Turn, Waited, What};
use crate::wake::{Deadline, Timer};
use core::mem::MaybeUninit;
use core::task::Waker;
use rustix::event::epoll::{self, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock, Weak};

/// Receives from whichever of many links has something, on one thread, or on a few.
///
/// Its cost grows with the links that are active: those are looked at in turn, so none starves another, and a link that has been
/// quiet for as long as its [`Idle`](crate::Idle) spins is left to its descriptor until the other side rings. The set drives the links' [async
/// tasks](Link::call_async) too, as long as somebody receives from it.
///
/// A link is in one set, and has no other driver or event loop. The set does not own it: dropping the link takes it out, as soon as somebody
/// receives.
///
/// ```no_run
/// use busway::{Deadline, LinkSet, Listener};
///
/// # fn serve(listener: &Listener) -> busway::Result<()> {
/// let set = LinkSet::new()?;
/// let mut links = std::collections::HashMap::new();
/// for _ in 0..1000 {
///     let link = listener.accept(Deadline::NEVER)?.admit()?;
///     links.insert(set.insert(&link)?, link);
/// }
/// loop {
///     match set.recv(Deadline::NEVER)? {
///         (_, Ok(request)) => request.reply(b"done")?,
///         // It has ended, and is in the set no more.
///         (token, Err(_)) => drop(links.remove(&token)),
///     }
/// }
/// # }
/// ```
pub struct LinkSet {
    inner: Arc<Inner>,
}

/// The name of a link in its [`LinkSet`]. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(u64);

impl From<Token> for u64 {
    /// As a number from 1, for code of other languages.
    fn from(token: Token) -> u64 {
        token.0
    }
}

impl From<u64> for Token {
    /// What such a number stands for; one that no link has names none.
    fn from(number: u64) -> Token {
        Token(number)
    }
}

/// What came from one of the links: a request, or how the link ended.
pub type Received = (Token, Result<Request<'static>>);

/// Both sides of the epoll instance.
struct Inner {
    epoll: OwnedFd,
    /// Wakes who sleeps, for what happens in this process.
    nudge: OwnedFd,
    state: Mutex<State>,
    /// Threads that sleep in [`LinkSet::recv`], or are about to.
    sleepers: AtomicU32,
    tasks: OnceLock<Box<Tasks>>,
    timer: Timer,
    guard: ForkGuard,
    me: Weak<Inner>,
}

#[derive(Default)]
struct State {
    links: BTreeMap<u64, Arc<End>>,
    last: u64,
    awake: VecDeque<(u64, Arc<End>, Pace)>,
    /// Looks since those asleep were looked at.
    looks: u32,
    woken: Vec<Waker>,
}

const NUDGE: u64 = 0;
const TIMER: u64 = u64::MAX;
/// So many looks at links that are awake go by until those asleep are looked at: some 20 us.
const LOOKS: u32 = 256;

impl LinkSet {
    /// A set without links.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn new() -> Result<Self> {
        let io = Error::io;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io("create an epoll instance"))?;
        let nudge = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io("create an eventfd"))?;
        epoll::add(&epoll, &nudge, epoll::EventData::new_u64(NUDGE), EventFlags::IN).map_err(io("watch an eventfd"))?;
        let guard = ForkGuard::new().map_err(io("map the fork guard"))?;
        let inner = Arc::new_cyclic(|me| Inner {
            epoll,
            nudge,
            state: Mutex::default(),
            sleepers: AtomicU32::new(0),
            tasks: OnceLock::new(),
            timer: Timer::new(TIMER),
            guard,
            me: me.clone(),
        });
        Ok(Self { inner })
    }

    /// Receives from this link too.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if it has a driver already, or is in a set; [`Error::Io`]; [`Error::Forked`].
    pub fn insert(&self, link: &Link) -> Result<Token> {
        if self.inner.guard.forked() || link.end.forked() {
            return Err(Error::Forked);
        }
        let fd = link.end.events()?;
        link.end.tasks().claim()?;
        let mut state = self.inner.state.lock();
        state.last += 1;
        let token = state.last;
        if let Err(error) = epoll::add(&self.inner.epoll, fd, epoll::EventData::new_u64(token), EventFlags::IN) {
            link.end.tasks().unclaim(&*link.end);
            return Err(Error::io("watch a link")(error));
        }
        state.links.insert(token, link.end.clone());
        let mut pace = Pace::default();
        pace.wake(&*link.end);
        state.awake.push_back((token, link.end.clone(), pace));
        drop(state);
        self.inner.nudge();
        Ok(Token(token))
    }

    /// Receives from this link no more. Returns whether it was in the set.
    pub fn remove(&self, token: Token) -> bool {
        if self.inner.guard.forked() {
            return false;
        }
        let mut state = self.inner.state.lock();
        state.awake.retain(|(other, ..)| *other != token.0);
        let removed = self.inner.forget(&mut state, token.0);
        drop(state);
        // Its tasks find another driver.
        removed.inspect(|end| end.tasks().unclaim(&**end)).is_some()
    }

    /// How many links are in the set.
    pub fn len(&self) -> usize {
        self.inner.state.lock().links.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Receives the next request of any link, or how a link has ended, which is then in the set no more. Waits until `deadline`.
    /// Many threads may do so at once.
    ///
    /// # Errors
    /// [`Error::Timeout`]; [`Error::Forked`].
    pub fn recv(&self, deadline: impl Into<Deadline>) -> Result<Received> {
        let deadline = deadline.into();
        loop {
            if let Some(received) = self.try_recv()? {
                return Ok(received);
            }
            if deadline.has_passed() {
                return Err(Stop::Deadline.refusal());
            }
            self.inner.sleepers.fetch_add(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if self.inner.state.lock().awake.is_empty() {
                self.inner.wait(deadline);
            } else {
                sync::spin_loop();
            }
            self.inner.sleepers.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// As [`recv`](Self::recv), if there is something. Never blocks.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn try_recv(&self) -> Result<Option<Received>> {
        if self.inner.guard.forked() {
            return Err(Error::Forked);
        }
        Ok(self.inner.look())
    }

    /// As [`recv`](Self::recv), for async code.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub async fn recv_async(&self, deadline: impl Into<Deadline>) -> Result<Received> {
        let look = || self.try_recv().transpose();
        tasks::wait(&*self.inner, Kind::Requests, 1, deadline.into(), look).await.map_err(Waited::refusal)?
    }

    /// Lets the current tokio runtime drive this set's tasks.
    ///
    /// # Errors
    /// As [`Link::drive_on_tokio`].
    ///
    /// # Panics
    /// If the runtime has no I/O driver.
    #[cfg(feature = "tokio")]
    pub fn drive_on_tokio(&self) -> Result<()> {
        if self.inner.guard.forked() {
            return Err(Error::Forked);
        }
        tasks::drive_on_tokio(self.inner.clone())
    }

    /// The driver of this set's tasks: see [`Link::driver`].
    ///
    /// # Errors
    /// As [`Link::driver`].
    pub fn driver<R: tasks::Readable>(&self, source: R) -> Result<tasks::Driver<R>> {
        if self.inner.guard.forked() {
            return Err(Error::Forked);
        }
        tasks::Driver::new(self.inner.clone(), source)
    }
}

impl AsFd for LinkSet {
    /// Becomes readable when a link that is asleep has something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.epoll.as_fd()
    }
}

impl core::fmt::Debug for LinkSet {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("LinkSet").finish_non_exhaustive()
    }
}

impl Drop for LinkSet {
    fn drop(&mut self) {
        if self.inner.guard.forked() {
            return;
        }
        let mut state = self.inner.state.lock();
        state.awake.clear();
        let links = core::mem::take(&mut state.links);
        drop(state);
        links.values().for_each(|end| end.tasks().unclaim(&**end));
        if let Some(tasks) = self.inner.tasks.get() {
            tasks.dismiss();
        }
    }
}

impl Inner {
    fn nudge(&self) {
        let _ = rustix::io::write(&self.nudge, &1u64.to_ne_bytes());
    }

    fn forget(&self, state: &mut State, token: u64) -> Option<Arc<End>> {
        let end = state.links.remove(&token)?;
        if let Ok(fd) = end.events() {
            let _ = epoll::delete(&self.epoll, fd);
        }
        Some(end)
    }

    /// Looks once at each link that is awake, the one that was looked at longest ago first.
    fn look(&self) -> Option<Received> {
        let mut state = self.state.lock();
        state.looks += 1;
        if state.looks >= LOOKS {
            state.looks = 0;
            drop(state);
            self.wait(Deadline::from_nanos(1));
            state = self.state.lock();
        }
        for _ in 0..state.awake.len() {
            let (token, end, mut pace) = state.awake.pop_front()?;
            let received = end.try_recv().map(|request| request.map(Request::into_owned)).transpose();
            let turn = match &received {
                Some(Err(_)) => Turn::Over,
                received => {
                    let State { woken, .. } = &mut *state;
                    pace.turn_beside(&*end, woken, Some(received.is_some()))
                }
            };
            // What came between the look and the mark rings nobody.
            let turn = match turn {
                Turn::Sleep if end.has(Kind::Requests, 1) != 0 || end.ended().is_some() => {
                    pace.wake(&*end);
                    Turn::Again
                }
                // The next look says how it ended.
                Turn::Over if !matches!(received, Some(Err(_))) => Turn::Again,
                turn => turn,
            };
            match turn {
                Turn::Again => state.awake.push_back((token, end, pace)),
                Turn::Sleep => {}
                Turn::Over => {
                    self.forget(&mut state, token);
                    self.wake_tasks(state);
                    // Its tasks are told how it ended.
                    end.tasks().unclaim(&*end);
                    return received.map(|received| (Token(token), received));
                }
            }
            if let Some(received) = received {
                let awake = !state.awake.is_empty();
                self.wake_tasks(state);
                if awake {
                    self.leave_to_others();
                }
                return Some((Token(token), received));
            }
        }
        self.wake_tasks(state);
        None
    }

    /// Who receives goes off to serve what it has received: those who sleep look at the links that are awake.
    fn leave_to_others(&self) {
        fence(Ordering::SeqCst);
        let task = self.tasks.get().is_some_and(|tasks| tasks.anyone(Kind::Requests) && tasks.is_asleep());
        if task || self.sleepers.load(Ordering::Relaxed) > 0 {
            self.nudge();
        }
    }

    /// Wakes tasks of links, without the lock.
    fn wake_tasks(&self, mut state: sync::MutexGuard<'_, State>) {
        if !state.woken.is_empty() {
            let mut woken = core::mem::take(&mut state.woken);
            drop(state);
            woken.drain(..).for_each(Waker::wake);
            // Their place is kept, for next time.
            self.state.lock().woken = woken;
        }
    }

    /// Waits until a link that is asleep has something, or until `deadline`; takes in what it is. Returns whether there may be more.
    fn wait(&self, deadline: Deadline) -> bool {
        let limit = deadline
            .remaining()
            .map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        let mut events = [MaybeUninit::uninit(); 64];
        // Interrupted by a signal is like being woken for nothing.
        let Ok((events, left)) = epoll::wait(&self.epoll, &mut events, limit.as_ref()) else { return false };
        for event in events {
            let token = event.data.u64();
            match token {
                NUDGE => {
                    let _ = rustix::io::read(&self.nudge, &mut [0; 8]);
                    continue;
                }
                TIMER => {
                    self.timer.take_in();
                    // The driver does not see it any more.
                    if let Some(tasks) = self.tasks.get() {
                        tasks.wake_due();
                    }
                    continue;
                }
                _ => {}
            }
            let mut state = self.state.lock();
            let Some(end) = state.links.get(&token).cloned() else { continue };
            end.take_in();
            if state.awake.iter().all(|(other, ..)| *other != token) {
                let mut pace = Pace::default();
                pace.wake(&*end);
                state.awake.push_back((token, end, pace));
            }
        }
        left.is_empty()
    }
}

impl Driven for Inner {
    fn tasks(&self) -> &Tasks {
        self.tasks.get_or_init(|| Box::new(Tasks::new(0)))
    }

    fn has_reply(&self, _place: u32) -> bool {
        false
    }

    /// A task looks as long as a link is awake, so that those which fall silent are left to their descriptors.
    fn has(&self, _kind: Kind, _bits: u32) -> u32 {
        u32::from(!self.state.lock().awake.is_empty())
    }

    /// Links that are asleep are marked already; those awake have to be looked at.
    fn mark(&self, _what: What) {
        if !self.state.lock().awake.is_empty() {
            self.nudge();
        }
    }

    fn unmark(&self) {}

    fn take_in(&self) {
        // All of it: a reactor that was told of the first is not told of the others.
        while self.wait(Deadline::from_nanos(1)) {}
    }

    fn ring_at(&self, at: Deadline) {
        if self.timer.ring_at(&self.epoll, at).is_err() {
            self.nudge(); // better too early than never
        }
    }

    fn stopped(&self, deadline: Deadline) -> Result<(), Stop> {
        if deadline.has_passed() { Err(Stop::Deadline) } else { Ok(()) }
    }

    /// None of its own: links stay awake as long as theirs is. But a driver asleep is woken to look at them.
    fn patience(&self) -> u64 {
        u64::from(!self.state.lock().awake.is_empty())
    }

    fn learn(&self, _paid: bool) {}

    fn forked(&self) -> bool {
        self.guard.forked()
    }

    fn events(&self) -> Result<BorrowedFd<'_>> {
        Ok(self.epoll.as_fd())
    }

    fn shared(&self) -> Arc<dyn Driven> {
        match self.me.upgrade() {
            Some(set) => set,
            None => unreachable!("a borrowed set is alive"),
        }
    }
}
