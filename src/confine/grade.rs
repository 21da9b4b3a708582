//! What holds the other process back besides the link.

use crate::error::{Error, JoinError, Result};
use crate::join::Credentials;
use std::fs;

/// What keeps the other process of a link from harming this one in other ways than over the link.
///
/// The link itself is safe against whatever the other side does with it. But a process of the same user can, on an ordinary
/// Linux, write this one's memory, take its descriptors and kill it, and no protocol helps against that. `docs/confinement.md`
/// says what is open in each grade.
///
/// ```
/// use busway::{Config, Grade, Link};
///
/// let (host, _plugin) = Link::pair(&Config::default())?;
/// assert_eq!(host.grade(), Grade::Unconfined);
/// # Ok::<(), busway::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Grade {
    /// Nothing that this library knows of: protection against faults, not against malice.
    Unconfined,
    /// It was confined as far as this system can, as `Confinement::best_effort` asks for, and that is not
    /// enough against malice.
    Partly {
        /// What is missing.
        missing: &'static str,
    },
    /// Memory, descriptors and signals of this process are out of its reach.
    Confined {
        /// It runs as another user, who has no privileges.
        other_user: bool,
        /// The profile of system calls holds it, and it can gain no privileges.
        seccomp: bool,
        /// The version of Landlock that holds it, 0 if none does.
        landlock: u32,
    },
}

impl Grade {
    /// Of a process that has joined by itself: confined if it runs as another user without privileges, since the kernel then
    /// keeps it from our memory, our descriptors and our signals.
    ///
    /// What the credentials of its messages say does not do: a process may pass on any of its ids. Look whether it still
    /// lives afterwards, or this may be about another one that got the pid.
    pub(crate) fn observed(credentials: Credentials) -> Self {
        let own = Credentials::own().uid;
        if credentials.uid == own || credentials.uid == 0 {
            return Self::Unconfined;
        }
        let ids = |status: &Status| {
            let uids: Vec<u32> = status.numbers("Uid:", 10);
            // Effective privileges may be raised again to the permitted ones.
            uids.len() == 4 && !uids.iter().any(|uid| [0, own].contains(uid)) && status.numbers("CapPrm:", 16) == [0]
        };
        match Status::of(credentials.pid) {
            Ok(status) if ids(&status) => Self::Confined { other_user: true, seccomp: false, landlock: 0 },
            _ => Self::Unconfined,
        }
    }

    /// Checks that a process other than the child that was confined is a descendant of it, as far as the kernel tells: it
    /// carries a filter and can gain no privileges. Look whether it still lives afterwards.
    pub(crate) fn check_inherited(pid: u32) -> Result<()> {
        let status = Status::of(pid)?;
        if status.numbers("NoNewPrivs:", 10) == [1] && status.numbers("Seccomp:", 10) == [2] {
            return Ok(());
        }
        Err(JoinError::Identity { what: "it is not the child that was confined, nor descends from it" }.into())
    }
}

/// What the kernel says about a process.
struct Status(String);

impl Status {
    fn of(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"));
        status.map(Self).map_err(Error::std_io("read who the other process is"))
    }

    fn numbers(&self, name: &str, radix: u32) -> Vec<u32> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let number = |word| u64::from_str_radix(word, radix).map_or(u32::MAX, |n| n.try_into().unwrap_or(u32::MAX));
        line.split_whitespace().map(number).collect()
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn status_lines_are_numbers() {
        let status = Status("Name:\tSeccomp: 2\nUid:\t1\t2\t3\t4\nCapPrm:\t000001ffffffffff\nSeccomp:\t0\n".into());
        assert_eq!(status.numbers("Uid:", 10), [1, 2, 3, 4]);
        assert_eq!(status.numbers("CapPrm:", 16), [u32::MAX]);
        assert_eq!(status.numbers("Seccomp:", 10), [0]);
        assert_eq!(status.numbers("NoNewPrivs:", 10), []);
    }

    #[test]
    fn the_same_user_is_never_confined() {
        assert_eq!(Grade::observed(Credentials::own()), Grade::Unconfined);
        assert_eq!(Grade::observed(Credentials { uid: 0, ..Credentials::own() }), Grade::Unconfined);
        // Its messages said another user, its process does not.
        let uid = Credentials::own().uid + 1;
        assert_eq!(Grade::observed(Credentials { uid, ..Credentials::own() }), Grade::Unconfined);
    }
}
