//! shmipc: buffers in shared memory, and an eventfd each way that wakes.

use shmipc::config::{Config, SizePercentPair};
use shmipc::session::{SessionManager, SessionManagerConfig};
use shmipc::stream::Stream;
use shmipc::transport::{DefaultUnixConnect, DefaultUnixListen};
use shmipc::{Error, Listener};
use std::os::unix::net::SocketAddr;
use std::{env, fs, process};
use tokio::runtime::Runtime;

use super::tokio_uds::runtime;
use crate::callee::{Callee, command, end_with_input, ready};
use crate::common::measure::{Case, Regime, Sample};
use crate::lock::version;
use crate::measure::{Caller, Peer, Run};

/// The peer.
pub struct Shmipc;

impl Peer for Shmipc {
    fn name(&self) -> &'static str {
        "shmipc"
    }

    fn configuration(&self) -> String {
        format!(
            "{} (the crate): V4 with eventfd, 32 MiB of memfd buffers, 70 % of them of the payload's size as in its own \
             benchmark, one stream, a current-thread runtime each side; copied into a buffer, into the reply's, out; \
             cannot poll",
            version("shmipc")
        )
    }

    fn runs(&self, case: &Case) -> bool {
        case.regime != Regime::Hot
    }

    fn call(&self, run: &Run) -> Sample {
        let path = env::temp_dir().join(format!("busway-peers-{}.sock", process::id()));
        let at = path.to_str().expect("a path in UTF-8");
        let callee = Callee::start_and_wait(command(self, &run.case, at));
        let runtime = runtime();
        let address = SocketAddr::from_pathname(&path).expect("a short path");
        let config = SessionManagerConfig::new().with_config(config(&run.case));
        let manager =
            runtime.block_on(SessionManager::new(config, DefaultUnixConnect, address)).expect("a callee that listens");
        let stream = manager.get_stream().expect("a stream");
        let mut calls = Calls { runtime, ends: Ends::of(stream) };
        let sample = run.calls(&mut calls);
        calls.runtime.block_on(manager.close());
        callee.end();
        let _ = fs::remove_file(path);
        sample
    }

    fn serve(&self, case: &Case, at: &str) {
        end_with_input();
        runtime().block_on(async {
            let address = SocketAddr::from_pathname(at).expect("a short path");
            let mut listener = Listener::new(DefaultUnixListen, address, config(case)).await.expect("listening");
            ready();
            let mut ends = Ends::of(listener.accept().await.expect("a caller"));
            while ends.answer(case.bytes).await.is_ok() {}
            // The caller has gone, and will end this process.
            std::future::pending::<()>().await;
        });
    }
}

fn config(case: &Case) -> Config {
    let pair = |size: usize, percent| SizePercentPair { size: size as u32 + 256, percent };
    Config {
        buffer_slice_sizes: vec![pair(case.bytes, 70), pair(16 << 10, 20), pair(64 << 10, 10)],
        ..Config::default().with_v4_eventfd()
    }
}

/// Two handles of one stream: what was read is held while it is written.
struct Ends {
    read: Stream,
    write: Stream,
}

impl Ends {
    fn of(stream: Stream) -> Self {
        Self { read: stream.clone(), write: stream }
    }

    async fn send(&mut self, payload: &[u8]) -> Result<(), Error> {
        self.write.write_bytes(payload)?;
        self.write.flush(false).await
    }

    async fn answer(&mut self, len: usize) -> Result<(), Error> {
        let request = self.read.read_exact_bytes(len).await?;
        self.write.write_bytes(&request)?;
        self.write.flush(false).await?;
        drop(request);
        self.read.release_read_and_reuse();
        Ok(())
    }

    async fn take(&mut self, back: &mut [u8]) -> Result<(), Error> {
        back.copy_from_slice(&self.read.read_exact_bytes(back.len()).await?);
        self.read.release_read_and_reuse();
        Ok(())
    }
}

struct Calls {
    runtime: Runtime,
    ends: Ends,
}

impl Caller for Calls {
    fn call(&mut self, out: &[u8], back: &mut [u8]) {
        let Self { runtime, ends } = self;
        runtime.block_on(async {
            ends.send(out).await.expect("sent");
            ends.take(back).await.expect("a reply");
        });
    }

    fn submit(&mut self, out: &[u8]) {
        self.runtime.block_on(self.ends.send(out)).expect("sent");
    }

    fn take(&mut self, back: &mut [u8]) {
        self.runtime.block_on(self.ends.take(back)).expect("a reply");
    }
}
