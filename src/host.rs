//! The host's side of joining: spawn or listen, hand out the memory, seal it.

use crate::config::Config;
use crate::error::{Error, JoinError, Result};
use crate::join::{Credentials, Identity, Kind, Packet, Received, Refusal, Socket};
use crate::link::{BellView, End, Link, Side, View};
use crate::plugin::SOCKET_VARIABLE;
use crate::region::{Access, Memfd};
use crate::sync::{self, ForkGuard};
use crate::wake::{Deadline, Doorbell};
use core::time::Duration;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with, sockopt,
};
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

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
}

impl Host {
    /// A host that makes links with this configuration.
    pub fn new(config: Config) -> Self {
        Self { config, patience: Duration::from_secs(10) }
    }

    /// How long a handshake may take: until a spawned child has attached, or a connected process has said what it must. 10
    /// seconds by default.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Spawns a plugin and waits until it has attached.
    ///
    /// The child inherits one socket, whose number is in the environment variable `BUSWAY_SOCKET`; everything else about the
    /// command is as you set it up. The child may be a wrapper that executes or spawns the plugin.
    ///
    /// # Errors
    /// [`JoinError::ChildExited`], [`JoinError::NobodyInTime`] and the other reasons of [`JoinError`], in [`Error::Join`];
    /// [`Error::VersionMismatch`]; I/O errors. The child is then killed and reaped.
    pub fn spawn(&self, mut command: Command) -> Result<Process> {
        self.config.geometry.check()?;
        let deadline = Deadline::after(self.patience);
        let (socket, theirs) = Socket::pair()?;
        let number = theirs.as_fd().as_raw_fd();
        command.env(SOCKET_VARIABLE, number.to_string());
        // SAFETY: runs between fork and exec; makes one system call on a descriptor that is open there, and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                let fd = BorrowedFd::borrow_raw(number);
                Ok(rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?)
            });
        }
        let guard = fork_guard()?;
        let child = command.spawn().map_err(Error::std_io("spawn a plugin"))?;
        drop(theirs);
        let mut child = OwnedChild { child, grace: Duration::ZERO, guard };
        let joined = pidfd_open(Pid::from_child(&child.child), PidfdFlags::empty())
            .map_err(Error::io("open a pidfd for the child"))
            .and_then(|pidfd| {
                let hello = socket.expect(Kind::Hello, deadline, Some(pidfd.as_fd()));
                let hello = hello.inspect_err(|e| refuse_version(&socket, e))?;
                Guest::new(&self.config, socket, hello, deadline)?.join(Some(pidfd))
            });
        match joined {
            Ok(link) => {
                child.grace = Duration::from_secs(1);
                Ok(Process { link, child })
            }
            Err(Error::Join(JoinError::HungUp)) => match child.wait_exit(Duration::from_millis(200)) {
                Some(status) => Err(JoinError::ChildExited { status }.into()),
                None => Err(JoinError::HungUp.into()),
            },
            Err(e) => Err(e),
        }
    }

    /// Listens on a Unix socket at `path` for processes that connect. The file is removed when the listener is dropped; one
    /// that a dead listener left behind is replaced.
    ///
    /// # Errors
    /// I/O errors, among them that somebody else listens there; a geometry out of bounds.
    pub fn listen(&self, path: impl AsRef<Path>) -> Result<Listener> {
        self.config.geometry.check()?;
        let path = path.as_ref().to_path_buf();
        let address = SocketAddrUnix::new(&path).map_err(Error::io("use the path of a socket"))?;
        let guard = fork_guard()?;
        let new_socket = || {
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(Error::io("create a socket"))
        };
        let socket = new_socket()?;
        // Before anybody connects, so that the very first packet says who sent it.
        sockopt::set_socket_passcred(&socket, true).map_err(Error::io("ask for credentials"))?;
        let mut bound = bind(&socket, &address);
        // Refused also by a file that is no socket, which is not ours to remove.
        if bound == Err(rustix::io::Errno::ADDRINUSE)
            && std::fs::symlink_metadata(&path).is_ok_and(|file| file.file_type().is_socket())
            && rustix::net::connect(new_socket()?, &address) == Err(rustix::io::Errno::CONNREFUSED)
        {
            let _ = std::fs::remove_file(&path);
            bound = bind(&socket, &address);
        }
        bound.map_err(Error::io("bind a socket"))?;
        let listener = Listener { socket, path, guard, host: self.clone() };
        listen(&listener.socket, 128).map_err(Error::io("listen on a socket"))?;
        Ok(listener)
    }
}

/// A plugin process that this host spawned, and the link to it.
///
/// Dropping it closes the link, gives the process a second to exit by itself, kills it if it does not, and reaps it.
#[derive(Debug)]
pub struct Process {
    // In this order: the link closes before the child is waited for.
    link: Link,
    child: OwnedChild,
}

impl Process {
    /// Process id of the child.
    pub fn id(&self) -> u32 {
        self.child.child.id()
    }

    /// Kills the child at once. Calls under way end as [`Error::PeerDied`].
    ///
    /// # Errors
    /// What the system says.
    pub fn kill(&mut self) -> Result<()> {
        if self.child.guard.forked() {
            return Err(Error::Forked);
        }
        self.child.child.kill().map_err(Error::std_io("kill a plugin"))
    }

    /// Closes the link in order until `deadline`, then waits for the child to exit; kills it after a second.
    ///
    /// # Errors
    /// What the system says of the waiting.
    pub fn shut_down(mut self, deadline: impl Into<Deadline>) -> Result<ExitStatus> {
        if self.child.guard.forked() {
            return Err(Error::Forked);
        }
        self.link.close(deadline);
        self.child.end().map_err(Error::std_io("wait for a plugin"))
    }
}

impl core::ops::Deref for Process {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.link
    }
}

/// A child that is never left behind.
#[derive(Debug)]
struct OwnedChild {
    child: Child,
    grace: Duration,
    guard: ForkGuard,
}

impl OwnedChild {
    /// How the child ended, if it does within `limit`.
    fn wait_exit(&mut self, limit: Duration) -> Option<ExitStatus> {
        if let Ok(pidfd) = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()) {
            let limit =
                rustix::event::Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
            let exited = rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN);
            let _ = rustix::event::poll(&mut [exited], Some(&limit));
        }
        self.child.try_wait().ok().flatten()
    }

    fn end(&mut self) -> std::io::Result<ExitStatus> {
        if let Some(status) = self.wait_exit(self.grace) {
            return Ok(status);
        }
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for OwnedChild {
    fn drop(&mut self) {
        // In a forked copy the child is not ours.
        if !self.guard.forked() {
            let _ = self.end();
        }
    }
}

/// Listens for processes that connect. See [`Host::listen`].
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    guard: ForkGuard,
    host: Host,
}

impl Listener {
    /// Waits until `deadline` for the next process that connects and says hello.
    ///
    /// # Errors
    /// [`JoinError::NobodyInTime`] if nobody connects. Any other error is about one process that did; the listener goes on.
    pub fn accept(&self, deadline: impl Into<Deadline>) -> Result<Guest> {
        let deadline = deadline.into();
        let left = deadline
            .remaining()
            .map(|left| rustix::event::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        let mut fds = [rustix::event::PollFd::new(&self.socket, rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut fds, left.as_ref()) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Err(JoinError::NobodyInTime.into()),
            Ok(_) => {}
            Err(e) => return Err(Error::io("wait for a connection")(e)),
        }
        let socket = accept_with(&self.socket, SocketFlags::CLOEXEC).map_err(Error::io("accept a connection"))?;
        sockopt::set_socket_passcred(&socket, true).map_err(Error::io("ask for credentials"))?;
        let (socket, deadline) = (Socket::from_fd(socket), deadline.sooner(self.host.patience));
        let hello = socket.expect(Kind::Hello, deadline, None).inspect_err(|e| refuse_version(&socket, e))?;
        Guest::new(&self.host.config, socket, hello, Deadline::after(self.host.patience))
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Listener {
    /// Readable when somebody connects.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if !self.guard.forked() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A process that has said hello and waits to be [admitted](Guest::admit) or [refused](Guest::refuse). Dropping it hangs up.
#[derive(Debug)]
pub struct Guest {
    config: Config,
    socket: Socket,
    identity: Identity,
    deadline: Deadline,
}

impl Guest {
    fn new(config: &Config, socket: Socket, hello: Received, deadline: Deadline) -> Result<Self> {
        let identity = hello.credentials.ok_or(JoinError::Identity { what: "no credentials came with its hello" });
        match identity.map_err(Error::from).and_then(Identity::of) {
            Ok(identity) => Ok(Self { config: config.clone(), socket, identity, deadline }),
            Err(e) => {
                let _ = socket.send(&Packet::refuse(Refusal::Identity), &[]);
                Err(e)
            }
        }
    }

    /// Who wants in.
    pub fn credentials(&self) -> Credentials {
        self.identity.credentials
    }

    /// Hands out the memory and finishes the handshake.
    ///
    /// # Errors
    /// The reasons of [`JoinError`], in [`Error::Join`]; I/O errors. The process is told that it failed.
    pub fn admit(self) -> Result<Link> {
        self.join(None)
    }

    /// Tells the process that it is not admitted: it gets [`JoinError::Refused`].
    pub fn refuse(self) {
        // It may have gone already.
        let _ = self.socket.send(&Packet::refuse(Refusal::Policy), &[]);
    }

    /// `spawned` is the pidfd of the child that was spawned, which may be another process than the one that attached.
    fn join(self, spawned: Option<OwnedFd>) -> Result<Link> {
        let (ours, theirs, bells, doorbell) = match self.hand_out() {
            Ok(made) => made,
            Err(e) => {
                let _ = self.socket.send(&Packet::refuse(Refusal::Failed), &[]);
                return Err(e);
            }
        };
        let Self { config, socket, identity, .. } = self;
        let peer = identity.credentials;
        let mut watched = vec![identity.pidfd];
        watched.extend(spawned);
        let pidfds = watched.len();
        socket.send(&Packet::new(Kind::Go), &[])?;
        watched.push(socket.into_fd());
        let doorbell = Doorbell::new(doorbell, watched)?;
        Ok(Link::new(End::new(ours, theirs, bells, Some(doorbell), pidfds, config.options(Side::Host)), peer))
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
        let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).map_err(Error::io("open a pidfd of this process"))?;
        let offer = Packet::new(Kind::Offer).with_nonce(nonce());
        let fds = [ours.as_fd(), theirs.as_fd(), bells.as_fd(), their_doorbell.as_fd(), pidfd.as_fd()];
        self.socket.send(&offer, &fds)?;
        drop(their_doorbell);

        let ack = self.socket.expect(Kind::Ack, self.deadline, Some(self.identity.pidfd.as_fd()))?;
        if ack.packet.nonce != offer.nonce {
            return Err(JoinError::Malformed { what: "an acknowledgement of something else" }.into());
        }
        self.identity.confirm(ack.credentials.ok_or(JoinError::Identity { what: "no credentials" })?)?;
        // It has its mapping; from here on nobody gets another one that can write.
        theirs.seal_writers()?;
        theirs.check_sealed()?;
        let read_only = theirs.map(Access::ReadOnly)?;
        // The tables are our own, whatever the pages say by now.
        let bells = BellView::new(bells_mapped, &bell_table, self.config.geometry.cells, Side::Host)?;
        // SAFETY: this process alone writes its region; the other one is mapped read-only.
        unsafe { Ok((View::new(mapped, &table)?, View::new(read_only, &table)?, bells, doorbell)) }
    }
}

fn fork_guard() -> Result<ForkGuard> {
    ForkGuard::new().map_err(Error::io("map the fork guard"))
}

/// Tells a process of another version so; the refusal carries our version, which is what it will report.
fn refuse_version(socket: &Socket, error: &Error) {
    if matches!(error, Error::VersionMismatch { .. }) {
        let _ = socket.send(&Packet::refuse(Refusal::Version), &[]);
    }
}

/// A number that a plugin cannot know before it was told.
fn nonce() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}
