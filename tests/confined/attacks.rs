//! What a plugin can do to its host besides the link, done by plugins of every grade.

use super::{can_confine, confined};
use crate::common::directory::Directory;
use crate::common::figures::figure;
use crate::common::pipe::say;
use crate::common::user::{NOBODY, Program, as_root_and_not, is_root};
use crate::common::{SOON, Setup, attach, finish, serve, until, watchdog};
use busway::Confinement;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

/// What an attacker knows of its host.
pub struct Victim {
    pid: i32,
    /// A word that the host looks at.
    address: usize,
    /// A descriptor that the host has open.
    fd: i32,
    /// A directory of the host's.
    directory: String,
}

pub type Attack = fn(&Victim) -> io::Result<()>;

/// What each does to a host of the same user, by name; whether the kernel may refuse it to everybody who is not privileged,
/// as it can be set to; and how.
pub const ATTACKS: &[(&str, bool, Attack)] = &[
    ("process_vm_writev", false, |victim| {
        let mut mark = MARK;
        let local = libc::iovec { iov_base: (&raw mut mark).cast(), iov_len: 8 };
        let remote = libc::iovec { iov_base: ptr::without_provenance_mut(victim.address), iov_len: 8 };
        // SAFETY: the local bytes are ours; the others are not in this process.
        done(unsafe { libc::process_vm_writev(victim.pid, &local, 1, &remote, 1, 0) } as i64)
    }),
    ("process_vm_readv", false, |victim| {
        let mut word = 0u64;
        let local = libc::iovec { iov_base: (&raw mut word).cast(), iov_len: 8 };
        let remote = libc::iovec { iov_base: ptr::without_provenance_mut(victim.address), iov_len: 8 };
        // SAFETY: as above.
        done(unsafe { libc::process_vm_readv(victim.pid, &local, 1, &remote, 1, 0) } as i64)
    }),
    ("/proc/PID/mem", false, |victim| {
        let memory = OpenOptions::new().write(true).open(format!("/proc/{}/mem", victim.pid))?;
        memory.write_all_at(&MARK.to_ne_bytes(), victim.address as u64)
    }),
    ("/proc/PID/fd", false, |victim| File::open(format!("/proc/{}/fd/{}", victim.pid, victim.fd)).map(drop)),
    ("/proc/PID/map_files", false, |victim| {
        fs::read_dir(format!("/proc/{}/map_files", victim.pid))?.next().expect("one").map(drop)
    }),
    ("/proc/PID/environ", false, |victim| File::open(format!("/proc/{}/environ", victim.pid)).map(drop)),
    ("pidfd_getfd", false, |victim| {
        let pidfd = pidfd(victim.pid)?;
        call(libc::SYS_pidfd_getfd, [pidfd.as_raw_fd().into(), victim.fd.into(), 0, 0])
    }),
    ("ptrace", false, |victim| call(libc::SYS_ptrace, [libc::PTRACE_SEIZE.into(), victim.pid.into(), 0, 0])),
    ("kill", false, |victim| call(libc::SYS_kill, [victim.pid.into(), SIGNAL, 0, 0])),
    ("kill 0", false, |victim| {
        call(libc::SYS_kill, [0, SIGNAL, 0, 0])?;
        // It has gone to ourselves, if to nobody else.
        call(libc::SYS_kill, [victim.pid.into(), SIGNAL, 0, 0])
    }),
    ("tgkill", false, |victim| call(libc::SYS_tgkill, [victim.pid.into(), victim.pid.into(), SIGNAL, 0])),
    ("pidfd_send_signal", false, |victim| {
        let pidfd = pidfd(victim.pid)?;
        call(libc::SYS_pidfd_send_signal, [pidfd.as_raw_fd().into(), SIGNAL, 0, 0])
    }),
    ("a signal by descriptor", false, |victim| {
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        let fd = theirs.as_raw_fd().into();
        let asynchronous = libc::O_ASYNC.into();
        call(libc::SYS_fcntl, [fd, libc::F_SETFL.into(), asynchronous, 0])?;
        call(libc::SYS_fcntl, [fd, 10 /* F_SETSIG */, SIGNAL, 0])?;
        call(libc::SYS_fcntl, [fd, libc::F_SETOWN.into(), victim.pid.into(), 0])?;
        ours.write_all(b"now")
    }),
    ("prlimit", false, |victim| {
        let core = libc::RLIMIT_CORE as i64;
        // SAFETY: written by the call below before it is read.
        let mut limit: libc::rlimit = unsafe { std::mem::zeroed() };
        let address = (&raw mut limit).expose_provenance() as i64;
        call(libc::SYS_prlimit64, [victim.pid.into(), core, 0, address])?;
        call(libc::SYS_prlimit64, [victim.pid.into(), core, address, 0])
    }),
    ("sched_setaffinity", false, |victim| {
        // SAFETY: plain bits.
        let mut cpus: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        let (size, address) = (size_of_val(&cpus) as i64, (&raw mut cpus).expose_provenance() as i64);
        call(libc::SYS_sched_getaffinity, [victim.pid.into(), size, address, 0])?;
        call(libc::SYS_sched_setaffinity, [victim.pid.into(), size, address, 0])
    }),
    ("setpriority", false, |victim| {
        // SAFETY: takes plain numbers.
        let priority = unsafe { libc::getpriority(libc::PRIO_PROCESS, victim.pid as u32) };
        call(libc::SYS_setpriority, [libc::PRIO_PROCESS.into(), victim.pid.into(), priority.into(), 0])
    }),
    ("a child of the host's", false, |_| clone(libc::CLONE_PARENT)),
    ("kcmp", false, |victim| {
        // SAFETY: takes nothing.
        let own = unsafe { libc::getpid() };
        call(libc::SYS_kcmp, [own.into(), victim.pid.into(), 1 /* KCMP_VM */, 0])
    }),
    ("a file of the host's, read", false, |victim| fs::read(format!("{}/secret", victim.directory)).map(drop)),
    ("a file of the host's, written", false, |victim| fs::write(format!("{}/made", victim.directory), "x")),
    ("a file of the host's, truncated", false, |victim| {
        OpenOptions::new().write(true).open(format!("{}/secret", victim.directory))?.set_len(6)
    }),
    ("chmod", false, |victim| {
        let path = format!("{}/secret", victim.directory);
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
    }),
    ("a Unix socket of the host's", false, |victim| {
        std::os::unix::net::UnixStream::connect(format!("{}/socket", victim.directory)).map(drop)
    }),
    ("a TCP socket", false, |_| std::net::TcpListener::bind("127.0.0.1:0").map(drop)),
    ("a descriptor open by mistake", false, |_| call(libc::SYS_fcntl, [LEFT_OPEN.into(), libc::F_GETFD.into(), 0, 0])),
    ("SysV shared memory", false, |_| {
        // SAFETY: takes plain numbers; the segment is ours, and would outlive us.
        done(
            unsafe { libc::shmctl(libc::shmget(libc::IPC_PRIVATE, 4096, 0o600), libc::IPC_RMID, ptr::null_mut()) }
                .into(),
        )
    }),
    ("perf_event_open", true, |victim| {
        let mut event = [0u64; 16];
        event[0] = 1 | 64 << 32; // a software event, in a structure of 64 bytes: the CPU clock
        let address = event.as_mut_ptr().expose_provenance() as i64;
        call(libc::SYS_perf_event_open, [address, victim.pid.into(), -1, -1])
    }),
    ("a user namespace", true, |_| clone(libc::CLONE_NEWUSER)),
    ("io_uring", true, |_| {
        let mut parameters = [0u64; 15];
        call(libc::SYS_io_uring_setup, [1, parameters.as_mut_ptr().expose_provenance() as i64, 0, 0])
    }),
    ("userfaultfd", true, |_| call(libc::SYS_userfaultfd, [1 /* UFFD_USER_MODE_ONLY */, 0, 0, 0])),
    ("bpf", true, |_| {
        let mut map = [2u32, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]; // an array of one element
        call(libc::SYS_bpf, [0 /* BPF_MAP_CREATE */, map.as_mut_ptr().expose_provenance() as i64, 64, 0])
    }),
    ("keyctl", true, |_| call(libc::SYS_keyctl, [1 /* KEYCTL_JOIN_SESSION_KEYRING */, 0, 0, 0])),
];

/// What an attacker writes into the word of its host.
const MARK: u64 = 0x6b72_616d;
/// One that does nothing to who does not ask for it.
const SIGNAL: i64 = libc::SIGURG as i64;
/// A descriptor that hosts here do not close at exec.
const LEFT_OPEN: i32 = 700;

fn done(result: i64) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn call(number: libc::c_long, with: [i64; 4]) -> io::Result<()> {
    let [a, b, c, d] = with;
    // SAFETY: each caller passes what the call takes.
    done(unsafe { libc::syscall(number, a, b, c, d, 0i64, 0i64) })
}

fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes plain numbers; what it opens is ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    // SAFETY: as above.
    done(fd).map(|()| unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Forks a child that ends at once.
fn clone(flags: i32) -> io::Result<()> {
    // SAFETY: as fork.
    match unsafe { libc::syscall(libc::SYS_clone, (flags | libc::SIGCHLD) as usize, 0usize, 0usize, 0usize, 0usize) } {
        // SAFETY: ends the child.
        0 => unsafe { libc::_exit(0) },
        child => done(child),
    }
}

/// Does to its host what it is asked for, and answers how that went.
pub fn attacks() {
    serve(&attach(), |request| {
        let text = String::from_utf8(request.to_vec()).expect("text");
        let words: Vec<_> = text.split(' ').collect();
        let number = |at: usize| words[at].parse().expect("a number");
        let victim =
            Victim { pid: number(0) as i32, address: number(1), fd: number(2) as i32, directory: words[3].into() };
        let attacked = ATTACKS[request.method() as usize].2(&victim);
        let errno = attacked.map_or_else(|e| e.raw_os_error().expect("what the system says"), |()| 0);
        request.reply_as(&errno).expect("answer");
    });
}

static SIGNALS: AtomicU64 = AtomicU64::new(0);

/// A host that has itself attacked by plugins of every grade; says how each attack went.
pub fn attacked() {
    extern "C" fn count(_: i32) {
        SIGNALS.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: the handler only counts.
    unsafe { libc::signal(SIGNAL as i32, count as *const () as usize) };
    let directory = Directory::new();
    let secret = directory.path().join("secret");
    fs::write(&secret, "secret").expect("write");
    let file = File::open(&secret).expect("open");
    let _socket = std::os::unix::net::UnixListener::bind(directory.socket()).expect("listen");
    // SAFETY: nothing has that number here.
    assert_eq!(unsafe { libc::dup2(file.as_raw_fd(), LEFT_OPEN) }, LEFT_OPEN);
    let word = AtomicU64::new(0);
    let pid = std::process::id();
    let victim =
        format!("{pid} {} {} {}", word.as_ptr().expose_provenance(), file.as_raw_fd(), directory.path().display());

    let (setup, program) = (Setup::default(), Program::new());
    let command = || program.command(&setup.command("attacks"));
    let mut grades = vec![("confined", confined(Confinement::new()))];
    if is_root() {
        grades.push(("confined as another user", confined(Confinement::new().user(NOBODY, NOBODY))));
    }
    grades.push(("unconfined", setup.host()));
    for (grade, host) in grades {
        let plugin = host.spawn(command()).expect("spawn");
        for (number, (name, ..)) in ATTACKS.iter().enumerate() {
            let errno: i32 = plugin.call(number as u32, victim.as_bytes(), SOON).expect("call").read().unwrap();
            say(format!("{grade}\t{name}\t{errno}"));
            let written = word.swap(0, Ordering::Relaxed);
            assert_eq!(written == MARK, errno == 0 && ["process_vm_writev", "/proc/PID/mem"].contains(name), "{name}");
        }
        finish(plugin);
        if grade != "unconfined" {
            assert_eq!(SIGNALS.load(Ordering::Relaxed), 0, "signals of a {grade} plugin");
        }
    }
    until("all signals came", || SIGNALS.load(Ordering::Relaxed) > 0);
}

/// Whether this kernel keeps processes of the same user apart already.
fn yama() -> bool {
    fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").is_ok_and(|scope| scope.trim() != "0")
}

#[test]
fn what_a_plugin_can_do_to_its_host_a_confined_one_cannot() {
    let _watchdog = watchdog();
    if !can_confine() {
        return;
    }
    for (who, said) in as_root_and_not("attacked", "") {
        let (mut open, mut refused, mut wrong) = (0, 0, Vec::new());
        for line in &said {
            let [grade, name, errno] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
            println!(
                "{who:5} {grade:25} {name:32} {}",
                match errno.parse().expect("a number") {
                    0 => "done".to_owned(),
                    errno => io::Error::from_raw_os_error(errno).to_string(),
                }
            );
            let (_, varies, _) = ATTACKS.iter().find(|attack| attack.0 == name).expect("an attack");
            match grade {
                "unconfined" if errno == "0" => open += 1,
                "unconfined" if *varies || who == "user" && yama() => {}
                "unconfined" => wrong.push(format!("{name} is refused to {who}, who may: {errno}")),
                _ if errno == "0" => wrong.push(format!("{name} is done by {who}, {grade}")),
                _ => refused += 1,
            }
        }
        assert_eq!(wrong, [""; 0]);
        assert_eq!(refused % ATTACKS.len(), 0);
        assert!(refused > 0 && open > 0);
        figure(
            "G4",
            &format!("attacks past the link, {who}: done by an unconfined plugin"),
            format!("{open} of {}", ATTACKS.len()),
        );
        figure(
            "G4",
            &format!("attacks past the link, {who}: refused to a confined plugin"),
            format!("{refused} of {refused}"),
        );
    }
}
