//! The host's side of joining: spawn or listen, hand out the memory, seal it.

use crate::config::Config;
#[cfg(feature = "confine")]
use crate::confine::Confinement;
use crate::confine::Grade;
use crate::error::{Error, Result};
use crate::join::{self, Child, Credentials, Door, Refusal};
use crate::link::{BellView, End, Link, Side, View};
use crate::region::{Access, Memfd};
use crate::sync;
use crate::wake::{Deadline, Doorbell};
use core::time::Duration;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, ExitStatus};

/// The side that makes the memory: it spawns plugins, or listens for them.
///
/// ```no_run
/// use busway::{Config, Deadline, Host};
/// use std::process::Command;
///
/// let host = Host::new(Config::default());
/// let plugin = host.spawn(Command::new("./my-plugin"))?;
/// let reply = plugin.call(1, b"hello", Deadline::NEVER)?;
/// println!("{}", String::from_utf8_lossy(&reply.to_vec()));
/// # Ok::<(), busway::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Host {
    config: Config,
    patience: Duration,
    #[cfg(feature = "confine")]
    confinement: Option<Confinement>,
}

impl Host {
    /// A host that makes links with this configuration.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            patience: Duration::from_secs(10),
            #[cfg(feature = "confine")]
            confinement: None,
        }
    }

    /// How long a handshake may take: until a spawned child has attached, or a connected process has said what it must. 10
    /// seconds by default.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Confines the plugins that this host [spawns](Self::spawn), so that they can do it no harm in other ways than over their
    /// links either. For the feature `confine`.
    ///
    /// What the command itself does between `fork` and `exec` (`pre_exec`, `current_dir`) comes first, unconfined. Processes that
    /// [connect](Self::listen) are not confined by this: they run already.
    #[cfg(feature = "confine")]
    pub fn confine(mut self, confinement: Confinement) -> Self {
        self.confinement = Some(confinement);
        self
    }

    /// Spawns a plugin and waits until it has attached.
    ///
    /// The child inherits one socket, whose number is in the environment variable `BUSWAY_SOCKET`; everything else about the
    /// command is as you set it up. The child may be a wrapper that executes or spawns the plugin.
    ///
    /// # Errors
    /// [`ChildExited`](crate::JoinError::ChildExited), [`NobodyInTime`](crate::JoinError::NobodyInTime) and the other reasons
    /// of [`JoinError`](crate::JoinError), in [`Error::Join`];
    /// [`Error::VersionMismatch`]; I/O errors. The child is then killed and reaped. [`Error::Unsupported`] if this system lacks
    /// what it takes to confine it; then nothing is spawned.
    pub fn spawn(&self, command: Command) -> Result<Process> {
        self.config.geometry.check()?;
        let (command, confined) = self.confined(command)?;
        let (link, child) = Child::spawn(command, self.patience, |guest, pidfd| {
            Guest { config: self.config.clone(), guest }.join(Some(pidfd), confined)
        })?;
        Ok(Process { link, child })
    }

    /// The command, and the grade that its process will have if it is to be confined.
    #[cfg(feature = "confine")]
    fn confined(&self, mut command: Command) -> Result<(Command, Option<Grade>)> {
        let grade = self.confinement.as_ref().map(|confinement| confinement.apply(&mut command)).transpose()?;
        Ok((command, grade))
    }

    /// Nobody is to be confined.
    #[cfg(not(feature = "confine"))]
    fn confined(&self, command: Command) -> Result<(Command, Option<Grade>)> {
        Ok((command, None))
    }

    /// Listens on a Unix socket at `path` for processes that connect. The file is removed when the listener is dropped; one
    /// that a dead listener left behind is replaced.
    ///
    /// # Errors
    /// I/O errors, among them that somebody else listens there; a geometry out of bounds.
    pub fn listen(&self, path: impl AsRef<Path>) -> Result<Listener> {
        self.config.geometry.check()?;
        Ok(Listener { door: Door::open(path.as_ref())?, host: self.clone() })
    }
}

/// A plugin process that this host spawned, and the link to it.
///
/// Dropping it closes the link, gives the process a second to exit by itself, kills it if it does not, and reaps it.
#[derive(Debug)]
pub struct Process {
    // In this order: the link closes before the child is waited for.
    link: Link,
    child: Child,
}

impl Process {
    /// Process id of the child.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills the child at once. Calls under way end as [`Error::PeerDied`].
    ///
    /// # Errors
    /// What the system says.
    pub fn kill(&self) -> Result<()> {
        self.child.kill()
    }

    /// Closes the link in order and waits for the child to exit, all until `deadline`; then kills it. Once the link has closed it has a
    /// second to exit in any case.
    ///
    /// # Errors
    /// What the system says of the waiting.
    pub fn shut_down(mut self, deadline: impl Into<Deadline>) -> Result<ExitStatus> {
        if self.child.forked() {
            return Err(Error::Forked);
        }
        let deadline = deadline.into();
        self.link.close(deadline);
        self.child.end(deadline).map_err(Error::std_io("wait for a plugin"))
    }
}

impl core::ops::Deref for Process {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.link
    }
}

/// Listens for processes that connect. See [`Host::listen`].
#[derive(Debug)]
pub struct Listener {
    door: Door,
    host: Host,
}

impl Listener {
    /// Waits until `deadline` for the next process that connects and says hello.
    ///
    /// # Errors
    /// [`JoinError::NobodyInTime`](crate::JoinError::NobodyInTime) if nobody connects. Any other error is about one process
    /// that did; the listener goes on.
    pub fn accept(&self, deadline: impl Into<Deadline>) -> Result<Guest> {
        let guest = self.door.accept(deadline.into(), self.host.patience)?;
        Ok(Guest { config: self.host.config.clone(), guest })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        self.door.path()
    }
}

impl AsFd for Listener {
    /// Readable when somebody connects.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.door.as_fd()
    }
}

/// A process that has said hello and waits to be [admitted](Guest::admit) or [refused](Guest::refuse). Dropping it hangs up.
#[derive(Debug)]
pub struct Guest {
    config: Config,
    guest: join::Guest,
}

impl Guest {
    /// Who wants in.
    pub fn credentials(&self) -> Credentials {
        self.guest.credentials()
    }

    /// Hands out the memory and finishes the handshake.
    ///
    /// # Errors
    /// The reasons of [`JoinError`](crate::JoinError), in [`Error::Join`]; I/O errors. The process is told that it failed.
    pub fn admit(self) -> Result<Link> {
        self.join(None, None)
    }

    /// Tells the process that it is not admitted: it gets [`JoinError::Refused`](crate::JoinError::Refused).
    pub fn refuse(self) {
        self.guest.refuse(Refusal::Policy);
    }

    /// `spawned` is the pidfd of the child that was spawned, which may be another process than the one that attached;
    /// `confined` is the child's grade, if it was.
    fn join(self, spawned: Option<OwnedFd>, confined: Option<Grade>) -> Result<Link> {
        let made = self.hand_out().and_then(|made| Ok((made, self.grade(confined)?)));
        let ((ours, theirs, bells, doorbell), grade) = made.inspect_err(|_| self.guest.refuse(Refusal::Failed))?;
        let Self { config, guest } = self;
        let (socket, identity) = guest.go()?;
        let mut watched = vec![identity.pidfd];
        watched.extend(spawned);
        let pidfds = watched.len();
        watched.push(socket.into_fd());
        let doorbell = Doorbell::new(doorbell, watched)?;
        let end = End::new(ours, theirs, bells, Some(doorbell), pidfds, config.options(Side::Host));
        Ok(Link::new(end, identity.credentials, grade))
    }

    /// The grade of the process that has acknowledged.
    fn grade(&self, confined: Option<Grade>) -> Result<Grade> {
        let credentials = self.guest.credentials();
        let grade = match confined {
            Some(grade) => Grade::check_inherited(credentials.pid).map(|()| grade),
            None => Ok(Grade::observed(credentials)),
        };
        // What was read of its pid was about it, if it still has it.
        self.guest.check_alive()?;
        grade
    }

    /// Everything between hello and go.
    fn hand_out(&self) -> Result<(View<sync::AtomicU32>, View<sync::PeerWord>, BellView, OwnedFd)> {
        let table = self.config.geometry.plan()?;
        let (ours, theirs) = (Memfd::create(table.len())?, Memfd::create(table.len())?);
        let mapped = ours.map(Access::ReadWrite)?;
        mapped.write_header(&table.to_page());
        ours.seal_writers()?;
        // The plugin's region gets its table from us too, before the plugin can see it.
        theirs.map(Access::ReadWrite)?.write_header(&table.to_page());
        let bell_table = self.config.geometry.plan_bells()?;
        let bells = Memfd::create(bell_table.len())?;
        let bells_mapped = bells.map(Access::ReadWrite)?;
        bells_mapped.write_header(&bell_table.to_page());

        let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let (doorbell, their_doorbell) = pair.map_err(Error::io("create a doorbell"))?;
        let files = [ours.as_fd(), theirs.as_fd(), bells.as_fd(), their_doorbell.as_fd()];
        self.guest.offer(0, &files)?;
        // It has its mapping; from here on nobody gets another one that can write.
        theirs.seal_writers()?;
        theirs.check_sealed()?;
        let read_only = theirs.map(Access::ReadOnly)?;
        // The same for the bells, which both have mapped: else it could take their pages from under us at any time.
        bells.seal_writers()?;
        bells.check_sealed()?;
        bells_mapped.populate()?;
        // The tables are our own, whatever the pages say by now.
        let bells = BellView::new(bells_mapped, &bell_table, self.config.geometry.cells, Side::Host)?;
        // SAFETY: this process alone writes its region; the other one is mapped read-only.
        unsafe { Ok((View::new(mapped, &table)?, View::new(read_only, &table)?, bells, doorbell)) }
    }
}
