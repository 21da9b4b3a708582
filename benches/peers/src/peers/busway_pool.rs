//! Busway: a pool of one that calls and one that works.

use busway::pool::{Member, Pool, PoolConfig, Queue};
use busway::{Deadline, Error, Pending, SizeClass};
use std::collections::VecDeque;

use super::busway::{answer, idle, make_room};
use crate::callee::command;
use crate::common::measure::{Case, Sample};
use crate::lock::version;
use crate::measure::{Caller, Peer, Run};

const ECHO: u32 = 1;
const BATCH: usize = 32;

/// The peer.
pub struct BuswayPool;

impl Peer for BuswayPool {
    fn name(&self) -> &'static str {
        "busway-pool"
    }

    fn configuration(&self) -> String {
        format!(
            "{}: one queue, default sizes (64 in flight: slots for 128), idle and copies as busway",
            version("busway")
        )
    }

    fn runs(&self, _: &Case) -> bool {
        true
    }

    fn call(&self, run: &Run) -> Sample {
        // The default sizes, which cannot be read back, so that one of them can be given more slots.
        let mut classes = [(256, 1024), (4096, 512), (64 << 10, 64), (1 << 20, 16)]
            .map(|(size, count)| SizeClass { size, count })
            .to_vec();
        if run.case.inflight > 1 {
            make_room(&mut classes, &run.case);
        }
        let pool = Pool::create(&PoolConfig::new(["work"]).classes(classes).idle(idle(&run.case))).expect("a pool");
        let worker = pool.spawn(command(self, &run.case, "")).expect("a worker");
        let queue = pool.queue("work").expect("a queue");
        let sample = run.calls(&mut Calls { queue, pending: VecDeque::new() });
        pool.close(Deadline::NEVER);
        assert!(worker.wait().expect("reaped").success());
        sample
    }

    fn serve(&self, case: &Case, _: &str) {
        let member = Member::attach_with(idle(case)).expect("a pool");
        let worker = member.worker(["work"]).expect("a queue");
        if case.inflight == 1 {
            worker.serve(|request| drop(answer(request))).expect("an orderly end");
            return;
        }
        loop {
            match worker.recv_batch(BATCH, Deadline::NEVER) {
                // A failed reply means that the pool is gone, which the next receive says.
                Ok(requests) => requests.for_each(|request| drop(answer(request))),
                Err(Error::Closed) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

struct Calls<'a> {
    queue: Queue<'a>,
    pending: VecDeque<Pending<'a>>,
}

impl Caller for Calls<'_> {
    fn call(&mut self, out: &[u8], back: &mut [u8]) {
        self.queue.call(ECHO, out, Deadline::NEVER).expect("a reply").bytes().copy_to(back);
    }

    fn submit(&mut self, out: &[u8]) {
        self.pending.push_back(self.queue.submit(ECHO, out, Deadline::NEVER).expect("room"));
    }

    fn take(&mut self, back: &mut [u8]) {
        let call = self.pending.pop_front().expect("one is under way");
        call.wait().expect("a reply").bytes().copy_to(back);
    }
}
