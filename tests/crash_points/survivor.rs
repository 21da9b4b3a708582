//! Who survives: it asks, serves, goes on whoever is paused, and looks at the books in the end.

use super::acts::{Actor, Ask, Books, Bus, NUMBERS, Operation, PARTIES, Serving, WARM};
use crate::common::SOON;
use crate::common::books::{of_call, of_error, outcome};
use busway::{Error, Pending, Request};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

pub struct Survivor<'b, 'a> {
    pub actor: Actor<'b, 'a>,
    /// What its children do; the first of them is party 1.
    operations: Vec<&'static Operation>,
    asked: Vec<u32>,
    pending: Vec<(u32, u32, Pending<'a>)>,
    /// A request, and the reply that it wants.
    held: Option<(Request<'a>, Vec<u8>)>,
}

impl<'b, 'a> Survivor<'b, 'a> {
    pub fn new(bus: &'b Bus<'a>, books: Books, operations: Vec<&'static Operation>) -> Self {
        let actor = Actor { bus, books, party: 0, issued: 0, last: true };
        let asked = vec![0; operations.len()];
        let mut survivor = Self { actor, operations, asked, pending: Vec::new(), held: None };
        for child in 0..survivor.operations.len() {
            if survivor.operations[child].serving != Serving::WhenAsleep {
                (0..=WARM).for_each(|_| survivor.ask(child));
            }
        }
        survivor
    }

    fn ask(&mut self, child: usize) {
        self.asked[child] += 1;
        let bus = self.actor.bus;
        match self.operations[child].ask {
            Ask::Nothing => {}
            Ask::Event { len } => {
                let (id, payload) = self.actor.issue(len);
                self.actor.complete(id, bus.send(0, &payload).map_or_else(of_error, |()| outcome::SENT));
            }
            Ask::Call { len, answer } => {
                let (id, payload) = self.actor.issue(len);
                match bus.submit(answer, &payload, SOON) {
                    Ok(pending) => self.pending.push((id, answer, pending)),
                    Err(e) => self.actor.complete(id, of_error(e)),
                }
            }
        }
    }

    /// What it does meanwhile. `asleep`: the child waits for it; `free`: the walk is over.
    pub fn turn(&mut self, asleep: bool, free: bool) {
        let books = self.actor.books;
        let rounds: Vec<_> = (1..=self.operations.len() as u32).map(|party| books.round(party).load(SeqCst)).collect();
        for (child, &round) in rounds.iter().enumerate() {
            let late = self.operations[child].serving == Serving::WhenAsleep && self.asked[child] < round;
            if late && (round <= WARM || asleep || free) && (0..self.actor.issued).all(|id| self.actor.executed(id)) {
                self.ask(child);
            }
        }
        let serves = |serving| match serving {
            Serving::Never => free,
            Serving::AtOnce | Serving::Holds => true,
            Serving::WhenAsleep => asleep || free,
        };
        if rounds.iter().any(|round| *round <= WARM) || self.operations.iter().any(|of| serves(of.serving)) {
            self.serve();
        }
        if free {
            self.answer_held();
        }
        self.take_replies();
        for (party, round) in (1..).zip(rounds) {
            books.seen(party).store(round, SeqCst);
        }
    }

    fn serve(&mut self) {
        let holds = self.operations.iter().any(|operation| operation.serving == Serving::Holds);
        // How the bus ended is asked elsewhere.
        while let Ok(Some(request)) = self.actor.bus.try_recv() {
            if holds {
                self.answer_held();
                self.held = self.actor.execute(&request).map(|answer| (request, answer));
            } else {
                self.actor.serve(request);
            }
        }
    }

    fn answer_held(&mut self) {
        if let Some((request, answer)) = self.held.take() {
            match request.reply(&answer) {
                Ok(()) | Err(Error::PeerDied { .. } | Error::Closed) => {}
                Err(e) => panic!("{e}"),
            }
        }
    }

    /// Takes the replies that are there; returns whether any is still awaited.
    pub fn take_replies(&mut self) -> bool {
        for (id, answer, pending) in self.pending.extract_if(.., |(_, _, pending)| pending.is_ready()) {
            self.actor.complete(id, of_call(id, answer, pending.wait()));
        }
        !self.pending.is_empty()
    }

    /// Serves what is left; afterwards every call has ended.
    pub fn all_ends(&mut self) {
        self.serve();
        self.answer_held();
        assert!(!self.take_replies(), "a call neither ends nor is served");
    }

    /// Does what it can while a child stands still, and takes nothing from it.
    pub fn goes_on(&mut self) {
        // Nobody takes it, or nobody answers.
        let (id, payload) = self.actor.issue(60);
        let end = self.actor.bus.submit(8, &payload, Duration::from_millis(1));
        self.actor.complete(id, end.map_or_else(of_error, |pending| of_call(id, 8, pending.wait())));
        let (id, payload) = self.actor.issue(8);
        self.actor.complete(id, self.actor.bus.send(0, &payload).map_or_else(of_error, |()| outcome::SENT));
        // Whatever is free is overwritten.
        let mut loans: Vec<_> = (0..).map_while(|_| self.actor.bus.try_loan(600).ok()).collect();
        loans.iter_mut().for_each(|loan| loan.fill(0xee));
        drop(loans);
        let mut loans: Vec<_> = (0..).map_while(|_| self.actor.bus.try_loan(60).ok()).collect();
        loans.iter_mut().for_each(|loan| loan.fill(0xee));
    }

    /// How many requests of a party were executed.
    pub fn executed_of(&self, party: u32) -> u32 {
        (party * NUMBERS..(party + 1) * NUMBERS).filter(|id| self.actor.executed(*id)).count() as u32
    }

    /// Looks at each record. `lost` says of how many events, at most, who had taken them died; `lived` whose sender is alive.
    pub fn audit(&self, lost: u32, lived: impl Fn(u32) -> bool) -> Audit {
        let mut audit = Audit::default();
        let mut missing = 0;
        for party in 0..PARTIES {
            for id in party * NUMBERS..(party + 1) * NUMBERS {
                let (outcome, executed) = self.actor.books.records().look(id);
                audit.issued += u32::from(outcome != 0);
                match outcome {
                    0 => break,
                    outcome::ISSUED => assert!(!lived(party), "{id} is not complete, though its sender lived"),
                    _ => audit.completed += 1,
                }
                match outcome {
                    outcome::SENT => missing += 1 - executed,
                    outcome::NOT_EXECUTED => audit.denied += 1,
                    _ => {}
                }
            }
        }
        assert!(missing <= lost, "{missing} events that were sent are lost, and {lost} may be");
        audit
    }
}

/// What was in the books.
#[derive(Clone, Copy, Debug, Default)]
pub struct Audit {
    pub issued: u32,
    pub completed: u32,
    /// Of which an error said that they were not executed.
    pub denied: u32,
}
