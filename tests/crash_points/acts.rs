//! The operations, and the child that does them.

use crate::common::books::{Records, content, id_of, of_call, of_error, outcome};
use crate::common::{SOON, trace, until};
use busway::pool::{Member, Queue, Worker};
use busway::{Deadline, Error, Link, Loan, Message, Payload, Pending, Request, Result};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;

/// How often an operation was done before it is walked through. Ends of rings move at every eighth.
pub const WARM: u32 = 7;
/// Numbers of requests that each party has to give; the survivor is party 0.
pub const NUMBERS: u32 = 1024;
pub const PARTIES: u32 = 3;

/// One end of a link, or a member of a pool.
pub enum Bus<'a> {
    Link(&'a Link),
    Pool { member: &'a Member, queue: Queue<'a>, worker: Worker<'a> },
}

/// The queue in which the survivor asks, and the one in which it is asked.
pub const QUEUES: [&str; 2] = ["asked", "told"];

impl<'a> Bus<'a> {
    /// Sends to one queue, receives from the other.
    pub fn pool(member: &'a Member, to: &str, from: &str) -> Self {
        let [queue, other] = [to, from].map(|name| member.queue(name).expect("a queue"));
        Self::Pool { member, queue, worker: other.worker() }
    }

    pub fn submit<'p>(
        &self,
        method: u32,
        payload: impl Into<Payload<'p>>,
        deadline: impl Into<Deadline>,
    ) -> Result<Pending<'a>> {
        match self {
            Self::Link(link) => link.submit(method, payload, deadline),
            Self::Pool { queue, .. } => queue.submit(method, payload, deadline),
        }
    }

    fn call<'p>(&self, method: u32, payload: impl Into<Payload<'p>>) -> Result<Message<'a>> {
        match self {
            Self::Link(link) => link.call(method, payload, SOON),
            Self::Pool { queue, .. } => queue.call(method, payload, SOON),
        }
    }

    pub fn send<'p>(&self, method: u32, payload: impl Into<Payload<'p>>) -> Result<()> {
        match self {
            Self::Link(link) => link.send(method, payload, SOON),
            Self::Pool { queue, .. } => queue.send(method, payload, SOON),
        }
    }

    pub fn loan(&self, len: usize) -> Result<Loan<'a>> {
        match self {
            Self::Link(link) => link.loan(len, SOON),
            Self::Pool { member, .. } => member.loan(len, SOON),
        }
    }

    pub fn try_loan(&self, len: usize) -> Result<Loan<'a>> {
        match self {
            Self::Link(link) => link.try_loan(len),
            Self::Pool { member, .. } => member.try_loan(len),
        }
    }

    pub fn try_recv(&self) -> Result<Option<Request<'a>>> {
        match self {
            Self::Link(link) => link.try_recv(),
            Self::Pool { worker, .. } => worker.try_recv(),
        }
    }

    pub fn recv(&self, deadline: impl Into<Deadline>) -> Result<Request<'a>> {
        match self {
            Self::Link(link) => link.recv(deadline),
            Self::Pool { worker, .. } => worker.recv(deadline),
        }
    }

    /// Takes what is there, together.
    fn recv_all(&self, mut each: impl FnMut(Request<'_>)) {
        match self {
            Self::Link(link) => link.recv_batch(64, SOON).expect("requests").for_each(&mut each),
            Self::Pool { worker, .. } => worker.recv_batch(64, SOON).expect("requests").for_each(&mut each),
        }
    }
}

/// What all processes of a scene share.
#[derive(Clone, Copy)]
pub struct Books(pub &'static [AtomicU32]);

impl Books {
    pub const WORDS: usize = (3 * PARTIES + NUMBERS * PARTIES) as usize;

    pub fn records(self) -> Records {
        Records(&self.0[3 * PARTIES as usize..])
    }

    /// How often a party has begun its operation.
    pub fn round(self, party: u32) -> &'static AtomicU32 {
        &self.0[3 * party as usize]
    }

    /// What the survivor has last seen there.
    pub fn seen(self, party: u32) -> &'static AtomicU32 {
        &self.0[3 * party as usize + 1]
    }

    /// 1 when a party has done all that it was asked for.
    pub fn done(self, party: u32) -> &'static AtomicU32 {
        &self.0[3 * party as usize + 2]
    }
}

/// Who issues and serves requests.
pub struct Actor<'b, 'a> {
    pub bus: &'b Bus<'a>,
    pub books: Books,
    pub party: u32,
    pub issued: u32,
    /// This round is the one that is walked through.
    pub last: bool,
}

/// How the survivor behaves before the child dies, once the walk has begun.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    /// It serves nothing.
    Never,
    /// It serves after each event.
    AtOnce,
    /// It serves, and asks, when the child sleeps.
    WhenAsleep,
    /// It takes what comes, and does not answer.
    Holds,
}

/// What the survivor asks of the child, once in each round.
#[derive(Clone, Copy)]
pub enum Ask {
    Nothing,
    Event { len: usize },
    Call { len: usize, answer: u32 },
}

/// What an operation has sent when it ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sends {
    Nothing,
    Event,
    Call,
}

pub struct Operation {
    pub name: &'static str,
    pub ask: Ask,
    pub serving: Serving,
    /// Pools have no such thing.
    pub only_links: bool,
    /// What is executed though its process dies when it ends. A call of a link is not.
    pub sends: Sends,
    act: fn(&mut Actor<'_, '_>),
}

const fn new(name: &'static str, act: fn(&mut Actor<'_, '_>)) -> Operation {
    Operation { name, ask: Ask::Nothing, serving: Serving::Never, only_links: false, sends: Sends::Nothing, act }
}

impl Operation {
    const fn asked(self, ask: Ask) -> Self {
        Self { ask, ..self }
    }

    const fn served(self, serving: Serving) -> Self {
        Self { serving, ..self }
    }

    const fn sends(self, sends: Sends) -> Self {
        Self { sends, ..self }
    }

    /// Whether others of the pool may do something at the same time.
    pub fn fits_others(&self) -> bool {
        let served = matches!(self.serving, Serving::Never | Serving::AtOnce);
        served && !self.only_links && self.name != "receive together"
    }

    /// Whether either can do with what is asked of the other.
    pub fn fits(&self, other: &Self) -> bool {
        use Ask::{Call, Event};
        !matches!((self.ask, other.ask), (Event { .. }, Call { .. }) | (Call { .. }, Event { .. }))
    }

    const fn only_links(self) -> Self {
        Self { only_links: true, ..self }
    }
}

/// Fits an entry, a header and a cell.
const SHORT: usize = 8;
/// A slot of the smaller class.
const SLOT: usize = 60;
/// One of the larger.
const LONG: usize = 600;

const EVENT: Ask = Ask::Event { len: SHORT };
const SLOT_EVENT: Ask = Ask::Event { len: SLOT };
const CALL: Ask = Ask::Call { len: SHORT, answer: SHORT as u32 };
const SLOT_CALL: Ask = Ask::Call { len: SLOT, answer: SLOT as u32 };
const LONG_CALL: Ask = Ask::Call { len: SHORT, answer: LONG as u32 };

pub static OPERATIONS: &[Operation] = &[
    new("event", |a| a.sends(SHORT)).sends(Sends::Event),
    new("event in a slot", |a| a.sends(SLOT)).sends(Sends::Event),
    new("submit", |a| a.submits(SLOT)).sends(Sends::Call),
    new("call", |a| a.calls(SHORT, SHORT)).served(Serving::AtOnce),
    new("call, long", |a| a.calls(SLOT, LONG)).served(Serving::AtOnce),
    new("call, asleep", |a| a.calls(SHORT, SHORT)).served(Serving::WhenAsleep),
    new("loan and drop", |a| a.loans()),
    new("loan and submit", |a| a.loans_and_submits()).sends(Sends::Call),
    new("batch", |a| a.batches()).only_links(),
    new("read a reply", |a| a.reads_a_reply()).served(Serving::AtOnce),
    new("give up, queued", |a| a.gives_up(false)),
    new("give up, taken", |a| a.gives_up(true)).served(Serving::Holds),
    new("receive", |a| a.receives()).asked(EVENT),
    new("receive in a slot", |a| a.receives()).asked(SLOT_EVENT),
    new("receive, asleep", |a| a.receives()).asked(EVENT).served(Serving::WhenAsleep),
    new("receive together", |a| a.receives_together()).asked(CALL),
    new("release", |a| a.releases()).asked(SLOT_EVENT),
    new("serve", |a| a.serves()).asked(CALL),
    new("reply", |a| a.replies(false)).asked(CALL),
    new("reply in place", |a| a.replies(false)).asked(SLOT_CALL),
    new("reply out of line", |a| a.replies(false)).asked(LONG_CALL),
    new("reply by a loan", |a| a.replies(true)).asked(LONG_CALL),
];

impl Actor<'_, '_> {
    /// Does an operation, warm, between two stops; then serves until the bus is closed.
    pub fn act(bus: &Bus<'_>, books: Books, party: u32, operation: &Operation) {
        let mut actor = Actor { bus, books, party, issued: 0, last: false };
        for round in 1..=WARM + 1 {
            actor.last = round > WARM;
            books.round(party).store(round, SeqCst);
            // The survivor behaves in another way from here on.
            until("the survivor knows", || !actor.last || books.seen(party).load(SeqCst) == round);
            (operation.act)(&mut actor);
        }
        books.done(party).store(1, SeqCst);
        loop {
            match bus.recv(SOON) {
                Ok(request) => actor.serve(request),
                Err(Error::Closed) => return,
                Err(e) => panic!("{e}"),
            }
        }
    }

    /// Stands at both ends of what is walked through.
    fn mark(&self) {
        if self.last {
            trace::stop();
        }
    }

    pub fn issue(&mut self, len: usize) -> (u32, Vec<u8>) {
        let id = self.party * NUMBERS + self.issued;
        self.issued += 1;
        self.books.records().issue(id);
        (id, content(id.into(), len))
    }

    pub fn complete(&self, id: u32, outcome: u32) {
        self.books.records().complete(id, outcome);
    }

    pub fn executed(&self, id: u32) -> bool {
        self.books.records().look(id).1 > 0
    }

    /// Executes a request; returns the reply that it wants, if it is a call.
    pub fn execute(&self, request: &Request<'_>) -> Option<Vec<u8>> {
        let id = id_of(&request.to_vec());
        self.books.records().execute(id);
        (!request.is_event()).then(|| content(!u64::from(id), request.method() as usize))
    }

    pub fn serve(&self, request: Request<'_>) {
        if let Some(answer) = self.execute(&request) {
            match request.reply(&answer) {
                // Whoever asked may be gone.
                Ok(()) | Err(Error::PeerDied { .. } | Error::Closed) => {}
                Err(e) => panic!("{e}"),
            }
        }
    }

    fn end_call(&self, id: u32, answer: u32, result: Result<Message<'_>>) {
        self.complete(id, of_call(id, answer, result));
    }

    fn sends(&mut self, len: usize) {
        let (id, payload) = self.issue(len);
        self.mark();
        let sent = self.bus.send(0, &payload);
        self.mark();
        self.complete(id, sent.map_or_else(of_error, |()| outcome::SENT));
    }

    fn submits(&mut self, len: usize) {
        let (id, payload) = self.issue(len);
        self.mark();
        let pending = self.bus.submit(8, &payload, SOON);
        self.mark();
        self.end_call(id, 8, pending.and_then(Pending::wait));
    }

    fn calls(&mut self, len: usize, answer: usize) {
        let answer = answer as u32;
        let (id, payload) = self.issue(len);
        self.mark();
        let reply = self.bus.call(answer, &payload);
        self.mark();
        self.end_call(id, answer, reply);
    }

    fn loans(&mut self) {
        self.mark();
        drop(self.bus.loan(SLOT).expect("a slot"));
        self.mark();
    }

    fn loans_and_submits(&mut self) {
        let (id, payload) = self.issue(SLOT);
        self.mark();
        let mut loan = self.bus.loan(SLOT).expect("a slot");
        loan.copy_from_slice(&payload);
        let pending = self.bus.submit(8, loan, SOON);
        self.mark();
        self.end_call(id, 8, pending.and_then(Pending::wait));
    }

    fn receives(&mut self) {
        self.mark();
        let request = self.bus.recv(SOON).expect("a request");
        self.mark();
        self.serve(request);
    }

    fn receives_together(&mut self) {
        // All that was asked in every round.
        if self.last {
            self.mark();
            self.bus.recv_all(|request| self.serve(request));
            self.mark();
        }
    }

    fn releases(&mut self) {
        let request = self.bus.recv(SOON).expect("a request");
        self.execute(&request);
        self.mark();
        drop(request);
        self.mark();
    }

    fn serves(&mut self) {
        self.mark();
        let request = self.bus.recv(SOON).expect("a request");
        self.serve(request);
        self.mark();
    }

    fn replies(&mut self, loan: bool) {
        let request = self.bus.recv(SOON).expect("a request");
        let answer = self.execute(&request).expect("a call");
        self.mark();
        let replied = if loan {
            let mut loan = request.loan(answer.len()).expect("a slot");
            loan.copy_from_slice(&answer);
            request.reply(loan)
        } else {
            request.reply(&answer)
        };
        self.mark();
        replied.expect("somebody waits");
    }

    fn reads_a_reply(&mut self) {
        let (id, payload) = self.issue(SHORT);
        let pending = self.bus.submit(LONG as u32, &payload, SOON).expect("room");
        until("it is answered", || pending.is_ready());
        self.mark();
        let reply = pending.wait().expect("it is there");
        let whole = reply.to_vec();
        drop(reply);
        self.mark();
        assert_eq!(whole, content(!u64::from(id), LONG));
        self.complete(id, outcome::ANSWERED);
    }

    fn gives_up(&mut self, taken: bool) {
        let (id, payload) = self.issue(SLOT);
        let pending = self.bus.submit(LONG as u32, &payload, SOON).expect("room");
        if taken {
            until("it is taken", || self.executed(id));
        }
        self.mark();
        drop(pending);
        self.mark();
        self.complete(id, outcome::GIVEN_UP);
    }

    fn batches(&mut self) {
        let Bus::Link(link) = self.bus else { unreachable!("links have batches") };
        let events = [SHORT, SLOT].map(|len| self.issue(len));
        let calls = [SHORT, SLOT].map(|len| self.issue(len));
        self.mark();
        let mut batch = link.batch();
        let sent = events.each_ref().map(|(_, payload)| batch.send(0, payload, SOON));
        let pending = calls.each_ref().map(|(_, payload)| batch.submit(8, payload, SOON));
        drop(batch);
        self.mark();
        for ((id, _), sent) in events.into_iter().zip(sent) {
            self.complete(id, sent.map_or_else(of_error, |()| outcome::SENT));
        }
        for ((id, _), pending) in calls.into_iter().zip(pending) {
            self.end_call(id, 8, pending.and_then(Pending::wait));
        }
    }
}
