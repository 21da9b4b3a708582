//! iceoryx2: request and response; parked, an event each way, as in its example of request-response with events.

use iceoryx2::pending_response::PendingResponse;
use iceoryx2::port::client::Client;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::{event, request_response};
use std::collections::VecDeque;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::callee::{Callee, command, ready};
use crate::common::measure::{Case, Regime, Sample};
use crate::lock::version;
use crate::measure::{Caller, Peer, Run};

/// The peer.
pub struct Iceoryx2;

type Ipc = ipc::Service;
type Pending = PendingResponse<Ipc, [u8], (), [u8], ()>;

/// A request of this length says that no other follows.
const LAST: usize = 1;

impl Peer for Iceoryx2 {
    fn name(&self) -> &'static str {
        "iceoryx2"
    }

    fn configuration(&self) -> String {
        format!(
            "{}: request_response of [u8], ipc::Service, one client, one server, response buffer 1; polled (hot), \
             Notifier and Listener each way (parked); copied into a loan, into the response's loan, out",
            version("iceoryx2")
        )
    }

    fn runs(&self, _: &Case) -> bool {
        true
    }

    fn call(&self, run: &Run) -> Sample {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("busway-peers-{}-{}", process::id(), COUNT.fetch_add(1, Relaxed));
        let meet = Meet::at(&name, &run.case);
        let listener = meet.answered.as_ref().map(|event| event.listener_builder().create().expect("a listener"));
        let callee = Callee::start_and_wait(command(self, &run.case, &name));
        let client = meet.calls.client_builder().initial_max_slice_len(run.case.bytes).create().expect("a client");
        let notifier = meet.asked.as_ref().map(|event| event.notifier_builder().create().expect("a notifier"));
        let mut calls = Calls { client, events: notifier.zip(listener), pending: VecDeque::new() };
        let sample = run.calls(&mut calls);
        calls.submit(&[0; LAST]);
        calls.flush();
        callee.end();
        sample
    }

    fn serve(&self, case: &Case, name: &str) {
        let meet = Meet::at(name, case);
        let server = meet.calls.server_builder().initial_max_slice_len(case.bytes).create().expect("a server");
        let listener = meet.asked.as_ref().map(|event| event.listener_builder().create().expect("a listener"));
        let notifier = meet.answered.as_ref().map(|event| event.notifier_builder().create().expect("a notifier"));
        ready();
        loop {
            let mut answered = false;
            while let Some(request) = server.receive().expect("a server that works") {
                if request.payload().len() == LAST {
                    return;
                }
                let response = request.loan_slice_uninit(request.payload().len()).expect("a loan");
                response.write_from_slice(request.payload()).send().expect("sent");
                answered = true;
            }
            if answered && let Some(notifier) = &notifier {
                notifier.notify().expect("a caller that listens");
            } else if let Some(listener) = &listener {
                listener.blocking_wait(|_| ()).expect("an event");
            }
        }
    }
}

/// Where both sides meet.
struct Meet {
    calls: request_response::PortFactory<Ipc, [u8], (), [u8], ()>,
    /// Events for a callee that sleeps.
    asked: Option<event::PortFactory<Ipc>>,
    /// Events for a caller that sleeps.
    answered: Option<event::PortFactory<Ipc>>,
}

impl Meet {
    fn at(name: &str, case: &Case) -> Self {
        set_log_level(LogLevel::Error);
        let node = NodeBuilder::new().create::<Ipc>().expect("a node");
        let named = |suffix: &str| ServiceName::new(&format!("{name}/{suffix}")).expect("a name");
        let calls = node
            .service_builder(&named("calls"))
            .request_response::<[u8], [u8]>()
            .max_clients(1)
            .max_servers(1)
            .max_response_buffer_size(1)
            .max_active_requests_per_client(case.inflight as usize)
            .open_or_create()
            .expect("a service");
        let event = |suffix| {
            let parked = case.regime != Regime::Hot;
            parked.then(|| node.service_builder(&named(suffix)).event().open_or_create().expect("a service"))
        };
        Self { asked: event("asked"), answered: event("answered"), calls }
    }
}

struct Calls {
    client: Client<Ipc, [u8], (), [u8], ()>,
    events: Option<(Notifier<Ipc>, Listener<Ipc>)>,
    pending: VecDeque<Pending>,
}

impl Caller for Calls {
    fn call(&mut self, out: &[u8], back: &mut [u8]) {
        self.submit(out);
        self.flush();
        self.take(back);
    }

    fn submit(&mut self, out: &[u8]) {
        let request = self.client.loan_slice_uninit(out.len()).expect("a loan");
        self.pending.push_back(request.write_from_slice(out).send().expect("sent"));
    }

    fn flush(&mut self) {
        if let Some((notifier, _)) = &self.events {
            notifier.notify().expect("a callee that listens");
        }
    }

    fn take(&mut self, back: &mut [u8]) {
        let pending = self.pending.pop_front().expect("one is under way");
        loop {
            if let Some(response) = pending.receive().expect("a client that works") {
                return back.copy_from_slice(response.payload());
            }
            if let Some((_, listener)) = &self.events {
                listener.blocking_wait(|_| ()).expect("an event");
            }
        }
    }
}
