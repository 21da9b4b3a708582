//! How two processes come together, and every way in which they do not.

mod common;

use busway::{Config, Credentials, Deadline, Error, Host, JoinError, Plugin, Process, Result};
use common::directory::Directory;
use common::pipe::{Go, Reports, say, wait_for_go};
use common::procfs::exists;
use common::{SOON, Setup, argument, assert_err, attach, child_config, finish, roles, serve, signal, spawn, watchdog};
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

roles!(tells_pid, never_attaches, attaches_alone, attaches_twice, has_a_child, connects, connects_soon);

const PID: u32 = 1;

fn tells_pid() {
    serve(&attach(), |request| request.reply_as(&std::process::id()).expect("answer"));
}

fn pid_of(link: &busway::Link) -> u32 {
    link.call_as(PID, &[0u8; 0], SOON).expect("call")
}

#[test]
fn a_spawned_child_attaches_and_is_who_the_kernel_says() {
    let _watchdog = watchdog();
    let plugin = spawn("tells_pid");
    let peer = plugin.peer();
    assert_eq!((peer.uid, peer.gid), (Credentials::own().uid, Credentials::own().gid));
    assert_eq!(peer.pid, plugin.id());
    assert_eq!(pid_of(&plugin), plugin.id());
    finish(plugin);
}

#[test]
fn a_host_has_many_plugins_and_one_that_dies_concerns_no_other() {
    let _watchdog = watchdog();
    let plugins = [0; 4].map(|_| spawn("tells_pid"));
    signal(plugins[1].id(), libc::SIGKILL);
    assert_err!(plugins[1].call(PID, b"", Deadline::NEVER), Error::PeerDied { .. });
    for (n, plugin) in plugins.into_iter().enumerate() {
        if n != 1 {
            assert_eq!(pid_of(&plugin), plugin.id());
            finish(plugin);
        }
    }
}

/// The command, run by a shell; `"$@"` stands for it.
fn in_shell(command: &Command, script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.stdin(Stdio::null()).stdout(Stdio::null());
    shell
}

#[test]
fn a_wrapper_may_execute_or_spawn_the_plugin() {
    let _watchdog = watchdog();
    let setup = Setup::default();
    let command = setup.command("tells_pid");

    let executed = setup.host().spawn(in_shell(&command, r#"exec "$@""#)).unwrap();
    assert_eq!(executed.peer().pid, executed.id());
    assert_eq!(pid_of(&executed), executed.id());
    finish(executed);

    let spawned = setup.host().spawn(in_shell(&command, r#""$@"; exit $?"#)).unwrap();
    assert_ne!(spawned.peer().pid, spawned.id());
    assert_eq!(pid_of(&spawned), spawned.peer().pid);
    finish(spawned);
}

#[test]
fn when_the_plugin_behind_a_wrapper_dies_so_does_the_link() {
    let _watchdog = watchdog();
    let setup = Setup::default();
    let plugin = setup.host().spawn(in_shell(&setup.command("tells_pid"), r#""$@"; exec cat"#)).unwrap();
    signal(plugin.peer().pid, libc::SIGKILL);
    assert_err!(plugin.recv(Deadline::NEVER), Error::PeerDied { .. });
}

fn exit_status(spawned: Result<Process>) -> ExitStatus {
    match spawned {
        Err(Error::Join(JoinError::ChildExited { status })) => status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_program_that_is_no_plugin_is_told_by_its_exit_status() {
    let _watchdog = watchdog();
    let host = Host::new(Config::default());
    let run = |script: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null());
        exit_status(host.spawn(shell))
    };
    assert_eq!(run("exec true").code(), Some(0));
    assert_eq!(run("exec cat").code(), Some(0), "its input ends at once");
    assert_eq!(run("exit 3").code(), Some(3));
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(run("kill -9 $$").signal(), Some(libc::SIGKILL));
    assert_err!(host.spawn(Command::new("/nonexistent/program")), Error::Io { .. });
}

/// Lives, and attaches to nobody.
fn never_attaches() {
    say(std::process::id());
    wait_for_go();
}

#[test]
fn a_child_that_never_attaches_is_killed_and_reaped() {
    let _watchdog = watchdog();
    let mut patience = Duration::from_millis(20);
    loop {
        let setup = Setup::default();
        let mut command = setup.command("never_attaches");
        let (mut reports, _go) = (Reports::of(&mut command), Go::of(&mut command));
        assert_err!(setup.host().patience(patience).spawn(command), Error::Join(JoinError::NobodyInTime));
        // It may have been killed before it came to say who it is.
        if let Some(pid) = reports.next() {
            assert!(!exists(pid.parse().expect("a pid")), "neither running nor a zombie");
            assert_eq!(reports.next(), None);
            return;
        }
        patience *= 2;
    }
}

/// How attaching failed, as one word.
fn attached(link: Result<busway::Link>) -> &'static str {
    match link {
        Ok(_) => "attached",
        Err(Error::Join(JoinError::NotAPlugin)) => "NotAPlugin",
        Err(Error::Join(JoinError::Refused { .. })) => "Refused",
        Err(Error::Join(_)) => "another join error",
        Err(Error::Io { .. }) => "Io",
        Err(_) => "another error",
    }
}

fn attaches_alone() {
    say(attached(Plugin::attach_with(&child_config())));
}

#[test]
fn without_a_host_there_is_nothing_to_attach_to() {
    let _watchdog = watchdog();
    for socket in [None, Some(""), Some("three"), Some("-1"), Some("0"), Some("1"), Some("700"), Some("99999999999")] {
        let mut command = Setup::default().command("attaches_alone");
        command.env_remove("BUSWAY_SOCKET").envs(socket.map(|socket| ("BUSWAY_SOCKET", socket)));
        let mut reports = Reports::of(&mut command);
        let mut child = command.spawn().unwrap();
        assert_eq!(reports.expect(), "NotAPlugin", "BUSWAY_SOCKET={socket:?}");
        assert!(child.wait().unwrap().success());
    }
}

fn attaches_twice() {
    assert!(Plugin::is_spawned());
    let link = attach();
    say(attached(Plugin::attach()));
    serve(&link, |_| ());
}

#[test]
fn a_process_attaches_once() {
    let _watchdog = watchdog();
    let setup = Setup::default();
    let mut command = setup.command("attaches_twice");
    let mut reports = Reports::of(&mut command);
    let plugin = setup.host().spawn(command).unwrap();
    assert_eq!(reports.expect(), "NotAPlugin");
    finish(plugin);
}

/// Its own child inherits the environment, and must not take it for its own.
fn has_a_child() {
    let link = attach();
    let mut command = Setup::default().command("attaches_alone");
    let status = command.stdout(Stdio::inherit()).status().expect("run a child");
    assert!(status.success());
    serve(&link, |_| ());
}

#[test]
fn a_child_of_a_plugin_is_no_plugin_of_the_same_host() {
    let _watchdog = watchdog();
    let setup = Setup::default();
    let mut command = setup.command("has_a_child");
    let mut reports = Reports::of(&mut command);
    let plugin = setup.host().spawn(command).unwrap();
    assert_eq!(reports.expect(), "NotAPlugin");
    finish(plugin);
}

/// Connects to the host that listens at the path it is told, and serves.
fn connects() {
    match Plugin::connect(argument(), &child_config()) {
        Ok(link) => serve(&link, |request| request.reply_as(&std::process::id()).expect("answer")),
        refused => say(attached(refused)),
    }
}

/// As [`connects`], but says that it is there first.
fn connects_soon() {
    say("here");
    wait_for_go();
    connects();
}

#[test]
fn a_listening_host_admits_whom_it_wants() {
    let _watchdog = watchdog();
    let (directory, setup) = (Directory::new(), Setup::default());
    let listener = setup.host().listen(directory.socket()).unwrap();
    assert_eq!(listener.path(), directory.socket());
    let connect = || {
        let mut command = setup.command_with("connects", directory.socket().display());
        let reports = Reports::of(&mut command);
        (command.spawn().expect("spawn"), reports)
    };
    let mut admitted = Vec::new();
    for _ in 0..3 {
        let (child, reports) = connect();
        let guest = listener.accept(SOON).unwrap();
        assert_eq!(guest.credentials().pid, child.id());
        assert_eq!(guest.credentials().uid, Credentials::own().uid);
        admitted.push((guest.admit().unwrap(), child, reports));
    }
    let (mut refused, mut reports) = connect();
    listener.accept(SOON).unwrap().refuse();
    assert_eq!(reports.expect(), "Refused");
    assert!(refused.wait().unwrap().success());

    let (mut hung_up, mut reports) = connect();
    drop(listener.accept(SOON).unwrap());
    assert_eq!(reports.expect(), "another join error", "a guest that is dropped is hung up on");
    assert!(hung_up.wait().unwrap().success());

    drop(listener);
    assert!(!directory.socket().exists(), "the file goes with its listener");
    for (link, mut child, _reports) in admitted {
        assert_eq!(pid_of(&link), child.id(), "links outlive their listener");
        link.close(SOON);
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn connecting_where_nobody_listens_is_an_error() {
    let _watchdog = watchdog();
    let directory = Directory::new();
    let connect = || Plugin::connect(directory.socket(), &Config::default());
    assert_err!(connect(), Error::Io { .. });
    drop(UnixListener::bind(directory.socket()).unwrap());
    assert_err!(connect(), Error::Io { .. });
    let long = directory.path().join("x".repeat(200));
    assert_err!(Plugin::connect(&long, &Config::default()), Error::Io { .. });
    assert_err!(Host::new(Config::default()).listen(&long), Error::Io { .. });
}

#[test]
fn a_listener_replaces_what_a_dead_one_left_and_nothing_else() {
    let _watchdog = watchdog();
    let (directory, host) = (Directory::new(), Setup::default().host());
    let path = directory.socket();
    let alone = |path: &Path| assert_err!(host.listen(path), Error::Io { .. });

    let listener = host.listen(&path).unwrap();
    alone(&path);
    drop(listener);

    // A socket that was never removed, as after a SIGKILL.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(host.listen(&path).unwrap());
    assert!(!path.exists());

    fs::write(&path, "precious").unwrap();
    alone(&path);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious", "a file that is no socket is not touched");
    fs::remove_file(&path).unwrap();

    // A live listener of another kind.
    let stream = UnixListener::bind(&path).unwrap();
    alone(&path);
    drop(stream);
}

#[test]
fn a_listener_waits_until_its_deadline_and_survives_clients_that_say_nothing() {
    let _watchdog = watchdog();
    let (directory, setup) = (Directory::new(), Setup::default());
    let listener = setup.host().patience(Duration::from_millis(5)).listen(directory.socket()).unwrap();
    assert_err!(listener.accept(Duration::from_millis(5)), Error::Join(JoinError::NobodyInTime));

    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
    let silent = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    connect(&silent, &SocketAddrUnix::new(directory.socket()).unwrap()).unwrap();
    assert_err!(listener.accept(SOON), Error::Join(JoinError::NobodyInTime));
    drop(silent);

    let patient = setup.host().listen(directory.path().join("patient")).unwrap();
    let mut command = setup.command_with("connects_soon", patient.path().display());
    let (mut reports, mut go) = (Reports::of(&mut command), Go::of(&mut command));
    let mut child = command.spawn().unwrap();
    assert_eq!(reports.expect(), "here");
    thread::scope(|threads| {
        let accepted = threads.spawn(|| patient.accept(Deadline::NEVER));
        go.go();
        let link = accepted.join().unwrap().unwrap().admit().unwrap();
        assert_eq!(pid_of(&link), child.id());
    });
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_geometry_out_of_bounds_is_an_error_and_starts_nothing() {
    let _watchdog = watchdog();
    let mut setup = Setup::default();
    setup.geometry.entries = 100;
    let mut command = setup.command("never_attaches");
    let mut reports = Reports::of(&mut command);
    assert_err!(setup.host().spawn(command), Error::Join(JoinError::Geometry { .. }));
    assert_eq!(reports.next(), None, "no child");
}
