//! What happens in the child between `fork` and `exec`: system calls, and nothing that allocates or locks.

use super::profile::Filters;
use super::{Confinement, files};
use rustix::fs::{Gid, Uid};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// All that the child needs, made before it was forked.
pub(super) struct Confine {
    pub confinement: Confinement,
    pub user: Option<(u32, u32)>,
    pub ruleset: Option<OwnedFd>,
    pub filters: Filters,
}

impl Confine {
    /// Has a child of `command` confine itself before it executes anything.
    pub fn before_exec(mut self, command: &mut Command) {
        // SAFETY: runs between fork and exec; makes system calls, and allocates and locks nothing.
        unsafe { command.pre_exec(move || self.confine()) };
    }

    /// Each step leaves the next ones possible: what takes privileges comes first, what forbids system calls last.
    fn confine(&mut self) -> io::Result<()> {
        close_on_exec()?;
        for (fd, _) in &self.confinement.inherited {
            // SAFETY: an error, if it is not open.
            fcntl_setfd(unsafe { BorrowedFd::borrow_raw(*fd) }, FdFlags::empty())?;
        }
        // No core dump. With 0 one into a pipe would be made, with 1 none is.
        limit(Resource::Core, 1)?;
        for (resource, value) in &self.confinement.limits {
            limit(*resource, *value)?;
        }
        if let Some((uid, gid)) = self.user {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            // Of this thread, the only one: what libc does for all threads is not for a forked child.
            set_thread_groups(&[])?;
            set_thread_res_gid(gid, gid, gid)?;
            set_thread_res_uid(uid, uid, uid)?;
        }
        // Or else exec would give root its privileges back.
        set_no_new_privs(true)?;
        let _ = clear_ambient_capability_set();
        let none = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
        if let Some(ruleset) = &self.ruleset {
            files::enter(ruleset)?;
        }
        self.filters.install()
    }
}

/// Closes every descriptor at `exec` but the first three: others may be open by mistake, in code that is not ours.
fn close_on_exec() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: only sets a flag, and what is to stay open has it taken away again.
    let done = unsafe {
        libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_uint)
    };
    if done == 0 {
        return Ok(());
    }
    // Linux before 5.11.
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    for fd in FIRST as i32..limit.try_into().unwrap_or(i32::MAX) {
        // SAFETY: an error, if it is not open.
        let _ = fcntl_setfd(unsafe { BorrowedFd::borrow_raw(fd) }, FdFlags::CLOEXEC);
    }
    Ok(())
}

/// Lowers a limit, for good.
fn limit(resource: Resource, value: u64) -> io::Result<()> {
    let highest = getrlimit(resource).maximum.map_or(value, |maximum| maximum.min(value));
    Ok(setrlimit(resource, Rlimit { current: Some(highest), maximum: Some(highest) })?)
}
