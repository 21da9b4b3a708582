//! The process that is called: this program again, told on its command line whom to be.

use std::env;
use std::io::{self, Read, Write};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::thread;

use crate::common::machine;
use crate::common::measure::{Case, Regime};
use crate::measure::Peer;
use crate::peers::PEERS;

/// The first argument of a callee.
pub const SERVE: &str = "--serve";

/// The command that starts a peer's callee. `at` reaches its [`serve`](Peer::serve).
pub fn command(peer: &dyn Peer, case: &Case, at: &str) -> Command {
    let mut command = Command::new(env::current_exe().expect("the path of this program"));
    let numbers = [case.bytes.to_string(), case.inflight.to_string()];
    command.args([SERVE, peer.name(), &case.regime.to_string()]).args(numbers).arg(at);
    command
}

/// A callee that ends by itself once it has nothing to read from any more. Dropping it does not wait for that.
pub struct Callee(Child);

impl Callee {
    /// Starts the command as it is.
    pub fn start(mut command: Command) -> Self {
        Self(command.spawn().expect("a callee"))
    }

    /// Starts the command with a pipe at its standard input, for [`end_with_input`], and waits until it is [`ready`].
    pub fn start_and_wait(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut callee = Self::start(command);
        callee.wait_ready();
        callee
    }

    /// Waits until the callee says that it is [`ready`].
    pub fn wait_ready(&mut self) {
        let stdout: &mut ChildStdout = self.0.stdout.as_mut().expect("a pipe");
        stdout.read_exact(&mut [0]).expect("a callee that is ready");
    }

    /// The child, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Takes the callee's input away and waits until it is gone: its CPU is the next one's.
    pub fn end(mut self) {
        drop(self.0.stdin.take());
        let status = self.0.wait().expect("a child of ours");
        assert!(status.success(), "a callee failed: {status}");
    }
}

impl Drop for Callee {
    fn drop(&mut self) {
        // Nothing to do where it has ended; else something has failed, which is being reported.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Tells the caller that it can begin.
pub fn ready() {
    let mut stdout = io::stdout().lock();
    stdout.write_all(b"r").and_then(|()| stdout.flush()).expect("a caller that listens");
}

/// Ends this process when its standard input does, whatever it is waiting for.
pub fn end_with_input() {
    thread::spawn(|| {
        let _ = io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
}

/// Runs the callee that the arguments after [`SERVE`] name.
pub fn serve(args: &[String]) -> ExitCode {
    let [name, regime, bytes, inflight, at] = args else { panic!("five words, not {args:?}") };
    let regimes = [Regime::Hot, Regime::ParkedCross, Regime::ParkedSame];
    let case = Case {
        name: "call",
        regime: *regimes.iter().find(|r| r.to_string() == *regime).expect("a regime"),
        bytes: bytes.parse().expect("a number"),
        inflight: inflight.parse().expect("a number"),
        n: 0,
    };
    // SAFETY: takes plain numbers. A callee that polls must not outlive its caller.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    machine::pin(case.regime.peer_cpu()).expect("pinned");
    PEERS.iter().find(|peer| peer.name() == *name).expect("a peer").serve(&case, at);
    ExitCode::SUCCESS
}
