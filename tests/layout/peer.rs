//! A plugin that knows the page and nothing else: bytes, offsets and system calls.

use super::common::{SOON, assert_err, until, watchdog};
use super::page::{Page, number};
use busway::sync::{AtomicU32, AtomicU64, Ordering, fence, futex_wake};
use busway::{Config, Error, Host, Idle};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{SealFlags, fcntl_get_seals, fstat};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, recvmsg, send, socket_with, sockopt,
};
use std::collections::HashMap;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;
use std::{ptr, thread};

/// A mapped file. Never unmapped: the process is a test's.
struct Region {
    base: *mut u8,
    len: usize,
    /// By kind and id: offset, count and stride.
    sections: HashMap<(u64, u64), (usize, u64, usize)>,
}

// SAFETY: an address range.
unsafe impl Send for Region {}

impl Region {
    /// Maps a file and reads its header page, as the page says.
    fn map(page: &Page, file: &OwnedFd, access: ProtFlags) -> Self {
        let len = fstat(file).expect("the size of a region").st_size as usize;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { mmap(ptr::null_mut(), len, access, MapFlags::SHARED, file, 0) }.expect("map a region");
        let mut region = Self { base: base.cast(), len, sections: HashMap::new() };
        let header = region.copy(0, page.value("Limits", "HEADER_SIZE") as usize);
        let of_header = |name| get(page, &header, "Header", name);
        assert_eq!(of_header("magic"), page.value("Limits", "MAGIC"));
        assert_eq!(of_header("version"), page.value("Limits", "VERSION"));
        assert_eq!(of_header("length"), len as u64);
        let (_, size) = page.fields("Section");
        let table = &header[page.value("Limits", "TABLE_AT") as usize..];
        for row in table.chunks(size).take(of_header("sections") as usize) {
            let field = |name| get(page, row, "Section", name);
            assert_eq!(field("version"), 1);
            let place = (field("offset") as usize, field("count"), field("stride") as usize);
            region.sections.insert((field("kind"), field("id")), place);
        }
        region
    }

    fn copy(&self, at: usize, len: usize) -> Vec<u8> {
        assert!(at + len <= self.len);
        // SAFETY: in bounds; announced by a word that was seen with acquire.
        unsafe { std::slice::from_raw_parts(self.base.add(at), len) }.to_vec()
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.len);
        // SAFETY: in bounds, and not announced yet.
        unsafe { self.base.add(at).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at + 4 <= self.len && at.is_multiple_of(4));
        // SAFETY: in bounds, aligned, and always accessed as this word.
        unsafe { &*self.base.add(at).cast() }
    }

    fn long_word(&self, at: usize) -> &AtomicU64 {
        assert!(at + 8 <= self.len && at.is_multiple_of(8));
        // SAFETY: as above.
        unsafe { &*self.base.add(at).cast() }
    }
}

fn get(page: &Page, bytes: &[u8], heading: &str, name: &str) -> u64 {
    let field = page.field(heading, name);
    let mut value = [0; 8];
    value[..field.size].copy_from_slice(&bytes[field.offset..][..field.size]);
    u64::from_le_bytes(value)
}

fn put(page: &Page, bytes: &mut [u8], heading: &str, name: &str, value: u64) {
    let field = page.field(heading, name);
    bytes[field.offset..][..field.size].copy_from_slice(&value.to_le_bytes()[..field.size]);
}

/// A row of the table of bells.
struct Bell {
    thing: String,
    mark: (String, String),
    /// `None` is the doorbell alone.
    bell: Option<(String, String)>,
    wakes: u32,
}

fn bells(page: &Page) -> Vec<Bell> {
    let word = |cell: &String| {
        cell.trim_matches('`').split_once('.').map(|(section, name)| (section.to_owned(), name.to_owned()))
    };
    let bell = |row: &Vec<String>| {
        Some(Bell {
            thing: row[0].clone(),
            // A reply has no such mark.
            mark: word(&row[1])?,
            bell: word(&row[2]),
            wakes: if row[3] == "all" { u32::MAX } else { row[3].parse().unwrap_or(0) },
        })
    };
    page.table("Waking").iter().filter_map(bell).collect()
}

/// A request that was taken.
struct Taken {
    kind: u64,
    parent: u64,
    method: u64,
    cell: u64,
    generation: u64,
    deadline: u64,
    payload: Vec<u8>,
    slot: Option<u64>,
}

struct Peer {
    page: Page,
    mine: Region,
    peer: Region,
    bell_region: Region,
    doorbell: OwnedFd,
    _control: OwnedFd,
    sent: u32,
    taken: u32,
    generation: u64,
    bells: Vec<Bell>,
    rung: HashMap<String, u32>,
}

impl Peer {
    /// The handshake, from the plugin's side.
    fn join(path: &Path) -> Self {
        let page = Page::read();
        let control = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let control = control.expect("create a socket");
        connect(&control, &SocketAddrUnix::new(path).expect("a short path")).expect("connect");

        let packet = |kind, nonce| {
            let mut packet = vec![0; page.fields("Packet").1];
            put(&page, &mut packet, "Packet", "magic", page.value("Limits", "MAGIC"));
            put(&page, &mut packet, "Packet", "version", page.value("Limits", "VERSION"));
            put(&page, &mut packet, "Packet", "kind", page.value("Packet kinds", kind));
            put(&page, &mut packet, "Packet", "nonce", nonce);
            send(&control, &packet, SendFlags::NOSIGNAL).expect("send a packet");
        };
        let receive = |kind| {
            let mut bytes = [0; 80];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let slices = &mut [IoSliceMut::new(&mut bytes)];
            let message = recvmsg(&control, slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC).expect("receive a packet");
            assert_eq!(message.bytes, page.fields("Packet").1);
            assert_eq!(get(&page, &bytes, "Packet", "magic"), page.value("Limits", "MAGIC"));
            assert_eq!(get(&page, &bytes, "Packet", "kind"), page.value("Packet kinds", kind));
            let mut fds = Vec::new();
            for part in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = part {
                    fds.extend(rights);
                }
            }
            (bytes, fds)
        };

        packet("Hello", 0);
        let (offer, fds) = receive("Offer");
        let index = |name: &str| {
            let row = page.table("Descriptors").iter().find(|row| row[1] == name).expect("a descriptor of this name");
            number(&row[0]) as usize
        };
        assert_eq!(fds.len(), page.table("Descriptors").len());
        let seals = |name: &str| fcntl_get_seals(&fds[index(name)]).expect("the seals of a region");
        let fixed = SealFlags::SHRINK | SealFlags::GROW;
        assert_eq!(seals("host region"), fixed | SealFlags::FUTURE_WRITE | SealFlags::SEAL);
        assert_eq!(seals("plugin region"), fixed);
        assert_eq!(sockopt::socket_type(&fds[index("doorbell")]), Ok(SocketType::STREAM));
        let peer = Region::map(&page, &fds[index("host region")], ProtFlags::READ);
        let mine = Region::map(&page, &fds[index("plugin region")], ProtFlags::READ | ProtFlags::WRITE);
        assert_eq!(peer.sections, mine.sections, "both regions have one geometry");
        assert_eq!(seals("bells"), fixed);
        let bell_region = Region::map(&page, &fds[index("bells")], ProtFlags::READ | ProtFlags::WRITE);
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let alive = poll(&mut [PollFd::new(&fds[index("host pidfd")], PollFlags::IN)], Some(&now));
        assert_eq!(alive, Ok(0), "the host lives");

        packet("Ack", get(&page, &offer, "Packet", "nonce"));
        receive("Go");
        assert_eq!(seals("plugin region"), fixed | SealFlags::FUTURE_WRITE | SealFlags::SEAL);
        let doorbell = index("doorbell");
        let doorbell = fds.into_iter().nth(doorbell).expect("the doorbell");
        let (bells, rung) = (bells(&page), HashMap::new());
        Self {
            page,
            mine,
            peer,
            bell_region,
            doorbell,
            _control: control,
            sent: 0,
            taken: 0,
            generation: 0,
            bells,
            rung,
        }
    }

    /// Where an element lies; the same in both regions.
    fn element(&self, kind: &str, id: u64, index: u64) -> usize {
        let (offset, count, stride) = self.mine.sections[&(self.page.value("Kinds", kind), id)];
        assert!(index < count, "{kind} has no {index}");
        offset + index as usize * stride
    }

    /// Where a word of one of the sections with one element lies.
    fn at(&self, section: &str, name: &str) -> usize {
        let heading = format!("{}{}", section[..1].to_uppercase(), &section[1..]);
        self.element(&section.to_uppercase(), 0, 0) + self.page.at(&heading, name)
    }

    fn entry(&self, position: u32) -> usize {
        let (_, count, _) = self.mine.sections[&(self.page.value("Kinds", "ENTRIES"), 0)];
        self.element("ENTRIES", 0, u64::from(position) % count)
    }

    /// Class and place of a slot, its number among all, and its generation.
    fn slot(&self, reference: u64) -> (usize, u64, u64) {
        let bits = |name| self.page.bits("Slot reference", name, reference);
        assert_eq!(bits("segment"), 0);
        let (class, index) = (bits("class"), bits("index"));
        let before = |id| self.mine.sections[&(self.page.value("Kinds", "CLASS"), id)].1;
        (self.element("CLASS", class, index), (0..class).map(before).sum::<u64>() + index, bits("generation"))
    }

    fn call_word(&self, taken: &Taken) -> u64 {
        self.peer.word(self.element("CALL_WORDS", 0, taken.cell)).load(Ordering::Acquire).into()
    }

    fn take(&mut self) -> Taken {
        let at = self.entry(self.taken);
        let page = &self.page;
        let word = self.peer.long_word(at + page.at("Entry", "word"));
        let position = u64::from(self.taken.wrapping_add(1));
        until("a request is there", || page.bits("Entry word", "position", word.load(Ordering::Acquire)) == position);
        let word = word.load(Ordering::Acquire);
        let tag = |name| page.bits("Entry word", name, word);
        let body = self.peer.copy(at, page.fields("Entry").1);
        let field = |name| get(page, &body, "Entry", name);
        let call = |name| page.bits("Call id", name, field("call"));

        let inline = &body[page.at("Entry", "inline")..];
        let (payload, slot) = match tag("flags") {
            0 => (inline[..field("length") as usize].to_vec(), None),
            flags => {
                assert_eq!((flags, field("length")), (page.value("Entry kinds and flags", "SLOT"), 0));
                let half = |at: usize| u64::from_le_bytes(inline[at..at + 8].try_into().expect("8 bytes"));
                let (at, _, _) = self.slot(half(0));
                (self.peer.copy(at, half(8) as usize), Some(half(0)))
            }
        };
        let taken = Taken {
            kind: tag("kind"),
            parent: tag("parent"),
            method: field("method"),
            cell: call("cell"),
            generation: call("generation"),
            deadline: field("deadline"),
            payload,
            slot,
        };
        self.taken = self.taken.wrapping_add(1);
        self.mine.word(self.at("intake", "pos")).store(self.taken, Ordering::Release);
        taken
    }

    fn send(&mut self, kind: &str, method: u64, cell: u64, parent: u64, payload: Result<&[u8], (u64, u64)>) -> u64 {
        let page = &self.page;
        let at = self.entry(self.sent);
        self.generation += 1;
        let call = page.place("Call id", "cell", cell) | page.place("Call id", "generation", self.generation);
        let mut body = vec![0; page.fields("Entry").1];
        put(page, &mut body, "Entry", "method", method);
        put(page, &mut body, "Entry", "call", call);
        let inline = page.at("Entry", "inline");
        let mut flags = 0;
        match payload {
            Ok(bytes) => {
                put(page, &mut body, "Entry", "length", bytes.len() as u64);
                body[inline..][..bytes.len()].copy_from_slice(bytes);
            }
            Err((slot, len)) => {
                flags = page.value("Entry kinds and flags", "SLOT");
                body[inline..][..8].copy_from_slice(&slot.to_le_bytes());
                body[inline + 8..][..8].copy_from_slice(&len.to_le_bytes());
            }
        }
        let word = page.at("Entry", "word");
        assert_eq!(word, 0, "what follows is the body");
        self.mine.write(at + 8, &body[8..]);
        self.sent = self.sent.wrapping_add(1);
        let tag = page.place("Entry word", "position", self.sent.into())
            | page.place("Entry word", "kind", page.value("Entry kinds and flags", kind))
            | page.place("Entry word", "flags", flags)
            | page.place("Entry word", "parent", parent);
        self.mine.long_word(at + word).store(tag, Ordering::Release);
        self.notify(&["requests"], None);
        self.generation
    }

    /// Waits for a reply: its flags, the bytes of its cell, and its payload.
    fn reply_of(&self, cell: u64, generation: u64) -> (u64, Vec<u8>, Option<u64>) {
        let page = &self.page;
        let at = self.element("CELLS", 0, cell);
        let word = self.peer.word(at + page.at("Reply cell", "word"));
        until("a reply is there", || u64::from(word.load(Ordering::Acquire)) == generation);
        let bytes = self.peer.copy(at, page.fields("Reply cell").1);
        let flags = get(page, &bytes, "Reply cell", "flags");
        assert_eq!(page.bits("Reply flags", "status", flags), page.value("Statuses and flags", "OK"));
        let (inline, len) = (page.at("Reply cell", "inline"), get(page, &bytes, "Reply cell", "length") as usize);
        if flags & page.value("Statuses and flags", "SLOT") == 0 {
            return (flags, bytes[inline..][..len].to_vec(), None);
        }
        let slot = u64::from_le_bytes(bytes[inline..][..8].try_into().expect("8 bytes"));
        (flags, self.peer.copy(self.slot(slot).0, len), Some(slot))
    }

    fn reply(&mut self, to: &Taken, status: &str, code: u64, payload: Result<&[u8], (u64, u64)>) {
        let page = &self.page;
        let value = |name| page.value("Statuses and flags", name);
        let mut flags = value(status);
        let mut bytes = vec![0; page.fields("Reply cell").1];
        put(page, &mut bytes, "Reply cell", "code", code);
        let inline = page.at("Reply cell", "inline");
        let len = match payload {
            Ok(payload) => {
                bytes[inline..][..payload.len()].copy_from_slice(payload);
                payload.len() as u64
            }
            Err((slot, len)) => {
                flags |= value("SLOT");
                bytes[inline..][..8].copy_from_slice(&slot.to_le_bytes());
                len
            }
        };
        if to.slot.is_some() {
            flags |= value("RELEASED");
        }
        put(page, &mut bytes, "Reply cell", "length", len);
        put(page, &mut bytes, "Reply cell", "flags", flags);
        let at = self.element("CELLS", 0, to.cell);
        assert_eq!(page.at("Reply cell", "word"), 0, "what follows is the body");
        self.mine.write(at + 4, &bytes[4..]);
        self.mine.word(at).store(to.generation as u32, Ordering::Release);
        self.notify(&["slots", "room in the ring"], Some(to));
    }

    /// Gives a slot back by name.
    fn release(&mut self, slot: u64) {
        let (_, number, generation) = self.slot(slot);
        self.mine.word(self.element("RELEASED", 0, number)).store(generation as u32, Ordering::Release);
        self.notify(&["slots"], None);
    }

    /// Wakes whoever sleeps on these things, or on the reply.
    fn notify(&mut self, things: &[&str], reply: Option<&Taken>) {
        fence(Ordering::SeqCst);
        if self.peer.word(self.at("control", "sleepers")).load(Ordering::Relaxed) == 0 {
            return;
        }
        let (futex, descriptor) = (self.page.value("How", "Futex") as u32, self.page.value("How", "Descriptor") as u32);
        let mut ring = false;
        for bell in self.bells.iter().filter(|bell| bell.thing == "anything" || things.contains(&&*bell.thing)) {
            let mark = self.peer.word(self.at(&bell.mark.0, &bell.mark.1)).load(Ordering::Relaxed);
            let how = self.page.bits("Mark", "how", mark.into()) as u32;
            if how == 0 || self.rung.insert(bell.thing.clone(), mark) == Some(mark) {
                continue;
            }
            if let Some((section, name)) = &bell.bell
                && how & futex != 0
            {
                assert_eq!(section, "bells");
                self.ring_bell("BELLS", 0, self.page.at("Bells", name), bell.wakes);
            }
            ring |= how & descriptor != 0;
        }
        if let Some(call) = reply {
            let word = self.call_word(call);
            if self.page.bits("Call word", "generation", word) == call.generation {
                let how = self.page.bits("Call word", "how", word) as u32;
                if how == futex {
                    self.ring_bell("REPLY_BELLS", call.cell, 0, 1);
                }
                ring |= how == descriptor;
            }
        }
        if ring {
            self.mine.word(self.at("control", "rings")).fetch_add(1, Ordering::Relaxed);
            send(&self.doorbell, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL).expect("ring the doorbell");
        }
    }

    /// Rings a bell of the host, which has id 0.
    fn ring_bell(&self, kind: &str, index: u64, within: usize, count: u32) {
        let (offset, _, stride) = self.bell_region.sections[&(self.page.value("Kinds", kind), 0)];
        let bell = self.bell_region.word(offset + index as usize * stride + within);
        bell.fetch_add(1, Ordering::Release);
        futex_wake(bell, count, false);
    }

    /// A slot of this peer with a payload in it.
    fn fill(&self, class: u64, index: u64, generation: u64, payload: &[u8]) -> u64 {
        let place = |name, value| self.page.place("Slot reference", name, value);
        let slot = place("class", class) | place("index", index) | place("generation", generation);
        self.mine.write(self.slot(slot).0, payload);
        slot
    }

    /// Waits until the host sleeps on this call, or has given it up.
    fn until_call_word(&self, call: &Taken, how: &[u64]) {
        until("the host waits for this call", || {
            let word = self.call_word(call);
            let bits = |name| self.page.bits("Call word", name, word);
            bits("generation") == call.generation && how.contains(&bits("how"))
        });
    }
}

/// The peer's part, step by step with the host's.
fn play(mut peer: Peer) {
    let asleep = [peer.page.value("How", "Futex"), peer.page.value("How", "Descriptor")];
    let given_up = [peer.page.value("How", "GIVEN_UP")];
    let (call, event) =
        (peer.page.value("Entry kinds and flags", "CALL"), peer.page.value("Entry kinds and flags", "EVENT"));

    // An inline call.
    let taken = peer.take();
    assert_eq!((taken.kind, taken.parent, taken.method, &*taken.payload), (call, 0, 7, &b"abc"[..]));
    assert!(taken.slot.is_none() && taken.generation == 1 && taken.deadline > 0);
    peer.until_call_word(&taken, &asleep);
    peer.reply(&taken, "OK", 0, Ok(b"inline"));

    // A call with a slot each way; the host gives ours back by name.
    let taken = peer.take();
    assert_eq!((taken.method, &*taken.payload), (8, &[5; 100][..]));
    assert!(taken.slot.is_some());
    let slot = peer.fill(1, 3, 9, &[6; 200]);
    peer.until_call_word(&taken, &asleep);
    peer.reply(&taken, "OK", 0, Err((slot, 200)));
    let released = peer.element("RELEASED", 0, peer.slot(slot).1);
    until("the host gave the slot back", || peer.peer.word(released).load(Ordering::Acquire) == 9);

    // Every other status that a waiting caller can see.
    for (status, code) in [("REJECTED", 77), ("PANICKED", 0), ("NO_METHOD", 9)] {
        let taken = peer.take();
        peer.reply(&taken, status, code, Ok(b""));
    }

    // Events, one of them with a slot that goes back by name.
    for slot in [false, true] {
        let taken = peer.take();
        assert_eq!((taken.kind, taken.method, taken.cell, taken.generation), (event, 10, 0, 0));
        assert_eq!(taken.slot.is_some(), slot);
        if let Some(slot) = taken.slot {
            peer.release(slot);
        }
    }

    // Calls of our own, into a host that sleeps: inline, then with a slot each way and a call from within.
    let park = peer.at("intake", "park");
    until("the host's receiver sleeps", || peer.peer.word(park).load(Ordering::Acquire) != 0);
    let generation = peer.send("CALL", 21, 5, 0, Ok(b"from the peer"));
    let (_, payload, slot) = peer.reply_of(5, generation);
    assert_eq!((&*payload, slot), (&b"to the peer"[..], None));
    let slot = peer.fill(0, 0, 1, &[7; 64]);
    let generation = peer.send("CALL", 22, 6, 0, Err((slot, 64)));
    let nested = peer.take();
    assert_eq!((nested.method, nested.parent), (23, 6 + 1));
    peer.reply(&nested, "OK", 0, Ok(b""));
    let (flags, payload, slot) = peer.reply_of(6, generation);
    assert_eq!(payload, [8; 60]);
    assert_ne!(flags & peer.page.value("Statuses and flags", "RELEASED"), 0);
    peer.release(slot.expect("60 bytes are not inline"));

    // A call that is given up.
    let taken = peer.take();
    peer.until_call_word(&taken, &given_up);
    peer.reply(&taken, "DISCARDED", 0, Ok(b""));

    // A call from within a call.
    let outer = peer.take();
    peer.until_call_word(&outer, &asleep);
    let generation = peer.send("CALL", 31, 5, outer.cell + 1, Ok(b"inner"));
    let (_, payload, _) = peer.reply_of(5, generation);
    assert_eq!(payload, b"INNER");
    peer.reply(&outer, "OK", 0, Ok(b"outer"));

    // The end.
    let state = peer.at("control", "state");
    let closed = peer.page.value("States", "CLOSED") as u32;
    until("the host has closed", || peer.peer.word(state).load(Ordering::Acquire) == closed);
    peer.mine.word(state).store(closed, Ordering::Release);
}

/// A host of ours and a peer written from the page. The host sleeps by futex first, then by descriptor at once.
#[test]
fn the_page_is_enough() {
    let _watchdog = watchdog();
    for (name, idle) in [("park", Idle::Park), ("poll", Idle::Poll)] {
        let path = std::env::temp_dir().join(format!("busway-layout-{name}-{}", std::process::id()));
        let listener = Host::new(Config::default().idle(idle)).listen(&path).expect("listen");
        thread::scope(|scope| {
            scope.spawn(|| play(Peer::join(&path)));
            talk(&listener.accept(SOON).expect("somebody connects").admit().expect("the handshake"));
        });
    }
}

/// The host's part.
fn talk(link: &busway::Link) {
    assert_eq!(link.call(7, b"abc", SOON).expect("an inline call").to_vec(), b"inline");
    assert_eq!(link.call(8, &[5; 100], SOON).expect("a call with slots").to_vec(), [6; 200]);

    assert_err!(link.call(9, b"", SOON), Error::Rejected { code: 77, .. });
    assert_err!(link.call(9, b"", SOON), Error::HandlerPanicked);
    assert_err!(link.call(9, b"", SOON), Error::NoSuchMethod { method: 9 });

    link.send(10, b"", SOON).expect("an event");
    link.send(10, &[1; 300], SOON).expect("an event with a slot");
    until("the slot came back", || link.stats().slots_in_use == 0);

    let request = link.recv(SOON).expect("a call of the peer");
    assert_eq!((request.method(), request.to_vec()), (21, b"from the peer".to_vec()));
    request.reply(b"to the peer").expect("reply");
    let request = link.recv(SOON).expect("a call with a slot");
    assert_eq!((request.method(), request.to_vec()), (22, vec![7; 64]));
    request.call(23, b"", SOON).expect("a nested call");
    request.reply(&[8; 60]).expect("reply");
    until("the slot came back", || link.stats().slots_in_use == 0);

    assert_err!(link.call(30, b"", Duration::from_millis(50)), Error::Timeout { maybe_executed: true });

    let shout = |request: busway::Request<'_>| {
        let loud = request.to_vec().to_ascii_uppercase();
        request.reply(&loud).expect("reply");
    };
    link.set_handler(shout).expect("the first handler");
    assert_eq!(link.call(31, b"", SOON).expect("a call with one nested in it").to_vec(), b"outer");
    assert_eq!(link.stats().violations, 0);
    assert_eq!(link.stats().calls_in_use, 0);
    link.close(SOON);
}
