//! Confinement: what holds a plugin back besides its link.

use crate::error::{Failure, busway_status};
use crate::handle;
use crate::host::busway_host;
use crate::link::{Linked, busway_link};
use crate::options::{self, busway_command, texts};
use crate::{array, guard, out};
use busway::{Confinement, Grade, Host};
use core::ffi::c_char;

/// It may connect and listen over TCP and UDP, to anybody, this machine's own services included.
pub const BUSWAY_CONFINE_NETWORK: u32 = 1;
/// It runs as another user: `uid`, in the group `gid` and no other. For a host that is privileged to do so.
pub const BUSWAY_CONFINE_USER: u32 = 2;
/// Goes on without what this system does not have, Landlock or the privilege to use another user; the grade says what came of it. Without
/// this, spawning fails.
pub const BUSWAY_CONFINE_BEST_EFFORT: u32 = 4;

/// How a plugin is confined. It, and whatever it starts, may compute, use its link, and read the system's programs and libraries; it may open
/// no other file, no socket and no descriptor of its host's, touch no process but its own children, and gain no privileges. What it may
/// do besides is named here; docs/confinement.md has the whole profile. Set it up with busway_confinement_init().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct busway_confinement {
    /// Bytes of this struct.
    pub size: u32,
    /// BUSWAY_CONFINE_*, or 0.
    pub flags: u32,
    /// Files that it may read and execute, and directories beneath which it may; ends with NULL. NULL: none. The program itself need not
    /// be named, nor the system's directories.
    pub read: *const *const c_char,
    /// Files with which it may do whatever its user may, and directories, but change their mode, owner, times and extended attributes; ends
    /// with NULL. NULL: none.
    pub write: *const *const c_char,
    /// Its user, with BUSWAY_CONFINE_USER.
    pub uid: u32,
    /// Its group, with BUSWAY_CONFINE_USER.
    pub gid: u32,
    /// Its address space in bytes; 0 is no limit.
    pub max_memory: u64,
    /// Its open descriptors; 0 is no limit. With standard input, output and error a link takes some ten.
    pub max_files: u64,
    /// The processes and threads of its user; 0 is no limit. Root is not limited.
    pub max_processes: u64,
    /// Descriptors that it inherits, under their numbers; they stay the caller's. Others but standard input, output and error it does not.
    pub inherit: *const i32,
    /// How many there are.
    pub inherit_count: u64,
}

impl busway_confinement {
    /// # Safety
    /// As [`options::read`], and all texts and arrays of it are as documented.
    unsafe fn get(from: *const Self) -> Result<Confinement, Failure> {
        // SAFETY: by this function's contract.
        let this = unsafe { options::read(from)? };
        let known = BUSWAY_CONFINE_NETWORK | BUSWAY_CONFINE_USER | BUSWAY_CONFINE_BEST_EFFORT;
        if this.flags & !known != 0 {
            let what = "a flag that this version of the library does not know";
            return Err(busway::Error::Unsupported { what }.into());
        }
        let has = |flag| this.flags & flag != 0;
        let mut to = Confinement::new();
        // SAFETY: by this function's contract.
        unsafe {
            for path in texts(this.read) {
                to = to.allow_read(path?);
            }
            for path in texts(this.write) {
                to = to.allow_write(path?);
            }
            for fd in array(this.inherit, this.inherit_count.try_into().unwrap_or(usize::MAX))? {
                if *fd < 0 {
                    return Err(Failure::Invalid("a descriptor below 0"));
                }
                to = to.inherit_number(*fd);
            }
        }
        if has(BUSWAY_CONFINE_NETWORK) {
            to = to.allow_network();
        }
        if has(BUSWAY_CONFINE_USER) {
            to = to.user(this.uid, this.gid);
        }
        if has(BUSWAY_CONFINE_BEST_EFFORT) {
            to = to.best_effort();
        }
        if this.max_memory != 0 {
            to = to.max_memory(this.max_memory);
        }
        if this.max_files != 0 {
            to = to.max_files(this.max_files);
        }
        if this.max_processes != 0 {
            to = to.max_processes(this.max_processes);
        }
        Ok(to)
    }
}

/// Spawns a plugin as busway_host_spawn does, confined; NULL is the profile with nothing allowed besides. It holds from the first
/// instruction of the program, for ever, and for all that it starts.
/// Threads, fork: as busway_host_spawn. Errors: as busway_host_spawn; BUSWAY_UNSUPPORTED if this system lacks what it takes, then nothing is
/// spawned; BUSWAY_IO, also for a path that is not there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_host_spawn_confined(
    host: *mut busway_host,
    command: *const busway_command,
    confinement: *const busway_confinement,
    link: *mut *mut busway_link,
) -> busway_status {
    guard(|| {
        // SAFETY: the caller's pointers are as the header says, here and in all functions below.
        let (to, command, confinement) =
            unsafe { (out(link)?, busway_command::get(command)?, busway_confinement::get(confinement)?) };
        let host = Host::clone(&*handle::share(host)?).confine(confinement);
        to.write(handle::insert(Linked::Process(host.spawn(command)?))?);
        Ok(())
    })
}

/// Nothing that this library knows of holds it back: protection against faults, not against malice.
pub const BUSWAY_GRADE_UNCONFINED: u32 = 0;
/// Confined as far as this system can, with BUSWAY_CONFINE_BEST_EFFORT, and not enough against malice: without Landlock and another user its
/// files, and the memory of other processes of its user, are open to it.
pub const BUSWAY_GRADE_PARTLY: u32 = 1;
/// Memory, descriptors and signals of this process are out of its reach.
pub const BUSWAY_GRADE_CONFINED: u32 = 2;

/// What keeps the other process of a link from harming this one in other ways than over the link, as of when it joined. Set it up with
/// busway_grade_init().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct busway_grade {
    /// Bytes of this struct.
    pub size: u32,
    /// One of BUSWAY_GRADE_*.
    pub grade: u32,
    /// Whether it runs as another user, who has no privileges: 0 or 1.
    pub other_user: u32,
    /// Whether the profile of system calls holds it, and it can gain no privileges: 0 or 1.
    pub seccomp: u32,
    /// The version of Landlock that holds it, 0 if none does.
    pub landlock: u32,
    /// 0.
    pub reserved: u32,
}

/// What holds back the other process of a link.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_grade(link: *mut busway_link, grade: *mut busway_grade) -> busway_status {
    guard(|| {
        let mut to: busway_grade = options::zeroed();
        match handle::with(link, |link: &Linked| Ok(link.grade()))? {
            Grade::Confined { other_user, seccomp, landlock } => {
                to.grade = BUSWAY_GRADE_CONFINED;
                (to.other_user, to.seccomp, to.landlock) = (other_user.into(), seccomp.into(), landlock);
            }
            Grade::Partly { .. } => (to.grade, to.seccomp) = (BUSWAY_GRADE_PARTLY, 1),
            // And whatever the library learns to say before this does.
            _ => to.grade = BUSWAY_GRADE_UNCONFINED,
        }
        // SAFETY: as above.
        unsafe { options::write(grade, to) }
    })
}

/// Keeps other processes of the same user out of this one's memory and descriptors, from now on, for a host whose plugins are not confined, or
/// to have a second wall. It makes the process non-dumpable, with all that follows: no core dumps, no debugger and no profiler without
/// privileges. Signals are not kept away, nor are privileged processes. A program that this process executes begins anew.
/// Threads: any. Errors: BUSWAY_IO.
#[unsafe(no_mangle)]
pub extern "C" fn busway_hide_memory() -> busway_status {
    guard(|| Ok(busway::hide_memory()?))
}
