//! Words that a test shares with its children, who have them as standard input.

use std::fs::File;
use std::io::stdin;
use std::os::fd::{AsFd, FromRawFd};
use std::process::Command;
use std::sync::atomic::AtomicU32;

/// Shared for the life of this process.
pub type Words = &'static [AtomicU32];

/// So many words, all zero. Those that nobody touches take no memory.
pub fn create(words: usize) -> (File, Words) {
    // SAFETY: a name that ends, and a plain number; the descriptor is nobody else's.
    let file = unsafe { File::from_raw_fd(libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC)) };
    file.set_len((words * size_of::<AtomicU32>()) as u64).expect("a size");
    let words = map(&file);
    (file, words)
}

/// Shares them with the role that `command` will run.
pub fn share(command: &mut Command, file: &File) {
    command.stdin(file.try_clone().expect("a descriptor"));
}

/// The words that this role was given.
pub fn given() -> Words {
    map(&stdin().as_fd().try_clone_to_owned().expect("a descriptor").into())
}

fn map(file: &File) -> Words {
    let map = memmap2::MmapRaw::map_raw(file).expect("map");
    let (base, count) = (map.as_mut_ptr().cast(), map.len() / size_of::<AtomicU32>());
    std::mem::forget(map);
    // SAFETY: mapped for the life of the process and aligned to a page; atomics bear any bits.
    unsafe { std::slice::from_raw_parts(base, count) }
}
