//! Pipes beside the bus: a child says what it cannot call, and waits for what it cannot be told.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::process::Command;

const MARK: &str = "report: ";

/// Says a line to whoever holds the other end of this role's standard output.
pub fn say(line: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{MARK}{line}").and_then(|()| out.flush()).expect("somebody listens");
}

/// Waits until the parent lets this role go on, or is gone.
pub fn wait_for_go() {
    let _ = std::io::stdin().read(&mut [0]);
}

/// What a role says.
pub struct Reports(BufReader<PipeReader>);

impl Reports {
    /// Listens to the role that `command` will run.
    pub fn of(command: &mut Command) -> Self {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        command.stdout(writer);
        Self(BufReader::new(reader))
    }

    /// The next line it says; `None` when it, and all its children, are gone.
    pub fn next(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).expect("read a report") == 0 {
                return None;
            }
            // The test harness says a word of its own first.
            if let Some(report) = line.strip_prefix(MARK) {
                return Some(report.trim_end().to_owned());
            }
        }
    }

    /// The next line, which there must be.
    pub fn expect(&mut self) -> String {
        self.next().expect("the role says something before it ends")
    }

    /// The next line as a number.
    pub fn number(&mut self) -> u64 {
        self.expect().parse().expect("a number")
    }
}

/// Lets a role go on.
pub struct Go(PipeWriter);

impl Go {
    /// Holds the role that `command` will run at its [`wait_for_go`].
    pub fn of(command: &mut Command) -> Self {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        command.stdin(reader);
        Self(writer)
    }

    /// Once for each time the role waits.
    pub fn go(&mut self) {
        self.0.write_all(b"g").expect("the role waits");
    }
}
