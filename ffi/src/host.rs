//! How links come about: both sides of joining.

use crate::error::{Failure, busway_status};
use crate::handle::{self, Held};
use crate::link::{Linked, busway_link};
use crate::options::{busway_command, busway_config};
use crate::{guard, os_str, out};
use busway::pool::{PoolGuest, PoolListener};
use busway::{Config, Guest, Host, Link, Listener, Plugin};
use core::ffi::c_char;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

/// The side that makes the memory: it spawns plugins, or listens for them.
pub struct busway_host;

/// Listens for processes that connect.
pub struct busway_listener;

/// A process that has said hello and waits to be admitted or refused.
pub struct busway_guest;

impl Held for Host {
    const KIND: u64 = 1;
    const NOT: &'static str = "no host, or one that was freed";
}

/// Where processes connect that want a link, or a place in a pool.
pub(crate) enum Door {
    Links(Listener),
    Pool(PoolListener),
}

/// Who has connected there.
pub(crate) enum Waiting {
    Link(Guest),
    Member(PoolGuest),
}

impl Held for Door {
    const KIND: u64 = 2;
    const NOT: &'static str = "no listener, or one that was freed";
}

impl Held for Waiting {
    const KIND: u64 = 3;
    const NOT: &'static str = "no guest, or one that was admitted, refused or freed";
}

/// Who a process is, as the kernel said when it joined.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct busway_credentials {
    /// Process id, in this process's pid namespace.
    pub pid: u32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl From<busway::Credentials> for busway_credentials {
    fn from(who: busway::Credentials) -> Self {
        Self { pid: who.pid, uid: who.uid, gid: who.gid }
    }
}

/// Makes a host, which makes links with this configuration; NULL is the default one.
/// Threads: any. Errors: BUSWAY_INVALID; BUSWAY_UNSUPPORTED for options that this library does not know.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_host_new(config: *const busway_config, host: *mut *mut busway_host) -> busway_status {
    guard(|| {
        // SAFETY: the caller's pointers are as the header says, here and in all functions below.
        let (to, (config, patience)) = unsafe { (out(host)?, busway_config::get(config)?) };
        let mut host = Host::new(config);
        if let Some(patience) = patience {
            host = host.patience(patience);
        }
        to.write(handle::insert(host)?);
        Ok(())
    })
}

/// Frees a host. Its links and listeners go on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_host_free(host: *mut busway_host) -> busway_status {
    guard(|| handle::free::<Host, _>(host))
}

/// Spawns a plugin, and waits until it has attached. Freeing the link also ends the process: it gets a second to exit by itself, is
/// killed if it does not, and reaped.
/// Threads: any. Fork: not in a child that was forked from a process with threads. Errors: BUSWAY_JOIN_FAILED, most often with
/// BUSWAY_JOIN_CHILD_EXITED or BUSWAY_JOIN_NOBODY_IN_TIME; BUSWAY_IO; BUSWAY_VERSION_MISMATCH. The child is then killed and reaped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_host_spawn(
    host: *mut busway_host,
    command: *const busway_command,
    link: *mut *mut busway_link,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let (to, command) = unsafe { (out(link)?, busway_command::get(command)?) };
        let process = handle::share::<Host, _>(host)?.spawn(command)?;
        to.write(handle::insert(Linked::Process(process))?);
        Ok(())
    })
}

/// Listens on a Unix socket at `path` for processes that connect. The file is removed when the listener is freed; one that a dead
/// listener left behind is replaced.
/// Threads: any. Errors: BUSWAY_IO, among them that somebody else listens there; BUSWAY_JOIN_FAILED for the geometry.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_host_listen(
    host: *mut busway_host,
    path: *const c_char,
    listener: *mut *mut busway_listener,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let (to, path) = unsafe { (out(listener)?, os_str(path)?) };
        to.write(handle::insert(Door::Links(handle::share::<Host, _>(host)?.listen(path)?))?);
        Ok(())
    })
}

/// Waits until `deadline` for the next process that connects and says hello.
/// Threads: any, many at once. Errors: BUSWAY_JOIN_FAILED with BUSWAY_JOIN_NOBODY_IN_TIME if nobody connects. Any other error is about one
/// process that did; the listener goes on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_listener_accept(
    listener: *mut busway_listener,
    deadline: u64,
    guest: *mut *mut busway_guest,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let to = unsafe { out(guest)? };
        let until = crate::deadline(deadline);
        let guest = match &*handle::share::<Door, _>(listener)? {
            Door::Links(listener) => Waiting::Link(listener.accept(until)?),
            Door::Pool(listener) => Waiting::Member(listener.accept(until)?),
        };
        to.write(handle::insert(guest)?);
        Ok(())
    })
}

/// A descriptor that is readable when somebody connects, for polling only. It is closed when the listener is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_listener_fd(listener: *mut busway_listener, fd: *mut i32) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let to = unsafe { out(fd)? };
        to.write(handle::with(listener, |door: &Door| {
            Ok(match door {
                Door::Links(listener) => listener.as_fd().as_raw_fd(),
                Door::Pool(listener) => listener.as_fd().as_raw_fd(),
            })
        })?);
        Ok(())
    })
}

/// Frees a listener, and removes its socket. A thread that waits in busway_listener_accept goes on until its deadline.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_listener_free(listener: *mut busway_listener) -> busway_status {
    guard(|| handle::free::<Door, _>(listener))
}

/// Who wants in.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_guest_credentials(
    guest: *mut busway_guest,
    credentials: *mut busway_credentials,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let to = unsafe { out(credentials)? };
        to.write(handle::with(guest, |guest: &Waiting| {
            Ok(match guest {
                Waiting::Link(guest) => guest.credentials().into(),
                Waiting::Member(guest) => guest.credentials().into(),
            })
        })?);
        Ok(())
    })
}

/// Hands out the memory and finishes the handshake. The guest is freed, also if this fails; BUSWAY_UNSUPPORTED, and nothing else, if it
/// wants a place in a pool.
/// Threads: any. Errors: BUSWAY_JOIN_FAILED, BUSWAY_IO; the process is told that it failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_guest_admit(guest: *mut busway_guest, link: *mut *mut busway_link) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let to = unsafe { out(link)? };
        match take_guest(guest, |guest| matches!(guest, Waiting::Link(_)))?.ok_or(busway::Error::Forked)? {
            Waiting::Link(guest) => to.write(handle::insert(Linked::Link(guest.admit()?))?),
            Waiting::Member(_) => unreachable!("asked before"),
        };
        Ok(())
    })
}

/// As busway_guest_admit, for one that wants a place in a pool: `place` is which it got.
/// Threads: any. Errors: as busway_guest_admit; BUSWAY_JOIN_TAKEN if there are as many members as there may be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_guest_admit_member(guest: *mut busway_guest, place: *mut u32) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let to = unsafe { out(place)? };
        match take_guest(guest, |guest| matches!(guest, Waiting::Member(_)))?.ok_or(busway::Error::Forked)? {
            Waiting::Member(guest) => to.write(guest.admit()?),
            Waiting::Link(_) => unreachable!("asked before"),
        };
        Ok(())
    })
}

/// Tells the process that it is not admitted: it gets BUSWAY_JOIN_REFUSED. The guest is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_guest_refuse(guest: *mut busway_guest) -> busway_status {
    guard(|| {
        match take_guest(guest, |_| true)? {
            Some(Waiting::Link(guest)) => guest.refuse(),
            Some(Waiting::Member(guest)) => guest.refuse(),
            None => {}
        }
        Ok(())
    })
}

/// The guest itself, if it is of the right kind; `None` in a forked child.
fn take_guest(guest: *mut busway_guest, right: impl FnOnce(&Waiting) -> bool) -> Result<Option<Waiting>, Failure> {
    let what = "a guest of a link where one of a pool is asked for, or the other way round";
    let kind = |guest: &Waiting| if right(guest) { Ok(()) } else { Err(busway::Error::Unsupported { what }.into()) };
    handle::with(guest, kind)?;
    Ok(handle::retire(guest, |_: &Waiting| ())?.and_then(Arc::into_inner))
}

/// Hangs up on a guest, without a word.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_guest_free(guest: *mut busway_guest) -> busway_status {
    guard(|| handle::free::<Waiting, _>(guest))
}

/// Joins the host that spawned this process; NULL is the default configuration. Once in a process. The first call is best made before
/// there are other threads, since it takes BUSWAY_SOCKET out of use.
/// Errors: BUSWAY_JOIN_FAILED with BUSWAY_JOIN_NOT_A_PLUGIN if no host did, or this was called before; BUSWAY_VERSION_MISMATCH; BUSWAY_IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_attach(config: *const busway_config, link: *mut *mut busway_link) -> busway_status {
    // SAFETY: as above.
    guard(|| unsafe { join(config, link, Plugin::attach_with) })
}

/// Joins the host that listens at `path`.
/// Threads: any. Errors: BUSWAY_IO if nobody listens there; BUSWAY_JOIN_FAILED with BUSWAY_JOIN_REFUSED; otherwise as busway_attach.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_connect(
    path: *const c_char,
    config: *const busway_config,
    link: *mut *mut busway_link,
) -> busway_status {
    // SAFETY: as above.
    guard(|| unsafe {
        let path = os_str(path)?;
        join(config, link, |config| Plugin::connect(path, config))
    })
}

/// # Safety
/// As the functions of the header.
unsafe fn join(
    config: *const busway_config,
    link: *mut *mut busway_link,
    join: impl FnOnce(&Config) -> busway::Result<Link>,
) -> Result<(), Failure> {
    // SAFETY: by this function's contract.
    let (to, (config, _)) = unsafe { (out(link)?, busway_config::get(config)?) };
    to.write(handle::insert(Linked::Link(join(&config)?))?);
    Ok(())
}

/// Whether this process, or one that it descends from, was spawned by a host.
#[unsafe(no_mangle)]
pub extern "C" fn busway_is_spawned() -> bool {
    Plugin::is_spawned()
}

/// Both ends of a link inside this process, over heap memory and without descriptors: for tests.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_pair(
    config: *const busway_config,
    host: *mut *mut busway_link,
    plugin: *mut *mut busway_link,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let (to_host, to_plugin, (config, _)) = unsafe { (out(host)?, out(plugin)?, busway_config::get(config)?) };
        let (host, plugin) = Link::pair(&config)?;
        let (host, plugin) = (handle::insert(Linked::Pair(host))?, handle::insert(Linked::Pair(plugin))?);
        to_host.write(host);
        to_plugin.write(plugin);
        Ok(())
    })
}
