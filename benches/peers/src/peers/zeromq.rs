//! ZeroMQ over a Unix socket, by its implementation in Rust.

use bytes::Bytes;
use std::{env, fs, process};
use tokio::runtime::Runtime;
use zeromq::{DealerSocket, RepSocket, ReqSocket, RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

use super::tokio_uds::runtime;
use crate::callee::{Callee, command, end_with_input, ready};
use crate::common::measure::{Case, Regime, Sample};
use crate::lock::version;
use crate::measure::{Caller, Peer, Run};

/// The peer.
pub struct ZeroMq;

impl Peer for ZeroMq {
    fn name(&self) -> &'static str {
        "zeromq"
    }

    fn configuration(&self) -> String {
        format!(
            "{} (the crate, in Rust): REQ and REP over ipc://; 64 in flight: DEALER and ROUTER; a current-thread runtime \
             each side; cannot poll",
            version("zeromq")
        )
    }

    fn runs(&self, case: &Case) -> bool {
        case.regime != Regime::Hot
    }

    fn call(&self, run: &Run) -> Sample {
        let path = env::temp_dir().join(format!("busway-peers-{}.zmq", process::id()));
        let at = format!("ipc://{}", path.to_str().expect("a path in UTF-8"));
        let callee = Callee::start_and_wait(command(self, &run.case, &at));
        let sample = if run.case.inflight == 1 {
            measured(run, ReqSocket::new(), &at)
        } else {
            measured(run, DealerSocket::new(), &at)
        };
        callee.end();
        let _ = fs::remove_file(path);
        sample
    }

    fn serve(&self, case: &Case, at: &str) {
        end_with_input();
        runtime().block_on(async {
            if case.inflight == 1 {
                answer(RepSocket::new(), at).await;
            } else {
                answer(RouterSocket::new(), at).await;
            }
            // The caller has gone, and will end this process.
            std::future::pending::<()>().await;
        });
    }
}

fn measured<S: Socket + SocketSend + SocketRecv>(run: &Run, mut socket: S, at: &str) -> Sample {
    let runtime = runtime();
    runtime.block_on(socket.connect(at)).expect("a callee that listens");
    run.calls(&mut Calls { runtime, socket })
}

async fn answer<S: Socket + SocketSend + SocketRecv>(mut socket: S, at: &str) {
    socket.bind(at).await.expect("bound");
    ready();
    // Whole messages: one of a router begins with whom it is from, and its answer with whom it is for.
    while let Ok(message) = socket.recv().await {
        if socket.send(message).await.is_err() {
            return;
        }
    }
}

struct Calls<S> {
    runtime: Runtime,
    socket: S,
}

impl<S: SocketSend + SocketRecv> Caller for Calls<S> {
    fn call(&mut self, out: &[u8], back: &mut [u8]) {
        let Self { runtime, socket } = self;
        let reply = runtime.block_on(async {
            socket.send(message(out)).await.expect("sent");
            socket.recv().await.expect("a reply")
        });
        back.copy_from_slice(reply.get(0).expect("a frame"));
    }

    fn submit(&mut self, out: &[u8]) {
        self.runtime.block_on(self.socket.send(message(out))).expect("sent");
    }

    fn take(&mut self, back: &mut [u8]) {
        let reply = self.runtime.block_on(self.socket.recv()).expect("a reply");
        back.copy_from_slice(reply.get(0).expect("a frame"));
    }
}

fn message(payload: &[u8]) -> ZmqMessage {
    Bytes::copy_from_slice(payload).into()
}
