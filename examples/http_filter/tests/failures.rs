//! What becomes of requests when the filter dies, hangs, lies, or is not there.

mod common;

use common::{Answer, PATIENCE, Server, signal};
use std::io;
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

const MODES: [&str; 2] = ["busway", "uds"];
const CONNECTIONS: usize = 64;
const KILLS: usize = 12;

/// What has come of the requests of all connections.
#[derive(Debug, Default)]
struct Tally {
    filtered: AtomicUsize,
    refused: AtomicUsize,
    unfiltered: AtomicUsize,
    other: AtomicUsize,
}

impl Tally {
    /// Counts an answer; whether there was one.
    fn add(&self, answer: io::Result<Answer>) -> bool {
        let answered = answer.is_ok();
        let counter = match answer {
            Ok(answer) if answer.header("x-unfiltered").is_some() && answer.status == 200 => &self.unfiltered,
            Ok(answer) if answer.header("x-filtered-by") == Some("example") && answer.status == 200 => &self.filtered,
            Ok(answer) if answer.status == 503 => &self.refused,
            _ => &self.other,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        answered
    }

    /// Filtered, refused, unfiltered, other.
    fn counts(&self) -> [usize; 4] {
        [&self.filtered, &self.refused, &self.unfiltered, &self.other].map(|counter| counter.load(Ordering::Relaxed))
    }
}

/// Says when it is dropped that it is time to stop.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Kills the filter again and again while all connections ask.
fn kill_under_load(server: &Server) -> Tally {
    let (tally, done) = (Tally::default(), AtomicBool::new(false));
    thread::scope(|threads| {
        for _ in 0..CONNECTIONS {
            let mut client = server.client();
            let (tally, done) = (&tally, &done);
            threads.spawn(
                move || {
                    while !done.load(Ordering::Relaxed) && tally.add(client.ask("GET", "/", &[], b"")) {}
                },
            );
        }
        // Also if this thread panics.
        let _done = Done(&done);
        let mut filter = None;
        for _ in 0..KILLS {
            let pid = server.filter_other_than(filter);
            // Killed at work: some more have been filtered by it, or by the one before.
            let [before, ..] = tally.counts();
            let start = Instant::now();
            while tally.counts()[0] < before + CONNECTIONS {
                assert!(start.elapsed() < PATIENCE, "nothing is filtered: {tally:?}");
                thread::yield_now();
            }
            signal(pid, "KILL");
            filter = Some(pid);
        }
        server.filter_other_than(filter);
    });
    // Whatever happened, it has recovered.
    let start = Instant::now();
    while server.client().get("/").header("x-filtered-by").is_none() {
        assert!(start.elapsed() < PATIENCE, "it does not recover: {tally:?}");
    }
    tally
}

#[test]
fn closed_lets_nothing_pass_unfiltered() {
    for mode in MODES {
        let server = Server::start(&["--filter", mode, "--fail", "closed", "--deadline", "5000"]);
        let tally = kill_under_load(&server);
        let [filtered, _, unfiltered, other] = tally.counts();
        assert!(filtered > KILLS * CONNECTIONS && unfiltered == 0 && other == 0, "{mode}: {tally:?}");
        println!("{mode}: {tally:?}");
        server.stop();
    }
}

#[test]
fn open_lets_what_could_not_be_filtered_pass_and_says_so() {
    for mode in MODES {
        let server = Server::start(&["--filter", mode, "--fail", "open"]);
        let tally = kill_under_load(&server);
        let [filtered, refused, unfiltered, other] = tally.counts();
        assert!(filtered > 0 && unfiltered > 0 && refused == 0 && other == 0, "{mode}: {tally:?}");
        println!("{mode}: {tally:?}");
        server.stop();
    }
}

#[test]
fn a_filter_that_hangs_is_replaced() {
    for mode in MODES {
        let server = Server::start(&["--filter", mode, "--deadline", "200"]);
        let filter = server.filter_other_than(None);
        assert_eq!(server.client().get("/").status, 200);
        signal(filter, "STOP");
        assert_eq!(server.client().get("/").status, 503, "{mode}");
        server.filter_other_than(Some(filter));
        let start = Instant::now();
        while server.client().get("/").status != 200 {
            assert!(start.elapsed() < PATIENCE, "{mode} does not recover");
        }
        server.stop();
    }
}

#[test]
fn a_filter_that_dies_without_traffic_is_replaced() {
    for mode in MODES {
        let server = Server::start(&["--filter", mode]);
        let filter = server.filter_other_than(None);
        signal(filter, "KILL");
        server.filter_other_than(Some(filter));
        server.stop();
    }
}

#[test]
fn without_a_filter_program_there_is_no_server() {
    for mode in MODES {
        let mut command = Command::new(env!("CARGO_BIN_EXE_http_filter"));
        command.args(["--listen", "127.0.0.1:0", "--filter", mode, "--plugin", "/nowhere/filter"]);
        let output = command.output().expect("it runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains("/nowhere/filter"), "{mode}: {error}");
    }
}

#[test]
fn a_server_that_stops_finishes_what_it_has_begun() {
    for mode in MODES {
        let server = Server::start(&["--filter", mode]);
        let mut client = server.client();
        client.begin("/", 5);
        server.terminate();
        let start = Instant::now();
        while TcpStream::connect(server.address).is_ok() {
            assert!(start.elapsed() < PATIENCE, "{mode}: the server goes on listening");
        }
        let answer = client.finish(b"12345").expect("an answer");
        assert_eq!((answer.status, answer.header("x-filtered-by")), (200, Some("example")), "{mode}");
        server.ended();
    }
}
