//! What the tests of real processes share: children that run this very program, payloads, and a watchdog.
//!
//! A child is the test's own program, started anew to run one function of the same file, its *role*: see [`roles`].

#![allow(dead_code, reason = "each test file uses its part")]

pub mod books;
pub mod directory;
pub mod figures;
pub mod footprint;
pub mod fork;
pub mod handshake;
pub mod namespaces;
pub mod pauses;
pub mod payload;
pub mod peer;
pub mod pipe;
pub mod procfs;
pub mod shared;
pub mod stalls;
pub mod trace;
pub mod user;

use busway::{Config, Geometry, Host, Idle, Link, Plugin, Process, Request, SizeClass};
use std::env;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long [`until`] waits.
const PATIENCE: Duration = Duration::from_secs(30);

const ROLE: &str = "BUSWAY_TEST_ROLE";
const IDLE: &str = "BUSWAY_TEST_IDLE";
const DEPTH: &str = "BUSWAY_TEST_DEPTH";
const ARGUMENT: &str = "BUSWAY_TEST_ARGUMENT";
const RUNNER: &str = "BUSWAY_TEST_RUNNER";

/// Every way to wait, by name.
pub const IDLE_MODES: [&str; 4] = ["adaptive", "spin", "park", "poll"];

/// A deadline for what should not take any time. The watchdog is sooner: a wake-up that is lost must not be made up for by
/// the look that follows a deadline.
pub const SOON: Duration = Duration::from_secs(600);

/// Names the functions of a test file that a child can run.
///
/// They go through the test harness of the child, which runs this one test and nothing else; in any other run it is empty.
macro_rules! roles {
    ($($role:ident),* $(,)?) => {
        #[test]
        fn child() {
            $crate::common::play(&[$((stringify!($role), $role as fn())),*]);
        }
    };
}
pub(crate) use roles;

pub fn play(roles: &[(&str, fn())]) {
    let Ok(name) = env::var(ROLE) else { return };
    let (_, role) = roles.iter().find(|(role, _)| *role == name).expect("a role of this file");
    // In one turn: an idle child is to stay asleep.
    let limit = Duration::from_secs(300) + figures::duration(Duration::ZERO);
    let watchdog = watch(format!("the child {name}"), 1, limit);
    role();
    drop(watchdog);
    // Not back into the harness: it would report to the standard output, which is the role's.
    std::process::exit(0);
}

/// What the parent passed to [`Setup::command_with`].
pub fn argument() -> String {
    env::var(ARGUMENT).expect("an argument for this role")
}

/// Whether the children run under an emulator, which has not all of Linux and is slow.
pub fn emulated() -> bool {
    env::var_os(RUNNER).is_some()
}

/// How a link of a test is set up, on both sides.
#[derive(Clone, Debug)]
pub struct Setup {
    pub geometry: Geometry,
    pub idle: &'static str,
    pub depth: u32,
}

impl Default for Setup {
    fn default() -> Self {
        let classes = [(64, 64), (1024, 32), (8 << 10, 16), (64 << 10, 8)];
        let classes = classes.map(|(size, count)| SizeClass { size, count }).into();
        Self { geometry: Geometry { entries: 256, cells: 64, classes }, idle: "adaptive", depth: 8 }
    }
}

impl Setup {
    /// The smallest ring and cells there are, and `slots` of one size.
    pub fn tiny(size: u32, slots: u32) -> Self {
        let classes = vec![SizeClass { size, count: slots }];
        Self { geometry: Geometry { entries: 8, cells: 8, classes }, ..Self::default() }
    }

    pub fn idle(self, idle: &'static str) -> Self {
        Self { idle, ..self }
    }

    pub fn depth(self, depth: u32) -> Self {
        Self { depth, ..self }
    }

    pub fn config(&self) -> Config {
        config(self.idle, self.depth).geometry(self.geometry.clone())
    }

    pub fn host(&self) -> Host {
        Host::new(self.config()).patience(SOON)
    }

    /// A command that runs a role of this file.
    pub fn command(&self, role: &str) -> Command {
        let exe = env::current_exe().expect("the path of this program");
        let runner = env::var(RUNNER).unwrap_or_default();
        let mut words = runner.split_whitespace();
        let mut command = match words.next() {
            Some(runner) => {
                let mut command = Command::new(runner);
                command.args(words).arg(exe);
                command
            }
            None => Command::new(exe),
        };
        command.args(["--exact", "child", "--quiet", "--nocapture", "--test-threads=1"]);
        command.env(ROLE, role).env(IDLE, self.idle).env(DEPTH, self.depth.to_string()).env_remove(ARGUMENT);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// As [`command`](Self::command), for a role that asks for its [`argument`].
    pub fn command_with(&self, role: &str, argument: impl ToString) -> Command {
        let mut command = self.command(role);
        command.env(ARGUMENT, argument.to_string());
        command
    }

    pub fn spawn(&self, role: &str) -> Process {
        self.host().spawn(self.command(role)).expect("spawn a plugin")
    }

    pub fn spawn_with(&self, role: &str, argument: impl ToString) -> Process {
        self.host().spawn(self.command_with(role, argument)).expect("spawn a plugin")
    }
}

/// A plugin in a role, with the default set-up.
pub fn spawn(role: &str) -> Process {
    Setup::default().spawn(role)
}

fn config(idle: &str, depth: u32) -> Config {
    let idle = match idle {
        "adaptive" => Idle::default(),
        "spin" => Idle::Spin,
        "park" => Idle::Park,
        "poll" => Idle::Poll,
        other => panic!("no idle mode {other}"),
    };
    Config::default().idle(idle).max_depth(depth)
}

/// The configuration that the parent's set-up wants this child to have.
pub fn child_config() -> Config {
    let get = |name| env::var(name).expect("set by the parent");
    config(&get(IDLE), get(DEPTH).parse().expect("a number"))
}

/// Attaches a role to its host.
pub fn attach() -> Link {
    Plugin::attach_with(&child_config()).expect("attach")
}

/// Serves until the link is closed, which is how a role ends well.
pub fn serve(link: &Link, handler: impl Fn(Request<'_>)) {
    link.serve(handler).expect("serve until closed");
}

/// Waits for something that rings nobody. What it waits for must come without more doing; how soon does not matter.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let (mut last, mut waited) = (Instant::now(), Duration::ZERO);
    while !done() {
        assert!(waited < PATIENCE, "waited in vain until {what}");
        thread::yield_now();
        // A virtual machine stands still now and then, which is nobody's fault here.
        let before = std::mem::replace(&mut last, Instant::now());
        waited += (last - before).min(Duration::from_secs(1));
    }
}

/// Ends this process, with a message, if the test that holds it takes too long: a hung test cannot be joined.
pub struct Watchdog(#[allow(dead_code, reason = "dropping it calls the watchdog off")] Sender<()>);

/// A watchdog for the test that this thread runs.
pub fn watchdog() -> Watchdog {
    watchdog_of(60)
}

/// A watchdog for one that may take so many seconds.
pub fn watchdog_of(seconds: u32) -> Watchdog {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    // In many turns: a virtual machine that stands still costs one of them.
    watch(name, if emulated() { 4 * seconds } else { seconds }, Duration::from_secs(1))
}

fn watch(name: String, turns: u32, turn: Duration) -> Watchdog {
    let (hold, released) = channel::<()>();
    thread::spawn(move || {
        for _ in 0..turns {
            if released.recv_timeout(turn) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
        // Written past the harness, which would keep it for a report that never comes.
        let _ = writeln!(std::io::stderr(), "{name} hung: not done after {:?}", turn * turns);
        std::process::abort();
    });
    Watchdog(hold)
}

/// Says that a test could not run here, and why.
pub fn skip(why: impl std::fmt::Display) {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED: {name}: {why}");
}

/// Asserts what an operation answers, by pattern, and prints what it answered if not.
#[allow(unused_macros, reason = "each test file uses its part")]
macro_rules! assert_err {
    ($result:expr, $pattern:pat $(if $guard:expr)?) => {
        match $result {
            Err($pattern) $(if $guard)? => {}
            other => panic!("{} is {other:?}, not {}", stringify!($result), stringify!($pattern)),
        }
    };
}
#[allow(unused_imports, reason = "each test file uses its part")]
pub(crate) use assert_err;

/// Sends a signal to a process that this test has started and not yet waited for.
pub fn signal(pid: u32, signal: i32) {
    let pid = i32::try_from(pid).expect("a process id");
    // SAFETY: takes plain numbers.
    let sent = unsafe { libc::kill(pid, signal) };
    assert_eq!(sent, 0, "signal {pid}: {}", std::io::Error::last_os_error());
}

/// Kills this process.
pub fn die() -> ! {
    signal(std::process::id(), libc::SIGKILL);
    // Another thread may be the one that it ends first.
    loop {
        thread::yield_now();
    }
}

/// Closes the link in order and demands that the role ended well.
pub fn finish(plugin: Process) {
    let status = plugin.shut_down(SOON).expect("wait for the child");
    assert!(status.success(), "the child ended with {status}");
}
