//! Directories that go with the test.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory for sockets, removed with everything in it.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            // Short, since the path of a socket is.
            let path = std::env::temp_dir().join(format!("busway-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                // Of a process that was killed, and had this number.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                made => return made.map(|()| Self(path)).expect("create a directory"),
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
