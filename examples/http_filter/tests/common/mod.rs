//! A server of its own for each test, and a client of a few lines.

#![allow(dead_code)] // no test uses all of it

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longer than anything here takes on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A server that runs.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
}

impl Server {
    pub fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_http_filter"));
        command.args(["--listen", "127.0.0.1:0"]).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a server");
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
        out.read_line(&mut line).expect("what it says first");
        let address = line.trim().strip_prefix("listening on http://").and_then(|address| address.parse().ok());
        Self { address: address.unwrap_or_else(|| panic!("the server says '{line}'")), child }
    }

    pub fn client(&self) -> Client {
        let stream = TcpStream::connect(self.address).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        Client { stream: BufReader::new(stream) }
    }

    /// The filter process, if there is one at the moment.
    pub fn filter(&self) -> Option<u32> {
        // Spawned by whichever thread.
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).ok()?;
        let of = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children")).ok();
        threads.flatten().filter_map(of).find_map(|line| line.split_whitespace().next()?.parse().ok())
    }

    /// Waits for a filter process that is not this one.
    pub fn filter_other_than(&self, old: Option<u32>) -> u32 {
        let start = Instant::now();
        loop {
            match self.filter() {
                Some(pid) if Some(pid) != old => return pid,
                _ => assert!(start.elapsed() < PATIENCE, "no other filter"),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Stops the server in order; it has to end well.
    pub fn stop(self) {
        self.terminate();
        self.ended();
    }

    pub fn terminate(&self) {
        signal(self.child.id(), "TERM");
    }

    /// Waits until it has ended, well.
    pub fn ended(mut self) {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().expect("a child") {
                assert!(status.success(), "the server ended with {status}");
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("the server does not stop");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal.
pub fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).stderr(Stdio::null()).status();
}

/// One connection.
pub struct Client {
    stream: BufReader<TcpStream>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }
}

impl Client {
    pub fn get(&mut self, target: &str) -> Answer {
        self.ask("GET", target, &[], b"").expect("an answer")
    }

    /// One request and its answer.
    pub fn ask(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Answer> {
        let mut request = format!("{method} {target} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n", body.len());
        headers.iter().for_each(|(name, value)| request += &format!("{name}: {value}\r\n"));
        request += "\r\n";
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        self.stream.get_mut().write_all(&bytes)?;
        self.answer()
    }

    /// Begins a request with a body of `len` bytes, and waits until the server has begun with it too.
    pub fn begin(&mut self, target: &str, len: usize) {
        let head =
            format!("POST {target} HTTP/1.1\r\nhost: test\r\ncontent-length: {len}\r\nexpect: 100-continue\r\n\r\n");
        self.stream.get_mut().write_all(head.as_bytes()).expect("the server reads");
        let go_on = (self.line().expect("a line"), self.line().expect("a line"));
        assert_eq!((&*go_on.0, &*go_on.1), ("HTTP/1.1 100 Continue", ""));
    }

    /// Sends the body of what was begun.
    pub fn finish(&mut self, body: &[u8]) -> io::Result<Answer> {
        self.stream.get_mut().write_all(body)?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<Answer> {
        let status = self.line()?;
        let status = status.split(' ').nth(1).and_then(|status| status.parse().ok());
        let mut answer =
            Answer { status: status.ok_or(io::ErrorKind::InvalidData)?, headers: Vec::new(), body: String::new() };
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(": ") else { break };
            answer.headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let len = answer.header("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
        let mut body = vec![0; len];
        self.stream.read_exact(&mut body)?;
        answer.body = String::from_utf8_lossy(&body).into_owned();
        Ok(answer)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}
