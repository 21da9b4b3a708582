//! The host: hands out files, kills a worker, counts, and checks.

use crate::Arguments;
use crate::worker::{Answer, HASH, QUEUE, sha256};
use anyhow::{Context, Result, bail, ensure};
use busway::pool::{MemberProcess, Pool, PoolConfig};
use busway::{Deadline, Error, Pending};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs};
use walkdir::WalkDir;

const WORKERS: usize = 4;
/// Calls under way: so many that workers find the next file while the host looks away.
const CALLS: usize = 256;
/// How often a file over which a worker died is sent again.
const ATTEMPTS: usize = 5;

pub fn run(Arguments { dir, list, worker }: &Arguments) -> Result<()> {
    let (started, start) = (SystemTime::now(), Instant::now());
    let (files, walk_errors) = walk(dir)?;
    let pool = Pool::create(&PoolConfig::new([QUEUE]))?;
    let program = worker.clone().map_or_else(env::current_exe, Ok)?;
    let mut crew = Crew { workers: Vec::new(), pool: &pool, program };
    crew.fill()?;
    let walked = start.elapsed();

    let start = Instant::now();
    let hashed = hash(&files, &mut crew, &pool);
    let time = start.elapsed();
    pool.close(Duration::ZERO);
    let hashed = hashed?;

    let mut out: Box<dyn Write> = if *list { Box::new(io::stderr()) } else { Box::new(io::stdout()) };
    let sums = || hashed.answers.iter().flatten();
    let (count, bytes) = (sums().count(), sums().map(|answer| answer.bytes).sum());
    writeln!(out, "{}; {:.3} s before that to begin", rate(count, bytes, time), walked.as_secs_f64())?;
    for worker in crew.workers {
        let killed = if worker.killed.is_some() { ", then killed" } else { "" };
        let lived = worker.killed.unwrap_or(start + time) - worker.since.max(start);
        writeln!(out, "  process {}: {}{killed}", worker.process.id(), rate(worker.files, worker.bytes, lived))?;
    }
    let unreadable = files.len() - count + walk_errors;
    writeln!(out, "{} sent again, {unreadable} unreadable", hashed.again)?;

    let start = Instant::now();
    let checked = check(&files, &hashed.answers, started);
    let Checked { equal, different, changed } = checked;
    let time = start.elapsed().as_secs_f64();
    writeln!(out, "checked in {time:.3} s: {equal} as computed plainly, {different} not, {changed} changed meanwhile")?;
    if *list {
        print_sums(&files, &hashed.answers)?;
    }
    ensure!(different == 0, "{different} wrong sums");
    Ok(())
}

/// All files under a directory, by name, and how many errors hid others.
fn walk(dir: &Path) -> Result<(Vec<PathBuf>, usize)> {
    let (mut files, mut errors) = (Vec::new(), 0);
    for entry in WalkDir::new(dir) {
        match entry {
            Ok(entry) if entry.file_type().is_file() => files.push(entry.into_path()),
            Ok(_) => {}
            Err(e) if e.depth() == 0 => bail!("{e}"),
            Err(e) => {
                eprintln!("{e}");
                errors += 1;
            }
        }
    }
    // By bytes; paths themselves compare by their parts.
    files.sort_unstable_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
    Ok((files, errors))
}

struct Worker {
    process: MemberProcess,
    since: Instant,
    killed: Option<Instant>,
    files: usize,
    bytes: u64,
}

/// The workers, the dead among them.
struct Crew<'a> {
    workers: Vec<Worker>,
    pool: &'a Pool,
    program: PathBuf,
}

impl Crew<'_> {
    /// Replaces those who died, for whatever reason.
    fn fill(&mut self) -> Result<()> {
        while self.pool.members() < WORKERS {
            let mut command = Command::new(&self.program);
            command.stdin(Stdio::null()).stdout(Stdio::null());
            let process = self.pool.spawn(command).context("spawn a worker")?;
            self.workers.push(Worker { process, since: Instant::now(), killed: None, files: 0, bytes: 0 });
        }
        Ok(())
    }

    fn kill_one(&mut self) -> Result<()> {
        let victim = &mut self.workers[0];
        victim.killed = Some(Instant::now());
        Ok(victim.process.kill()?)
    }

    /// Counts an answer for who gave it.
    fn credit(&mut self, answer: &Answer) -> Result<()> {
        let mut workers = self.workers.iter_mut();
        let worker = workers.find(|worker| u64::from(worker.process.id()) == answer.worker);
        let worker = worker.with_context(|| format!("an answer of process {}, which is no worker", answer.worker))?;
        worker.files += 1;
        worker.bytes += answer.bytes;
        Ok(())
    }
}

struct Hashed {
    /// One for each file that could be read.
    answers: Vec<Option<Answer>>,
    /// How many requests were sent again, because a worker died over them.
    again: usize,
}

/// A file on its way.
struct Call<'a> {
    index: usize,
    /// Workers that died over it.
    died: usize,
    pending: Pending<'a>,
}

/// Has workers hash all files, and kills one of them half way.
fn hash(files: &[PathBuf], crew: &mut Crew<'_>, pool: &Pool) -> Result<Hashed> {
    let queue = pool.queue(QUEUE)?;
    let call = |index: usize, died| {
        let pending = queue.submit(HASH, files[index].as_os_str().as_bytes(), Deadline::NEVER);
        pending.map(|pending| Call { index, died, pending })
    };
    let mut hashed = Hashed { answers: vec![None; files.len()], again: 0 };
    let (mut calls, mut sent, mut done, mut killed) = (Vec::new(), 0, 0, false);
    let bar = bar(files.len(), "hashing");
    while done < files.len() {
        if !killed && 2 * done >= files.len() {
            crew.kill_one()?;
            killed = true;
        }
        crew.fill()?;
        while sent < files.len() && calls.len() < CALLS {
            calls.push(call(sent, 0)?);
            sent += 1;
        }
        let ready: Vec<_> = calls.extract_if(.., |call| call.pending.is_ready()).collect();
        if ready.is_empty() {
            // One cannot sleep for whichever is ready first.
            thread::sleep(Duration::from_micros(100));
        }
        for Call { index, died, pending } in ready {
            let name = files[index].display();
            match pending.wait().and_then(|reply| reply.read::<Answer>()) {
                Ok(answer) => {
                    crew.credit(&answer)?;
                    ensure!(hashed.answers[index].replace(answer).is_none(), "two answers for {name}");
                }
                // Doing it twice does no harm.
                Err(Error::PeerDied { .. }) if died < ATTEMPTS => {
                    hashed.again += 1;
                    calls.push(call(index, died + 1)?);
                    continue;
                }
                Err(Error::Rejected { code, .. }) => {
                    let error = io::Error::from_raw_os_error(code as i32);
                    bar.suspend(|| eprintln!("{name}: {error}"));
                }
                Err(e) => return Err(e).context(name.to_string()),
            }
            done += 1;
            bar.inc(1);
        }
    }
    Ok(hashed)
}

/// How many answers are what, compared with sums that this process computes.
#[derive(Default)]
struct Checked {
    equal: usize,
    different: usize,
    /// Nobody can tell.
    changed: usize,
}

impl Checked {
    fn add(&mut self, file: &Path, answer: &Answer, started: SystemTime) {
        let modified = || fs::metadata(file)?.modified();
        if sha256(file).is_ok_and(|plain| plain == (answer.sum, answer.bytes)) {
            self.equal += 1;
        } else if modified().map_or(true, |at| at >= started) {
            self.changed += 1;
        } else {
            self.different += 1;
        }
    }
}

fn check(files: &[PathBuf], answers: &[Option<Answer>], started: SystemTime) -> Checked {
    let bar = bar(files.len(), "checking");
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let part = &|first| {
        let mut part = Checked::default();
        for (file, answer) in files.iter().zip(answers).skip(first).step_by(cpus) {
            if let Some(answer) = answer {
                part.add(file, answer, started);
            }
            bar.inc(1);
        }
        part
    };
    thread::scope(|threads| {
        let parts: Vec<_> = (0..cpus).map(|first| threads.spawn(move || part(first))).collect();
        parts.into_iter().map(|part| part.join().expect("no panic")).fold(Checked::default(), |sum, part| Checked {
            equal: sum.equal + part.equal,
            different: sum.different + part.different,
            changed: sum.changed + part.changed,
        })
    })
}

/// A bar where standard error is a terminal.
fn bar(files: usize, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {human_pos} of {human_len} files, {eta} left");
    ProgressBar::new(files as u64).with_style(style.expect("a template")).with_message(what)
}

fn rate(files: usize, bytes: u64, time: Duration) -> String {
    let (seconds, megabytes) = (time.as_secs_f64(), bytes as f64 / 1e6);
    // The clock may not have moved.
    let each = 1.0 / seconds.max(1e-9);
    let (file_rate, megabyte_rate) = (files as f64 * each, megabytes * each);
    format!("{files} files, {bytes} bytes, {seconds:.3} s: {file_rate:.0} files/s, {megabyte_rate:.1} MB/s")
}

/// As `sha256sum` does.
fn print_sums(files: &[PathBuf], answers: &[Option<Answer>]) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    for (file, answer) in files.iter().zip(answers) {
        let Some(answer) = answer else { continue };
        let name = file.as_os_str().as_bytes();
        let escape = |byte: &u8| match byte {
            b'\\' => Some(b'\\'),
            b'\n' => Some(b'n'),
            b'\r' => Some(b'r'),
            _ => None,
        };
        if name.iter().any(|byte| escape(byte).is_some()) {
            out.write_all(b"\\")?;
        }
        answer.sum.iter().try_for_each(|byte| write!(out, "{byte:02x}"))?;
        out.write_all(b"  ")?;
        for byte in name {
            match escape(byte) {
                Some(escaped) => out.write_all(&[b'\\', escaped])?,
                None => out.write_all(&[*byte])?,
            }
        }
        out.write_all(b"\n")?;
    }
    out.flush()
}
