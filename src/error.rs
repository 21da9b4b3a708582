//! What can go wrong, in one matchable enum.

use std::io;
use std::process::ExitStatus;

/// The result of everything that can fail here.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// Everything an operation can answer other than success.
///
/// The same enum serves links and pools, joining and calling, so that a program matches on what it can do something about
/// and prints the rest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No ring entry, reply cell or slot is free, and the caller chose not to wait. Nothing was sent.
    #[error(
        "no room: ring, reply cells or slots are all in use; wait with a deadline, release messages, or enlarge the geometry"
    )]
    Full,
    /// The deadline passed. For a call, `maybe_executed` is false only if the other side never took it.
    #[error("the deadline passed; {}", if *.maybe_executed {
        "the other side had taken the call and may still execute it"
    } else {
        "the other side did not take it: is one of its threads serving?"
    })]
    Timeout {
        /// Whether the call may have been executed.
        maybe_executed: bool,
    },
    /// This side closed the link while the operation was under way.
    #[error("this side closed the link while the operation was under way")]
    Cancelled,
    /// The link is closed, by either side; nothing was executed.
    #[error("the link is closed; open a new one")]
    Closed,
    /// The other process died. `maybe_executed` is false only if it never took the call.
    #[error("the other process died; {}", if *.maybe_executed {
        "the call may have been executed"
    } else {
        "the call was not executed and may be repeated elsewhere"
    })]
    PeerDied {
        /// Whether the call may have been executed.
        maybe_executed: bool,
    },
    /// The other side broke the protocol; this link is given up, everything else goes on.
    #[error("the other side broke the protocol ({reason}); the link is given up, start its process anew")]
    Poisoned {
        /// Which rule was broken.
        reason: Violation,
    },
    /// The handler on the other side refused the call.
    #[error("the other side refused the call with code {code}")]
    Rejected {
        /// The code the handler gave, or one of [`reject`](crate::reject).
        code: u32,
        /// Whether the handler may have run before it refused.
        maybe_executed: bool,
    },
    /// The handler on the other side panicked; its process goes on.
    #[error("the handler on the other side panicked; see its standard error")]
    HandlerPanicked,
    /// The other side knows no such method.
    #[error("the other side knows no method {method}")]
    NoSuchMethod {
        /// The method number that was called.
        method: u32,
    },
    /// The pool has no queue of this name.
    #[error("the pool has no queue of this name; its host chooses them")]
    NoSuchQueue,
    /// The payload is larger than the largest slot.
    #[error(
        "a payload of {len} bytes is larger than the largest slot, {max} bytes; split it or configure a larger size class"
    )]
    TooLarge {
        /// The length asked for, in bytes.
        len: usize,
        /// The largest length there is, in bytes.
        max: usize,
    },
    /// A payload does not have the size of the type it was read as.
    #[error("a payload of {len} bytes was read as a type of {want} bytes; both sides must agree on the type")]
    WrongSize {
        /// The length of the payload, in bytes.
        len: usize,
        /// The size of the type, in bytes.
        want: usize,
    },
    /// This process is a forked child of the one that opened the link.
    #[error("this process was forked from the one that opened the link; open one here, or use it in the parent")]
    Forked,
    /// This side, the kernel or the other side cannot do that.
    #[error("not supported: {what}")]
    Unsupported {
        /// What is not supported.
        what: &'static str,
    },
    /// The two sides speak different versions of the protocol.
    #[error("protocol version {ours} here, {theirs} on the other side; build both with the same version of busway")]
    VersionMismatch {
        /// The version of this side.
        ours: u32,
        /// The version of the other side.
        theirs: u32,
    },
    /// Joining failed; the reason says at which step.
    #[error("joining failed: {0}")]
    Join(#[from] JoinError),
    /// The operating system refused something.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system answered.
        source: io::Error,
    },
}

/// Which rule of the protocol a peer broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[repr(u32)]
pub enum Violation {
    /// A position, index or count beyond its bound.
    #[error("a position beyond what was sent")]
    Position = 1,
    /// A slot reference outside the arena, or a length beyond the slot.
    #[error("a slot reference outside the arena")]
    SlotReference = 2,
    /// A call names a reply cell that does not exist or is in use.
    #[error("a call named a reply cell that does not exist or is in use")]
    ReplyCell = 3,
    /// An entry of a kind nobody knows.
    #[error("an entry of unknown kind")]
    EntryKind = 4,
    /// An inline payload longer than what fits inline.
    #[error("an inline length that does not fit")]
    InlineLength = 5,
    /// A reply with a status nobody knows.
    #[error("a reply of unknown status")]
    ReplyStatus = 6,
    /// Something came over the control socket that nobody had asked for.
    #[error("an unannounced message on the control socket")]
    ControlMessage = 7,
}

/// Why two processes did not come together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// This process was not started by a host: no socket was handed to it.
    #[error("this process was not spawned by a host (BUSWAY_SOCKET is not set or names no socket)")]
    NotAPlugin,
    /// What came over the socket is not the busway handshake.
    #[error("the other side does not speak busway (wrong magic number)")]
    BadMagic,
    /// A handshake message of the wrong kind or length, or with the wrong descriptors.
    #[error("a malformed handshake message: {what}")]
    Malformed {
        /// What was wrong with it.
        what: &'static str,
    },
    /// The sections of a region do not fit it, or are not what this side can use.
    #[error("the memory layout is not usable: {what}")]
    Geometry {
        /// What does not fit.
        what: &'static str,
    },
    /// The seals or the size of a region are not what they must be.
    #[error("a region is not sealed as it must be: {what}")]
    Seals {
        /// What differs.
        what: &'static str,
    },
    /// The identity of the other process cannot be established.
    #[error("the identity of the other process is not established: {what}")]
    Identity {
        /// What is missing or differs.
        what: &'static str,
    },
    /// The child ended before it had attached.
    #[error("the child ended before it attached ({status}); does it call Plugin::attach?")]
    ChildExited {
        /// How it ended.
        status: ExitStatus,
    },
    /// Others have what was asked for: the one end of a ring there is, all places of members, or the name of a pool.
    #[error("taken: {what}")]
    Taken {
        /// What is taken.
        what: &'static str,
    },
    /// Nobody was there in time.
    #[error("nobody attached before the deadline")]
    NobodyInTime,
    /// No process that lives has made a pool of this name, or it has not finished yet, or is about to end it.
    #[error("no living host has a pool of this name; start one, or try again in a moment")]
    NoHost,
    /// A name that no pool can have.
    #[error("the name of a pool has from 1 to 64 characters of A-Z, a-z, 0-9, '_', '.' and '-', no '.' first")]
    InvalidName,
    /// The other side hung up in the middle of the handshake.
    #[error("the other side hung up during the handshake")]
    HungUp,
    /// The other side refused, for this reason of its own.
    #[error("the other side refused: {reason}")]
    Refused {
        /// Its reason.
        reason: &'static str,
    },
}

impl Error {
    pub(crate) fn io(doing: &'static str) -> impl FnOnce(rustix::io::Errno) -> Error {
        move |source| Error::Io { doing, source: source.into() }
    }

    pub(crate) fn std_io(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { doing, source }
    }
}
