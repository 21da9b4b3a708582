//! What a process takes of the system, to compare before and after.

use super::{procfs, until};
use std::fs;

/// What a process has open, mapped and running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Where each descriptor leads, but for the numbers of sockets and the like.
    pub descriptors: Vec<String>,
    /// Mappings of busway's memory files.
    pub regions: usize,
    /// Threads.
    pub threads: usize,
    /// Children that ended and were not waited for.
    pub zombies: usize,
}

/// What it takes and may take a little more of, since allocators keep what was freed.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Mappings of any kind.
    pub mappings: usize,
    /// Resident bytes.
    pub resident: usize,
}

impl Footprint {
    /// Of this process.
    pub fn now() -> Self {
        let links = fs::read_dir("/proc/self/fd").expect("/proc/self/fd").flatten();
        let mut descriptors: Vec<_> = links
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .map(|link| link.to_string_lossy().split(":[").next().unwrap_or_default().to_owned())
            // The directory being read.
            .filter(|link| !link.starts_with("/proc/"))
            .collect();
        descriptors.sort();
        let threads = fs::read_dir("/proc/self/task").expect("/proc/self/task").count();
        Self { descriptors, regions: procfs::regions().len(), threads, zombies: zombies() }
    }

    /// Waits until this process takes no more than this again: threads that were told to end take a moment, here as before.
    pub fn is_back(&self, after: &str) {
        let mut now = Self::now();
        let back = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until("nothing is left over", || {
                now = Self::now();
                now.is_within(self)
            });
        }));
        assert!(back.is_ok(), "after {after}: {now:?}, before: {self:?}");
    }

    fn is_within(&self, other: &Self) -> bool {
        is_part(&self.descriptors, &other.descriptors)
            && self.threads <= other.threads
            && self.regions <= other.regions
            && self.zombies <= other.zombies
    }
}

/// Whether a sorted list has nothing that the other one has not, as often.
fn is_part(part: &[String], whole: &[String]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|name| whole.any(|other| other == name))
}

impl Memory {
    /// Of this process.
    pub fn now() -> Self {
        let maps = fs::read_to_string("/proc/self/maps").expect("/proc/self/maps");
        let statm = fs::read_to_string("/proc/self/statm").expect("/proc/self/statm");
        let pages: usize = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
        Self { mappings: maps.lines().count(), resident: pages * 4096 }
    }
}

/// Children of this process that ended and were not waited for.
fn zombies() -> usize {
    let tasks = fs::read_dir("/proc/self/task").expect("/proc/self/task").flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let pids: Vec<u32> = children
        .flat_map(|line| line.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    pids.into_iter().filter(|pid| procfs::states(*pid).first() == Some(&'Z')).count()
}
