//! Confinement: what holds a plugin back besides the link.
//!
//! A link is safe against everything that the other side does with it. But a process of the same user has other ways on an
//! ordinary Linux: it writes the host's memory (`process_vm_writev`, `/proc/PID/mem`), takes its descriptors
//! (`pidfd_getfd`), stops and kills it, or changes the files that it executes. So what a link promises against malice it
//! promises where the plugin is confined, and [`Grade`] says which is the case.
//!
//! Four things confine, each by system calls alone, made in the child between `fork` and `exec`. All that can fail for want
//! of memory or of a file is done before:
//!
//! ```text
//! before fork    filters compiled, Landlock ruleset made, what the kernel lacks found out
//! in the child   descriptors closed at exec, limits, user, privileges dropped     ([`child`])
//!                no_new_privs, Landlock                                           ([`files`])
//!                seccomp                                                          ([`profile`])
//! exec           the program, and whatever it starts, for ever
//! ```
//!
//! They overlap on purpose: another user, Landlock and the missing privileges each keep `ptrace` and what is checked like it
//! away by themselves, the filter refuses the call, and either does for signals.

#[cfg(feature = "confine")]
mod child;
#[cfg(feature = "confine")]
mod files;
mod grade;
#[cfg(feature = "confine")]
mod profile;

#[cfg(feature = "confine")]
pub use confinement::Confinement;
pub use grade::Grade;

#[cfg(feature = "confine")]
mod confinement;

use crate::error::{Error, Result};

/// Keeps other processes of the same user out of this one's memory and descriptors, from now on: for a host whose plugins are
/// not confined, or to have a second wall.
///
/// It sets the process non-dumpable (`PR_SET_DUMPABLE`), with all that follows: no core dumps, no debugger and no profiler
/// without privileges, and most of its `/proc/PID` belongs to root. Signals are not kept away, nor are privileged processes. A
/// program that this process executes begins anew.
///
/// # Errors
/// What the system says.
pub fn hide_memory() -> Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(Error::io("make this process non-dumpable"))
}
