//! ipc-channel: a channel of bytes each way.

use ipc_channel::TryRecvError;
use ipc_channel::ipc::{IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender, bytes_channel};
use std::sync::mpsc;
use std::thread;

use super::uds::measured;
use crate::callee::{Callee, command};
use crate::common::measure::{Case, Regime, Sample};
use crate::lock::version;
use crate::measure::{Caller, Peer, Run};

/// The peer.
pub struct IpcChannel;

/// How a callee is reached, and how it is heard.
type Ends = (IpcBytesSender, IpcBytesReceiver);

impl Peer for IpcChannel {
    fn name(&self) -> &'static str {
        "ipc-channel"
    }

    fn configuration(&self) -> String {
        format!(
            "{}: a bytes_channel each way; try_recv (hot), recv (parked); 64 in flight from 4 KiB: a thread receives, since \
             send blocks while 200 KiB are under way",
            version("ipc-channel")
        )
    }

    fn runs(&self, _: &Case) -> bool {
        true
    }

    fn call(&self, run: &Run) -> Sample {
        let (server, name) = IpcOneShotServer::<Ends>::new().expect("a server");
        let callee = Callee::start(command(self, &run.case, &name));
        let (_, (sender, receiver)) = server.accept().expect("a callee");
        let hot = run.case.regime == Regime::Hot;
        let sample = if run.case.inflight > 1 && run.case.bytes >= 4096 {
            let (pass, passed) = mpsc::channel();
            thread::spawn(move || {
                while let Some(reply) = receive(&receiver, false)
                    && pass.send(reply).is_ok()
                {}
            });
            measured(run, Calls { sender, replies: || passed.recv().ok() })
        } else {
            measured(run, Calls { sender, replies: || receive(&receiver, hot) })
        };
        callee.end();
        sample
    }

    fn serve(&self, case: &Case, name: &str) {
        let ((asker, asked), (answerer, answers)) =
            bytes_channel().and_then(|asks| Ok((asks, bytes_channel()?))).expect("two channels");
        IpcSender::<Ends>::connect(name.into()).expect("a caller").send((asker, answers)).expect("sent");
        while let Some(request) = receive(&asked, case.regime == Regime::Hot) {
            if answerer.send(&request).is_err() {
                return;
            }
        }
    }
}

/// The next message, unless there will be none.
fn receive(from: &IpcBytesReceiver, hot: bool) -> Option<Vec<u8>> {
    if !hot {
        return from.recv().ok();
    }
    loop {
        match from.try_recv() {
            Err(TryRecvError::Empty) => {}
            result => return result.ok(),
        }
    }
}

struct Calls<F> {
    sender: IpcBytesSender,
    /// The next reply, unless there will be none.
    replies: F,
}

impl<F: FnMut() -> Option<Vec<u8>>> Caller for Calls<F> {
    fn call(&mut self, out: &[u8], back: &mut [u8]) {
        self.submit(out);
        self.take(back);
    }

    fn submit(&mut self, out: &[u8]) {
        self.sender.send(out).expect("sent");
    }

    fn take(&mut self, back: &mut [u8]) {
        back.copy_from_slice(&(self.replies)().expect("a reply"));
    }
}
