//! The filter as a program: it answers requests over a link or over a Unix socket until its server is gone.

use crate::format::request::View;
use crate::format::verdict::Draft;
use crate::frame::{self, Incoming};
use crate::policy;
use busway::{Config, Deadline, Error, Idle, Link, Plugin, Request};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

/// The method of a link by which a request is judged.
pub const JUDGE: u32 = 1;
/// What a filter rejects a malformed request with.
pub const MALFORMED: u32 = 1;

/// How many requests are taken at once.
const BATCH: usize = 64;

/// The filter process. One that was spawned as a plugin has a link; otherwise its standard input is a Unix socket.
///
/// # Errors
/// It was not started by a server, or cannot go on; that the server is gone is none.
pub fn run() -> anyhow::Result<()> {
    if Plugin::is_spawned() {
        // Whoever spins takes the CPU from those who have work.
        let link = Plugin::attach_with(&Config::default().idle(Idle::Park))?;
        match serve_link(&link) {
            Err(Error::Closed | Error::PeerDied { .. }) => Ok(()),
            done => Ok(done?),
        }
    } else {
        Ok(serve_socket(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))?)
    }
}

fn serve_link(link: &Link) -> busway::Result<()> {
    let mut verdict = Draft::default();
    loop {
        for request in link.recv_batch(BATCH, Deadline::NEVER)? {
            judge(request, &mut verdict)?;
        }
    }
}

fn judge(request: Request<'_>, verdict: &mut Draft) -> busway::Result<()> {
    if request.method() != JUDGE {
        return request.no_such_method();
    }
    // In place: a plugin trusts its host.
    let payload = request.as_slice().unwrap_or_default();
    if View::new(payload).and_then(|view| policy::decide(&view, verdict)).is_err() {
        return request.reject(MALFORMED);
    }
    let mut reply = match request.loan(verdict.size()) {
        Ok(reply) => reply,
        // Nobody waits for it any more, or no slot came free in time: dropped, the request says so itself.
        Err(Error::Timeout { .. } | Error::Full) => return Ok(()),
        Err(e) => return Err(e),
    };
    verdict.write(&mut reply);
    request.reply(reply)
}

/// Reads what is there, answers all of it, writes all answers.
fn serve_socket(mut socket: UnixStream) -> io::Result<()> {
    let (mut incoming, mut verdict, mut answers) = (Incoming::default(), Draft::default(), Vec::new());
    loop {
        let len = match socket.read(incoming.room()) {
            Ok(0) => return Ok(()),
            Ok(len) => len,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        incoming.filled(len);
        while let Some((head, payload)) = incoming.take()? {
            match View::new(payload).and_then(|view| policy::decide(&view, &mut verdict)) {
                Ok(()) => frame::append(&mut answers, head.id, 0, verdict.size(), |to| verdict.write(to)),
                Err(_) => frame::append(&mut answers, head.id, MALFORMED, 0, |_| {}),
            }
        }
        socket.write_all(&answers)?;
        answers.clear();
    }
}
