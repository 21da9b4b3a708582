//! The filter process over a Unix socket: one connection, many requests on their way. One task writes what has gathered since
//! its last write, another reads what has come and wakes who waits for it.

use super::{Failure, Reply};
use crate::format::request::Outgoing;
use crate::frame::{self, Incoming};
use slab::Slab;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Pair;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// A filter process at the other end of a socket.
#[derive(Debug)]
pub struct Filter {
    calls: Arc<Calls>,
    child: Child,
}

#[derive(Debug, Default)]
struct Calls {
    state: Mutex<State>,
    /// There is something to write, or nothing will come any more.
    write: Notify,
    gone: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Frames that are not written yet.
    out: Vec<u8>,
    calls: Slab<Call>,
    /// Number of the last call: a late answer does not fit the next call at its place.
    last: u32,
    gone: bool,
}

#[derive(Debug)]
struct Call {
    number: u32,
    waker: Option<Waker>,
    reply: Option<Result<Reply, Failure>>,
}

impl Call {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Calls {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing will come any more.
    fn end(&self) {
        let mut state = self.state();
        state.gone = true;
        for (_, call) in &mut state.calls {
            call.reply.get_or_insert(Err(Failure::Died));
            call.wake();
        }
        drop(state);
        self.write.notify_one();
        self.gone.notify_one();
    }
}

impl Filter {
    /// Spawns a filter process. Within a tokio runtime.
    pub fn spawn(mut command: Command) -> anyhow::Result<Self> {
        let (ours, theirs) = Pair::pair()?;
        ours.set_nonblocking(true)?;
        let child = command.stdin(OwnedFd::from(theirs)).spawn()?;
        let (from, to) = UnixStream::from_std(ours)?.into_split();
        let calls = Arc::new(Calls::default());
        // The command has the other end of the socket too: without it, this process would keep it open.
        drop(command);
        Handle::current().spawn(write(to, calls.clone()));
        Handle::current().spawn(read(from, calls.clone()));
        Ok(Self { calls, child })
    }

    pub async fn judge(&self, request: &Outgoing<'_>, left: Duration) -> Result<Reply, Failure> {
        if request.size() > frame::MAX {
            return Err(Failure::TooLong);
        }
        let answer = self.send(request)?;
        let answered = poll_fn(|context| {
            let mut state = self.calls.state();
            let call = &mut state.calls[answer.place];
            match call.reply.take() {
                Some(reply) => Poll::Ready(reply),
                None => {
                    call.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        });
        tokio::time::timeout(left, answered).await.unwrap_or(Err(Failure::Late))
    }

    fn send(&self, request: &Outgoing<'_>) -> Result<Answer<'_>, Failure> {
        let mut state = self.calls.state();
        let state = &mut *state;
        if state.gone {
            return Err(Failure::Died);
        }
        state.last = state.last.wrapping_add(1);
        let number = state.last;
        let place = state.calls.insert(Call { number, waker: None, reply: None });
        if state.out.is_empty() {
            self.calls.write.notify_one();
        }
        let id = u64::from(number) << 32 | place as u64;
        frame::append(&mut state.out, id, 0, request.size(), |to| request.write(to));
        Ok(Answer { calls: &self.calls, place })
    }

    pub async fn gone(&self) {
        while !self.calls.state().gone {
            self.calls.gone.notified().await;
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        self.calls.end();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The place of a call, given back in any case.
struct Answer<'a> {
    calls: &'a Calls,
    place: usize,
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        self.calls.state().calls.remove(self.place);
    }
}

async fn write(mut to: OwnedWriteHalf, calls: Arc<Calls>) {
    let mut out = Vec::new();
    loop {
        calls.write.notified().await;
        out.clear();
        {
            let mut state = calls.state();
            if state.gone {
                return;
            }
            std::mem::swap(&mut out, &mut state.out);
        }
        if to.write_all(&out).await.is_err() {
            return calls.end();
        }
    }
}

async fn read(mut from: OwnedReadHalf, calls: Arc<Calls>) {
    let mut incoming = Incoming::default();
    while let Ok(len @ 1..) = from.read(incoming.room()).await {
        incoming.filled(len);
        if take(&mut incoming, &calls).is_err() {
            break;
        }
    }
    calls.end();
}

/// Hands out the answers that are there.
fn take(incoming: &mut Incoming, calls: &Calls) -> io::Result<()> {
    let mut state = calls.state();
    while let Some((head, payload)) = incoming.take()? {
        let (number, place) = ((head.id >> 32) as u32, head.id as u32 as usize);
        let call = state.calls.get_mut(place).filter(|call| call.number == number && call.reply.is_none());
        let Some(call) = call else { continue };
        call.reply = Some(match head.rejected {
            0 => Ok(Reply::new(payload.len(), |to| to.copy_from_slice(payload))),
            _ => Err(Failure::Broken),
        });
        call.wake();
    }
    Ok(())
}
