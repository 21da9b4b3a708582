//! A worker, and what it answers.

use anyhow::Result;
use busway::Request;
use busway::pool::Member;
use bytemuck::{Pod, Zeroable};
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process;

pub const QUEUE: &str = "files";
/// The request is a path, the reply an [`Answer`]. A file that cannot be read is rejected with the error's number.
pub const HASH: u32 = 1;

/// Of no particular system call.
const EIO: i32 = 5;

/// What a worker says about a file.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Answer {
    pub sum: [u8; 32],
    pub bytes: u64,
    /// Process id of the worker.
    pub worker: u64,
}

/// Serves until the pool is closed.
pub fn run() -> Result<()> {
    Member::attach()?.worker([QUEUE])?.serve(|request| {
        // An error here means that the pool has ended, which ends `serve` too.
        let _ = answer(request);
    })?;
    Ok(())
}

fn answer(request: Request<'_>) -> busway::Result<()> {
    if request.method() != HASH {
        return request.no_such_method();
    }
    let path = request.to_vec();
    match sha256(Path::new(OsStr::from_bytes(&path))) {
        Ok((sum, bytes)) => request.reply_as(&Answer { sum, bytes, worker: process::id().into() }),
        Err(e) => request.reject(e.raw_os_error().unwrap_or(EIO) as u32),
    }
}

/// The sum of a file, and its length.
pub fn sha256(path: &Path) -> io::Result<([u8; 32], u64)> {
    let mut file = BufReader::with_capacity(256 << 10, File::open(path)?);
    let (mut sum, mut bytes) = (Sha256::new(), 0);
    loop {
        let part = file.fill_buf()?;
        if part.is_empty() {
            return Ok((sum.finalize().into(), bytes));
        }
        sum.update(part);
        let len = part.len();
        file.consume(len);
        bytes += len as u64;
    }
}
