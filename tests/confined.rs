//! Confined plugins: they serve like others, and what a plugin can do to its host besides the link, they cannot.

#[path = "confined/attacks.rs"]
mod attacks;
mod common;

use attacks::{ATTACKS, attacked, attacks};
use busway::{Confinement, Error, Grade, Host, JoinError, Plugin, Process};
use common::directory::Directory;
use common::fork::in_fork;
use common::payload::{bytes, checksum};
use common::pipe::{Reports, say};
use common::user::{NOBODY, Program, as_root_and_not, is_root};
use common::{
    SOON, Setup, argument, assert_err, attach, child_config, emulated, finish, roles, serve, signal, skip, until,
    watchdog,
};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
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
