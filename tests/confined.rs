//! Confined plugins: they serve like others, and what a plugin can do to its host besides the link, they cannot.

mod common;

use busway::{Confinement, Error, Grade, Host, JoinError, Plugin, Process};
use common::directory::Directory;
use common::figures::figure;
use common::fork::in_fork;
use common::payload::{bytes, checksum};
use common::pipe::{Reports, say};
use common::user::{NOBODY, Program, as_root_and_not, is_root};
use common::{
    SOON, Setup, argument, assert_err, attach, child_config, emulated, finish, roles, serve, signal, skip, until,
    watchdog,
};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{env, ptr, thread};

roles!(
    serves,
    attacks,
    attacked,
    without_landlock,
    grades,
    connects,
    says_limits,
    passes_on,
    accomplice,
    hides,
    calls_as_32_bit
);

const ECHO: u32 = 1;
const EVENT: u32 = 2;
const EVENTS: u32 = 3;
const FORK: u32 = 4;
const THREADS: u32 = 5;
const NESTED: u32 = 6;
const ASYNC: u32 = 7;
const BATCH: u32 = 8;

/// Whether plugins can be confined here.
fn can_confine() -> bool {
    if emulated() {
        skip("an emulator has neither seccomp nor Landlock");
        return false;
    }
    // SAFETY: without attributes it only answers.
    let landlock = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<()>(), 0usize, 1usize) };
    if landlock < 1 {
        skip("no Landlock here");
    }
    landlock >= 1
}

fn confined(confinement: Confinement) -> Host {
    Setup::default().host().confine(confinement)
}

// ---- a confined plugin serves

/// Answers in every way there is.
fn serves() {
    let link = attach();
    let events = AtomicU64::new(0);
    let handler = |request: busway::Request<'_>| {
        let payload = request.to_vec();
        match request.method() {
            ECHO => request.reply(&payload).expect("answer"),
            EVENT => drop(events.fetch_add(checksum(&payload), Ordering::Relaxed)),
            EVENTS => request.reply_as(&events.load(Ordering::Relaxed)).expect("answer"),
            FORK => {
                signal(std::process::id(), 0);
                in_fork(|| assert!(matches!(link.call(ECHO, b"", SOON), Err(Error::Forked))));
                let status = Command::new("/bin/sh").args(["-c", "exit 5"]).status().expect("run a shell");
                request.reply_as(&status.code().expect("it exits")).expect("answer");
            }
            THREADS => {
                let sum = thread::scope(|threads| {
                    let threads: Vec<_> = (0..4).map(|_| threads.spawn(|| checksum(&payload))).collect();
                    threads.into_iter().fold(0u64, |sum, each| sum.wrapping_add(each.join().expect("a thread")))
                });
                request.reply_as(&sum).expect("answer");
            }
            NESTED => {
                let reply = request.call(ECHO, &payload, SOON).expect("a nested call").to_vec();
                request.reply(&reply).expect("answer");
            }
            ASYNC => {
                let reply = smol::block_on(async { link.call_async(ECHO, &payload, SOON).await.map(|r| r.to_vec()) });
                request.reply(&reply.expect("a call")).expect("answer");
            }
            _ => {
                let mut batch = link.batch();
                (0..20).for_each(|_| batch.send(EVENT, &payload, SOON).expect("gather"));
                batch.flush();
                request.reply(b"").expect("answer");
            }
        }
    };
    thread::scope(|threads| {
        threads.spawn(|| serve(&link, handler));
        serve(&link, handler);
    });
}

/// Everything that one can ask of a plugin.
fn serves_everything(plugin: &Process) {
    thread::scope(|threads| {
        // Its own calls.
        threads.spawn(|| {
            plugin.serve(|request| {
                let payload = request.to_vec();
                if request.method() == ECHO {
                    request.reply(&payload).expect("answer");
                }
            })
        });
        for len in [0, 32, 33, 1000, 60_000] {
            let payload = bytes(len as u64, len);
            for method in [ECHO, NESTED, ASYNC] {
                assert_eq!(plugin.call(method, &payload, SOON).expect("call").to_vec(), payload, "{method}");
            }
            let sum = plugin.call(THREADS, &payload, SOON).expect("call").read::<u64>().unwrap();
            assert_eq!(sum, checksum(&payload).wrapping_mul(4));
            plugin.send(EVENT, &payload, SOON).expect("send");
            plugin.call(BATCH, &payload, SOON).expect("call");
        }
        let sent = [0, 32, 33, 1000, 60_000].map(|len| checksum(&bytes(len as u64, len)));
        let sent = sent.into_iter().fold(0, u64::wrapping_add);
        // The other thread of the plugin may have taken the last one, and not be done with it.
        until("every event was served", || plugin.call_as::<u64>(EVENTS, &[0u8; 0], SOON).expect("call") == sent);
        assert_eq!(plugin.call(FORK, b"", SOON).expect("call").read::<i32>().unwrap(), 5);
        plugin.close(SOON);
    });
}

#[test]
fn a_confined_plugin_serves_like_any_other() {
    let _watchdog = watchdog();
    if !can_confine() {
        return;
    }
    for idle in common::IDLE_MODES {
        let setup = Setup::default().idle(idle);
        let plugin = setup.host().confine(Confinement::new()).spawn(setup.command("serves")).expect("spawn");
        assert!(matches!(plugin.grade(), Grade::Confined { other_user: false, seccomp: true, landlock: 1.. }));
        serves_everything(&plugin);
        finish(plugin);
    }
    if !is_root() {
        return skip("not root: not as another user");
    }
    let program = Program::new();
    let host = confined(Confinement::new().user(NOBODY, NOBODY));
    let plugin = host.spawn(program.command(&Setup::default().command("serves"))).expect("spawn");
    assert!(matches!(plugin.grade(), Grade::Confined { other_user: true, seccomp: true, landlock: 1.. }));
    assert_eq!((plugin.peer().uid, plugin.peer().gid), (NOBODY, NOBODY));
    serves_everything(&plugin);
    finish(plugin);
}

// ---- attacks

/// What an attacker knows of its host.
struct Victim {
    pid: i32,
    /// A word that the host looks at.
    address: usize,
    /// A descriptor that the host has open.
    fd: i32,
    /// A directory of the host's.
    directory: String,
}

type Attack = fn(&Victim) -> io::Result<()>;

/// What each does to a host of the same user, by name; whether the kernel may refuse it to everybody who is not privileged,
/// as it can be set to; and how.
const ATTACKS: &[(&str, bool, Attack)] = &[
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
        let address = (&raw mut limit).addr() as i64;
        call(libc::SYS_prlimit64, [victim.pid.into(), core, 0, address])?;
        call(libc::SYS_prlimit64, [victim.pid.into(), core, address, 0])
    }),
    ("sched_setaffinity", false, |victim| {
        // SAFETY: plain bits.
        let mut cpus: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        let (size, address) = (size_of_val(&cpus) as i64, (&raw mut cpus).addr() as i64);
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
    ("SysV shared memory", false, |_| call(libc::SYS_shmget, [libc::IPC_PRIVATE.into(), 4096, 0o600, 0])),
    ("perf_event_open", true, |victim| {
        let mut event = [0u64; 16];
        event[0] = 1 | 64 << 32; // a software event, in a structure of 64 bytes: the CPU clock
        let address = event.as_mut_ptr().addr() as i64;
        call(libc::SYS_perf_event_open, [address, victim.pid.into(), -1, -1])
    }),
    ("a user namespace", true, |_| clone(libc::CLONE_NEWUSER)),
    ("io_uring", true, |_| {
        let mut parameters = [0u64; 15];
        call(libc::SYS_io_uring_setup, [1, parameters.as_mut_ptr().addr() as i64, 0, 0])
    }),
    ("userfaultfd", true, |_| call(libc::SYS_userfaultfd, [1 /* UFFD_USER_MODE_ONLY */, 0, 0, 0])),
    ("bpf", true, |_| {
        let mut map = [2u32, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]; // an array of one element
        call(libc::SYS_bpf, [0 /* BPF_MAP_CREATE */, map.as_mut_ptr().addr() as i64, 64, 0])
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
fn attacks() {
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
fn attacked() {
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
    let victim = format!("{pid} {} {} {}", word.as_ptr().addr(), file.as_raw_fd(), directory.path().display());

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
        let (mut open, mut refused) = (0, 0);
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
                "unconfined" => assert!(*varies || who == "user" && yama(), "{name} as {who}, who may: {errno}"),
                _ => {
                    assert_ne!(errno, "0", "{name} by {who}, {grade}");
                    refused += 1;
                }
            }
        }
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

// ---- what a system lacks

/// Makes this process's kernel one without Landlock.
fn forbid_landlock() {
    let number = libc::SYS_landlock_create_ruleset as u32;
    let instruction = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let program = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number, 0, 1),
        instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32, 0, 0),
        instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: takes plain numbers, and a program that the kernel copies.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let flags = libc::SECCOMP_FILTER_FLAG_TSYNC;
        assert_eq!(libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &program), 0);
    }
}

fn without_landlock() {
    let program = Program::new();
    let setup = Setup::default();
    let command = |role| program.command(&setup.command(role));
    forbid_landlock();
    let refused = confined(Confinement::new()).spawn(command("serves"));
    assert!(matches!(refused, Err(Error::Unsupported { what }) if what.contains("Landlock")), "{refused:?}");

    let plugin = confined(Confinement::new().best_effort()).spawn(command("serves")).expect("spawn");
    assert!(matches!(plugin.grade(), Grade::Partly { missing } if missing.contains("Landlock")), "{plugin:?}");
    serves_everything(&plugin);
    finish(plugin);

    // The filter alone still refuses what it can see.
    let plugin = confined(Confinement::new().best_effort()).spawn(command("attacks")).expect("spawn");
    let victim =
        format!("{} {} 0 {}", std::process::id(), 4096, program.path().parent().expect("a directory").display());
    for (number, (name, ..)) in ATTACKS.iter().enumerate() {
        if name.starts_with("/proc/") || name.starts_with("a file") {
            continue;
        }
        let errno: i32 = plugin.call(number as u32, victim.as_bytes(), SOON).expect("call").read().unwrap();
        assert_ne!(errno, 0, "{name}");
    }
    finish(plugin);

    if is_root() {
        let host = confined(Confinement::new().user(NOBODY, NOBODY).best_effort());
        let plugin = host.spawn(command("serves")).expect("spawn");
        assert_eq!(plugin.grade(), Grade::Confined { other_user: true, seccomp: true, landlock: 0 });
        serves_everything(&plugin);
        finish(plugin);
    } else {
        let another = confined(Confinement::new().user(1, 1)).spawn(command("serves"));
        assert!(matches!(another, Err(Error::Unsupported { what }) if what.contains("another user")), "{another:?}");
    }
}

#[test]
fn what_a_system_lacks_is_an_error_or_a_lower_grade() {
    let _watchdog = watchdog();
    if !can_confine() {
        return;
    }
    as_root_and_not("without_landlock", "");
}

// ---- grades

fn connects() {
    serve(&Plugin::connect(argument(), &child_config()).expect("connect"), |_| ());
}

/// Guests, plugins of commands that change the user, and wrappers.
fn grades() {
    let (directory, program, setup) = (Directory::new(), Program::new(), Setup::default());
    let listener = setup.host().listen(directory.socket()).expect("listen");
    fs::set_permissions(directory.socket(), fs::Permissions::from_mode(0o777)).expect("let everybody connect");
    let as_nobody = |mut command: Command| {
        command.uid(NOBODY).gid(NOBODY);
        command
    };
    let guest = |mut command: Command| {
        let mut child = command.spawn().expect("spawn");
        let link = listener.accept(SOON).expect("accept").admit().expect("admit");
        let grade = link.grade();
        link.close(SOON);
        assert!(child.wait().expect("wait").success());
        grade
    };
    let connects = || program.command(&setup.command_with("connects", directory.socket().display()));
    assert_eq!(guest(connects()), Grade::Unconfined);

    let serves = || program.command(&setup.command("serves"));
    let plugin = setup.host().spawn(serves()).expect("spawn");
    assert_eq!(plugin.grade(), Grade::Unconfined);
    finish(plugin);
    if is_root() {
        let other = Grade::Confined { other_user: true, seccomp: false, landlock: 0 };
        assert_eq!(guest(as_nobody(connects())), other);
        let plugin = setup.host().spawn(as_nobody(serves())).expect("spawn");
        assert_eq!(plugin.grade(), other);
        finish(plugin);
    }

    // The plugin behind a wrapper is as confined as the wrapper.
    let mut wrapped = Command::new("sh");
    wrapped.args(["-c", r#""$@"; exit $?"#, "sh"]).arg(program.path()).args(serves().get_args());
    wrapped.envs(serves().get_envs().filter_map(|(name, value)| Some((name, value?)))).stdout(Stdio::null());
    let plugin = confined(Confinement::new().allow_read(program.path())).spawn(wrapped).expect("spawn");
    assert_ne!(plugin.peer().pid, plugin.id());
    assert!(matches!(plugin.grade(), Grade::Confined { seccomp: true, .. }));
    serves_everything(&plugin);
    finish(plugin);
}

#[test]
fn a_link_reports_its_grade() {
    let _watchdog = watchdog();
    if can_confine() {
        as_root_and_not("grades", "");
    }
}

/// Hands its own socket to an accomplice that is not confined, who attaches in its stead. Its standard input leads there.
fn passes_on() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let socket: i32 = env::var("BUSWAY_SOCKET").expect("a plugin").parse().expect("a number");
    // SAFETY: the host left it open for us.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [std::os::fd::AsFd::as_fd(&socket)];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(io::stdin(), &[io::IoSlice::new(b"x")], &mut control, SendFlags::empty()).expect("pass it on");
    common::pipe::wait_for_go();
}

fn accomplice() {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(io::stdin(), &mut [io::IoSliceMut::new(&mut [0])], &mut control, RecvFlags::empty()).expect("a socket");
    let Some(RecvAncillaryMessage::ScmRights(mut fds)) = control.drain().next() else { panic!("no socket") };
    let socket = fds.next().expect("a socket");
    // SAFETY: no other thread of this role looks at the environment.
    unsafe { env::set_var("BUSWAY_SOCKET", socket.as_raw_fd().to_string()) };
    std::mem::forget(socket);
    say(match Plugin::attach_with(&child_config()) {
        Err(Error::Join(JoinError::Refused { .. })) => "refused".to_owned(),
        other => format!("{other:?}"),
    });
}

#[test]
fn nobody_else_attaches_in_the_place_of_a_confined_child() {
    let _watchdog = watchdog();
    if !can_confine() {
        return;
    }
    let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
    let setup = Setup::default();
    let mut accomplice = setup.command("accomplice");
    let mut reports = Reports::of(&mut accomplice);
    let mut accomplice = accomplice.stdin(OwnedFd::from(one)).spawn().unwrap();
    let mut command = setup.command("passes_on");
    command.stdin(OwnedFd::from(other));
    assert_err!(confined(Confinement::new()).spawn(command), Error::Join(JoinError::Identity { .. }));
    assert_eq!(reports.expect(), "refused");
    assert!(accomplice.wait().unwrap().success());
}

// ---- what is allowed

/// Whether this process has or can gain any privileges.
fn privileges() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("read");
    let value = |name| status.lines().find_map(|line| line.strip_prefix(name)).expect("a line").trim();
    value("NoNewPrivs:") != "1"
        || ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"].iter().any(|set| value(set).contains(|c| c != '0'))
}

/// Says what it may have and open.
fn says_limits() {
    let link = attach();
    let limit = |resource| {
        // SAFETY: written by the call before it is read.
        let mut limit: libc::rlimit = unsafe { std::mem::zeroed() };
        // SAFETY: writes the limit that is passed.
        unsafe { libc::getrlimit(resource, &mut limit) };
        [limit.rlim_cur, limit.rlim_max]
    };
    serve(&link, |request| {
        let path = String::from_utf8(request.to_vec()).expect("a path");
        let (read, made) =
            Path::new(&path).parent().map(|parent| (parent.join("read"), parent.join("write"))).expect("a parent");
        let answer = [
            limit(libc::RLIMIT_CORE)[1],
            limit(libc::RLIMIT_NOFILE)[1],
            limit(libc::RLIMIT_AS)[1],
            u64::from(fs::read(read.join("file")).is_ok()),
            u64::from(fs::write(read.join("file"), "").is_ok()),
            u64::from(fs::write(made.join("file"), "written").is_ok()),
            u64::from(fs::read(&path).is_ok()),
            u64::from(std::net::TcpListener::bind("127.0.0.1:0").is_ok()),
            u64::from(std::os::unix::net::UnixDatagram::unbound().is_ok()),
            u64::from(privileges()),
            // SAFETY: an error, if it is not open.
            unsafe { libc::fcntl(argument().parse().expect("a number"), libc::F_GETFD) } as u64,
        ];
        request.reply_as(&answer).expect("answer");
    });
}

#[test]
fn what_a_host_allows_is_allowed_and_no_more() {
    let _watchdog = watchdog();
    if !can_confine() {
        return;
    }
    let directory = Directory::new();
    let [read, write] = ["read", "write"].map(|name| directory.path().join(name));
    [&read, &write].into_iter().for_each(|path| fs::create_dir(path).unwrap());
    fs::write(read.join("file"), "to read").unwrap();
    fs::write(directory.path().join("secret"), "secret").unwrap();
    let inherited = OwnedFd::from(File::open(&read).unwrap());
    let number = inherited.as_raw_fd();

    let confinement = Confinement::new().allow_read(&read).allow_write(&write).allow_network().inherit(inherited);
    let confinement = confinement.max_files(64).max_memory(8 << 30);
    let setup = Setup::default();
    let plugin = confined(confinement).spawn(setup.command_with("says_limits", number)).unwrap();
    let path = directory.path().join("secret");
    let answer: [u64; 11] = plugin.call(0, path.to_str().unwrap().as_bytes(), SOON).unwrap().read().unwrap();
    assert_eq!(answer, [1, 64, 8 << 30, 1, 0, 1, 0, 1, 0, 0, 0]);
    assert_eq!(fs::read(write.join("file")).unwrap(), b"written");
    finish(plugin);

    assert_err!(
        confined(Confinement::new().allow_read("/nonexistent")).spawn(setup.command("serves")),
        Error::Io { .. }
    );
    assert_err!(confined(Confinement::new()).spawn(Command::new("/nonexistent/program")), Error::Io { .. });
}

/// A program that ends with 7 if it could do what runtimes do, and not what it should not.
const PYTHON: &str = r#"
import asyncio, multiprocessing, os, subprocess, sys, threading
threads = [threading.Thread(target=lambda: sum(range(1000))) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
asyncio.run(asyncio.sleep(0.001))
assert subprocess.run([sys.executable, "-c", "raise SystemExit(3)"]).returncode == 3
open("/dev/null", "w").write("x")
for refused in (lambda: open(sys.argv[1]), lambda: os.kill(os.getppid(), 0), lambda: __import__("socket").socket()):
    try:
        refused()
    except PermissionError:
        continue
    raise SystemExit("not refused")
raise SystemExit(7)
"#;

#[test]
fn language_runtimes_start_confined() {
    let _watchdog = watchdog();
    if !can_confine() {
        return;
    }
    let directory = Directory::new();
    let secret = directory.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let runtimes: [(&str, &[&str]); 5] = [
        ("python3", &["-c", PYTHON]),
        ("node", &["-e", "require('fs').readFile('/etc/passwd', () => setTimeout(() => process.exit(7), 1))"]),
        ("java", &["-version"]),
        ("perl", &["-e", "exit(7) if fork() ? wait() > 0 : 0"]),
        ("sh", &["-c", "ls /usr | cat >/dev/null && exit 7"]),
    ];
    for (name, arguments) in runtimes {
        let program = Path::new("/usr/bin").join(name);
        if !program.exists() {
            skip(format!("no {}", program.display()));
            continue;
        }
        let mut command = Command::new(program);
        command.args(arguments).arg(&secret).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let code = if name == "java" { 0 } else { 7 };
        match confined(Confinement::new()).spawn(command) {
            Err(Error::Join(JoinError::ChildExited { status })) => assert_eq!(status.code(), Some(code), "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// Asks who it is by the calls of 32-bit programs, whose numbers mean something else.
fn calls_as_32_bit() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: getpid, which touches nothing.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("eax") 20 => _, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
}

#[test]
fn the_calls_of_another_architecture_are_no_way_round() {
    let _watchdog = watchdog();
    if !can_confine() || !cfg!(target_arch = "x86_64") {
        return;
    }
    use std::os::unix::process::ExitStatusExt;
    match confined(Confinement::new()).spawn(Setup::default().command("calls_as_32_bit")) {
        // The latter where the kernel has no such calls.
        Err(Error::Join(JoinError::ChildExited { status })) => {
            assert!([Some(libc::SIGSYS), Some(libc::SIGSEGV)].contains(&status.signal()), "{status}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_host_can_hide_its_memory() {
    let _watchdog = watchdog();
    // In a process of its own: it is for ever.
    let mut command = Setup::default().command("hides");
    let mut reports = Reports::of(&mut command);
    let mut child = command.spawn().unwrap();
    assert_eq!(reports.expect(), "0");
    assert!(child.wait().unwrap().success());
}

fn hides() {
    busway::hide_memory().expect("hide");
    // SAFETY: takes plain numbers.
    say(unsafe { libc::prctl(libc::PR_GET_DUMPABLE) });
}
