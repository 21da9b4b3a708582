//! The machine: where a thread runs, and the lines that tell a reader what the figures were taken on.

use std::{fs, io, mem, ptr};

/// The CPU of the side that measures.
pub const HOST_CPU: usize = 0;
/// The CPU of its peer, unless the case puts both on one.
pub const PEER_CPU: usize = 1;

/// Pins the calling thread, and whatever it starts from here on, to one CPU.
pub fn pin(cpu: usize) -> io::Result<()> {
    run_on(&[cpu])
}

/// Lets it run on both.
pub fn unpin() -> io::Result<()> {
    run_on(&[HOST_CPU, PEER_CPU])
}

fn run_on(cpus: &[usize]) -> io::Result<()> {
    // SAFETY: a CPU set is plain bits, for which zero means empty.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    for cpu in cpus {
        // SAFETY: each is one of the two constants above, far below the size of the set.
        unsafe { libc::CPU_SET(*cpu, &mut set) };
    }
    // SAFETY: the set is a live local of the size passed; 0 names the calling thread.
    match unsafe { libc::sched_setaffinity(0, mem::size_of_val(&set), ptr::from_ref(&set)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Pins the measuring thread, having made sure that its peer can be pinned too: a peer that cannot start would be
/// waited for without end.
pub fn claim_cpus() -> io::Result<()> {
    pin(PEER_CPU)?;
    pin(HOST_CPU)
}

/// The header of a report: without these lines the figures mean nothing to anybody else.
pub fn describe() -> String {
    let profile =
        if cfg!(debug_assertions) { "UNOPTIMISED build, the figures mean nothing" } else { "optimised build" };
    format!(
        "cpu      {}, {} online\n\
         kernel   {}\n\
         pinning  host on CPU {HOST_CPU}, peer on CPU {PEER_CPU} in a process of its own; parked-same: both on CPU {HOST_CPU}\n\
         payload  touched: `call` is copied in, across and out and checked, `call-in` filled and summed in place\n\
         profile  {profile}",
        cpu_model(),
        line_of("/sys/devices/system/cpu/online").unwrap_or_default(),
        line_of("/proc/sys/kernel/osrelease").unwrap_or_default(),
    )
}

fn cpu_model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    // x86 names the model; aarch64 only numbers the part.
    ["model name", "CPU part"]
        .iter()
        .find_map(|key| info.lines().find(|line| line.starts_with(key)))
        .and_then(|line| line.split_once(':'))
        .map_or("unknown".into(), |(_, model)| model.trim().into())
}

fn line_of(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().into())
}
