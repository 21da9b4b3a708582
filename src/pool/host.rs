//! The process that makes a pool, and those that join it.

use super::member::Seat;
use super::watch::{Crowd, Watch};
use super::words::{self, View, state};
use super::{Member, PoolConfig};
use crate::call::Ended;
use crate::error::{Error, JoinError, Result};
use crate::join::{self, Child, Credentials, Door, Offer, Refusal};
use crate::region::{Access, Memfd, Region, Table, VERSION};
use crate::sync::{Ordering, fence};
use crate::wake::{Deadline, Idle};
use core::time::Duration;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Arc;

/// A pool, held by the process that made it: its host, which is a [`Member`] like any other, and besides admits the others and
/// recovers those who die.
///
/// Dropping it ends the pool at once, for everybody. [`close`](Self::close) finishes what is under way first.
///
/// ```no_run
/// use busway::Deadline;
/// use busway::pool::{Pool, PoolConfig};
/// use std::process::Command;
///
/// let pool = Pool::create(&PoolConfig::new(["work"]))?;
/// let workers: Vec<_> = (0..4).map(|_| pool.spawn(Command::new("./worker"))).collect::<Result<_, _>>()?;
/// let reply = pool.queue("work")?.call(1, b"hello", Deadline::NEVER)?;
/// println!("{}", String::from_utf8_lossy(&reply.to_vec()));
/// # Ok::<(), busway::Error>(())
/// ```
#[derive(Debug)]
pub struct Pool {
    host: Arc<Host>,
    member: Member,
}

/// What admits members, for as long as anybody does.
#[derive(Debug)]
pub(super) struct Host {
    pub memory: Memory,
    pub crowd: Arc<Crowd>,
    pub seat: Arc<Seat>,
    pub patience: Duration,
}

/// How members come by the memory.
#[derive(Debug)]
pub(super) enum Memory {
    /// The host passes it on.
    File(Memfd),
    /// They open it.
    #[cfg(feature = "shm-name")]
    Named(#[allow(dead_code, reason = "frees the name on drop")] crate::region::NamedHost),
}

/// The host's own place.
pub(super) const HOST: u16 = 1;

/// Makes zeroed memory into a pool of which this process is the host; nobody watches its members yet.
pub(super) fn begin(region: Region, table: &Table, config: &PoolConfig) -> Result<(Arc<Seat>, Arc<Crowd>)> {
    region.write_header(&table.to_page());
    let view = View::new(Arc::new(region), table)?;
    view.name(&config.queues);
    Ok((Seat::new(view, HOST, config.idle), Arc::new(Crowd::new()?)))
}

/// What lies in a region that another process made.
pub(super) fn view(region: Region) -> Result<View> {
    let page = region.copy_header();
    let theirs = Table::version(&page)?;
    if theirs != VERSION {
        return Err(Error::VersionMismatch { ours: VERSION, theirs });
    }
    let table = Table::from_page(&page, region.len() as u64)?;
    View::new(Arc::new(region), &table)
}

impl Pool {
    /// Makes a pool. Its memory is allocated here.
    ///
    /// # Errors
    /// [`JoinError::Geometry`] for a configuration out of bounds; I/O errors.
    pub fn create(config: &PoolConfig) -> Result<Self> {
        let table = words::plan(config)?;
        let file = Memfd::create(table.len())?;
        let (seat, crowd) = begin(file.map(Access::ReadWrite)?, &table, config)?;
        seat.watched_by(Watch::members(Arc::downgrade(&seat), crowd.clone())?);
        Ok(Self::of(Host { memory: Memory::File(file), crowd, seat, patience: config.patience }))
    }

    pub(super) fn of(host: Host) -> Self {
        Self { member: Member::new(host.seat.clone()), host: Arc::new(host) }
    }

    /// Spawns a process and waits until it has [attached](Member::attach).
    ///
    /// The child inherits one socket, whose number is in the environment variable `BUSWAY_SOCKET`; everything else about the
    /// command is as you set it up.
    ///
    /// # Errors
    /// As [`Host::spawn`](crate::Host::spawn), and [`JoinError::Taken`] if there are as many members as there may be.
    pub fn spawn(&self, command: Command) -> Result<MemberProcess> {
        self.host.file()?;
        let (place, child) = Child::spawn(command, self.host.patience, |guest, _| self.host.admit(guest))?;
        Ok(MemberProcess { child, place })
    }

    /// Listens on a Unix socket at `path` for processes that [connect](Member::connect). The file is removed when the listener
    /// is dropped; one that a dead listener left behind is replaced.
    ///
    /// # Errors
    /// I/O errors, among them that somebody else listens there.
    pub fn listen(&self, path: impl AsRef<Path>) -> Result<PoolListener> {
        self.host.file()?;
        Ok(PoolListener { door: Door::open(path.as_ref())?, host: self.host.clone() })
    }

    /// How many members there are besides the host; those who are joining or being recovered count.
    pub fn members(&self) -> usize {
        self.host.crowd.len().max(self.host.taken())
    }

    /// Waits until there are no more than `count` members besides the host, or until `deadline`. Returns whether so: then what
    /// others had under way has ended, and their places are free.
    pub fn wait_members(&self, count: usize, deadline: impl Into<Deadline>) -> bool {
        self.host.look_around();
        self.host.crowd.wait(count, deadline.into(), || self.host.taken())
    }

    /// Closes the pool in order, for everybody: nothing new is sent, what was sent is served until `deadline`, then all ends.
    /// Calls that are still under way end as [`Error::Cancelled`], everything later as [`Error::Closed`]; every waiting
    /// thread wakes.
    pub fn close(&self, deadline: impl Into<Deadline>) {
        let seat = &self.host.seat;
        if seat.forked() || seat.ended().is_some() {
            return;
        }
        let deadline = deadline.into();
        seat.begin_close();
        // Nobody rings for this, and it need not be quick.
        while seat.under_way() > 0 && !deadline.has_passed() {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.host.end();
    }
}

impl Pool {
    /// As [`close`](Self::close), for async code.
    pub async fn close_async(&self, deadline: impl Into<Deadline>) {
        let seat = &self.host.seat;
        if seat.forked() || seat.ended().is_some() {
            return;
        }
        seat.begin_close();
        seat.drained(deadline.into()).await;
        self.host.end();
    }
}

impl core::ops::Deref for Pool {
    type Target = Member;

    fn deref(&self) -> &Member {
        &self.member
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if !self.host.seat.forked() {
            self.host.end();
        }
    }
}

impl Host {
    fn end(&self) {
        self.seat.view.control.state.0.store(state::CLOSED, Ordering::Release);
        fence(Ordering::SeqCst);
        self.seat.end(Ended::ByUs);
        self.seat.wake_everybody();
    }

    /// Places that members took themselves, without the host, which may not have seen it yet.
    #[cfg(feature = "shm-name")]
    fn taken(&self) -> usize {
        let presence = self.seat.presence.get().filter(|_| !self.seat.forked());
        presence.map_or(0, super::named::Presence::taken)
    }

    /// Looks who has come or gone without a word.
    #[cfg(feature = "shm-name")]
    fn look_around(&self) {
        self.seat.presence.get().filter(|_| !self.seat.forked()).inspect(|presence| presence.tell());
    }

    /// None: the host gives places away.
    #[cfg(not(feature = "shm-name"))]
    fn taken(&self) -> usize {
        0
    }

    /// Nobody comes so.
    #[cfg(not(feature = "shm-name"))]
    fn look_around(&self) {}

    /// What members map.
    fn file(&self) -> Result<&Memfd> {
        match &self.memory {
            Memory::File(file) => Ok(file),
            #[cfg(feature = "shm-name")]
            Memory::Named(_) => Err(Error::Unsupported { what: "a descriptor of a pool by name; its members open it" }),
        }
    }

    /// Gives a guest a place; returns which.
    fn admit(&self, guest: join::Guest) -> Result<u32> {
        let file = self.file()?;
        let refused = |reason| guest.refuse(reason);
        if self.seat.ended().is_some() {
            refused(Refusal::Policy);
            return Err(Error::Closed);
        }
        let places = HOST + 1..self.seat.view.places.count() as u16;
        let place = self.crowd.reserve(places).inspect_err(|_| refused(Refusal::Policy))?;
        if let Err(e) = guest.offer(place.into(), &[file.as_fd()]) {
            refused(Refusal::Failed);
            self.crowd.free(place);
            return Err(e);
        }
        let joined =
            guest.go().and_then(|(socket, identity)| self.crowd.joined(place, vec![identity.pidfd, socket.into_fd()]));
        if joined.is_err() {
            // It may have begun.
            self.seat.recover(place);
            self.crowd.free(place);
        }
        joined.map(|()| place.into())
    }
}

/// A member that the host spawned.
///
/// Dropping it gives the process a second to exit by itself, kills it if it does not, and reaps it.
#[derive(Debug)]
pub struct MemberProcess {
    child: Child,
    place: u32,
}

impl MemberProcess {
    /// Process id of the child.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its place in the pool. Places are given away again.
    pub fn place(&self) -> u32 {
        self.place
    }

    /// Kills the process at once. What it had under way ends as [`Pool`] says.
    ///
    /// # Errors
    /// What the system says.
    pub fn kill(&self) -> Result<()> {
        self.child.kill()
    }

    /// Waits for the process to exit; kills it after a second.
    ///
    /// # Errors
    /// What the system says of the waiting.
    pub fn wait(mut self) -> Result<ExitStatus> {
        if self.child.forked() {
            return Err(Error::Forked);
        }
        self.child.end(Deadline::after(Duration::ZERO)).map_err(Error::std_io("wait for a member"))
    }
}

/// Listens for processes that want to join. See [`Pool::listen`].
#[derive(Debug)]
pub struct PoolListener {
    door: Door,
    host: Arc<Host>,
}

impl PoolListener {
    /// Waits until `deadline` for the next process that connects and says hello.
    ///
    /// # Errors
    /// [`JoinError::NobodyInTime`] if nobody connects. Any other error is about one process that did; the listener goes on.
    pub fn accept(&self, deadline: impl Into<Deadline>) -> Result<PoolGuest> {
        let guest = self.door.accept(deadline.into(), self.host.patience)?;
        Ok(PoolGuest { guest, host: self.host.clone() })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        self.door.path()
    }
}

impl AsFd for PoolListener {
    /// Readable when somebody connects.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.door.as_fd()
    }
}

/// A process that has said hello and waits to be [admitted](PoolGuest::admit) or [refused](PoolGuest::refuse). Dropping it hangs
/// up.
#[derive(Debug)]
pub struct PoolGuest {
    guest: join::Guest,
    host: Arc<Host>,
}

impl PoolGuest {
    /// Who wants in. A member can do everything with the memory of the pool.
    pub fn credentials(&self) -> Credentials {
        self.guest.credentials()
    }

    /// Gives it a place in the pool; returns which.
    ///
    /// # Errors
    /// The reasons of [`JoinError`], in [`Error::Join`]; I/O errors. The process is told that it failed.
    pub fn admit(self) -> Result<u32> {
        self.host.admit(self.guest)
    }

    /// Tells the process that it is not admitted: it gets [`JoinError::Refused`].
    pub fn refuse(self) {
        self.guest.refuse(Refusal::Policy);
    }
}

/// Takes the place that a host offers.
pub(super) fn join(offer: Offer, idle: Idle) -> Result<Arc<Seat>> {
    let (seat, host) = offer.accept(|files, place| {
        let place = u16::try_from(place).ok().filter(|place| *place > HOST);
        let place = place.ok_or(Error::Unsupported { what: "a place in a pool, where the host offers a link" })?;
        let Ok([file]) = <[OwnedFd; 1]>::try_from(files) else {
            return Err(JoinError::Malformed { what: "an offer without its descriptors" }.into());
        };
        let view = view(Memfd::received(file)?.map(Access::ReadWrite)?)?;
        if u32::from(place) >= view.places.count() {
            return Err(JoinError::Malformed { what: "an offer of a place that does not exist" }.into());
        }
        Ok(Seat::new(view, place, idle))
    })?;
    let [pidfd, socket] = host.watched;
    seat.watched_by(Watch::host(Arc::downgrade(&seat), pidfd, Some(socket))?);
    Ok(seat)
}
