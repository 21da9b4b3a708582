//! Other users: what holds for root need not hold for everybody, and the other way round.

use super::directory::Directory;
use super::pipe::Reports;
use super::{Setup, skip};
use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A user who owns nothing, and its group.
pub const NOBODY: u32 = 65534;

pub fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

/// This program where every user may execute it.
pub struct Program(Directory);

impl Program {
    pub fn new() -> Self {
        let directory = Directory::new();
        let own = env::current_exe().expect("the path of this program");
        // By another process: what is open for writing in this one, a child that begins meanwhile has open too, and who is to
        // execute it then is told that it is busy.
        let copied = Command::new("cp").arg(own).arg(directory.path().join("test")).status();
        assert!(copied.is_ok_and(|status| status.success()), "copy");
        for path in [directory.path().to_owned(), directory.path().join("test")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("let everybody execute it");
        }
        Self(directory)
    }

    pub fn path(&self) -> PathBuf {
        self.0.path().join("test")
    }

    /// The same command, run from here.
    pub fn command(&self, command: &Command) -> Command {
        let mut copy = Command::new(self.path());
        copy.args(command.get_args()).stdin(Stdio::null()).stdout(Stdio::null());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => copy.env(name, value),
                None => copy.env_remove(name),
            };
        }
        copy
    }
}

/// Runs a role as this user, and if this is root, as another one too; yields who it was and what it said.
pub fn as_root_and_not(role: &str, argument: &str) -> Vec<(&'static str, Vec<String>)> {
    let setup = Setup::default();
    let run = |mut command: Command| {
        let mut reports = Reports::of(&mut command);
        let mut child = command.spawn().expect("spawn");
        drop(command);
        let said: Vec<_> = std::iter::from_fn(|| reports.next()).collect();
        assert!(child.wait().expect("wait").success(), "{role} has failed");
        said
    };
    if !is_root() {
        skip("not root: done as this user alone");
        return vec![("user", run(setup.command_with(role, argument)))];
    }
    let program = Program::new();
    let mut other = program.command(&setup.command_with(role, argument));
    other.uid(NOBODY).gid(NOBODY);
    vec![("root", run(setup.command_with(role, argument))), ("user", run(other))]
}
