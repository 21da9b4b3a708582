//! The plugin's side of joining.

use crate::config::Config;
use crate::error::{Error, JoinError, Result};
use crate::join::{Kind, Packet, Refusal, Socket};
use crate::link::{BellView, End, Geometry, Link, Side, View};
use crate::region::{Access, Memfd, Table, VERSION};
use crate::sync;
use crate::wake::{Deadline, Doorbell};
use core::time::Duration;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

/// The environment variable that names the inherited socket.
pub const SOCKET_VARIABLE: &str = "BUSWAY_SOCKET";

/// How long the host may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The side that uses the memory which its host made.
///
/// ```no_run
/// use busway::Plugin;
///
/// let link = Plugin::attach()?;
/// link.serve(|request| {
///     let shout = request.to_vec().to_ascii_uppercase();
///     let _ = request.reply(&shout);
/// })?;
/// # Ok::<(), busway::Error>(())
/// ```
#[derive(Debug)]
pub struct Plugin;

impl Plugin {
    /// Joins the host that spawned this process, with the default configuration.
    ///
    /// # Errors
    /// [`JoinError::NotAPlugin`] if no host did, or this was called before; the other reasons of [`JoinError`], in
    /// [`Error::Join`]; [`Error::VersionMismatch`]; I/O errors.
    pub fn attach() -> Result<Link> {
        Self::attach_with(&Config::default())
    }

    /// As [`attach`](Self::attach), with a configuration; its geometry is not used, the host's is.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn attach_with(config: &Config) -> Result<Link> {
        join(inherited_socket()?, config)
    }

    /// Joins the host that [listens](crate::Host::listen) at `path`.
    ///
    /// # Errors
    /// I/O errors if nobody listens there; [`JoinError::Refused`]; otherwise as [`attach`](Self::attach).
    pub fn connect(path: impl AsRef<Path>, config: &Config) -> Result<Link> {
        let address = SocketAddrUnix::new(path.as_ref()).map_err(Error::io("use the path of a socket"))?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(Error::io("create a socket"))?;
        connect(&socket, &address).map_err(Error::io("connect to a host"))?;
        join(Socket::from_fd(socket), config)
    }

    /// Whether this process, or one that it descends from, was spawned by a host: for programs that are their own plugin.
    pub fn is_spawned() -> bool {
        std::env::var_os(SOCKET_VARIABLE).is_some()
    }
}

/// The socket that the host left open for us. Taken once; after that the number may be any other descriptor's.
fn inherited_socket() -> Result<Socket> {
    static TAKEN: std::sync::Once = std::sync::Once::new();
    let mut first = false;
    TAKEN.call_once(|| first = true);
    let number = std::env::var(SOCKET_VARIABLE).ok().and_then(|n| n.parse().ok()).filter(|n| first && *n > 2);
    let number = number.ok_or(JoinError::NotAPlugin)?;
    // SAFETY: only looked at, by calls that fail if it is not open or no socket.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if sockopt::socket_type(borrowed) != Ok(SocketType::SEQPACKET) {
        return Err(JoinError::NotAPlugin.into());
    }
    // Our own children are not this host's plugins.
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC)
        .map_err(Error::io("keep the socket from children"))?;
    // SAFETY: the host opened it for this process alone, and nobody else takes it.
    Ok(Socket::from_fd(unsafe { OwnedFd::from_raw_fd(number) }))
}

fn join(socket: Socket, config: &Config) -> Result<Link> {
    let deadline = Deadline::after(PATIENCE);
    socket.send(&Packet::new(Kind::Hello), &[])?;
    let offer = socket.expect(Kind::Offer, deadline, None)?;
    let Ok([host_file, own_file, bells_file, doorbell, pidfd]) = <[OwnedFd; 5]>::try_from(offer.fds) else {
        return Err(JoinError::Malformed { what: "an offer without its five descriptors" }.into());
    };
    let (ours, theirs, bells) = match map(host_file, own_file, bells_file) {
        Ok(views) => views,
        Err(e) => {
            let _ = socket.send(&Packet::refuse(Refusal::Failed), &[]);
            return Err(e);
        }
    };
    socket.send(&Packet::new(Kind::Ack).with_nonce(offer.packet.nonce), &[])?;
    socket.expect(Kind::Go, deadline, Some(pidfd.as_fd()))?;

    let peer = socket.peer()?;
    let doorbell = Doorbell::new(doorbell, vec![pidfd, socket.into_fd()])?;
    Ok(Link::new(End::new(ours, theirs, bells, Some(doorbell), 1, config.options(Side::Plugin)), peer))
}

/// Maps the regions and finds everything in them.
fn map(
    host_file: OwnedFd,
    own_file: OwnedFd,
    bells_file: OwnedFd,
) -> Result<(View<sync::AtomicU32>, View<sync::PeerWord>, BellView)> {
    let table = |region: &crate::region::Region, len| {
        let page = region.copy_header();
        match Table::version(&page)? {
            VERSION => Ok(Table::from_page(&page, len)?),
            theirs => Err(Error::VersionMismatch { ours: VERSION, theirs }),
        }
    };
    let [host_file, own_file, bells_file] = [host_file, own_file, bells_file].map(Memfd::received);
    let (host_file, own_file, bells_file) = (host_file?, own_file?, bells_file?);
    let (theirs, ours) = (host_file.map(Access::ReadOnly)?, own_file.map(Access::ReadWrite)?);
    let their_table = table(&theirs, host_file.len() as u64)?;
    let our_table = table(&ours, own_file.len() as u64)?;
    let geometry = Geometry::of(&our_table)?;
    if geometry != Geometry::of(&their_table)? {
        return Err(JoinError::Geometry { what: "the two regions differ" }.into());
    }
    let bells = bells_file.map(Access::ReadWrite)?;
    let bell_table = table(&bells, bells_file.len() as u64)?;
    let bells = BellView::new(bells, &bell_table, geometry.cells, Side::Plugin)?;
    // SAFETY: our region is written by this process alone once the host has sealed it, before it says go; the other one is
    // mapped read-only. The tables were validated.
    unsafe { Ok((View::new(ours, &our_table)?, View::new(theirs, &their_table)?, bells)) }
}
