//! gRPC over a Unix socket: tonic, with the service written out by hand so that no protobuf compiler is needed.

use bytes::Bytes;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::io::{Error, stdout};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as Socket;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tonic::body::Body;
use tonic::client::Grpc as Client;
use tonic::server::{Grpc as Server, NamedService, UnaryService};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::tokio_uds::{runtime, stream};
use super::uds::{measured, pair};
use crate::callee::{Callee, command, end_with_input};
use crate::common::measure::{Case, Regime, Sample};
use crate::lock::version;
use crate::measure::{Caller, Peer, Run};

/// The peer.
pub struct Grpc;

/// A message with a field of bytes.
#[derive(Clone, PartialEq, prost::Message)]
struct Payload {
    #[prost(bytes = "bytes", tag = "1")]
    data: Bytes,
}

impl Peer for Grpc {
    fn name(&self) -> &'static str {
        "grpc"
    }

    fn configuration(&self) -> String {
        format!(
            "tonic {}, prost {}: unary calls over a Unix socket, default windows, a current-thread runtime each side; \
             64 in flight: a task each; cannot poll",
            version("tonic"),
            version("prost")
        )
    }

    fn runs(&self, case: &Case) -> bool {
        case.regime != Regime::Hot
    }

    fn call(&self, run: &Run) -> Sample {
        let (ours, theirs) = pair();
        let mut command = command(self, &run.case, "");
        // The server serves on when its connection is over.
        command.stdin(Stdio::piped()).stdout(theirs);
        let callee = Callee::start(command);
        let runtime = runtime();
        let channel = runtime.block_on(connect(ours));
        let sample = measured(run, Calls { runtime, client: Client::new(channel), pending: VecDeque::new() });
        callee.end();
        sample
    }

    fn serve(&self, _: &Case, _: &str) {
        end_with_input();
        let socket = Socket::from(stdout().as_fd().try_clone_to_owned().expect("a socket"));
        runtime().block_on(async {
            let incoming = tokio_stream::once(Ok::<_, Error>(stream(socket))).chain(tokio_stream::pending());
            tonic::transport::Server::builder().add_service(Echo).serve_with_incoming(incoming).await.expect("served");
        });
    }
}

async fn connect(socket: Socket) -> Channel {
    let mut socket = Some(stream(socket));
    let connector = service_fn(move |_| ready(socket.take().map(TokioIo::new).ok_or(Error::other("one connection"))));
    // The address is for the headers alone.
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.expect("a callee")
}

/// The service, and its one method.
#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "busway.Echo";
}

impl UnaryService<Payload> for Echo {
    type Response = Payload;
    type Future = Ready<Result<Response<Payload>, Status>>;

    fn call(&mut self, request: Request<Payload>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

impl tower::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = Self;
        Box::pin(async { Ok(Server::new(ProstCodec::<Payload, Payload>::default()).unary(method, request).await) })
    }
}

struct Calls {
    runtime: Runtime,
    client: Client<Channel>,
    pending: VecDeque<JoinHandle<Payload>>,
}

async fn unary(mut client: Client<Channel>, payload: Payload) -> Payload {
    client.ready().await.expect("a connection");
    let path = PathAndQuery::from_static("/busway.Echo/Call");
    let codec = ProstCodec::<Payload, Payload>::default();
    client.unary(Request::new(payload), path, codec).await.expect("a reply").into_inner()
}

impl Caller for Calls {
    fn call(&mut self, out: &[u8], back: &mut [u8]) {
        let payload = Payload { data: Bytes::copy_from_slice(out) };
        let reply = self.runtime.block_on(unary(self.client.clone(), payload));
        back.copy_from_slice(&reply.data);
    }

    fn submit(&mut self, out: &[u8]) {
        let payload = Payload { data: Bytes::copy_from_slice(out) };
        self.pending.push_back(self.runtime.spawn(unary(self.client.clone(), payload)));
    }

    fn take(&mut self, back: &mut [u8]) {
        let reply =
            self.runtime.block_on(self.pending.pop_front().expect("one is under way")).expect("a task that ends");
        back.copy_from_slice(&reply.data);
    }
}
