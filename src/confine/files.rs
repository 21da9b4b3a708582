//! Which files a confined plugin may touch: a Landlock ruleset.

use super::Confinement;
use crate::error::{Error, Result};
use landlock::{
    ABI, Access, AccessFs, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr,
    RulesetError, Scope, path_beneath_rules,
};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, io};

/// The newest version of Landlock that the rules here use; on older ones those that they have.
const NEWEST: ABI = ABI::V6;
/// From this version it looks after signals, too.
pub(super) const SCOPES_SIGNALS: u32 = 6;

/// What programs and their libraries read, in any language. Nothing here is anybody's own; a path that does not exist is
/// left out.
const READ: [&str; 22] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/alternatives",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/resolv.conf",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/proc",
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/sys/kernel/mm",
];
const READ_AND_WRITE: [&str; 5] = ["/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero"];

/// The version of Landlock that this kernel has; 0 if none, or not switched on.
pub(super) fn landlock_version() -> u32 {
    const VERSION: libc::c_ulong = 1; // LANDLOCK_CREATE_RULESET_VERSION
    // SAFETY: without attributes it only answers.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<()>(), 0usize, VERSION) };
    version.try_into().unwrap_or(0)
}

/// The ruleset for what `command` runs.
pub(super) fn ruleset(confinement: &Confinement, command: &Command) -> Result<OwnedFd> {
    let made = rules(confinement, command)?;
    Option::from(made).ok_or(Error::Unsupported { what: super::confinement::NO_LANDLOCK })
}

/// Puts the calling thread under the ruleset, for ever. It must not be able to gain privileges any more. Allocates nothing.
pub(super) fn enter(ruleset: &OwnedFd) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: takes plain numbers.
    match unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0usize) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn rules(confinement: &Confinement, command: &Command) -> Result<RulesetCreated> {
    let (read, all) = (AccessFs::from_read(NEWEST), AccessFs::from_all(NEWEST));
    let made = || -> Result<RulesetCreated, RulesetError> {
        let handled = Ruleset::default().handle_access(all)?.scope(Scope::from_all(NEWEST))?;
        let made = handled.create()?.add_rules(path_beneath_rules(READ, read))?;
        let devices = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate;
        made.add_rules(path_beneath_rules(READ_AND_WRITE, devices))
    };
    let mut made = made().map_err(failed)?;
    // One that is not there is an error of `exec`, whose word for it everybody knows.
    if let Some(program) = program(command).filter(|path| path.exists()) {
        made = allow(made, &program, read)?;
    }
    for path in &confinement.read {
        made = allow(made, path, read)?;
    }
    for path in &confinement.write {
        made = allow(made, path, all)?;
    }
    Ok(made)
}

fn allow(made: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<RulesetCreated> {
    let doing = "open what a confined plugin may use";
    let is_file = std::fs::metadata(path).map_err(Error::std_io(doing))?.is_file();
    let file = PathFd::new(path).map_err(|e| Error::Io { doing, source: io::Error::other(e) })?;
    let access = if is_file { access & AccessFs::from_file(NEWEST) } else { access };
    made.add_rule(PathBeneath::new(file, access)).map_err(failed)
}

fn failed(error: RulesetError) -> Error {
    Error::Io { doing: "make a Landlock ruleset", source: io::Error::other(error) }
}

/// The file that `command` executes, found as the child will find it.
fn program(command: &Command) -> Option<PathBuf> {
    let name = Path::new(command.get_program());
    let here = command.get_current_dir().unwrap_or(Path::new(""));
    if name.components().count() > 1 || name.is_absolute() {
        return Some(here.join(name));
    }
    let set = command.get_envs().find(|(key, _)| *key == "PATH").map(|(_, value)| value.map(ToOwned::to_owned));
    let path = set.unwrap_or_else(|| env::var_os("PATH"))?;
    env::split_paths(&path).map(|directory| here.join(directory).join(name)).find(|path| path.is_file())
}
