//! The server.

pub mod gate;
pub mod options;
pub mod origin;
mod service;
mod supervisor;

use crate::transport::Over;
use anyhow::{Context, Result};
use gate::Gate;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use options::{Mode, Options};
use std::convert::Infallible;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use supervisor::Starter;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

/// The argument by which the filter program knows that its standard input is a socket to the server.
pub const FILTER_ON_STDIN: &str = "--filter-on-stdin";

/// How long requests may take to finish once the server was told to stop.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves until SIGINT or SIGTERM.
///
/// # Errors
/// What keeps the server from beginning.
pub fn run(options: &Options) -> Result<()> {
    let runtime = runtime(options.threads)?;
    runtime.block_on(serve(options))?;
    // What still waits for a filter that hangs is left behind.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(())
}

fn runtime(threads: usize) -> io::Result<Runtime> {
    let mut builder = match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.worker_threads(threads).enable_all().build()
}

async fn serve(options: &Options) -> Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let gate = Arc::new(Gate::new(options));
    let over = match options.filter {
        Mode::Busway => Some(Over::Busway),
        Mode::Uds => Some(Over::Uds),
        Mode::None | Mode::Inline => None,
    };
    let supervisor = match over {
        Some(over) => {
            let (gate, starter) = (gate.clone(), Starter { program: options.plugin.clone(), over });
            supervisor::begin(&gate, &starter).await?;
            Some(tokio::spawn(async move { supervisor::replace(&gate, &starter).await }))
        }
        None => None,
    };
    let listener = TcpListener::bind(options.listen).await.with_context(|| format!("listen on {}", options.listen))?;
    // A server does not need to be read to.
    let _ = introduce(listener.local_addr()?);

    let connections = GracefulShutdown::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => begin(stream, &gate, options.max_body, &connections),
                // Most likely there is no descriptor left: others may be closed meanwhile.
                Err(e) => {
                    eprintln!("accept: {e}");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            },
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
    }
    drop(listener);
    if tokio::time::timeout(PATIENCE, connections.shutdown()).await.is_err() {
        eprintln!("some requests did not finish in time");
    }
    if let Some(supervisor) = supervisor {
        supervisor.abort();
        let _ = supervisor.await;
    }
    if let Some(filter) = gate.filter.send_replace(None) {
        supervisor::bury(filter);
    }
    let counters = &gate.counters;
    let [open, refused, again, replaced] =
        [&counters.open, &counters.refused, &counters.again, &counters.replaced].map(|n| n.load(Ordering::Relaxed));
    eprintln!(
        "{replaced} filters replaced; {again} requests judged again, {refused} refused, {open} passed unfiltered"
    );
    Ok(())
}

/// Says where the server is, and what can be tried there.
fn introduce(address: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "listening on http://{address}")?;
    for arguments in ["/", "/headers -H 'x-internal-user: root'", "/hello", "/admin"] {
        let (path, more) = arguments.split_once(' ').unwrap_or((arguments, ""));
        writeln!(out, "  curl -i {more}{}http://{address}{path}", if more.is_empty() { "" } else { " " })?;
    }
    out.flush()
}

fn begin(stream: TcpStream, gate: &Arc<Gate>, max_body: usize, connections: &GracefulShutdown) {
    // Without it the connection is slower, nothing else.
    let _ = stream.set_nodelay(true);
    let gate = gate.clone();
    let service = service_fn(move |request| {
        let gate = gate.clone();
        async move { Ok::<_, Infallible>(service::answer(request, &gate, max_body).await) }
    });
    let connection = connections.watch(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    tokio::spawn(async move {
        // Clients hang up as they like.
        let _ = connection.await;
    });
}
