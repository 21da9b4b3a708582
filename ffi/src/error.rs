//! Statuses, and what else is known of the last error of a thread.

use crate::options;
use busway::{Error, JoinError, Violation};
use core::cell::RefCell;
use core::ffi::{CStr, c_char};
use std::ffi::CString;
use std::os::unix::process::ExitStatusExt;

/// What every function answers: BUSWAY_OK or what went wrong.
pub type busway_status = i32;

/// It was done.
pub const BUSWAY_OK: busway_status = 0;
/// No room: ring, reply cells or slots are all in use, and the caller chose not to wait. Nothing was sent.
pub const BUSWAY_FULL: busway_status = 1;
/// The deadline passed. For a call, `maybe_executed` of the details is 0 only if the other side never took it.
pub const BUSWAY_TIMEOUT: busway_status = 2;
/// There is nothing to receive, and the caller chose not to wait.
pub const BUSWAY_WOULD_BLOCK: busway_status = 3;
/// This side closed the link while the operation was under way.
pub const BUSWAY_CANCELLED: busway_status = 4;
/// The link is closed, by either side.
pub const BUSWAY_CLOSED: busway_status = 5;
/// The other process died. `maybe_executed` of the details is 0 only if it never took the call.
pub const BUSWAY_PEER_DIED: busway_status = 6;
/// The other side broke the protocol, and the link is given up. `reason` is one of BUSWAY_VIOLATION_*.
pub const BUSWAY_POISONED: busway_status = 7;
/// The other side refused the call, with `code`.
pub const BUSWAY_REJECTED: busway_status = 8;
/// The handler on the other side panicked; its process goes on.
pub const BUSWAY_HANDLER_PANICKED: busway_status = 9;
/// The other side knows no such method; `code` is its number.
pub const BUSWAY_NO_SUCH_METHOD: busway_status = 10;
/// The pool has no queue of this name.
pub const BUSWAY_NO_SUCH_QUEUE: busway_status = 11;
/// The payload has `len` bytes, and the largest that fits `max`.
pub const BUSWAY_TOO_LARGE: busway_status = 12;
/// A payload of `len` bytes was read as one of `max`.
pub const BUSWAY_WRONG_SIZE: busway_status = 13;
/// This process was forked from the one that owns the handle.
pub const BUSWAY_FORKED: busway_status = 14;
/// This side, the kernel or the other side cannot do that.
pub const BUSWAY_UNSUPPORTED: busway_status = 15;
/// The two sides speak different versions of the protocol.
pub const BUSWAY_VERSION_MISMATCH: busway_status = 16;
/// The processes did not come together. `reason` is one of BUSWAY_JOIN_*.
pub const BUSWAY_JOIN_FAILED: busway_status = 17;
/// The operating system refused something; `os_error` is its errno.
pub const BUSWAY_IO: busway_status = 18;
/// An argument is wrong. Nothing was done, and objects that were passed are as they were.
pub const BUSWAY_INVALID: busway_status = 19;
/// A handle is NULL or was freed, or an object is zeroed, spent or copied. Nothing was done.
pub const BUSWAY_STALE_HANDLE: busway_status = 20;
/// An object that was to receive something still holds something: release it first. Nothing was done.
pub const BUSWAY_BUSY: busway_status = 21;
/// A fault of this library, which it has reported on standard error. What the function was to do is undone or unknown.
pub const BUSWAY_PANIC: busway_status = 22;

/// A short text for a status, for ever valid. Any thread, any time; also in a forked child and in a signal handler.
#[unsafe(no_mangle)]
pub extern "C" fn busway_status_text(status: busway_status) -> *const c_char {
    let text: &'static CStr = match status {
        BUSWAY_OK => c"done",
        BUSWAY_FULL => c"no room",
        BUSWAY_TIMEOUT => c"the deadline passed",
        BUSWAY_WOULD_BLOCK => c"nothing is there yet",
        BUSWAY_CANCELLED => c"closed while the operation was under way",
        BUSWAY_CLOSED => c"closed",
        BUSWAY_PEER_DIED => c"the other process died",
        BUSWAY_POISONED => c"the other side broke the protocol",
        BUSWAY_REJECTED => c"the other side refused the call",
        BUSWAY_HANDLER_PANICKED => c"the handler on the other side panicked",
        BUSWAY_NO_SUCH_METHOD => c"the other side knows no such method",
        BUSWAY_NO_SUCH_QUEUE => c"the pool has no queue of this name",
        BUSWAY_TOO_LARGE => c"the payload is too large",
        BUSWAY_WRONG_SIZE => c"a payload of another size",
        BUSWAY_FORKED => c"this process was forked from the one that owns the handle",
        BUSWAY_UNSUPPORTED => c"not supported",
        BUSWAY_VERSION_MISMATCH => c"the other side speaks another version of the protocol",
        BUSWAY_JOIN_FAILED => c"the processes did not come together",
        BUSWAY_IO => c"the operating system refused something",
        BUSWAY_INVALID => c"an argument is wrong",
        BUSWAY_STALE_HANDLE => c"a handle that is NULL or freed, or an object that is spent",
        BUSWAY_BUSY => c"an object still holds something",
        BUSWAY_PANIC => c"a fault inside the library",
        _ => c"an unknown status",
    };
    text.as_ptr()
}

/// This process was not spawned by a host.
pub const BUSWAY_JOIN_NOT_A_PLUGIN: u32 = 1;
/// The other side does not speak busway.
pub const BUSWAY_JOIN_BAD_MAGIC: u32 = 2;
/// A malformed message of the handshake.
pub const BUSWAY_JOIN_MALFORMED: u32 = 3;
/// The geometry is not usable.
pub const BUSWAY_JOIN_GEOMETRY: u32 = 4;
/// The memory is not sealed as it must be.
pub const BUSWAY_JOIN_SEALS: u32 = 5;
/// The identity of the other process is not established.
pub const BUSWAY_JOIN_IDENTITY: u32 = 6;
/// The child ended before it had attached; `exit_status` is how, as waitpid has it.
pub const BUSWAY_JOIN_CHILD_EXITED: u32 = 7;
/// Others have what was asked for.
pub const BUSWAY_JOIN_TAKEN: u32 = 8;
/// Nobody attached before the deadline.
pub const BUSWAY_JOIN_NOBODY_IN_TIME: u32 = 9;
/// No living host has a pool of this name.
pub const BUSWAY_JOIN_NO_HOST: u32 = 10;
/// A name that no pool can have.
pub const BUSWAY_JOIN_INVALID_NAME: u32 = 11;
/// The other side hung up during the handshake.
pub const BUSWAY_JOIN_HUNG_UP: u32 = 12;
/// The other side refused.
pub const BUSWAY_JOIN_REFUSED: u32 = 13;

/// A position beyond what was sent.
pub const BUSWAY_VIOLATION_POSITION: u32 = 1;
/// A slot reference outside the arena.
pub const BUSWAY_VIOLATION_SLOT_REFERENCE: u32 = 2;
/// A call that named a reply cell which does not exist or is in use.
pub const BUSWAY_VIOLATION_REPLY_CELL: u32 = 3;
/// An entry of unknown kind.
pub const BUSWAY_VIOLATION_ENTRY_KIND: u32 = 4;
/// An inline length that does not fit.
pub const BUSWAY_VIOLATION_INLINE_LENGTH: u32 = 5;
/// A reply of unknown status.
pub const BUSWAY_VIOLATION_REPLY_STATUS: u32 = 6;
/// An unannounced message on the control socket.
pub const BUSWAY_VIOLATION_CONTROL_MESSAGE: u32 = 7;

/// `code` of BUSWAY_REJECTED: the request was released without an answer.
pub const BUSWAY_REJECT_UNANSWERED: u32 = 0xffff_ffff;
/// `code` of BUSWAY_REJECTED: the call is nested deeper than the other side allows.
pub const BUSWAY_REJECT_TOO_DEEP: u32 = 0xffff_fffe;
/// `code` of BUSWAY_REJECTED: no slot was free for the reply.
pub const BUSWAY_REJECT_NO_SLOT: u32 = 0xffff_fffd;

const _: () = {
    assert!(BUSWAY_REJECT_UNANSWERED == busway::reject::UNANSWERED);
    assert!(BUSWAY_REJECT_TOO_DEEP == busway::reject::TOO_DEEP && BUSWAY_REJECT_NO_SLOT == busway::reject::NO_SLOT);
    assert!(BUSWAY_VIOLATION_POSITION == Violation::Position as u32);
    assert!(BUSWAY_VIOLATION_CONTROL_MESSAGE == Violation::ControlMessage as u32);
};

/// What is known of an error besides its status. What does not apply is 0.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct busway_error {
    /// Bytes of this struct: busway_error_init() sets it.
    pub size: u32,
    /// The status itself.
    pub status: busway_status,
    /// One of BUSWAY_JOIN_* or BUSWAY_VIOLATION_*.
    pub reason: u32,
    /// Code of a rejection, or number of a method that is not there.
    pub code: u32,
    /// Whether the call may have been executed: 0 or 1.
    pub maybe_executed: u32,
    /// errno of BUSWAY_IO.
    pub os_error: i32,
    /// How a child ended, as waitpid has it.
    pub exit_status: i32,
    /// Version of the protocol on the other side.
    pub version: u32,
    /// Length of a payload, in bytes.
    pub len: u64,
    /// The largest length there is, or the one that was expected.
    pub max: u64,
}

/// Why a function did not do what it is for.
#[derive(Debug)]
pub enum Failure {
    /// What the library says.
    Bus(Error),
    /// Nothing is there, and the caller does not wait.
    WouldBlock,
    /// A wrong argument.
    Invalid(&'static str),
    /// A handle or an object that is none any more.
    Stale(&'static str),
    /// An object that is not empty.
    Busy(&'static str),
    /// A panic.
    Panic,
}

impl From<Error> for Failure {
    #[inline]
    fn from(error: Error) -> Self {
        Failure::Bus(error)
    }
}

impl Failure {
    pub(crate) fn status(&self) -> busway_status {
        match self {
            Failure::Bus(error) => match error {
                Error::Full => BUSWAY_FULL,
                Error::Timeout { .. } => BUSWAY_TIMEOUT,
                Error::Cancelled => BUSWAY_CANCELLED,
                Error::Closed => BUSWAY_CLOSED,
                Error::PeerDied { .. } => BUSWAY_PEER_DIED,
                Error::Poisoned { .. } => BUSWAY_POISONED,
                Error::Rejected { .. } => BUSWAY_REJECTED,
                Error::HandlerPanicked => BUSWAY_HANDLER_PANICKED,
                Error::NoSuchMethod { .. } => BUSWAY_NO_SUCH_METHOD,
                Error::NoSuchQueue => BUSWAY_NO_SUCH_QUEUE,
                Error::TooLarge { .. } => BUSWAY_TOO_LARGE,
                Error::WrongSize { .. } => BUSWAY_WRONG_SIZE,
                Error::Forked => BUSWAY_FORKED,
                Error::VersionMismatch { .. } => BUSWAY_VERSION_MISMATCH,
                Error::Join(_) => BUSWAY_JOIN_FAILED,
                Error::Io { .. } => BUSWAY_IO,
                // And whatever the library learns to say before this does.
                _ => BUSWAY_UNSUPPORTED,
            },
            Failure::WouldBlock => BUSWAY_WOULD_BLOCK,
            Failure::Invalid(_) => BUSWAY_INVALID,
            Failure::Stale(_) => BUSWAY_STALE_HANDLE,
            Failure::Busy(_) => BUSWAY_BUSY,
            Failure::Panic => BUSWAY_PANIC,
        }
    }

    fn text(&self) -> String {
        match self {
            Failure::Bus(error) => error.to_string(),
            Failure::WouldBlock => "nothing is there yet; wait with a deadline, or for the descriptor".into(),
            Failure::Invalid(what) | Failure::Stale(what) | Failure::Busy(what) => (*what).into(),
            Failure::Panic => "a fault inside the library; standard error says which".into(),
        }
    }

    fn details(&self) -> busway_error {
        let mut to: busway_error = options::zeroed();
        to.status = self.status();
        let Failure::Bus(error) = self else { return to };
        match error {
            Error::Timeout { maybe_executed } | Error::PeerDied { maybe_executed } => {
                to.maybe_executed = u32::from(*maybe_executed);
            }
            Error::Rejected { code, maybe_executed } => {
                (to.code, to.maybe_executed) = (*code, u32::from(*maybe_executed));
            }
            Error::HandlerPanicked => to.maybe_executed = 1,
            Error::Poisoned { reason } => to.reason = *reason as u32,
            Error::NoSuchMethod { method } => to.code = *method,
            Error::TooLarge { len, max } => (to.len, to.max) = (*len as u64, *max as u64),
            Error::WrongSize { len, want } => (to.len, to.max) = (*len as u64, *want as u64),
            Error::VersionMismatch { theirs, .. } => to.version = *theirs,
            Error::Io { source, .. } => to.os_error = source.raw_os_error().unwrap_or(0),
            Error::Join(join) => {
                to.reason = join_reason(join);
                if let JoinError::ChildExited { status } = join {
                    to.exit_status = status.into_raw();
                }
            }
            _ => {}
        }
        to
    }
}

fn join_reason(join: &JoinError) -> u32 {
    match join {
        JoinError::NotAPlugin => BUSWAY_JOIN_NOT_A_PLUGIN,
        JoinError::BadMagic => BUSWAY_JOIN_BAD_MAGIC,
        JoinError::Malformed { .. } => BUSWAY_JOIN_MALFORMED,
        JoinError::Geometry { .. } => BUSWAY_JOIN_GEOMETRY,
        JoinError::Seals { .. } => BUSWAY_JOIN_SEALS,
        JoinError::Identity { .. } => BUSWAY_JOIN_IDENTITY,
        JoinError::ChildExited { .. } => BUSWAY_JOIN_CHILD_EXITED,
        JoinError::Taken { .. } => BUSWAY_JOIN_TAKEN,
        JoinError::NobodyInTime => BUSWAY_JOIN_NOBODY_IN_TIME,
        JoinError::NoHost => BUSWAY_JOIN_NO_HOST,
        JoinError::InvalidName => BUSWAY_JOIN_INVALID_NAME,
        JoinError::HungUp => BUSWAY_JOIN_HUNG_UP,
        JoinError::Refused { .. } => BUSWAY_JOIN_REFUSED,
        _ => 0,
    }
}

struct Last {
    failure: Option<Failure>,
    /// Made when somebody asks.
    text: Option<CString>,
}

thread_local! {
    static LAST: RefCell<Last> = const { RefCell::new(Last { failure: None, text: None }) };
}

/// Makes it the thread's last error. Allocates nothing.
#[inline(never)]
pub(crate) fn set(failure: Failure) -> busway_status {
    let status = failure.status();
    // At the very end of a thread there is nobody left to ask.
    let _ = LAST.try_with(|last| *last.borrow_mut() = Last { failure: Some(failure), text: None });
    status
}

/// What went wrong when a function last failed on this thread, as a sentence; "" if none has. Functions that succeed leave it
/// as it is. Valid until the next one fails on this thread. Any time but in a signal handler.
#[unsafe(no_mangle)]
pub extern "C" fn busway_error_text() -> *const c_char {
    let made = LAST.try_with(|last| {
        let Last { failure, text } = &mut *last.borrow_mut();
        let failure = failure.as_ref()?;
        let make = || CString::new(failure.text()).unwrap_or_default();
        Some(text.get_or_insert_with(make).as_ptr())
    });
    made.ok().flatten().unwrap_or(c"".as_ptr())
}

/// What is known of the last failure of a function on this thread; a status of BUSWAY_OK if none has failed. `error->size` says how
/// much of it the caller knows. Any time but in a signal handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_error_details(error: *mut busway_error) -> busway_status {
    let details = LAST.try_with(|last| last.borrow().failure.as_ref().map(Failure::details));
    let details = details.ok().flatten().unwrap_or_else(options::zeroed);
    // SAFETY: the caller passes a struct that is as long as it says.
    match unsafe { options::write(error, details) } {
        Ok(()) => BUSWAY_OK,
        Err(failure) => set(failure),
    }
}
