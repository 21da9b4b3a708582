//! Books about requests, in words that outlive who keeps them: how each ended, and how often it was executed.

use super::payload::bytes;
use busway::{Error, Message, Result, reject};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;

/// What became of a request: the low byte of its record, which its sender writes. The rest counts executions.
pub mod outcome {
    pub const ISSUED: u32 = 1;
    /// Answered: executed once.
    pub const ANSWERED: u32 = 2;
    /// The error said that it was not executed.
    pub const NOT_EXECUTED: u32 = 3;
    /// Given up while somebody may have had it.
    pub const GIVEN_UP: u32 = 4;
    /// Who had it died.
    pub const DIED: u32 = 5;
    /// An event that was sent.
    pub const SENT: u32 = 6;
    /// How many there are, none among them.
    pub const COUNT: usize = 7;
}
const EXECUTION: u32 = 1 << 8;

/// A record for each request, by its number.
#[derive(Clone, Copy)]
pub struct Records(pub &'static [AtomicU32]);

impl Records {
    pub fn issue(&self, id: u32) {
        let before = self.0[id as usize].fetch_add(outcome::ISSUED, SeqCst);
        assert_eq!(before, 0, "{id} is issued twice");
    }

    /// The one completion.
    pub fn complete(&self, id: u32, outcome: u32) {
        let before = self.0[id as usize].fetch_add(outcome - outcome::ISSUED, SeqCst);
        assert_eq!(before & 0xff, outcome::ISSUED, "{id} is completed twice");
    }

    pub fn execute(&self, id: u32) {
        let before = self.0[id as usize].fetch_add(EXECUTION, SeqCst);
        assert_eq!(before / EXECUTION, 0, "{id} is executed twice");
        assert_ne!(before & 0xff, outcome::NOT_EXECUTED, "{id} is executed after all");
        assert_ne!(before & 0xff, 0, "{id} was never issued");
    }

    /// What is in the record: the outcome, 0 for none, and how often it was executed, which must fit.
    pub fn look(&self, id: u32) -> (u32, u32) {
        let record = self.0[id as usize].load(SeqCst);
        let (outcome, executed) = (record % EXECUTION, record / EXECUTION);
        assert!(executed <= 1, "{id} was executed {executed} times");
        match outcome {
            outcome::ANSWERED => assert_eq!(executed, 1, "{id} was answered"),
            outcome::NOT_EXECUTED => assert_eq!(executed, 0, "{id} was told not to be executed"),
            _ => {}
        }
        (outcome, executed)
    }
}

/// The payload of a request, or with `!id` of its reply.
pub fn content(id: u64, len: usize) -> Vec<u8> {
    let mut content = bytes(id, len);
    content[..8].copy_from_slice(&id.to_le_bytes());
    content
}

/// The number of the request that has this payload.
pub fn id_of(payload: &[u8]) -> u32 {
    let id = u64::from_le_bytes(payload[..8].try_into().expect("8 bytes"));
    assert_eq!(payload, content(id, payload.len()), "the request {id}");
    id as u32
}

/// How a call ended whose reply was to be so long.
pub fn of_call(id: u32, answer: u32, result: Result<Message<'_>>) -> u32 {
    match result {
        Ok(reply) => {
            assert_eq!(reply.to_vec(), content(!u64::from(id), answer as usize), "the reply to {id}");
            outcome::ANSWERED
        }
        Err(e) => of_error(e),
    }
}

pub fn of_error(error: Error) -> u32 {
    match error {
        Error::Timeout { maybe_executed: false } | Error::PeerDied { maybe_executed: false } => outcome::NOT_EXECUTED,
        Error::Timeout { maybe_executed: true } => outcome::GIVEN_UP,
        Error::PeerDied { maybe_executed: true } => outcome::DIED,
        // Who serves it waited for a slot until the deadline.
        Error::Rejected { code: reject::NO_SLOT | reject::UNANSWERED, .. } => outcome::ANSWERED,
        error => panic!("{error}"),
    }
}
