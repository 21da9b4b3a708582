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
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
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
        let deadline = Instant::now() + self.deadline;
        loop {
            let filter = self.filter.borrow().clone();
            let Some(filter) = filter else {
                self.next(deadline).await?;
                continue;
            };
            match filter.judge(request, deadline).await {
                Err(Failure::Died) if self.fail == Fail::Closed && Instant::now() < deadline => {
                    count(&self.counters.again);
                    // The supervisor hears of its death a moment later.
                    self.other_than(&filter, deadline).await?;
                }
                verdict => return verdict,
            }
        }
    }

    /// Waits until there is a filter, if requests wait for one.
    async fn next(&self, deadline: Instant) -> Result<(), Failure> {
        self.until(deadline, |filter| filter.is_some()).await
    }

    async fn other_than(&self, dead: &Arc<Filter>, deadline: Instant) -> Result<(), Failure> {
        self.until(deadline, |filter| filter.as_ref().is_none_or(|filter| !Arc::ptr_eq(filter, dead))).await
    }

    async fn until(&self, deadline: Instant, is: impl FnMut(&Option<Arc<Filter>>) -> bool) -> Result<(), Failure> {
        if self.fail == Fail::Open {
            return Err(Failure::Died);
        }
        let mut filter = self.filter.subscribe();
        let seen = tokio::time::timeout_at(deadline.into(), filter.wait_for(is)).await;
        seen.is_ok_and(|seen| seen.is_ok()).then_some(()).ok_or(Failure::Died)
    }
}

/// The same filter in this process, over the same view.
fn inline(request: &Outgoing<'_>) -> Result<Reply, Failure> {
    thread_local! {
        static SCRATCH: RefCell<(Vec<u8>, Draft)> = RefCell::default();
    }
    SCRATCH.with_borrow_mut(|(payload, verdict)| {
        payload.resize(request.len(), 0);
        request.write(payload);
        View::new(payload).and_then(|view| policy::decide(&view, verdict)).map_err(|_| Failure::Broken)?;
        Ok(Reply::new(verdict.len(), |to| verdict.write(to)))
    })
}
