//! A plugin that writes over every word it can while its host runs: it harms its own messages, and nobody else's.

mod common;

use busway::{Error, Link, Listener, Plugin, Process};
use common::directory::Directory;
use common::figures::{duration, figure};
use common::pauses::longest_since;
use common::payload::{Random, bytes, checksum};
use common::peer::{Region, Scribbler};
use common::shared::{self, Words};
use common::stalls::{Stalls, use_up};
use common::{IDLE_MODES, SOON, Setup, argument, attach, child_config, emulated, finish, roles, serve, watchdog_of};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

roles!(flips, streams);

const ECHO: u32 = 1;
const NUMBERED: u32 = 2;

/// What the two processes share beside the link: whether to flip, and how many thousands of words were.
const HOSTILE: usize = 0;
const FLIPPED: usize = 1;

/// Joins, again and again, and writes over its side of the link while it serves in between.
fn flips() {
    let shared = shared::given();
    let mut random = Random::new(std::process::id().into());
    // Until the host is gone.
    while let Ok(link) = Plugin::connect(argument(), &child_config()) {
        if shared[HOSTILE].load(Relaxed) == 0 {
            serve_beside(&link, || {
                std::hint::black_box((0..1000).map(|_| random.next()).max());
            });
            continue;
        }
        let (region, bells) = (Region::own(), Region::bells());
        let mut scribbler = Scribbler::new(&region, &bells, random.next());
        // One that aims ends the link sooner; most of what any word holds is payload, which says nothing.
        let aimed = [0, 0, 1, 10][random.below(4)];
        serve_beside(&link, || {
            for turn in 0..1000 {
                if turn < aimed {
                    scribbler.aim();
                } else {
                    scribbler.flip_anywhere();
                }
            }
            if aimed > 1 {
                let next = link.stats().sent as u32;
                scribbler.publish(next);
            }
            shared[FLIPPED].fetch_add(1, Relaxed);
        });
    }
}

/// Does something else between requests, until the link ends.
fn serve_beside(link: &Link, mut other: impl FnMut()) {
    loop {
        match link.try_recv() {
            Ok(Some(request)) => {
                let bytes = request.to_vec();
                // What it has written lies to itself as well.
                let _ = request.reply(&bytes);
            }
            Ok(None) => {}
            Err(_) => return,
        }
        let _ = link.try_send(NUMBERED, &[7; 100]);
        other();
    }
}

/// Sends an event before each reply, both with what was asked.
fn streams() {
    let link = attach();
    serve(&link, |request| {
        let asked = request.to_vec();
        link.send(NUMBERED, &checksum(&asked).to_le_bytes(), SOON).expect("an event");
        request.reply(&asked).expect("answer");
    });
}

/// Calls until it is told to stop; whatever comes back has to be what was sent.
fn stream(plugin: &Process, stop: &AtomicBool) -> Stalls {
    let mut stalls = Stalls::default();
    let mut random = Random::new(3);
    while !stop.load(Relaxed) {
        let sent = bytes(random.next(), random.below(3000));
        let reply = stalls.time(Duration::ZERO, || plugin.call(ECHO, &sent, SOON).expect("another link").to_vec());
        assert!(reply == sent, "a reply of another link was damaged");
        let event = plugin.recv(SOON).expect("an event of another link");
        assert_eq!((event.method(), event.read().ok()), (NUMBERED, Some(checksum(&sent))));
    }
    stalls
}

/// What a siege came to.
#[derive(Default)]
struct Siege {
    links: u64,
    poisoned: u64,
    /// For each idle policy.
    here: [Stalls; IDLE_MODES.len()],
    elsewhere: Stalls,
}

impl Siege {
    fn report(&self, plugin: &str, start: Instant) {
        for (idle, here) in IDLE_MODES.iter().zip(&self.here) {
            figure("G5", &format!("longest stall of the host beyond deadlines, {plugin} ({idle})"), here);
        }
        figure("G5", &format!("longest call over another link, {plugin}"), &self.elsewhere);
        figure("G5", &format!("longest pause of the machine, {plugin}"), longest_since(start));
    }
}

/// A child that attaches again and again.
struct Besieger<'a> {
    listener: &'a Listener,
    words: &'a std::fs::File,
    child: Child,
}

impl<'a> Besieger<'a> {
    fn start(listener: &'a Listener, words: &'a std::fs::File) -> Self {
        Self { listener, words, child: Self::spawn(listener, words) }
    }

    fn spawn(listener: &Listener, words: &std::fs::File) -> Child {
        let mut command = Setup::default().command_with("flips", listener.path().display());
        shared::share(&mut command, words);
        // What it says of itself when its own words have confused it is of no interest.
        command.stderr(Stdio::null()).spawn().expect("a child")
    }

    /// Its next link.
    fn attach(&mut self) -> Link {
        loop {
            if self.child.try_wait().expect("our child").is_some() {
                self.end();
                self.child = Self::spawn(self.listener, self.words);
            }
            match self.listener.accept(Duration::from_secs(10)).and_then(|guest| guest.admit()) {
                Ok(link) => return link,
                // A process that was killed had just connected.
                Err(Error::Join(_)) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Besieger<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs a host with one plugin that flips words, or only keeps a processor as busy, and one that does neither.
fn besiege(shared: (&std::fs::File, Words), hostile: bool, time: Duration) -> Siege {
    shared.1[HOSTILE].store(hostile.into(), Relaxed);
    let innocent = Setup::default().spawn("streams");
    let stop = AtomicBool::new(false);
    let mut siege = Siege::default();
    thread::scope(|threads| {
        let streaming = threads.spawn(|| stream(&innocent, &stop));
        let directory = Directory::new();
        for (idle, here) in IDLE_MODES.iter().zip(&mut siege.here) {
            let end = Instant::now() + time / IDLE_MODES.len() as u32;
            let listener = Setup::default().idle(idle).host().listen(directory.socket()).expect("listen");
            let mut besieger = Besieger::start(&listener, shared.0);
            while Instant::now() < end {
                let plugin = besieger.attach();
                let until = Instant::now() + Duration::from_millis(100);
                thread::scope(|threads| {
                    let other = threads.spawn(|| use_up(&plugin, 2 * siege.links, until));
                    here.add(use_up(&plugin, 2 * siege.links + 1, until));
                    here.add(other.join().expect("no panic"));
                });
                siege.links += 1;
                siege.poisoned += u64::from(plugin.stats().violations > 0);
                here.time(Duration::ZERO, || drop(plugin));
            }
        }
        stop.store(true, Relaxed);
        siege.elsewhere = streaming.join().expect("the other link is as if nothing had happened");
    });
    finish(innocent);
    siege
}

#[test]
fn a_plugin_that_flips_words_harms_its_own_messages_alone() {
    let time = duration(Duration::from_secs(if emulated() { 10 } else { 4 }));
    let _watchdog = watchdog_of(60 + 2 * time.as_secs() as u32);
    let (file, words) = shared::create(2);
    let start = Instant::now();
    let peace = besiege((&file, words), false, time / 2);
    assert_eq!(peace.poisoned, 0, "an honest plugin");
    peace.report("plugin only computes", start);
    let start = Instant::now();
    let war = besiege((&file, words), true, time);
    assert!(war.poisoned > 0, "none of it was noticed");
    let flipped = u64::from(words[FLIPPED].load(Relaxed)) * 1000;
    assert!(flipped > 0);
    figure("G4", "words flipped beside a running host", flipped);
    let links = format!("{} of {}", war.poisoned, war.links);
    figure("G4", "links to the plugin that flips, given up for a violation", links);
    figure("G4", "calls over another link meanwhile, each intact", war.elsewhere.operations);
    war.report("plugin flips words", start);
}
