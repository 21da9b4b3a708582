//! What a host chooses about the confinement of its plugins.

use super::files::{self, SCOPES_SIGNALS, landlock_version};
use super::profile::Filters;
use super::{Grade, child};
use crate::error::{Error, Result};
use rustix::process::Resource;
use rustix::thread::CapabilitySet;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

/// How a plugin is confined: see [`Host::confine`](crate::Host::confine). For the feature `confine`.
///
/// The plugin, and whatever it starts, may compute, use its link, and read the system's programs and libraries. It may open
/// no other file, no socket and no descriptor of its host's, touch no process but its own children, and gain no privileges;
/// it has none, also if its host is root. What it may do besides is named here. `docs/confinement.md` has the whole profile, and
/// what an author sees of it.
///
/// ```
/// use busway::{Confinement, Config, Host};
/// use std::process::Command;
///
/// let confinement = Confinement::new().allow_read("/etc/hostname").max_files(64);
/// let host = Host::new(Config::default()).confine(confinement);
/// # fn start(host: &Host) -> Result<(), busway::Error> {
/// let plugin = host.spawn(Command::new("./my-plugin"))?;
/// println!("{:?}", plugin.grade());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Confinement {
    pub(super) read: Vec<PathBuf>,
    pub(super) write: Vec<PathBuf>,
    pub(super) network: bool,
    pub(super) user: Option<(u32, u32)>,
    pub(super) limits: Vec<(Resource, u64)>,
    /// Numbers, and what keeps them open.
    pub(super) inherited: Vec<(RawFd, Option<Arc<OwnedFd>>)>,
    best_effort: bool,
}

const NO_SECCOMP: &str = "seccomp filters; confining needs a kernel that has them (CONFIG_SECCOMP_FILTER)";
pub(super) const NO_LANDLOCK: &str = "Landlock; confining needs Linux 5.13 or newer with Landlock switched on (lsm=landlock,...), or another user, \
or Confinement::best_effort and a look at the grade";
const NO_USER: &str = "another user for a plugin: this process has not the privilege (CAP_SETUID, CAP_SETGID and CAP_KILL); give it, or \
leave Confinement::user out, or use Confinement::best_effort";
const ONLY_SECCOMP: &str =
    "Landlock, and another user: its files, and the memory of other processes of its user, are open to it";

impl Confinement {
    /// The profile as it is documented, with nothing allowed besides.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets it read and execute a file, or everything beneath a directory.
    ///
    /// The program that is spawned need not be named, nor the directories of the system where programs and libraries are. A
    /// wrapper's program must be, and what an interpreter reads.
    pub fn allow_read(mut self, path: impl Into<PathBuf>) -> Self {
        self.read.push(path.into());
        self
    }

    /// Lets it do everything with a file, or beneath a directory, that its user may; except to change its mode, owner,
    /// times or extended attributes.
    pub fn allow_write(mut self, path: impl Into<PathBuf>) -> Self {
        self.write.push(path.into());
        self
    }

    /// Lets it connect and listen over TCP and UDP, to anybody, this machine's own services included. Unix sockets stay closed: what
    /// listens on them takes a process of the same user for the user.
    pub fn allow_network(mut self) -> Self {
        self.network = true;
        self
    }

    /// Runs it as another user, in this one group and no other, for a host that is privileged to do so. One user for each plugin keeps
    /// them apart; the program must be executable for it.
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = Some((uid, gid));
        self
    }

    /// Limits its address space, in bytes (`RLIMIT_AS`). Runtimes that reserve addresses in advance, such as those of Go
    /// and Java, need far more than they use.
    pub fn max_memory(self, bytes: u64) -> Self {
        self.limit(Resource::As, bytes)
    }

    /// Limits its open descriptors (`RLIMIT_NOFILE`). With standard input, output and error a link takes some ten.
    pub fn max_files(self, count: u64) -> Self {
        self.limit(Resource::Nofile, count)
    }

    /// Limits the processes and threads of its user (`RLIMIT_NPROC`): those of everybody of that user count, and root is not
    /// limited.
    pub fn max_processes(self, count: u64) -> Self {
        self.limit(Resource::Nproc, count)
    }

    fn limit(mut self, resource: Resource, value: u64) -> Self {
        self.limits.push((resource, value));
        self
    }

    /// Lets it inherit a descriptor, under its number. Others besides standard input, output and error it does not, though they be
    /// open across `exec`.
    pub fn inherit(mut self, fd: impl Into<OwnedFd>) -> Self {
        let fd = fd.into();
        self.inherited.push((fd.as_raw_fd(), Some(Arc::new(fd))));
        self
    }

    /// As [`inherit`](Self::inherit), of a descriptor that stays the caller's, who keeps it open until the plugin was spawned.
    #[doc(hidden)]
    pub fn inherit_number(mut self, fd: RawFd) -> Self {
        self.inherited.push((fd, None));
        self
    }

    /// Goes on without what this system does not have: Landlock, or the privilege to use another user. Without this,
    /// spawning fails. The link's [`grade`](crate::Link::grade) says what came of it.
    pub fn best_effort(mut self) -> Self {
        self.best_effort = true;
        self
    }

    /// Confines what `command` will run; returns the grade that it will have.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for what this system does not have; I/O errors.
    pub(crate) fn apply(&self, command: &mut Command) -> Result<Grade> {
        if !Filters::are_supported() {
            return Err(Error::Unsupported { what: NO_SECCOMP });
        }
        let required = |has: bool, what| match has || self.best_effort {
            true => Ok(has),
            false => Err(Error::Unsupported { what }),
        };
        let user = self.user.filter(|_| may_change_user());
        required(user == self.user, NO_USER)?;
        let landlock = landlock_version();
        required(landlock > 0, NO_LANDLOCK)?;
        let ruleset = if landlock > 0 { Some(files::ruleset(self, command)?) } else { None };
        let filters = Filters::new(self, landlock >= SCOPES_SIGNALS)?;
        child::Confine { confinement: self.clone(), user, ruleset, filters }.before_exec(command);
        let own = rustix::process::getuid().as_raw();
        let other_user = user.is_some_and(|(uid, _)| uid != own && uid != 0);
        Ok(match landlock > 0 || other_user {
            true => Grade::Confined { other_user, seccomp: true, landlock },
            false => Grade::Partly { missing: ONLY_SECCOMP },
        })
    }
}

/// Whether this process has the privileges to run a child as another user, and to end it.
fn may_change_user() -> bool {
    let needed = CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::KILL;
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(needed))
}
