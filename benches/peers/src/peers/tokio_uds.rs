//! A Unix stream socket as asynchronous Rust has it: tokio's.

use bytes::{Buf, BufMut, BytesMut};
use std::io::stdin;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as Socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::runtime::{Builder, Runtime};

use super::uds::{measured, pair};
use crate::callee::{Callee, command};
use crate::common::measure::{Case, Regime, Sample};
use crate::lock::version;
use crate::measure::{Caller, Peer, Run};

/// What is read at once at most.
const CHUNK: usize = 1 << 20;
/// The length before a payload.
const HEAD: usize = size_of::<u32>();

/// The peer.
pub struct TokioUds;

impl Peer for TokioUds {
    fn name(&self) -> &'static str {
        "tokio-uds"
    }

    fn configuration(&self) -> String {
        format!(
            "tokio {}: UnixStream, four bytes of length before each payload, buffered, a current-thread runtime each side; \
             cannot poll",
            version("tokio")
        )
    }

    fn runs(&self, case: &Case) -> bool {
        case.regime != Regime::Hot
    }

    fn call(&self, run: &Run) -> Sample {
        let (ours, theirs) = pair();
        let mut command = command(self, &run.case, "");
        command.stdin(theirs);
        let callee = Callee::start(command);
        let runtime = runtime();
        let (read, write) = runtime.block_on(async { stream(ours).into_split() });
        let (out, input) = (BytesMut::new(), BytesMut::with_capacity(CHUNK));
        let sample = measured(run, Calls { runtime, read, write, out, input });
        callee.end();
        sample
    }

    fn serve(&self, _: &Case, _: &str) {
        let socket = Socket::from(stdin().as_fd().try_clone_to_owned().expect("a socket"));
        runtime().block_on(async {
            let mut socket = stream(socket);
            let (mut input, mut out) = (BytesMut::with_capacity(CHUNK), BytesMut::with_capacity(CHUNK));
            // An error here is a caller that has gone, like an end.
            while let Ok(1..) = socket.read_buf(&mut input).await {
                while let Some(payload) = message(&mut input) {
                    put(&mut out, &payload);
                }
                if socket.write_all_buf(&mut out).await.is_err() {
                    return;
                }
                input.reserve(CHUNK);
            }
        });
    }
}

/// The next message, if all of it is here.
fn message(input: &mut BytesMut) -> Option<BytesMut> {
    let len = u32::from_ne_bytes(*input.first_chunk()?) as usize;
    (input.len() >= HEAD + len).then(|| {
        input.advance(HEAD);
        input.split_to(len)
    })
}

fn put(out: &mut BytesMut, payload: &[u8]) {
    out.reserve(HEAD + payload.len());
    out.put_u32_ne(payload.len() as u32);
    out.put_slice(payload);
}

/// The runtime of one side, which has one CPU.
pub fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A socket of the runtime that is entered.
pub fn stream(socket: Socket) -> UnixStream {
    socket.set_nonblocking(true).expect("a socket that does not block");
    UnixStream::from_std(socket).expect("a socket of the runtime")
}

struct Calls {
    runtime: Runtime,
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    out: BytesMut,
    input: BytesMut,
}

impl Caller for Calls {
    fn call(&mut self, out: &[u8], back: &mut [u8]) {
        self.submit(out);
        self.take(back);
    }

    fn submit(&mut self, out: &[u8]) {
        put(&mut self.out, out);
    }

    fn take(&mut self, back: &mut [u8]) {
        let Self { runtime, read, write, out, input } = self;
        if let Some(payload) = message(input) {
            return back.copy_from_slice(&payload);
        }
        runtime.block_on(async {
            loop {
                input.reserve(CHUNK);
                tokio::select! {
                    biased;
                    written = write.write_buf(out), if !out.is_empty() => written.expect("written"),
                    read = read.read_buf(input) => read.expect("a reply"),
                };
                if let Some(payload) = message(input) {
                    return back.copy_from_slice(&payload);
                }
            }
        });
    }
}
