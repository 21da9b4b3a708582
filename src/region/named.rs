//! Shared memory by name, for processes that share no socket.
//!
//! Two files in `/dev/shm`: the segment, and beside it a lock file. Both belong to one user and nobody else may open them. A name
//! can be removed and used again at any time, so the lock file decides whose the segment is.
//!
//! # Protocol
//!
//! The lock file has two bytes to lock and a [`Record`]: who the host is, and once the segment is complete, that it is.
//!
//! ```text
//! create:  open the lock file, or make it; lock CREATING, or else somebody creates just now; lock HOST
//!          the path names another file by now: start again
//!          HOST was locked by somebody who lives: taken; by a fork of somebody who is dead: remove the lock file, start again
//!          record, not ready; remove the segment of a dead host; make and fill ours; record, ready; unlock CREATING
//! open:    HOST is locked, and the record ready; map the segment; HOST is locked still, and the record the same
//! end:     the path names our lock file: remove the segment, then the lock file; unlock HOST
//! ```
//!
//! While HOST is locked by a process that lives, only that process removes or replaces anything; else only who has CREATING
//! locked in the file that the path names. So nobody removes what is another's, and whoever dies, at whatever step, leaves
//! files that the next one removes.
//!
//! The locks are those of an open file description (OFD): closing another descriptor of the file does not release them, as it
//! does the locks of a process. Two bytes of one file can be locked, and asked about without being locked, which `flock` cannot.
//! Like `flock`'s they live on in forked children, so the record names the host.

use super::{Access, HEADER_SIZE, MAGIC, Process, Region, namespaces};
use crate::error::{Error, JoinError, Result};
use crate::sync::ForkGuard;
use bytemuck::{Pod, Zeroable};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file system in memory that every Linux system has for this, and where `shm_open` looks.
const DIRECTORY: &str = "/dev/shm";
const MAX_NAME: usize = 64;

const TAKEN: JoinError = JoinError::Taken { what: "the name; its host lives, or another is beginning" };

/// Names of the two files of one pool of this user.
#[derive(Debug)]
pub struct Name {
    segment: PathBuf,
    lock: PathBuf,
}

impl Name {
    /// The files of the pool `name`.
    ///
    /// # Errors
    /// [`JoinError::InvalidName`].
    pub fn new(name: &str) -> Result<Self, JoinError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if !(1..=MAX_NAME).contains(&name.len()) || name.starts_with('.') || !name.bytes().all(plain) {
            return Err(JoinError::InvalidName);
        }
        let user = rustix::process::geteuid().as_raw();
        let file = |of: &str| Path::new(DIRECTORY).join(format!("busway-{of}{user}-{name}"));
        Ok(Self { segment: file(""), lock: file("lock-") })
    }
}

/// What a lock file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Record {
    magic: u64,
    /// The [`Process`] that has the name.
    host: u64,
    /// Its [`namespaces`].
    namespaces: [u64; 2],
    /// 1 once the segment is complete.
    ready: u64,
}

impl Record {
    fn own() -> Result<Self> {
        Ok(Self { magic: MAGIC, host: Process::own()?.bits(), namespaces: namespaces()?, ready: 0 })
    }

    /// The record in a lock file; zeroes if there is none yet.
    fn read(file: &File) -> Result<Self> {
        let mut record = Self::zeroed();
        match file.read_exact_at(bytemuck::bytes_of_mut(&mut record), 0) {
            Ok(()) => Ok(record),
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(Self::zeroed()),
            Err(e) => Err(Error::std_io("read a lock file")(e)),
        }
    }

    fn write(&self, file: &File) -> Result<()> {
        file.write_all_at(bytemuck::bytes_of(self), 0).map_err(Error::std_io("write a lock file"))
    }

    /// The host, if it is one of `namespaces`.
    fn host(&self, namespaces: [u64; 2]) -> Option<Process> {
        Process::from_bits(self.host).filter(|_| self.magic == MAGIC && self.namespaces == namespaces)
    }
}

/// A byte of a lock file.
#[derive(Clone, Copy, Debug)]
enum Byte {
    /// Locked by a host for as long as it lives.
    Host = 0,
    /// Locked by who becomes the host.
    Creating = 1,
}

/// One call about the lock of a byte; what the kernel answered.
fn ofd_lock(file: &File, command: i32, kind: i32, byte: Byte) -> io::Result<i32> {
    let (l_type, l_whence, l_start) = (kind as i16, libc::SEEK_SET as i16, byte as i64);
    let mut lock = libc::flock { l_type, l_whence, l_start, l_len: 1, l_pid: 0 };
    // SAFETY: an open descriptor, and a structure that outlives the call, in which it writes at most.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(lock.l_type.into()),
    }
}

/// Locks a byte, unless somebody else has.
fn try_lock(file: &File, byte: Byte) -> Result<bool> {
    match ofd_lock(file, libc::F_OFD_SETLK, libc::F_WRLCK, byte) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(e) => Err(Error::std_io("lock a lock file")(e)),
    }
}

/// Unlocks it, also for forked children, who have the open file too.
fn unlock(file: &File, byte: Byte) {
    let _ = ofd_lock(file, libc::F_OFD_SETLK, libc::F_UNLCK, byte);
}

/// Whether somebody else has locked a byte.
fn is_locked(file: &File, byte: Byte) -> Result<bool> {
    let found = ofd_lock(file, libc::F_OFD_GETLK, libc::F_WRLCK, byte).map_err(Error::std_io("ask about a lock"))?;
    Ok(found != libc::F_UNLCK)
}

/// Opens a file that must be a file of this user alone, or creates it; `None` if there is none, or one already.
fn open_own(path: &Path, create: bool) -> Result<Option<File>> {
    const FOREIGN: JoinError = JoinError::Identity { what: "a file in /dev/shm is not one of this user alone" };
    // Whatever else lies there, opening it neither follows nor blocks.
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(create).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    // Where there is nothing and none can be made, there is no such directory.
    let none = if create { ErrorKind::AlreadyExists } else { ErrorKind::NotFound };
    let file = match options.open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == none => return Ok(None),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::EACCES | libc::EISDIR)) => {
            return Err(FOREIGN.into());
        }
        Err(e) => return Err(Error::std_io("open a file in /dev/shm")(e)),
    };
    let of = metadata(&file)?;
    // With a second name, what is written to it would change another file.
    if !of.is_file() || of.uid() != rustix::process::geteuid().as_raw() || of.mode() & 0o7077 != 0 || of.nlink() > 1 {
        return Err(FOREIGN.into());
    }
    Ok(Some(file))
}

fn metadata(file: &File) -> Result<fs::Metadata> {
    file.metadata().map_err(Error::std_io("look at a file in /dev/shm"))
}

/// Whether the path leads to this file.
fn names(path: &Path, file: &File) -> Result<bool> {
    let ours = metadata(file)?;
    Ok(fs::symlink_metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (ours.dev(), ours.ino())))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::std_io("remove a file of a dead host")(e)),
        _ => Ok(()),
    }
}

/// The process that has a name. Dropping it removes both files.
#[derive(Debug)]
pub struct NamedHost {
    name: Name,
    lock: File,
    guard: ForkGuard,
}

impl NamedHost {
    /// Takes the name and makes a segment of `len` zero bytes, which `fill` makes into something. Nobody opens it before.
    ///
    /// # Errors
    /// [`JoinError::Taken`] if another host has the name; [`JoinError::Identity`] if a file of another user has it; what `fill`
    /// says; I/O errors.
    pub fn create<T>(name: Name, len: usize, fill: impl FnOnce(Region) -> Result<T>) -> Result<(Self, T)> {
        let record = Record::own()?;
        let guard = ForkGuard::new().map_err(Error::io("map the fork guard"))?;
        let lock = loop {
            let lock = match open_own(&name.lock, false)? {
                Some(lock) => lock,
                None => match open_own(&name.lock, true)? {
                    Some(lock) => lock,
                    None => continue,
                },
            };
            if !try_lock(&lock, Byte::Creating)? {
                return Err(TAKEN.into());
            }
            let settled = settle(&name, &lock, record.namespaces);
            if let Ok(true) = settled {
                break lock;
            }
            unlock(&lock, Byte::Creating);
            settled?;
        };
        let host = Self { name, lock, guard };
        let filled = host.fill(record, len, fill);
        unlock(&host.lock, Byte::Creating);
        Ok((host, filled?))
    }

    fn fill<T>(&self, record: Record, len: usize, fill: impl FnOnce(Region) -> Result<T>) -> Result<T> {
        // What a dead host wrote is gone before anything of ours can be read beside it.
        self.lock.set_len(0).map_err(Error::std_io("write a lock file"))?;
        record.write(&self.lock)?;
        remove(&self.name.segment)?;
        let file = open_own(&self.name.segment, true)?.ok_or(TAKEN)?;
        // So that a full machine is an error now and not a SIGBUS later.
        fallocate(&file, FallocateFlags::empty(), 0, len as u64).map_err(Error::io("allocate shared memory"))?;
        let filled = fill(Region::map(&file, len, Access::ReadWrite)?)?;
        Record { ready: 1, ..record }.write(&self.lock)?;
        Ok(filled)
    }
}

/// Whether the name is ours, who have its byte CREATING locked. If not, it may be the next time, with the file there is then.
fn settle(name: &Name, lock: &File, ours: [u64; 2]) -> Result<bool> {
    let free = try_lock(lock, Byte::Host)?;
    if !names(&name.lock, lock)? {
        return Ok(false);
    }
    if !free {
        if !Record::read(lock)?.host(ours).is_some_and(Process::is_dead) {
            return Err(TAKEN.into());
        }
        // A child that the host forked has its lock still.
        remove(&name.lock)?;
    }
    Ok(free)
}

impl Drop for NamedHost {
    fn drop(&mut self) {
        if self.guard.forked() {
            return;
        }
        // Somebody may have removed the files of a user who logged out, and the name be another's.
        if names(&self.name.lock, &self.lock).unwrap_or(false) {
            let _ = remove(&self.name.segment);
            let _ = remove(&self.name.lock);
        }
        // A child that was forked has the lock, too, and this process may be host of the name again: who opened the lock file
        // before it was removed would take the one for the other.
        unlock(&self.lock, Byte::Host);
    }
}

/// Maps the segment of a host that lives.
///
/// # Errors
/// [`JoinError::NoHost`]; [`JoinError::Identity`] if a file there is another user's, or the host of another namespace;
/// [`JoinError::Geometry`] if the segment is too short; I/O errors.
pub fn open_named(name: &Name) -> Result<(Region, Process)> {
    let (lock, ours) = (open(&name.lock)?, namespaces()?);
    let host = || {
        let record = Record::read(&lock)?;
        if !is_locked(&lock, Byte::Host)? || record.ready != 1 {
            return Err(Error::from(JoinError::NoHost));
        }
        if record.magic != MAGIC {
            return Err(JoinError::BadMagic.into());
        }
        let what = "the host lives in another pid namespace or time namespace";
        let host = record.host(ours).ok_or(JoinError::Identity { what })?;
        // A child that it forked has its lock still.
        if host.is_dead() { Err(JoinError::NoHost.into()) } else { Ok(host) }
    };
    let before = host()?;
    let mapped = map(name);
    // Then what was mapped, or could not be, was this host's.
    if host()? != before {
        return Err(JoinError::NoHost.into());
    }
    Ok((mapped?, before))
}

fn open(path: &Path) -> Result<File> {
    open_own(path, false)?.ok_or(JoinError::NoHost.into())
}

/// Maps the segment that is there.
fn map(name: &Name) -> Result<Region> {
    let file = open(&name.segment)?;
    let len = metadata(&file)?.len() as usize;
    if len < HEADER_SIZE {
        return Err(JoinError::Geometry { what: "a segment that is shorter than its header" }.into());
    }
    Region::map(&file, len, Access::ReadWrite)
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_was_given_up_is_not_locked_by_a_forked_child() {
        let name = || Name::new(&format!("given-up-{}", std::process::id())).unwrap();
        let (host, ()) = NamedHost::create(name(), HEADER_SIZE, |_| Ok(())).unwrap();
        let before = open(&name().lock).unwrap();
        // A child has the same open file.
        let _of_a_child = host.lock.try_clone().unwrap();
        assert!(is_locked(&before, Byte::Host).unwrap());
        drop(host);
        assert!(!is_locked(&before, Byte::Host).unwrap());
    }
}
