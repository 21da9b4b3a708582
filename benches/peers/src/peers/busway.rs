//! Busway: a host and the plugin that it spawns.

use busway::{Batch, Config, Deadline, Error, Geometry, Host, Idle, Link, Pending, Plugin, Request, SizeClass};
use std::collections::VecDeque;

use crate::callee::command;
use crate::common::measure::{Case, Regime, Sample};
use crate::lock::version;
use crate::measure::{Caller, Peer, Run};

const ECHO: u32 = 1;
/// How many requests are received at once where many are under way.
const BATCH: usize = 32;

/// The peer.
pub struct Busway;

impl Peer for Busway {
    fn name(&self) -> &'static str {
        "busway"
    }

    fn configuration(&self) -> String {
        format!(
            "{}: default sizes (64 in flight: slots for 128), Idle::Spin (hot), Idle::Park (parked); \
             copied into a slot, into the reply's slot, out",
            version("busway")
        )
    }

    fn runs(&self, _: &Case) -> bool {
        true
    }

    fn call(&self, run: &Run) -> Sample {
        let mut geometry = Geometry::default();
        if run.case.inflight > 1 {
            make_room(&mut geometry.classes, &run.case);
        }
        let config = Config::default().idle(idle(&run.case)).geometry(geometry);
        let link = Host::new(config).spawn(command(self, &run.case, "")).expect("a plugin");
        run.calls(&mut Calls { link: &link, batch: None, pending: VecDeque::new() })
    }

    fn serve(&self, case: &Case, _: &str) {
        let link = Plugin::attach_with(&Config::default().idle(idle(case))).expect("a host");
        if case.inflight == 1 {
            link.serve(|request| drop(answer(request))).expect("an orderly end");
            return;
        }
        loop {
            match link.recv_batch(BATCH, Deadline::NEVER) {
                // A failed reply means that the host is gone, which the next receive says.
                Ok(requests) => requests.for_each(|request| drop(answer(request))),
                Err(Error::Closed) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// How both sides wait.
pub fn idle(case: &Case) -> Idle {
    if case.regime == Regime::Hot { Idle::Spin } else { Idle::Park }
}

/// Sees to it that twice as many payloads have room as are under way: a slot comes back only when its reply is read.
pub fn make_room(classes: &mut [SizeClass], case: &Case) {
    let class = classes.iter_mut().find(|class| class.size as usize >= case.bytes).expect("a class");
    class.count = class.count.max(2 * case.inflight);
}

/// Answers with the payload.
pub fn answer(request: Request<'_>) -> busway::Result<()> {
    let payload = request.as_slice().expect("who calls is trusted");
    let mut reply = request.loan(payload.len())?;
    reply.copy_from_slice(payload);
    request.reply(reply)
}

struct Calls<'a> {
    link: &'a Link,
    batch: Option<Batch<'a>>,
    pending: VecDeque<Pending<'a>>,
}

impl Caller for Calls<'_> {
    fn call(&mut self, out: &[u8], back: &mut [u8]) {
        self.link.call(ECHO, out, Deadline::NEVER).expect("a reply").bytes().copy_to(back);
    }

    fn submit(&mut self, out: &[u8]) {
        let batch = self.batch.get_or_insert_with(|| self.link.batch());
        self.pending.push_back(batch.submit(ECHO, out, Deadline::NEVER).expect("room"));
    }

    fn flush(&mut self) {
        self.batch = None;
    }

    fn take(&mut self, back: &mut [u8]) {
        let call = self.pending.pop_front().expect("one is under way");
        call.wait().expect("a reply").bytes().copy_to(back);
    }
}
