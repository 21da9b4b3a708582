//! A filter whose work is done by a plugin: it upper-cases ASCII letters, in one call for each line.
//!
//! `cargo run --release --example line_filter -- FILE`, or standard input if there is no FILE or it is `-`.
//!
//! The output is that of `tr a-z A-Z`; on standard error it says how long that took.

use busway::{Batch, Config, Deadline, Error, Host, Link, Message, Pending, Plugin};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;
use std::{env, iter};

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

const UPPER: u32 = 1;

/// Bytes of one read from the input, and of one write to the output unless a line is longer.
const CHUNK: usize = 256 << 10;

/// The plugin: answers each line with the same line in upper case.
fn plugin(link: &Link) -> busway::Result<()> {
    loop {
        for request in link.recv_batch(64, Deadline::NEVER)? {
            let line = request.as_slice().expect("a plugin trusts its host");
            let mut reply = request.loan(line.len())?;
            iter::zip(&mut *reply, line).for_each(|(to, from)| *to = from.to_ascii_uppercase());
            request.reply(reply)?;
        }
    }
}

fn host() -> Result<()> {
    let start = Instant::now();
    let input = match env::args_os().nth(1).filter(|file| file != "-") {
        Some(file) => File::open(&file).map_err(|e| format!("{}: {e}", file.display()))?,
        None => same_file(io::stdin().as_fd())?,
    };
    let mut command = Command::new(env::current_exe()?);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let plugin = Host::new(Config::default()).spawn(command)?;

    let mut input = Input::new(input, plugin.max_payload());
    let output = Output::new(same_file(io::stdout().as_fd())?, plugin.max_payload());
    let mut filter = Filter::new(&plugin, output);
    let mut line = Vec::new();
    let mut more = input.read_line(&mut line);
    while let Ok(true) = more {
        let newline = line.pop_if(|last| *last == b'\n').is_some();
        filter.send(&line, newline)?;
        if input.may_block() {
            filter.finish()?;
        }
        more = input.read_line(&mut line);
    }
    // Even if the next line is too long: what came before it is written.
    filter.finish()?;
    more?;

    let (lines, bytes, seconds) = (input.lines as f64, input.bytes as f64, start.elapsed().as_secs_f64());
    let (line_rate, megabyte_rate) = (lines / seconds, bytes / seconds / 1e6);
    eprintln!("{lines} lines, {bytes} bytes, {seconds:.3} s: {line_rate:.0} lines/s, {megabyte_rate:.1} MB/s");
    Ok(())
}

/// Lines on their way through the plugin.
struct Filter<'a> {
    batch: Batch<'a>,
    /// What has no reply yet, in order, and whether a newline follows it.
    calls: VecDeque<(Pending<'a>, bool)>,
    output: Output,
}

impl<'a> Filter<'a> {
    fn new(link: &'a Link, output: Output) -> Self {
        Self { batch: link.batch(), calls: VecDeque::new(), output }
    }

    /// Sends a line. As many calls are under way as the link has room for, be it reply cells or slots of one size that
    /// run out first; then half of them are collected, which leaves the plugin the other half to go on with.
    fn send(&mut self, line: &[u8], newline: bool) -> Result<()> {
        let call = loop {
            match self.batch.try_submit(UPPER, line, Deadline::NEVER) {
                Err(Error::Full) if !self.calls.is_empty() => self.collect(self.calls.len().div_ceil(2))?,
                submitted => break submitted?,
            }
        };
        self.calls.push_back((call, newline));
        Ok(())
    }

    /// Waits for the oldest replies and hands them to the output.
    fn collect(&mut self, count: usize) -> Result<()> {
        self.batch.flush();
        for (call, newline) in self.calls.drain(..count) {
            self.output.put(&call.wait()?, newline)?;
        }
        Ok(())
    }

    /// Writes everything that was sent.
    fn finish(&mut self) -> Result<()> {
        self.collect(self.calls.len())?;
        Ok(self.output.flush()?)
    }
}

struct Input {
    from: BufReader<File>,
    /// The longest line there may be, in bytes without its newline.
    max: usize,
    lines: u64,
    bytes: u64,
}

impl Input {
    fn new(from: File, max: usize) -> Self {
        Self { from: BufReader::with_capacity(CHUNK, from), max, lines: 0, bytes: 0 }
    }

    /// Reads the next line with its newline, if it has one; false at the end of the input.
    fn read_line(&mut self, line: &mut Vec<u8>) -> Result<bool> {
        line.clear();
        let len = self.from.by_ref().take(self.max as u64 + 1).read_until(b'\n', line)?;
        self.lines += u64::from(len > 0);
        self.bytes += len as u64;
        if len > self.max && line.last() != Some(&b'\n') {
            let (number, max) = (self.lines, self.max);
            return Err(format!("line {number} has {len} bytes or more; a payload has at most {max}").into());
        }
        Ok(len > 0)
    }

    /// Whether the next line has to be read first, so that what was sent before should not wait for it.
    fn may_block(&self) -> bool {
        self.from.buffer().is_empty()
    }
}

struct Output {
    to: File,
    buffer: Vec<u8>,
    used: usize,
}

impl Output {
    fn new(to: File, max: usize) -> Self {
        Self { to, buffer: vec![0; CHUNK + max + 1], used: 0 }
    }

    /// The one copy from the plugin's memory.
    fn put(&mut self, line: &Message<'_>, newline: bool) -> io::Result<()> {
        let end = self.used + line.len();
        line.bytes().copy_to(&mut self.buffer[self.used..end]);
        self.buffer[end] = b'\n';
        self.used = end + usize::from(newline);
        if self.used < CHUNK { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> io::Result<()> {
        let used = std::mem::take(&mut self.used);
        self.to.write_all(&self.buffer[..used])
    }
}

/// The file behind a standard stream, without the buffer that Rust puts before it.
fn same_file(stream: BorrowedFd<'_>) -> io::Result<File> {
    Ok(stream.try_clone_to_owned()?.into())
}

fn main() -> ExitCode {
    let result = if Plugin::is_spawned() {
        match Plugin::attach().and_then(|link| plugin(&link)) {
            Err(Error::Closed) => Ok(()),
            result => result.map_err(Into::into),
        }
    } else {
        host()
    };
    match result {
        // Whoever reads the output has seen enough.
        Err(e) if e.downcast_ref().is_some_and(|e: &io::Error| e.kind() == ErrorKind::BrokenPipe) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("line_filter: {e}");
            ExitCode::FAILURE
        }
        Ok(()) => ExitCode::SUCCESS,
    }
}
