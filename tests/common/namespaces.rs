//! Namespaces: another view of processes and files.

use super::emulated;
use super::user::is_root;
use std::process::{Command, Stdio};

/// The command in namespaces of its own; `None` if one may not make them here.
pub fn in_namespaces(flags: &[&str], command: &Command) -> Option<Command> {
    let unshare = || {
        let mut unshare = Command::new("unshare");
        unshare.args((!is_root()).then_some("--user")).args(flags).stdin(Stdio::null()).stdout(Stdio::null());
        unshare
    };
    if emulated() || !unshare().arg("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return None;
    }
    let mut inside = unshare();
    // It complains of a command that was killed.
    inside.stderr(Stdio::null());
    inside.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => inside.env(name, value),
            None => inside.env_remove(name),
        };
    }
    Some(inside)
}
