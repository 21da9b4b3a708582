//! The handshake against a client, and against a host, that does not keep to it. Both are written out here, packet by packet.

mod common;

use busway::region::VERSION;
use busway::{Config, Error, JoinError, Link, Plugin};
use common::directory::Directory;
use common::handshake::{ACK, GO, HELLO, OFFER, REFUSE, Received, packet, receive, send, seqpacket};
use common::pipe::{Reports, say};
use common::procfs::descriptors;
use common::{SOON, Setup, argument, assert_err, child_config, roles, serve, skip, watchdog};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::{Errno, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, ReturnFlags, SocketAddrUnix, SocketFlags, SocketType, accept, bind,
    connect, listen, recvmsg,
};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Child;
use std::thread;
use std::time::Duration;

roles!(listens, connects, acknowledges);

/// Accepts for ever, and says how each guest fared and how many descriptors are open then.
fn listens() {
    let argument = argument();
    let (path, seconds) = argument.rsplit_once(' ').expect("a path and a patience");
    let patience = Duration::from_secs(seconds.parse().expect("seconds"));
    let listener = Setup::default().host().patience(patience).listen(path).expect("listen");
    let said = |result: Result<Link, Error>| match result {
        Ok(link) => {
            link.close(SOON);
            "admitted".to_owned()
        }
        Err(Error::Join(JoinError::Geometry { .. })) => "Geometry".to_owned(),
        Err(Error::Join(e)) => format!("{e:?}").split_whitespace().next().unwrap_or_default().to_owned(),
        Err(Error::VersionMismatch { ours, theirs }) => format!("VersionMismatch {ours} {theirs}"),
        Err(Error::Io { doing, .. }) => format!("Io {doing}"),
        Err(e) => format!("{e:?}"),
    };
    say("listening");
    loop {
        let result = said(listener.accept(SOON).and_then(|guest| guest.admit()));
        say(result);
        say(descriptors());
    }
}

/// A host to misbehave against.
struct Host {
    directory: Directory,
    process: Child,
    reports: Reports,
    descriptors: Option<u64>,
}

impl Host {
    fn new() -> Self {
        Self::with_patience(SOON.as_secs())
    }

    fn with_patience(seconds: u64) -> Self {
        let directory = Directory::new();
        let argument = format!("{} {seconds}", directory.socket().display());
        let mut command = Setup::default().command_with("listens", argument);
        let mut reports = Reports::of(&mut command);
        let process = command.spawn().expect("spawn a host");
        assert_eq!(reports.expect(), "listening");
        Self { directory, process, reports, descriptors: None }
    }

    fn connect(&self) -> OwnedFd {
        let socket = seqpacket();
        connect(&socket, &SocketAddrUnix::new(self.directory.socket()).expect("an address")).expect("connect");
        socket
    }

    /// A client that has said hello, and its offer.
    fn greet(&self) -> (OwnedFd, Received) {
        let socket = self.connect();
        send(&socket, &packet(HELLO, 0), &[]);
        let offer = receive(&socket).expect("an offer");
        assert_eq!((offer.kind, offer.fds.len()), (OFFER, 5));
        (socket, offer)
    }

    /// What the host said of the last client. It has as many descriptors open as after the one before.
    fn said(&mut self) -> String {
        let said = self.reports.expect();
        let descriptors = self.reports.number();
        assert_eq!(*self.descriptors.get_or_insert(descriptors), descriptors, "{said}: it keeps descriptors open");
        said
    }

    /// An honest client is admitted, whoever came before.
    fn still_admits(&mut self) {
        let mut command = Setup::default().command_with("connects", self.directory.socket().display());
        let status = command.status().expect("run a client");
        assert!(status.success());
        assert_eq!(self.said(), "admitted");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn connects() {
    serve(&Plugin::connect(argument(), &child_config()).expect("connect"), |_| ());
}

#[test]
fn a_first_packet_that_is_no_hello_is_named_and_refused() {
    let _watchdog = watchdog();
    let mut host = Host::new();
    host.still_admits();
    let with = |at: usize, byte: u8| {
        let mut bytes = packet(HELLO, 0);
        bytes[at] = byte;
        bytes
    };
    let long = [packet(HELLO, 0), vec![0]].concat();
    let endless = vec![1; 1000];
    let cases = [
        (with(0, 0), "BadMagic"),
        (packet(HELLO, 0)[..7].to_vec(), "BadMagic"),
        (packet(HELLO, 0)[..11].to_vec(), "Malformed"),
        (packet(HELLO, 0)[..39].to_vec(), "Malformed"),
        (long, "Malformed"),
        (endless, "Malformed"),
        (packet(ACK, 0), "Malformed"),
        (packet(99, 0), "Malformed"),
        (packet(REFUSE, 0), "Refused"),
        (vec![], "HungUp"),
    ];
    for (bytes, outcome) in cases {
        let client = host.connect();
        send(&client, &bytes, &[]);
        assert_eq!(host.said(), outcome, "{bytes:?}");
        assert!(receive(&client).is_none(), "{outcome}: it hangs up");
    }
    host.still_admits();
}

#[test]
fn a_client_of_another_version_is_told_so() {
    let _watchdog = watchdog();
    let mut host = Host::new();
    let mut hello = packet(HELLO, 0);
    hello[8] = 77;
    // Of another version only magic and version are known to be where they are.
    for len in [12, 40, 70] {
        hello.resize(len, 0);
        let client = host.connect();
        send(&client, &hello, &[]);
        assert_eq!(host.said(), format!("VersionMismatch {VERSION} 77"));
        let refusal = receive(&client).expect("a refusal");
        assert_eq!((refusal.kind, refusal.reason), (REFUSE, 1));
    }
    host.still_admits();
}

#[test]
fn descriptors_that_nobody_asked_for_are_closed() {
    let _watchdog = watchdog();
    let mut host = Host::new();
    host.still_admits();
    let extra = memfd_create(c"extra", MemfdFlags::CLOEXEC).unwrap();

    let client = host.connect();
    send(&client, &packet(HELLO, 0), &[extra.as_fd(); 3]);
    let offer = receive(&client).expect("an offer all the same");
    send(&client, &packet(ACK, offer.nonce), &[extra.as_fd(); 8]);
    assert_eq!(receive(&client).expect("go").kind, GO);
    assert_eq!(host.said(), "admitted");

    host.still_admits();
}

/// Whether the kernel says when more descriptors came than there was room for.
fn tells_truncation() -> bool {
    let (one, other) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .expect("a pair");
    send(&one, b"probe", &[one.as_fd(); 16]);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(&other, &mut [IoSliceMut::new(&mut [0; 10])], &mut control, RecvFlags::CMSG_CLOEXEC);
    received.expect("the probe").flags.contains(ReturnFlags::CTRUNC)
}

#[test]
fn more_descriptors_than_a_packet_may_carry_are_an_error_and_closed() {
    let _watchdog = watchdog();
    if !tells_truncation() {
        return skip("no MSG_CTRUNC here");
    }
    let mut host = Host::new();
    host.still_admits();
    let extra = memfd_create(c"extra", MemfdFlags::CLOEXEC).unwrap();
    let client = host.connect();
    send(&client, &packet(HELLO, 0), &[extra.as_fd(); 16]);
    assert_eq!(host.said(), "Malformed");
    host.still_admits();
}

#[test]
fn hanging_up_at_any_step_is_an_error() {
    let _watchdog = watchdog();
    let mut host = Host::new();
    drop(host.connect());
    assert_eq!(host.said(), "HungUp");
    drop(host.greet());
    assert_eq!(host.said(), "HungUp");
    // Acknowledged, and gone before it was told to go.
    let (client, offer) = host.greet();
    send(&client, &packet(ACK, offer.nonce), &[]);
    drop(client);
    assert!(["admitted", "HungUp"].contains(&&*host.said()));
    host.still_admits();
}

#[test]
fn falling_silent_at_any_step_is_an_error_and_no_hang() {
    let _watchdog = watchdog();
    let mut host = Host::with_patience(1);
    let silent = host.connect();
    assert_eq!(host.said(), "NobodyInTime");
    drop(silent);
    let silent = host.greet();
    assert_eq!(host.said(), "NobodyInTime");
    drop(silent);
}

#[test]
fn an_acknowledgement_that_is_none_is_refused() {
    let _watchdog = watchdog();
    let mut host = Host::new();
    let (client, offer) = host.greet();
    send(&client, &packet(ACK, offer.nonce ^ 1), &[]);
    assert_eq!(host.said(), "Malformed");
    assert_eq!(receive(&client).expect("a refusal").kind, REFUSE);

    let (client, _) = host.greet();
    send(&client, &packet(HELLO, 0), &[]);
    assert_eq!(host.said(), "Malformed");

    let (client, _) = host.greet();
    send(&client, &packet(REFUSE, 0), &[]);
    assert_eq!(host.said(), "Refused");

    let (_, first) = host.greet();
    assert_eq!(host.said(), "HungUp");
    let (client, second) = host.greet();
    assert_ne!(first.nonce, second.nonce);
    send(&client, &packet(ACK, first.nonce), &[]);
    assert_eq!(host.said(), "Malformed", "an old nonce");
    host.still_admits();
}

/// Sends the acknowledgement that another process should have sent; its standard input is that one's socket.
fn acknowledges() {
    send(std::io::stdin(), &packet(ACK, argument().parse().expect("a nonce")), &[]);
}

#[test]
fn a_handshake_that_two_processes_share_is_refused() {
    let _watchdog = watchdog();
    let mut host = Host::new();
    let (client, offer) = host.greet();
    let mut other = Setup::default().command_with("acknowledges", offer.nonce);
    other.stdin(client.try_clone().unwrap());
    assert!(other.status().unwrap().success());
    assert_eq!(host.said(), "Identity");
    drop(other);
    assert_eq!(receive(&client).expect("a refusal").kind, REFUSE);
    host.still_admits();
}

#[test]
fn a_client_cannot_resize_its_region_nor_seal_it_its_own_way() {
    let _watchdog = watchdog();
    let mut host = Host::new();
    let (client, offer) = host.greet();
    for region in &offer.fds[..2] {
        assert_eq!(ftruncate(region, 0), Err(Errno::PERM));
        assert_eq!(ftruncate(region, 1 << 30), Err(Errno::PERM));
    }
    drop(client);
    assert_eq!(host.said(), "HungUp");

    let (client, offer) = host.greet();
    fcntl_add_seals(&offer.fds[1], SealFlags::SEAL).unwrap();
    send(&client, &packet(ACK, offer.nonce), &[]);
    assert_eq!(host.said(), "Io seal a region against writers");
    host.still_admits();
}

#[test]
fn a_client_cannot_write_the_region_of_the_host_nor_map_its_own_again_after_go() {
    let _watchdog = watchdog();
    let mut host = Host::new();
    let (client, offer) = host.greet();
    let writable = |region: &OwnedFd| {
        use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice, gone again at once.
        unsafe {
            match mmap(std::ptr::null_mut(), 4096, prot, MapFlags::SHARED, region, 0) {
                Ok(map) => {
                    munmap(map, 4096).expect("unmap");
                    true
                }
                Err(_) => false,
            }
        }
    };
    // Opened anew, a descriptor has whatever rights the file gives.
    let reopened = |region: &OwnedFd| {
        use std::os::fd::AsRawFd;
        let path = format!("/proc/self/fd/{}", region.as_raw_fd());
        OwnedFd::from(std::fs::File::options().read(true).write(true).open(path).expect("open it anew"))
    };
    let [theirs, ours] = [&offer.fds[0], &offer.fds[1]];
    assert!(!writable(theirs) && !writable(&reopened(theirs)), "the host's region");
    assert!(writable(ours), "the client's, before it acknowledges");
    send(&client, &packet(ACK, offer.nonce), &[]);
    assert_eq!(receive(&client).expect("go").kind, GO);
    assert!(!writable(ours) && !writable(&reopened(ours)), "the client's, once the host reads it");
    assert_eq!(host.said(), "admitted");
}

/// A host that says what it is told to whoever connects, once.
fn false_host(path: &Path, answer: impl FnOnce(&OwnedFd) + Send) -> Result<Link, Error> {
    let listener = seqpacket();
    bind(&listener, &SocketAddrUnix::new(path).expect("an address")).expect("bind");
    listen(&listener, 1).expect("listen");
    thread::scope(|threads| {
        threads.spawn(move || {
            let client = accept(&listener).expect("accept");
            assert_eq!(receive(&client).expect("hello").kind, HELLO);
            answer(&client);
        });
        Plugin::connect(path, &Config::default())
    })
}

fn memory(len: u64, seals: SealFlags) -> OwnedFd {
    let file = memfd_create(c"false", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("a memory file");
    ftruncate(&file, len).expect("its size");
    fcntl_add_seals(&file, seals).expect("its seals");
    file
}

#[test]
fn a_plugin_names_what_is_wrong_with_its_host() {
    let _watchdog = watchdog();
    let against = |answer: &(dyn Fn(&OwnedFd) + Sync)| {
        let directory = Directory::new();
        false_host(&directory.socket(), answer)
    };
    let size = SealFlags::SHRINK | SealFlags::GROW;
    let offer = |region: &OwnedFd| {
        let (a, b) = (region.try_clone().unwrap(), region.try_clone().unwrap());
        move |client: &OwnedFd| {
            send(client, &packet(OFFER, 5), &[a.as_fd(), a.as_fd(), a.as_fd(), b.as_fd(), b.as_fd()])
        }
    };

    assert_err!(against(&|_| ()), Error::Join(JoinError::HungUp));
    assert_err!(against(&|c| send(c, &packet(REFUSE, 0), &[])), Error::Join(JoinError::Refused { .. }));
    assert_err!(against(&|c| send(c, b"HTTP/1.1 400 Bad Request", &[])), Error::Join(JoinError::BadMagic));
    assert_err!(against(&|c| send(c, &packet(GO, 0), &[])), Error::Join(JoinError::Malformed { .. }));
    assert_err!(against(&|c| send(c, &packet(OFFER, 0), &[])), Error::Join(JoinError::Malformed { .. }));
    let mut newer = packet(OFFER, 0);
    newer[8] = 200;
    assert_err!(against(&|c| send(c, &newer, &[])), Error::VersionMismatch { ours: VERSION, theirs: 200 });

    let unsealed = memory(8192, SealFlags::empty());
    assert_err!(against(&offer(&unsealed)), Error::Join(JoinError::Seals { .. }));
    assert_err!(against(&offer(&memory(100, size))), Error::Join(JoinError::Geometry { .. }));
    assert_err!(against(&offer(&memory(8192, size))), Error::Join(JoinError::BadMagic));
    // Nothing is promised of a file that is no memory file, but that it is an error.
    let directory = std::fs::File::open("/").unwrap();
    assert!(against(&offer(&directory.into())).is_err());
}

#[test]
fn a_silent_host_does_not_hold_a_plugin_that_it_lets_go() {
    let _watchdog = watchdog();
    let directory = Directory::new();
    let mut command = Setup::default().command_with("connects", directory.socket().display());
    command.stderr(std::process::Stdio::null());
    let listener = seqpacket();
    bind(&listener, &SocketAddrUnix::new(directory.socket()).unwrap()).unwrap();
    listen(&listener, 1).unwrap();
    let mut child = command.spawn().unwrap();
    let client = accept(&listener).unwrap();
    assert_eq!(receive(&client).expect("hello").kind, HELLO);
    drop(client);
    assert!(!child.wait().unwrap().success(), "it says why and ends");
}
