//! What a user holds of a pool.

use super::host;
use super::member::Seat;
use super::parking::{Kind, Rows};
use super::receiving::Turn;
use super::sending::What;
use super::words;
use crate::call::{Ended, Loan, Message, Payload, Pending, Request, Stats, Ticket, guarded};
use crate::error::{Error, JoinError, Result};
use crate::join::Offer;
use crate::slots::arena::SizeClass;
use crate::slots::owned::Handle;
use crate::wake::{Deadline, Idle};
use bytemuck::{AnyBitPattern, NoUninit};
use core::fmt;
use core::num::NonZeroU32;
use core::time::Duration;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

/// What can be chosen about a pool.
///
/// ```
/// use busway::SizeClass;
/// use busway::pool::PoolConfig;
///
/// let config = PoolConfig::new(["urgent", "bulk"]).members(16).classes(vec![SizeClass { size: 4096, count: 64 }]);
/// ```
#[derive(Clone, Debug)]
pub struct PoolConfig {
    pub(super) members: u32,
    pub(super) queues: Vec<(String, u32)>,
    pub(super) classes: Vec<SizeClass>,
    pub(super) idle: Idle,
    pub(super) patience: Duration,
}

impl PoolConfig {
    pub(super) fn empty() -> Self {
        Self {
            members: 32,
            queues: Vec::new(),
            classes: Vec::new(),
            idle: Idle::default(),
            patience: Duration::from_secs(10),
        }
    }

    /// A pool with these queues, each for 1024 requests: 32 members, payloads up to 1 MiB, 22 MiB of memory.
    pub fn new<N: Into<String>>(queues: impl IntoIterator<Item = N>) -> Self {
        let classes = [(256, 1024), (4096, 512), (64 << 10, 64), (1 << 20, 16)];
        let classes = classes.map(|(size, count)| SizeClass { size, count }).into();
        Self { queues: queues.into_iter().map(|name| (name.into(), 1024)).collect(), classes, ..Self::empty() }
    }

    /// One more queue, for up to `capacity` requests (65,536 at most), rounded up to a power of two. There may be 32.
    pub fn queue(mut self, name: impl Into<String>, capacity: u32) -> Self {
        self.queues.push((name.into(), capacity));
        self
    }

    /// How many processes may be members at a time, the host among them: from 1 to 447.
    pub fn members(mut self, members: u32) -> Self {
        self.members = members;
        self
    }

    /// Slots, in ascending order of size. Each request takes one, also a short one, and so does a reply that does not fit its
    /// request's. At most 16 classes; sizes are multiples of 64 up to 1 GiB; fewer than 65,536 slots.
    pub fn classes(mut self, classes: Vec<SizeClass>) -> Self {
        self.classes = classes;
        self
    }

    /// What a waiting thread of the host does; each member chooses its own.
    pub fn idle(mut self, idle: Idle) -> Self {
        self.idle = idle;
        self
    }

    /// How long the handshake with a new member may take. 10 seconds by default.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}

/// A process in a pool, for all its threads. Dropping it leaves the pool.
///
/// In a forked child every operation answers [`Error::Forked`] and dropping does nothing. A thread watches the host: when it dies,
/// every operation answers [`Error::PeerDied`], and whoever waits wakes.
pub struct Member {
    pub(super) seat: Arc<Seat>,
}

impl Member {
    pub(super) fn new(seat: Arc<Seat>) -> Self {
        Self { seat }
    }

    /// Joins the pool whose host spawned this process.
    ///
    /// # Errors
    /// As [`Plugin::attach`](crate::Plugin::attach); [`Error::Unsupported`] if the host offers a link.
    pub fn attach() -> Result<Self> {
        Self::attach_with(Idle::default())
    }

    /// As [`attach`](Self::attach); `idle` is what a waiting thread does.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn attach_with(idle: Idle) -> Result<Self> {
        Ok(Self::new(host::join(Offer::inherited()?, idle)?))
    }

    /// Joins the pool whose host [listens](crate::pool::Pool::listen) at `path`.
    ///
    /// # Errors
    /// I/O errors if nobody listens there; [`JoinError::Refused`]; otherwise as [`attach`](Self::attach).
    pub fn connect(path: impl AsRef<Path>, idle: Idle) -> Result<Self> {
        Ok(Self::new(host::join(Offer::connect(path.as_ref())?, idle)?))
    }

    /// The queue of this name, to send to and to receive from.
    ///
    /// # Errors
    /// [`Error::NoSuchQueue`]; [`Error::Forked`].
    pub fn queue(&self, name: &str) -> Result<Queue<'_>> {
        Ok(Queue { seat: &self.seat, number: self.number(name)? })
    }

    /// A worker that takes requests from these queues, in turn.
    ///
    /// # Errors
    /// [`Error::NoSuchQueue`], also for none at all; [`Error::Forked`].
    pub fn worker<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Result<Worker<'_>> {
        let mut bits = 0;
        for name in names {
            bits |= 1 << self.number(name)?;
        }
        let bits = NonZeroU32::new(bits).ok_or(Error::NoSuchQueue)?;
        Ok(Worker { seat: &self.seat, queues: Rows { kind: Kind::Requests, bits }, turn: Turn::new() })
    }

    fn number(&self, name: &str) -> Result<u8> {
        if self.seat.forked() {
            return Err(Error::Forked);
        }
        self.seat.view.queue(name).ok_or(Error::NoSuchQueue)
    }

    /// Loans memory for a payload of `len` bytes, to be filled in place and sent to any queue without a copy. Waits for a free
    /// slot until `deadline`.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Timeout`], or how the pool ended.
    #[inline(always)]
    pub fn loan(&self, len: usize, deadline: impl Into<Deadline>) -> Result<Loan<'_>> {
        self.seat.loan(len, Some(deadline.into()))
    }

    /// As [`loan`](Self::loan), but [`Error::Full`] at once if no slot is free.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Full`], or how the pool ended.
    #[inline]
    pub fn try_loan(&self, len: usize) -> Result<Loan<'_>> {
        self.seat.loan(len, None)
    }

    /// One descriptor that becomes readable when an [armed](Self::arm) member has something to look at, or the pool has ended. For
    /// polling only, by one event loop. It may become readable for nothing: look, and sleep again. The first use starts a thread.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Forked`].
    pub fn descriptor(&self) -> Result<BorrowedFd<'_>> {
        self.seat.descriptor()
    }

    /// Before an event loop sleeps on the [descriptor](Self::descriptor): asks the others to ring it for requests in the queues of
    /// `worker`, if it has one, and for replies to calls of this process. Returns false if there is a request to receive
    /// already, or the pool has ended, so do not sleep; look at your pending calls after arming, too. Some microseconds: it goes over
    /// all slots.
    ///
    /// ```no_run
    /// # fn event_loop(member: &busway::pool::Member, epoll_wait: impl Fn()) -> Result<(), busway::Error> {
    /// let worker = member.worker(["work"])?;
    /// loop {
    ///     while let Some(request) = worker.try_recv()? {
    ///         request.reply(b"done")?;
    ///     }
    ///     if member.arm(Some(&worker))? {
    ///         epoll_wait(); // on member.descriptor(), readable
    ///     }
    ///     member.disarm();
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Forked`].
    pub fn arm(&self, worker: Option<&Worker<'_>>) -> Result<bool> {
        self.seat.arm(worker.map(|worker| worker.queues))
    }

    /// After an event loop woke, or did not sleep. Look at the queues then ([`Worker::try_recv`]): others may rely on it.
    pub fn disarm(&self) {
        self.seat.disarm();
    }

    /// Leaves the pool: waiting threads of this process wake, its calls under way end as [`Error::Cancelled`], everything later
    /// as [`Error::Closed`]. What it has taken and not answered ends as if it had died, once the member is dropped.
    pub fn leave(&self) {
        if !self.seat.forked() {
            self.seat.end(Ended::ByUs);
        }
    }

    /// The number of this member, from 1, the host's. Numbers are used again.
    pub fn place(&self) -> u32 {
        self.seat.place.into()
    }

    /// Whether the pool has ended, for this process at least.
    pub fn is_closed(&self) -> bool {
        self.seat.forked() || self.seat.ended().is_some()
    }

    /// The largest payload, in bytes.
    pub fn max_payload(&self) -> usize {
        self.seat.view.classes.last().map_or(0, |class| class.size as usize)
    }

    /// Counters of this process. `calls_in_use` counts its calls that await a reply, `slots_in_use` the slots that it holds.
    pub fn stats(&self) -> Stats {
        if self.seat.forked() {
            return Stats::default();
        }
        self.seat.stats()
    }

    /// Members of a pool inside this process, over heap memory, the first of them in the host's place: for tests, under Miri and
    /// loom too. Nobody watches them.
    ///
    /// # Errors
    /// [`JoinError::Geometry`].
    pub fn group(config: &PoolConfig, members: u32) -> Result<Vec<Member>> {
        let table = words::plan(config)?;
        if members > config.members {
            return Err(JoinError::Geometry { what: "more members than there are places" }.into());
        }
        let region = Arc::new(crate::region::Region::heap_pair(table.len()).0);
        #[cfg(busway_loom)]
        words::init(&region, &table);
        words::View::new(region.clone(), &table)?.name(&config.queues);
        let view = || words::View::new(region.clone(), &table);
        (1..=members as u16).map(|place| Ok(Member::new(Seat::new(view()?, place, config.idle)))).collect()
    }

    /// Recovers a place of a [group](Self::group), whose member is taken for dead: for tests.
    #[doc(hidden)]
    pub fn recover(&self, place: u32) -> crate::slots::owned::Recovered {
        self.seat.recover(place as u16)
    }

    /// How many slots of the pool are not free: for tests.
    #[doc(hidden)]
    pub fn slots_in_use(&self) -> u32 {
        self.seat.slots_in_use()
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("place", &self.seat.place).finish_non_exhaustive()
    }
}

/// One queue of a pool, as a member sees it.
#[derive(Clone, Copy)]
pub struct Queue<'a> {
    pub(super) seat: &'a Seat,
    pub(super) number: u8,
}

impl<'a> Queue<'a> {
    /// Calls `method` and waits for the reply until `deadline`, which the worker can see.
    ///
    /// `payload` is a [`Loan`] of this member, or bytes, which are copied once. Waits for room too.
    ///
    /// # Errors
    /// [`Error::Timeout`]: the call is given up, and a reply that comes later is discarded. [`Error::PeerDied`]: the worker
    /// that had taken it died, or the host. [`Error::Cancelled`], [`Error::Closed`]: the pool has ended.
    /// [`Error::Rejected`], [`Error::HandlerPanicked`], [`Error::NoSuchMethod`]: what the worker answered.
    /// [`Error::TooLarge`]; [`Error::Unsupported`] for a loan of another bus; [`Error::Forked`].
    #[inline(always)]
    pub fn call<'p>(
        &self,
        method: u32,
        payload: impl Into<Payload<'p>>,
        deadline: impl Into<Deadline>,
    ) -> Result<Message<'a>> {
        let payload = payload.into();
        let len = payload.len();
        let ticket = self.send_call(method, payload, deadline.into(), true)?;
        self.seat.hand_over(Handle { index: ticket.cell(), generation: ticket.generation() }, len);
        let data = self.seat.finish_call(&ticket)?;
        // SAFETY: received here just now.
        Ok(unsafe { Message::new(data, self.seat.hold()) })
    }

    /// [`call`](Self::call) with typed payloads: plain data that both sides define alike.
    ///
    /// # Errors
    /// As [`call`](Self::call), and [`Error::WrongSize`].
    #[inline]
    pub fn call_as<R: AnyBitPattern>(
        &self,
        method: u32,
        value: &impl NoUninit,
        deadline: impl Into<Deadline>,
    ) -> Result<R> {
        self.call(method, bytemuck::bytes_of(value), deadline)?.read()
    }

    /// Sends a call without waiting for its reply. Waits for room until `deadline`, which is the call's too.
    ///
    /// # Errors
    /// As [`call`](Self::call), for what can go wrong before the reply.
    #[inline]
    pub fn submit<'p>(
        &self,
        method: u32,
        payload: impl Into<Payload<'p>>,
        deadline: impl Into<Deadline>,
    ) -> Result<Pending<'a>> {
        let ticket = self.send_call(method, payload.into(), deadline.into(), true)?;
        Ok(Pending::new(ticket, self.seat.hold()))
    }

    /// As [`submit`](Self::submit), but [`Error::Full`] at once if there is no room.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), with [`Error::Full`] in place of waiting.
    #[inline]
    pub fn try_submit<'p>(
        &self,
        method: u32,
        payload: impl Into<Payload<'p>>,
        deadline: impl Into<Deadline>,
    ) -> Result<Pending<'a>> {
        let ticket = self.send_call(method, payload.into(), deadline.into(), false)?;
        Ok(Pending::new(ticket, self.seat.hold()))
    }

    /// Sends an event: one way, no reply. Waits for room until `deadline`.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::TooLarge`], [`Error::Unsupported`], or how the pool ended.
    #[inline]
    pub fn send<'p>(&self, method: u32, payload: impl Into<Payload<'p>>, deadline: impl Into<Deadline>) -> Result<()> {
        self.seat.send(self.number, What::Event, method, payload.into(), deadline.into(), true).map(drop)
    }

    /// As [`send`](Self::send), but [`Error::Full`] at once if there is no room.
    ///
    /// # Errors
    /// As [`send`](Self::send), with [`Error::Full`] in place of waiting.
    #[inline]
    pub fn try_send<'p>(&self, method: u32, payload: impl Into<Payload<'p>>) -> Result<()> {
        self.seat.send(self.number, What::Event, method, payload.into(), Deadline::NEVER, false).map(drop)
    }

    #[inline(always)]
    fn send_call(&self, method: u32, payload: Payload<'_>, deadline: Deadline, wait: bool) -> Result<Ticket> {
        let Handle { index, generation } = self.seat.send(self.number, What::Call, method, payload, deadline, wait)?;
        Ok(Ticket::new(index, generation, None, deadline))
    }

    /// A worker that takes requests from this queue.
    pub fn worker(&self) -> Worker<'a> {
        Worker { seat: self.seat, queues: Rows::one(Kind::Requests, self.number), turn: Turn::new() }
    }

    /// About how many requests wait in the queue: a hint, old as soon as it is read, and off by some 8; 0 in a forked child.
    pub fn len(&self) -> usize {
        if self.seat.forked() { 0 } else { self.seat.rings[usize::from(self.number)].len() as usize }
    }

    /// Whether no request waited at some moment during the call; true in a forked child.
    pub fn is_empty(&self) -> bool {
        self.seat.forked() || self.seat.rings[usize::from(self.number)].is_empty(&self.seat.table)
    }
}

impl fmt::Debug for Queue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("number", &self.number).finish_non_exhaustive()
    }
}

/// Takes requests from one queue, or from several in turn. Many threads may use one at once, or one each.
///
/// Each request is taken by one worker of all. No request waits while a worker sleeps that serves its queue; but as long as
/// one spins, that one gets it, and nobody is woken.
pub struct Worker<'a> {
    pub(super) seat: &'a Seat,
    pub(super) queues: Rows,
    turn: Turn,
}

impl<'a> Worker<'a> {
    /// Receives the next request. Waits until `deadline`.
    ///
    /// # Errors
    /// [`Error::Timeout`], or how the pool ended: [`Error::Closed`], [`Error::PeerDied`]. [`Error::Forked`].
    #[inline]
    pub fn recv(&self, deadline: impl Into<Deadline>) -> Result<Request<'a>> {
        self.seat.recv(self.queues, &self.turn, deadline.into())
    }

    /// Receives a request if one is there. Never blocks.
    ///
    /// # Errors
    /// How the pool ended. [`Error::Forked`].
    #[inline]
    pub fn try_recv(&self) -> Result<Option<Request<'a>>> {
        self.seat.try_recv(self.queues, &self.turn)
    }

    /// Receives a batch: waits for the first request until `deadline`, then yields what is there, up to `max` in all, and never
    /// waits for more. What is not taken out stays for others.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    #[inline]
    pub fn recv_batch(&self, max: usize, deadline: impl Into<Deadline>) -> Result<Requests<'_>> {
        let first = if max == 0 { None } else { Some(self.recv(deadline)?) };
        super::calls::in_batch(true);
        Ok(Requests { worker: self, first, left: max.saturating_sub(1) })
    }

    /// Serves requests on this thread until the pool is closed. A handler that panics has answered
    /// [`Error::HandlerPanicked`], and serving goes on.
    ///
    /// # Errors
    /// How the pool ended, unless it was closed.
    pub fn serve(&self, handler: impl Fn(Request<'_>)) -> Result<()> {
        loop {
            match self.recv(Deadline::NEVER) {
                Ok(request) => guarded(&handler, request),
                Err(Error::Closed) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }
}

impl fmt::Debug for Worker<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("queues", &self.queues.bits).finish_non_exhaustive()
    }
}

/// Requests received together. See [`Worker::recv_batch`].
#[derive(Debug)]
pub struct Requests<'a> {
    pub(super) worker: &'a Worker<'a>,
    pub(super) first: Option<Request<'a>>,
    pub(super) left: usize,
}

impl Drop for Requests<'_> {
    fn drop(&mut self) {
        super::calls::in_batch(false);
    }
}

impl<'a> Iterator for Requests<'a> {
    type Item = Request<'a>;

    #[inline]
    fn next(&mut self) -> Option<Request<'a>> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        self.left = self.left.checked_sub(1)?;
        let next = self.worker.try_recv().ok().flatten();
        if next.is_none() {
            self.left = 0;
        }
        next
    }
}
