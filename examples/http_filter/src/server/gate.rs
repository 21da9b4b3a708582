//! The way of a request past the filter.
//!
//! With a filter in a process of its own there is one process at a time, replaced by the supervisor when it is gone. A request whose
//! filter died is judged by the next one, which does no harm: judging changes nothing. So with `--fail closed` a request
//! waits for a filter until its deadline, and is refused then; with `--fail open` it waits for none.

use super::options::{Fail, Mode, Options};
use crate::format::request::{Outgoing, View};
use crate::format::verdict::Draft;
use crate::policy;
use crate::transport::{Failure, Filter, Reply};
use busway::Deadline;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// Where requests are judged.
#[derive(Debug)]
pub struct Gate {
    mode: Mode,
    fail: Fail,
    deadline: Duration,
    /// The filter process, if there is one now.
    pub(super) filter: watch::Sender<Option<Arc<Filter>>>,
    /// What has happened.
    pub counters: Counters,
}

/// How often what has happened.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests that passed unfiltered because there was no verdict.
    pub open: AtomicU64,
    /// Requests that were refused because there was no verdict.
    pub refused: AtomicU64,
    /// How often a request was judged anew because its filter died.
    pub again: AtomicU64,
    /// Filters that were replaced.
    pub replaced: AtomicU64,
}

/// Counts one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What the gate says about a request.
#[derive(Debug)]
pub enum Passage {
    /// There is no filter.
    Free,
    /// What the filter says.
    Judged(Reply),
    /// There is no verdict, and it may pass all the same.
    Open(Failure),
    /// There is no verdict.
    Closed(Failure),
}

impl Gate {
    /// A gate without a filter process as yet.
    pub fn new(options: &Options) -> Self {
        Self {
            mode: options.filter,
            fail: options.fail,
            deadline: options.deadline,
            filter: watch::Sender::new(None),
            counters: Counters::default(),
        }
    }

    /// Has a request judged.
    pub async fn judge(&self, request: &Outgoing<'_>) -> Passage {
        let verdict = match self.mode {
            Mode::None => return Passage::Free,
            Mode::Inline => inline(request),
            Mode::Busway | Mode::Uds => self.ask(request).await,
        };
        match verdict {
            Ok(reply) => Passage::Judged(reply),
            Err(failure) => self.without_verdict(failure),
        }
    }

    /// What becomes of a request that cannot be judged.
    pub fn without_verdict(&self, failure: Failure) -> Passage {
        match self.fail {
            Fail::Open => {
                count(&self.counters.open);
                Passage::Open(failure)
            }
            Fail::Closed => {
                count(&self.counters.refused);
                Passage::Closed(failure)
            }
        }
    }

    async fn ask(&self, request: &Outgoing<'_>) -> Result<Reply, Failure> {
        let until = Deadline::after(self.deadline);
        let mut left = self.deadline;
        loop {
            let filter = self.filter.borrow().clone();
            let dead = match filter {
                None => None,
                Some(filter) => match filter.judge(request, until, left).await {
                    Err(Failure::Died) => Some(filter),
                    verdict => return verdict,
                },
            };
            left = until.remaining().unwrap_or_default();
            if self.fail == Fail::Open || left.is_zero() {
                return Err(Failure::Died);
            }
            if dead.is_some() {
                count(&self.counters.again);
            }
            self.next(dead, left).await?;
            left = until.remaining().unwrap_or_default();
        }
    }

    /// Waits until there is a filter other than the one that died, of which the supervisor may not have heard yet.
    async fn next(&self, dead: Option<Arc<Filter>>, left: Duration) -> Result<(), Failure> {
        let is_dead = |filter: &Arc<Filter>| dead.as_ref().is_some_and(|dead| Arc::ptr_eq(dead, filter));
        let mut filter = self.filter.subscribe();
        let next = filter.wait_for(|filter| filter.as_ref().is_some_and(|filter| !is_dead(filter)));
        match tokio::time::timeout(left, next).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Failure::Died),
        }
    }
}

/// The same filter in this process, over the same view.
fn inline(request: &Outgoing<'_>) -> Result<Reply, Failure> {
    thread_local! {
        static SCRATCH: RefCell<(Vec<u8>, Draft)> = RefCell::default();
    }
    SCRATCH.with_borrow_mut(|(payload, verdict)| {
        payload.resize(request.size(), 0);
        request.write(payload);
        View::new(payload).and_then(|view| policy::decide(&view, verdict)).map_err(|_| Failure::Broken)?;
        Ok(Reply::new(verdict.size(), |to| verdict.write(to)))
    })
}
