//! A link: exactly two processes, two regions, each written by one of them and read by the other, and a third one of bells,
//! which both write.
//!
//! This folder says which words live where ([`words`]), who takes reply cells ([`calls`]), who receives ([`intake`]), and
//! puts the layers below together into one [`End`]. [`Link`] is what a user holds.

mod batch;
mod calls;
mod end;
#[cfg(all(test, not(any(busway_loom, miri))))]
mod endless;
mod intake;
mod receiving;
mod replies;
mod sending;
#[cfg(not(busway_loom))]
mod set;
mod stats;
mod tasks;
#[cfg(all(test, not(busway_loom)))]
mod tests;
#[cfg(all(test, not(any(busway_loom, miri))))]
mod twice;
mod waiting;
#[doc(hidden)]
pub mod words;

use crate::call::{Loan, Message, Payload, Pending, Request, Stats};
use crate::confine::Grade;
use crate::error::{Error, Result};
use crate::join::Credentials;
use crate::wake::{Deadline, Doorbell};
pub use batch::Batch;
use bytemuck::{AnyBitPattern, NoUninit};
pub use end::{End, Options};
pub use receiving::Requests;
#[cfg(not(busway_loom))]
pub use set::{LinkSet, Received, Token};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
pub use words::{BellView, Geometry, Side, View};

#[doc(hidden)]
pub mod parts {
    //! What models and property tests take apart.
    pub use super::calls::{Calls, FreeCells};
    pub use super::intake::{Intake, IntakeWords, Nudge, Taken};
    pub use super::words;
}

/// One end of a link: calls and events to the other process, requests from it.
///
/// All methods take `&self` and may be used from many threads at once. Blocking ones spin a little, then park, as
/// [`Idle`](crate::Idle) says. Dropping the link closes it at once; [`close`](Self::close) finishes what is under way first.
/// In a forked child every operation answers [`Error::Forked`] and dropping does nothing.
///
/// ```
/// use busway::{Config, Deadline, Link};
///
/// // Both ends in one process, for tests; `Host` and `Plugin` make the two ends of a real one.
/// let (host, plugin) = Link::pair(&Config::default())?;
/// std::thread::scope(|threads| {
///     threads.spawn(|| plugin.serve(|request| {
///         let sum: u64 = request.bytes().iter().map(u64::from).sum();
///         let _ = request.reply_as(&sum);
///     }));
///     let sum: u64 = host.call(7, &[1, 2, 3], Deadline::NEVER)?.read()?;
///     assert_eq!(sum, 6);
///     host.close(Deadline::NEVER);
///     Ok(())
/// })
/// # .or_else(|e: busway::Error| Err(e))
/// # ?; Ok::<(), busway::Error>(())
/// ```
pub struct Link {
    end: Arc<End>,
    peer: Credentials,
    grade: Grade,
}

impl Link {
    pub(crate) fn new(end: Arc<End>, peer: Credentials, grade: Grade) -> Self {
        Self { end, peer, grade }
    }

    /// Loans memory for a payload of `len` bytes, to be filled in place and sent without a copy. Waits for a free slot until
    /// `deadline`.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::Timeout`], or how the link ended, if it has to wait for a slot. A slot that is free is
    /// loaned after the end too; sending it then fails.
    #[inline(always)]
    pub fn loan(&self, len: usize, deadline: impl Into<Deadline>) -> Result<Loan<'_>> {
        self.end.loan(len, Some(deadline.into()))
    }

    /// As [`loan`](Self::loan), but [`Error::Full`] at once if no slot is free.
    ///
    /// # Errors
    /// [`Error::TooLarge`], or [`Error::Full`]. It does not ask whether the link has ended; sending does.
    #[inline]
    pub fn try_loan(&self, len: usize) -> Result<Loan<'_>> {
        self.end.loan(len, None)
    }

    /// Calls `method` on the other side and waits for the reply until `deadline`, which the other side can see.
    ///
    /// `payload` is a [`Loan`], or bytes, which are copied once. Waits for room too. While it waits this thread serves calls
    /// that the other side makes from within this one, if a [handler](Self::set_handler) is set.
    ///
    /// # Errors
    /// [`Error::Timeout`]: the call is given up, and a reply that comes later is discarded. [`Error::PeerDied`],
    /// [`Error::Cancelled`], [`Error::Closed`], [`Error::Poisoned`]: the link has ended. [`Error::Rejected`],
    /// [`Error::HandlerPanicked`], [`Error::NoSuchMethod`]: what the other side answered. [`Error::TooLarge`].
    /// [`Error::Unsupported`]: a loan of another link.
    #[inline(always)]
    pub fn call<'p>(
        &self,
        method: u32,
        payload: impl Into<Payload<'p>>,
        deadline: impl Into<Deadline>,
    ) -> Result<Message<'_>> {
        self.end.call(method, payload.into(), deadline.into())
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
    /// A thread that holds many pending calls may wait for room that only its own calls can give back. It then had better use
    /// [`try_submit`](Self::try_submit): on [`Error::Full`] take in a reply, and try again.
    ///
    /// # Errors
    /// As [`call`](Self::call), for what can go wrong before the reply.
    #[inline]
    pub fn submit<'p>(
        &self,
        method: u32,
        payload: impl Into<Payload<'p>>,
        deadline: impl Into<Deadline>,
    ) -> Result<Pending<'_>> {
        self.end.submit(method, payload.into(), deadline.into(), true)
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
    ) -> Result<Pending<'_>> {
        self.end.submit(method, payload.into(), deadline.into(), false)
    }

    /// Sends an event: one way, no reply. Waits for room until `deadline`.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::TooLarge`], [`Error::Unsupported`] for a loan of another link, or how the link ended.
    #[inline]
    pub fn send<'p>(&self, method: u32, payload: impl Into<Payload<'p>>, deadline: impl Into<Deadline>) -> Result<()> {
        self.end.event(method, payload.into(), deadline.into(), true)
    }

    /// As [`send`](Self::send), but [`Error::Full`] at once if there is no room.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::TooLarge`], [`Error::Unsupported`] for a loan of another link, or how the link ended.
    #[inline]
    pub fn try_send<'p>(&self, method: u32, payload: impl Into<Payload<'p>>) -> Result<()> {
        self.end.event(method, payload.into(), Deadline::NEVER, false)
    }

    /// Begins a batch of requests: gathered, then published with one lock and one wake-up.
    #[inline]
    pub fn batch(&self) -> Batch<'_> {
        Batch::new(&self.end)
    }

    /// Receives the next request, whatever its method. Waits until `deadline`.
    ///
    /// # Errors
    /// [`Error::Timeout`], or how the link ended: [`Error::Closed`], [`Error::PeerDied`], [`Error::Poisoned`]. Events sent
    /// before the end are received first.
    #[inline]
    pub fn recv(&self, deadline: impl Into<Deadline>) -> Result<Request<'_>> {
        self.end.recv(deadline.into())
    }

    /// Receives a request if one is there. Never blocks.
    ///
    /// # Errors
    /// How the link ended.
    #[inline]
    pub fn try_recv(&self) -> Result<Option<Request<'_>>> {
        self.end.try_recv()
    }

    /// Receives a batch: waits for the first request until `deadline`, then yields what is there, up to `max` in all, and
    /// never waits for more.
    ///
    /// ```
    /// # use busway::{Config, Deadline, Link};
    /// # let (host, plugin) = Link::pair(&Config::default())?;
    /// # for n in [1u64, 2] { host.send(1, &n.to_le_bytes(), Deadline::NEVER)?; }
    /// for request in plugin.recv_batch(64, Deadline::NEVER)? {
    ///     println!("{}", request.read::<u64>()?);
    /// }
    /// # Ok::<(), busway::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    #[inline]
    pub fn recv_batch(&self, max: usize, deadline: impl Into<Deadline>) -> Result<Requests<'_>> {
        self.end.recv_batch(max, deadline.into())
    }

    /// Serves requests on this thread until the link is closed. A handler that panics has answered
    /// [`Error::HandlerPanicked`], and serving goes on.
    ///
    /// # Errors
    /// How the link ended, unless it was closed.
    pub fn serve(&self, handler: impl Fn(Request<'_>)) -> Result<()> {
        self.end.serve(&handler)
    }

    /// Sets the handler that a thread waiting in [`call`](Self::call) serves nested calls with. At most once.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if there is one already.
    pub fn set_handler(&self, handler: impl Fn(Request<'_>) + Send + Sync + 'static) -> Result<()> {
        let twice = Error::Unsupported { what: "a second handler" };
        self.end.handler.set(Box::new(handler)).map_err(|_| twice)
    }

    /// Closes the link in order: sends nothing new, lets calls of both sides finish and what was sent be taken until
    /// `deadline`, then ends. Calls that are still under way end as [`Error::Cancelled`], everything later as
    /// [`Error::Closed`], on both sides; every waiting thread wakes.
    pub fn close(&self, deadline: impl Into<Deadline>) {
        if !self.end.forked() {
            self.end.close(deadline.into());
        }
    }

    /// Whether the link has ended, by closing, death or a violation.
    pub fn is_closed(&self) -> bool {
        self.end.ended().is_some()
    }

    /// Who the other process is.
    pub fn peer(&self) -> Credentials {
        self.peer
    }

    /// What keeps the other process from harming this one in other ways than over the link, as of when it joined.
    pub fn grade(&self) -> Grade {
        self.grade
    }

    /// The largest payload that this side can send, in bytes.
    pub fn max_payload(&self) -> usize {
        self.end.ours.classes.last().map_or(words::INLINE_REQUEST, |c| c.size as usize)
    }

    /// Counters of this end.
    pub fn stats(&self) -> Stats {
        self.end.stats()
    }

    /// Before an event loop sleeps on this link's [descriptor](AsFd): asks the other side to ring it for anything that
    /// happens. Returns false if there is a request to receive already, so do not sleep; look at your pending calls after
    /// arming, too. One event loop a link: arming is not counted, so a second one would be disarmed by the first.
    ///
    /// ```no_run
    /// # fn event_loop(link: &busway::Link, epoll_wait: impl Fn()) -> Result<(), busway::Error> {
    /// loop {
    ///     while let Some(request) = link.try_recv()? {
    ///         request.reply(b"done")?;
    ///     }
    ///     if link.arm() {
    ///         epoll_wait(); // on link.as_fd(), readable
    ///     }
    ///     link.disarm();
    /// }
    /// # }
    /// ```
    pub fn arm(&self) -> bool {
        self.end.arm()
    }

    /// After an event loop woke, or did not sleep: takes in what made the descriptor readable. Never blocks. If the
    /// other side has hung up, the link ends when it is seen to have died, or 100 ms later: a process that dies closes its sockets a
    /// moment before.
    pub fn disarm(&self) {
        self.end.disarm();
    }

    /// Both ends of a link inside this process, over heap memory without descriptors: for tests, and for tools like Miri.
    ///
    /// # Errors
    /// A geometry out of bounds.
    pub fn pair(config: &crate::Config) -> Result<(Link, Link)> {
        Self::pair_of(config, false)
    }

    /// Both ends of a link of a model, whose event loops ring each other.
    #[cfg(busway_loom)]
    pub fn pair_with_doorbells(config: &crate::Config) -> Result<(Link, Link)> {
        Self::pair_of(config, true)
    }

    #[cfg_attr(not(busway_loom), expect(unused_variables, reason = "doorbells of a pair are those of a model"))]
    fn pair_of(config: &crate::Config, doorbells: bool) -> Result<(Link, Link)> {
        let table = config.geometry.plan()?;
        let (host, host_seen) = crate::region::Region::heap_pair(table.len());
        let (plugin, plugin_seen) = crate::region::Region::heap_pair(table.len());
        let bell_table = config.geometry.plan_bells()?;
        let (bells, bells_seen) = crate::region::Region::heap_pair(bell_table.len());
        let me = Credentials::own();
        #[cfg(busway_loom)]
        for (region, table) in [(&host, &table), (&plugin, &table), (&bells, &bell_table)] {
            words::init(region, table);
        }
        #[cfg(not(busway_loom))]
        let doorbells = (None, None);
        #[cfg(busway_loom)]
        let doorbells = {
            let (host, plugin) = Doorbell::pair();
            (Some(host).filter(|_| doorbells), Some(plugin).filter(|_| doorbells))
        };
        let end = |ours, theirs, bells, doorbell, side| -> Result<Link> {
            let bells = BellView::new(bells, &bell_table, config.geometry.cells, side)?;
            // SAFETY: each end alone writes its own region.
            let (ours, theirs) = unsafe { (View::new(ours, &table)?, View::new(theirs, &table)?) };
            Ok(Link::new(End::new(ours, theirs, bells, doorbell, 0, config.options(side)), me, Grade::Unconfined))
        };
        let host = end(host, plugin_seen, bells, doorbells.0, Side::Host)?;
        Ok((host, end(plugin, host_seen, bells_seen, doorbells.1, Side::Plugin)?))
    }

    /// All that this side can write: its region, and the bells. For tests that play a peer which lies.
    #[doc(hidden)]
    pub fn memory(&self) -> [&crate::region::Region; 2] {
        [self.end.ours.region(), self.end.bells.region()]
    }

    /// What a model of a driver needs: the bus, and where its event loop sleeps.
    #[cfg(busway_loom)]
    pub fn driven(&self) -> (&dyn crate::tasks::Driven, &Doorbell) {
        (&*self.end, self.end.doorbell().expect("made with doorbells"))
    }
}

impl AsFd for Link {
    /// One descriptor that becomes readable when the other side rings an [armed](Link::arm) link, or is gone. For polling
    /// only, by one event loop. It may become readable for nothing, or for what another thread has taken by then: look, and
    /// sleep again.
    ///
    /// # Panics
    /// On one end of [`Link::pair`], which has no descriptor.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.doorbell().map(Doorbell::as_fd).expect("an end of Link::pair has no descriptor")
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close(Deadline::from_nanos(1));
        if let Some(tasks) = self.end.tasks.get().filter(|_| !self.end.forked()) {
            tasks.dismiss();
        }
    }
}

impl core::fmt::Debug for Link {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Link").field("peer", &self.peer).field("ended", &self.end.ended()).finish_non_exhaustive()
    }
}
