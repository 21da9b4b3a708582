//! What a plugin can do to the memory that it shares with its host, by every system call that takes a file or a mapping of it:
//! each is refused, or does no harm. Its part is written out here, packet by packet, so that it can try at each step.

mod common;

use busway::{Error, JoinError, Plugin};
use common::directory::Directory;
use common::figures::figure;
use common::handshake::{ACK, GO, HELLO, OFFER, REFUSE, packet, receive, send, seqpacket};
use common::pipe::{Go, Reports, say, wait_for_go};
use common::procfs::regions;
use common::user::{NOBODY, Program, as_root_and_not, is_root};
use common::{SOON, Setup, argument, child_config, emulated, roles, serve, skip, watchdog};
use rustix::fs::{FallocateFlags, Mode, SealFlags, fallocate, fchmod, fcntl_add_seals, fcntl_get_seals, ftruncate};
use rustix::io::{Errno, pwrite};
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap, mprotect, munmap};
use rustix::net::{SocketAddrUnix, connect};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::{io, ptr};

roles!(host, client, connects, hosts_early, seals_early);

/// A region as the attacker has it.
struct Target {
    file: File,
    len: usize,
    /// As a plugin maps it: its own region and the bells for writing.
    map: *mut c_void,
    /// A mapping for reading, made when the descriptor had come.
    read_only: *mut c_void,
    host: i32,
}

type Attack = fn(&Target) -> io::Result<()>;

const ATTACKS: &[(&str, Attack)] = &[
    ("truncate to 0", |of| Ok(ftruncate(&of.file, 0)?)),
    ("truncate to half", |of| Ok(ftruncate(&of.file, of.len as u64 / 2)?)),
    ("grow", |of| Ok(ftruncate(&of.file, of.len as u64 * 2)?)),
    ("allocate beyond the end", |of| Ok(fallocate(&of.file, FallocateFlags::empty(), 0, of.len as u64 * 2)?)),
    ("truncate by path", |of| {
        let path = std::ffi::CString::new(own_path(of)).expect("a path");
        // SAFETY: a path that ends.
        done(unsafe { libc::truncate(path.as_ptr(), 0) })
    }),
    ("open with O_TRUNC", |of| OpenOptions::new().write(true).truncate(true).open(own_path(of)).map(drop)),
    ("punch a hole", |of| {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&of.file, hole, 0, of.len as u64)?)
    }),
    ("MADV_REMOVE", |of| advise(of.map, of.len, Advice::LinuxRemove)),
    ("MADV_REMOVE, mapped for reading", |of| advise(of.read_only, of.len, Advice::LinuxRemove)),
    ("MADV_DONTNEED", |of| advise(of.map, of.len, Advice::LinuxDontNeed)),
    ("map for writing", |of| map_for_writing(&of.file)),
    ("map for reading, then mprotect", |of| {
        let map = map(&of.file, of.len, ProtFlags::READ)?;
        // SAFETY: our own fresh mapping.
        let changed = unsafe { mprotect(map, of.len, MprotectFlags::READ | MprotectFlags::WRITE) };
        // SAFETY: as above; nobody uses it.
        unsafe { munmap(map, of.len) }?;
        Ok(changed?)
    }),
    ("mprotect an older mapping", |of| {
        // SAFETY: nobody relies on its being read-only.
        Ok(unsafe { mprotect(of.read_only, of.len, MprotectFlags::READ | MprotectFlags::WRITE) }?)
    }),
    ("write", |of| Ok(pwrite(&of.file, &[0; 64], 0).map(drop)?)),
    ("open anew, map for writing", |of| {
        map_for_writing(&OpenOptions::new().read(true).write(true).open(own_path(of))?)
    }),
    ("/proc/HOST/fd, map for writing", |of| through(of, "fd")),
    ("/proc/HOST/map_files, map for writing", |of| through(of, "map_files")),
    ("fchmod 0", |of| Ok(fchmod(&of.file, Mode::empty())?)),
];

/// What a plugin may do before its host has admitted it: with its own region and the bells whatever does not change their
/// size. The host has not looked at them yet, and takes no page for granted when it does.
const EARLY: &[&str] = &[
    "punch a hole",
    "MADV_REMOVE",
    "MADV_REMOVE, mapped for reading",
    "map for writing",
    "map for reading, then mprotect",
    "write",
    "open anew, map for writing",
    "/proc/HOST/fd, map for writing",
    "/proc/HOST/map_files, map for writing",
];

/// What does no harm to anybody at any time, and why.
const HARMLESS: &[(&str, &str)] = &[
    ("MADV_DONTNEED", "its own page table"),
    ("mprotect an older mapping", "what it may write anyway"),
    ("fchmod 0", "the host has its mappings"),
];

fn done(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn advise(map: *mut c_void, len: usize, advice: Advice) -> io::Result<()> {
    // SAFETY: our own mapping, whose bytes nobody here relies on.
    Ok(unsafe { madvise(map, len, advice) }?)
}

fn own_path(of: &Target) -> String {
    format!("/proc/self/fd/{}", of.file.as_raw_fd())
}

fn map(file: &File, len: usize, access: ProtFlags) -> io::Result<*mut c_void> {
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    Ok(unsafe { mmap(ptr::null_mut(), len, access, MapFlags::SHARED, file, 0) }?)
}

fn map_for_writing(file: &File) -> io::Result<()> {
    let map = map(file, 4096, ProtFlags::READ | ProtFlags::WRITE)?;
    // SAFETY: the mapping just made, which nobody uses.
    Ok(unsafe { munmap(map, 4096) }?)
}

/// By a descriptor or a mapping of the host's.
fn through(of: &Target, directory: &str) -> io::Result<()> {
    let inode = of.file.metadata()?.ino();
    let mut last = Err(io::ErrorKind::NotFound.into());
    for entry in fs::read_dir(format!("/proc/{}/{directory}", of.host))? {
        // Not what has gone meanwhile, nor what cannot be opened: a socket.
        let path = entry?.path();
        if fs::metadata(&path).is_ok_and(|file| file.ino() != inode) {
            continue;
        }
        last = OpenOptions::new().read(true).write(true).open(&path).and_then(|file| map_for_writing(&file));
        if last.is_ok() {
            break;
        }
    }
    last
}

/// Joins, and tries everything before it acknowledges and after it was admitted.
fn client() {
    let argument = argument();
    let (path, host) = argument.split_once(' ').expect("a path and a pid");
    let socket = seqpacket();
    connect(&socket, &SocketAddrUnix::new(path).expect("an address")).expect("connect");
    send(&socket, &packet(HELLO, 0), &[]);
    let offer = receive(&socket).expect("an offer");
    assert_eq!((offer.kind, offer.fds.len()), (OFFER, 5));
    let target = |(at, fd): (usize, OwnedFd)| {
        let (file, host) = (File::from(fd), host.parse().expect("a pid"));
        let len = file.metadata().expect("a size").len() as usize;
        let own = if at == 0 { ProtFlags::READ } else { ProtFlags::READ | ProtFlags::WRITE };
        let [map, read_only] = [own, ProtFlags::READ].map(|access| map(&file, len, access).expect("map"));
        Target { file, len, map, read_only, host }
    };
    let targets: Vec<_> = offer.fds.into_iter().take(3).enumerate().map(target).collect();
    let attack = |step: &str| {
        for (region, target) in ["host's", "plugin's", "bells"].iter().zip(&targets) {
            for (name, attack) in ATTACKS {
                let errno = attack(target).map_or_else(|e| e.raw_os_error().unwrap_or(libc::ENOENT), |()| 0);
                say(format!("{step}\t{region}\t{name}\t{errno}"));
                let now = target.file.metadata().expect("a size").len() as usize;
                assert_eq!(now, target.len, "{step}: {name} of the {region}");
            }
        }
    };
    attack("before ACK");
    send(&socket, &packet(ACK, offer.nonce), &[]);
    assert_eq!(receive(&socket).expect("go").kind, GO);
    attack("after GO");
    let sealed = |target: &Target| SealFlags::SEAL & fcntl_get_seals(&target.file).expect("seals");
    assert!(targets.iter().all(|target| sealed(target) == SealFlags::SEAL));
    say("done");
    wait_for_go();
}

/// An honest one.
fn connects() {
    serve(&Plugin::connect(argument(), &child_config()).expect("connect"), |request| {
        let bytes = request.to_vec();
        request.reply(&bytes).expect("answer");
    });
}

/// Reads every byte of what this process shares with its plugins. A page that cannot be had is a SIGBUS.
fn touch() -> usize {
    let mut sum = 0;
    for (start, end, _) in regions() {
        for at in start..end {
            // SAFETY: mapped, and readable if it is there; written by others meanwhile, hence volatile.
            sum += usize::from(unsafe { ptr::with_exposed_provenance::<u8>(at).read_volatile() });
        }
    }
    sum
}

/// Has itself attacked by a client of its own user, and if it is root, by one of another.
fn host() {
    let (directory, program, setup) = (Directory::new(), Program::new(), Setup::default());
    let listener = setup.host().listen(directory.socket()).expect("listen");
    fs::set_permissions(directory.socket(), fs::Permissions::from_mode(0o777)).expect("let everybody connect");
    let pid = std::process::id();
    for as_nobody in if is_root() { vec![false, true] } else { vec![false] } {
        let argument = format!("{} {pid}", directory.socket().display());
        let mut command = program.command(&setup.command_with("client", argument));
        let (mut reports, mut go) = (Reports::of(&mut command), Go::of(&mut command));
        if as_nobody {
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut client = command.spawn().expect("spawn");
        drop(command);
        let link = listener.accept(SOON).expect("a guest").admit().expect("admit");
        let who = if as_nobody { "another" } else { "the same" };
        loop {
            match reports.next() {
                Some(line) if line == "done" => break,
                Some(line) => say(format!("{who}\t{line}")),
                None => panic!("the attacker has failed"),
            }
        }
        assert_ne!(touch(), 0);
        go.go();
        assert!(client.wait().expect("wait").success());
        drop(link);

        let mut honest =
            program.command(&setup.command_with("connects", directory.socket().display())).spawn().expect("spawn");
        let link = listener.accept(SOON).expect("a guest").admit().expect("admit");
        assert_eq!(link.call(1, b"works", SOON).expect("call").to_vec(), b"works");
        touch();
        link.close(SOON);
        assert!(honest.wait().expect("wait").success());
    }
}

#[test]
fn nothing_that_a_plugin_does_to_a_region_harms_its_host() {
    let _watchdog = watchdog();
    if emulated() {
        return skip("not the kernel's own answers");
    }
    for (who, said) in as_root_and_not("host", "") {
        let mut counts = BTreeMap::<_, u32>::new();
        for line in &said {
            let [user, step, region, name, errno] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let harmless = HARMLESS.iter().find(|(harmless, _)| *harmless == name).map(|(_, why)| *why);
            let early = step == "before ACK" && region != "host's" && EARLY.contains(&name);
            let outcome = match errno.parse().expect("a number") {
                0 if region == "host's" && name.starts_with("mprotect") => {
                    panic!("the host's region was made writable")
                }
                0 => harmless
                    .or(early.then_some("before the host looks"))
                    .unwrap_or_else(|| panic!("{who}: {line}"))
                    .to_owned(),
                errno => Errno::from_raw_os_error(errno).to_string(),
            };
            println!("host {who:4}, user {user:8} {step:10} {region:8} {name:40} {outcome}");
            *counts.entry(if errno == "0" { "harmless" } else { "refused" }).or_default() += 1;
        }
        let count = |what| counts.get(what).copied().unwrap_or_default();
        assert_eq!(said.len() % (2 * 3 * ATTACKS.len()), 0);
        let attackers = said.len() / (2 * 3 * ATTACKS.len());
        figure("G6", &format!("attackers, as {who}, whose host then read every byte and served on"), attackers);
        let sum = format!("{} refused, {} harmless, of {}", count("refused"), count("harmless"), said.len());
        figure("G6", &format!("attacks on regions, by {who}"), sum);
    }
}

/// Adds the seals that it is told, as bits, to the region that it is told, before it acknowledges.
fn seals_early() {
    let argument = argument();
    let [path, region, seals] = argument.split(' ').collect::<Vec<_>>()[..] else { panic!("{argument}") };
    let socket = seqpacket();
    connect(&socket, &SocketAddrUnix::new(path).expect("an address")).expect("connect");
    send(&socket, &packet(HELLO, 0), &[]);
    let offer = receive(&socket).expect("an offer");
    let seals = SealFlags::from_bits_retain(seals.parse().expect("bits"));
    say(match fcntl_add_seals(&offer.fds[region.parse::<usize>().expect("a number")], seals) {
        Ok(()) => "added",
        Err(Errno::PERM) => "refused",
        Err(Errno::BUSY) => "busy",
        Err(Errno::INVAL) => "unknown",
        Err(e) => panic!("{e}"),
    });
    send(&socket, &packet(ACK, offer.nonce), &[]);
    say(match receive(&socket) {
        Some(packet) if packet.kind == GO => "admitted",
        Some(packet) if packet.kind == REFUSE => "turned away",
        other => panic!("{other:?}"),
    });
}

/// Every combination of region and seal, one handshake each; says what the host said of it.
fn hosts_early() {
    let (directory, setup) = (Directory::new(), Setup::default());
    let listener = setup.host().listen(directory.socket()).expect("listen");
    for region in 0..3 {
        for bit in [0x1u32, 0x2, 0x4, 0x8, 0x10, 0x20, 0x1f] {
            let argument = format!("{} {region} {bit}", directory.socket().display());
            let mut command = setup.command_with("seals_early", argument);
            let mut reports = Reports::of(&mut command);
            let mut client = command.spawn().expect("spawn");
            let link = listener.accept(SOON).expect("a guest").admit();
            touch();
            let said = match &link {
                Ok(_) => "admitted",
                Err(Error::Join(JoinError::Seals { .. })) => "Seals",
                Err(Error::Io { doing: "seal a region against writers", .. }) => "Io",
                Err(e) => panic!("{e}"),
            };
            let (added, told) = (reports.expect(), reports.expect());
            assert_eq!(said == "admitted", told == "admitted");
            assert!(client.wait().expect("wait").success());
            say(format!("{region} {bit:#x} {added} {said}"));
        }
    }
}

#[test]
fn seals_that_a_plugin_adds_early_change_nothing_or_end_the_handshake() {
    let _watchdog = watchdog();
    if emulated() {
        return skip("not the kernel's own answers");
    }
    for (who, said) in as_root_and_not("hosts_early", "") {
        for line in &said {
            println!("{who}: {line}");
            let [region, bit, added, outcome] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            // A seal that is there, or that the host adds itself, is admitted; one that it does not want, or that keeps it from
            // adding its own, is not.
            let expected: &[_] = match (region, bit) {
                // Sealed for good before it was sent.
                ("0", _) => &["refused admitted"],
                (_, "0x2" | "0x4" | "0x10") => &["added admitted"],
                (_, "0x1") => &["added Io"],
                // The host has the bells mapped, so that none can add this one, nor the one that brings it along.
                ("2", "0x8" | "0x1f") => &["busy admitted"],
                ("2", "0x20") => &["busy admitted", "unknown admitted"],
                (_, "0x8") => &["added Seals"],
                // Against execution: since Linux 6.3.
                (_, "0x20") => &["added Seals", "unknown admitted"],
                _ => &["added Io"],
            };
            assert!(expected.contains(&&*format!("{added} {outcome}")), "{line}");
        }
        assert_eq!(said.len(), 21);
        figure("G6", &format!("seals added early, by {who}"), format!("{} handshakes, none went wrong", said.len()));
    }
}
