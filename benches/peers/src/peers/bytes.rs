//! Calls over two descriptors that carry bytes, one each way, without a library.
//!
//! A message is its length, in four bytes, and its payload. One at a time, both go by one `writev` from where they are
//! and come by one `readv` to where they belong. Where many are under way, each side reads as much as there is, copies
//! each payload to or from a buffer of its own, and writes as much as it has; the caller reads while it writes.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::common::measure::{Case, Regime};
use crate::measure::Caller;

/// What is read at once at most where many calls are under way.
const CHUNK: usize = 1 << 20;
/// The length before a payload.
const HEAD: usize = size_of::<u32>();

/// One end: a descriptor to read and one to write, which may be of the same socket.
pub struct End {
    read: OwnedFd,
    write: OwnedFd,
    hot: bool,
}

impl End {
    /// The end of who calls.
    pub fn caller(read: OwnedFd, write: OwnedFd, case: &Case) -> Calls {
        // With one call under way it knows what it waits for.
        let end = Self::new(read, write, case, case.inflight > 1);
        Calls { end, out: Vec::new(), sent: 0, input: Input::new(case) }
    }

    /// The end of who is called: answers until there is nothing more to read.
    pub fn answer(read: OwnedFd, write: OwnedFd, case: &Case) {
        let end = Self::new(read, write, case, false);
        if case.inflight == 1 {
            let mut payload = vec![0; case.bytes];
            while let Some(len) = end.read_message(&mut payload) {
                end.write_message(&payload[..len]);
            }
            return;
        }
        let (mut input, mut out) = (Input::new(case), Vec::new());
        loop {
            match end.try_read([input.room(), &mut []]) {
                Some(0) => return,
                read => input.stop += read.unwrap_or(0),
            }
            while let Some(payload) = input.message() {
                put(&mut out, payload);
            }
            let mut sent = 0;
            while sent < out.len() {
                sent += end.try_write([&out[sent..], &[]]).unwrap_or(0);
            }
            out.clear();
        }
    }

    fn new(read: OwnedFd, write: OwnedFd, case: &Case, polls: bool) -> Self {
        let hot = case.regime == Regime::Hot;
        for fd in [&read, &write] {
            // SAFETY: plain numbers and an open descriptor.
            let done = unsafe {
                let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
                let others = flags & !libc::O_NONBLOCK;
                libc::fcntl(
                    fd.as_raw_fd(),
                    libc::F_SETFL,
                    if hot || polls { others | libc::O_NONBLOCK } else { others },
                )
            };
            assert_ne!(done, -1, "cannot choose how a descriptor waits");
        }
        Self { read, write, hot }
    }

    /// Reads what is there; `None` if it would block.
    fn try_read(&self, to: [&mut [u8]; 2]) -> Option<usize> {
        let parts = to.map(|part| libc::iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() });
        // SAFETY: two live buffers of the lengths passed.
        done(unsafe { libc::readv(self.read.as_raw_fd(), parts.as_ptr(), 2) })
    }

    /// Writes what there is room for; `None` if it would block.
    fn try_write(&self, from: [&[u8]; 2]) -> Option<usize> {
        let parts = from.map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
        // SAFETY: two live buffers of the lengths passed, of which the kernel only reads.
        done(unsafe { libc::writev(self.write.as_raw_fd(), parts.as_ptr(), 2) })
    }

    fn write_message(&self, payload: &[u8]) {
        let head = (payload.len() as u32).to_ne_bytes();
        let mut sent = 0;
        while sent < HEAD + payload.len() {
            let (head, payload) = (&head[sent.min(HEAD)..], &payload[sent.saturating_sub(HEAD)..]);
            sent += self.try_write([head, payload]).unwrap_or(0);
        }
    }

    /// Reads a message into a buffer with room for it, and nothing of the next one, since there is none yet. `None`: the
    /// other side has gone.
    fn read_message(&self, to: &mut [u8]) -> Option<usize> {
        let mut head = [0; HEAD];
        let mut filled = 0;
        loop {
            match self.try_read([&mut head[filled.min(HEAD)..], &mut to[filled.saturating_sub(HEAD)..]]) {
                Some(0) => return None,
                read => filled += read.unwrap_or(0),
            }
            let len = u32::from_ne_bytes(head) as usize;
            if filled >= HEAD && filled == HEAD + len {
                return Some(len);
            }
        }
    }

    /// Waits until there is something to read, or room to write if that is `wanted`. Who is hot comes back at once.
    fn wait(&self, wanted: bool) {
        if self.hot {
            return;
        }
        // A negative descriptor is passed over.
        let write = if wanted { self.write.as_raw_fd() } else { -1 };
        let mut fds = [
            libc::pollfd { fd: self.read.as_raw_fd(), events: libc::POLLIN, revents: 0 },
            libc::pollfd { fd: write, events: libc::POLLOUT, revents: 0 },
        ];
        // SAFETY: two live structures.
        unsafe { libc::poll(fds.as_mut_ptr(), 2, -1) };
    }
}

/// What a system call has done.
fn done(result: isize) -> Option<usize> {
    match usize::try_from(result) {
        Ok(n) => Some(n),
        Err(_) => {
            let error = io::Error::last_os_error();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
            None
        }
    }
}

fn put(out: &mut Vec<u8>, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_ne_bytes());
    out.extend_from_slice(payload);
}

/// What was read ahead.
struct Input {
    buffer: Vec<u8>,
    start: usize,
    stop: usize,
}

impl Input {
    fn new(case: &Case) -> Self {
        Self { buffer: vec![0; if case.inflight == 1 { 0 } else { CHUNK }], start: 0, stop: 0 }
    }

    /// The next message, if all of it is here.
    fn message(&mut self) -> Option<&[u8]> {
        let (head, rest) = self.buffer[self.start..self.stop].split_first_chunk::<HEAD>()?;
        let payload = rest.get(..u32::from_ne_bytes(*head) as usize)?;
        self.start += HEAD + payload.len();
        Some(payload)
    }

    /// Room to read into, behind what is here.
    fn room(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.start..self.stop, 0);
        (self.start, self.stop) = (0, self.stop - self.start);
        &mut self.buffer[self.stop..]
    }
}

/// The calling end, with what it has gathered.
pub struct Calls {
    end: End,
    out: Vec<u8>,
    sent: usize,
    input: Input,
}

impl Caller for Calls {
    fn call(&mut self, out: &[u8], back: &mut [u8]) {
        self.end.write_message(out);
        assert_eq!(self.end.read_message(back), Some(back.len()));
    }

    fn submit(&mut self, out: &[u8]) {
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
        put(&mut self.out, out);
    }

    fn flush(&mut self) {
        self.sent += self.end.try_write([&self.out[self.sent..], &[]]).unwrap_or(0);
    }

    fn take(&mut self, back: &mut [u8]) {
        loop {
            if let Some(payload) = self.input.message() {
                return back.copy_from_slice(payload);
            }
            let left = self.sent < self.out.len();
            let written = if left { self.end.try_write([&self.out[self.sent..], &[]]) } else { None };
            let read = self.end.try_read([self.input.room(), &mut []]);
            assert_ne!(read, Some(0), "the callee is gone");
            self.sent += written.unwrap_or(0);
            self.input.stop += read.unwrap_or(0);
            if written.is_none() && read.is_none() {
                self.end.wait(left);
            }
        }
    }
}
