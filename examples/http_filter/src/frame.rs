//! Frames of a stream socket, for `--filter uds`: many requests and verdicts on one connection, told apart by number.

use bytemuck::{Pod, Zeroable};
use std::io;

/// What a frame begins with: 16 bytes, then the payload.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Head {
    /// Of the payload.
    pub len: u32,
    /// 0, or in an answer the code that the request was rejected with.
    pub rejected: u32,
    /// An answer has the number of its request.
    pub id: u64,
}

/// Length of a [`Head`].
pub const HEAD: usize = size_of::<Head>();

/// The longest payload: as over a link.
pub const MAX: usize = 1 << 20;

/// Appends a frame whose payload `write` fills in place.
pub fn append(to: &mut Vec<u8>, id: u64, rejected: u32, len: usize, write: impl FnOnce(&mut [u8])) {
    to.extend_from_slice(bytemuck::bytes_of(&Head { len: len as u32, rejected, id }));
    let start = to.len();
    to.resize(start + len, 0);
    write(&mut to[start..]);
}

/// Bytes that were read, and the frames in them.
#[derive(Debug)]
pub struct Incoming {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Default for Incoming {
    fn default() -> Self {
        Self { bytes: vec![0; 64 << 10], start: 0, end: 0 }
    }
}

impl Incoming {
    /// Where to read to, once there is no whole frame left.
    pub fn room(&mut self) -> &mut [u8] {
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let wanted = self.head().map_or(HEAD, |head| HEAD + head.len as usize);
        if self.bytes.len() < wanted {
            self.bytes.resize(wanted, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// How many bytes were read to there.
    pub fn filled(&mut self, len: usize) {
        self.end += len;
    }

    /// Takes the next frame, if it is there as a whole.
    ///
    /// # Errors
    /// It is longer than any may be.
    pub fn take(&mut self) -> io::Result<Option<(Head, &[u8])>> {
        let Some(head) = self.head() else { return Ok(None) };
        let len = head.len as usize;
        if len > MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame that is too long"));
        }
        let start = self.start + HEAD;
        if self.end - start < len {
            return Ok(None);
        }
        self.start = start + len;
        Ok(Some((head, &self.bytes[start..start + len])))
    }

    fn head(&self) -> Option<Head> {
        self.bytes[self.start..self.end].get(..HEAD).map(bytemuck::pod_read_unaligned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_in_any_pieces() {
        let mut stream = Vec::new();
        let lens = [0, 1, 15, 16, 17, 70_000, 3, MAX];
        for (id, len) in (0..).zip(lens) {
            append(&mut stream, id, 0, len, |to| to.fill(id as u8));
        }
        for piece in [1 << 10, 4099, usize::MAX] {
            let (mut incoming, mut rest, mut frames) = (Incoming::default(), &stream[..], 0);
            while !rest.is_empty() {
                let room = incoming.room();
                let len = room.len().min(rest.len()).min(piece);
                room[..len].copy_from_slice(&rest[..len]);
                rest = &rest[len..];
                incoming.filled(len);
                while let Some((head, payload)) = incoming.take().unwrap() {
                    assert_eq!((head.id, payload.len()), (frames as u64, lens[frames]));
                    assert!(payload.iter().all(|byte| usize::from(*byte) == frames));
                    frames += 1;
                }
            }
            assert_eq!(frames, lens.len());
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_an_error() {
        let mut incoming = Incoming::default();
        let head = Head { len: MAX as u32 + 1, rejected: 0, id: 0 };
        incoming.room()[..HEAD].copy_from_slice(bytemuck::bytes_of(&head));
        incoming.filled(HEAD);
        assert!(incoming.take().is_err());
    }
}
