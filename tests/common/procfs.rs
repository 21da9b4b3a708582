//! What the kernel says about a process.

use std::fs;

/// Whether a process of this id exists, dead ones that nobody has waited for included.
pub fn exists(pid: u32) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap_or(false)
}

/// Open descriptors of this process.
pub fn descriptors() -> usize {
    // One of them is the directory being read.
    fs::read_dir("/proc/self/fd").expect("/proc/self/fd").count() - 1
}

/// Mappings of busway's memory files in this process: (first byte, last byte + 1, permissions).
pub fn regions() -> Vec<(usize, usize, String)> {
    regions_of(std::process::id())
}

/// As [`regions`], of another process.
pub fn regions_of(pid: u32) -> Vec<(usize, usize, String)> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the process lives");
    let regions = maps.lines().filter(|line| line.contains("memfd:busway"));
    regions
        .map(|line| {
            let mut words = line.split_whitespace();
            let (range, permissions) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let (start, end) = range.split_once('-').expect("a range");
            let number = |hex| usize::from_str_radix(hex, 16).expect("an address");
            (number(start), number(end), permissions.to_owned())
        })
        .collect()
}

/// The state letter of every thread of a process: `S` sleeps, `R` runs, `T` is stopped.
pub fn states(pid: u32) -> Vec<char> {
    let field = |status: &str| status.lines().find_map(|l| l.strip_prefix("State:")?.trim().chars().next());
    threads(pid).iter().filter_map(|status| field(status)).collect()
}

/// Voluntary context switches of each thread of a process: (name, count).
pub fn voluntary_switches(pid: u32) -> Vec<(String, u64)> {
    let threads = threads(pid);
    let field = |status: &str, name: &str| {
        let value = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
        value.trim().to_owned()
    };
    let count = |status: &str| field(status, "voluntary_ctxt_switches:").parse().unwrap_or_default();
    threads.iter().map(|status| (field(status, "Name:"), count(status))).collect()
}

/// The `status` of every thread.
fn threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives");
    // A thread may end in between.
    tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("status")).ok()).collect()
}
