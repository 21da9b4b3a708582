//! Rings and pools, as the page reads their memory.

use super::page::Page;
use busway::ring::{Mpmc, Spsc};
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

/// The file of a ring.
struct Bytes<'a> {
    page: &'a Page,
    file: File,
    /// By kind: offset, count and stride.
    sections: HashMap<u64, [u64; 3]>,
}

impl<'a> Bytes<'a> {
    fn of(page: &'a Page, file: BorrowedFd<'_>) -> Self {
        let file = file.try_clone_to_owned().expect("a descriptor").into();
        let mut bytes = Self { page, file, sections: HashMap::new() };
        assert_eq!(bytes.field("Header", "magic", 0), page.value("Limits", "MAGIC"));
        for number in 0..bytes.field("Header", "sections", 0) {
            let at = page.value("Limits", "TABLE_AT") + number * page.fields("Section").1 as u64;
            let field = |name| bytes.field("Section", name, at);
            assert_eq!((field("version"), field("id")), (1, 0));
            let (kind, section) = (field("kind"), ["offset", "count", "stride"].map(field));
            bytes.sections.insert(kind, section);
        }
        bytes
    }

    /// A field of what lies at `at`.
    fn field(&self, heading: &str, name: &str, at: u64) -> u64 {
        let field = self.page.field(heading, name);
        let mut value = [0; 8];
        let len = field.size.min(8);
        self.file.read_exact_at(&mut value[..len], at + field.offset as u64).expect("bytes of the file");
        u64::from_le_bytes(value)
    }

    /// A field of an element of a section.
    fn element(&self, kind: &str, index: u64, heading: &str, name: &str) -> u64 {
        let [offset, count, stride] = self.sections[&self.page.value("Ring kinds", kind)];
        assert!(index < count);
        self.field(heading, name, offset + index * stride)
    }

    fn count(&self, kind: &str) -> u64 {
        self.sections[&self.page.value("Ring kinds", kind)][1]
    }

    fn head(&self) -> [u64; 4] {
        ["ring", "capacity", "size", "align"].map(|name| self.element("HEAD", 0, "Head", name))
    }
}

/// This process, as a word of a ring.
fn own(page: &Page) -> u64 {
    // Of its first thread: emulators answer for /proc/self/stat with what they make up.
    let pid = std::process::id();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/stat")).expect("what the kernel says of it");
    let start = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(22 - 3)).expect("field 22");
    page.place("Process", "pid", pid.into()) | page.place("Process", "start", start.parse().expect("a number"))
}

#[test]
fn a_ring_of_one_producer_and_one_consumer() {
    let page = Page::read();
    let ring = Spsc::<u64>::create(10).expect("a ring");
    let bytes = Bytes::of(&page, ring.as_fd());
    assert_eq!(bytes.head(), [page.value("Ring kinds", "ENTRIES"), 10, 8, 8]);
    // A stride of 2.
    assert_eq!((bytes.count("ENTRIES"), bytes.count("SPSC_ENDS")), (16, 1));
    let end = |name| bytes.element("SPSC_ENDS", 0, "SPSC ends", name);
    let (mut producer, mut consumer) = (ring.producer().expect("the end"), ring.consumer().expect("the end"));
    assert_eq!((end("producer"), end("consumer"), end("pos")), (own(&page), own(&page), 0));
    for value in 0..11 {
        producer.push(100 + value).expect("room");
        let entry = ["word", "value"].map(|name| bytes.element("ENTRIES", value, "Ring entry", name));
        assert_eq!(entry, [value + 1, 100 + value]);
    }
    producer.push(0).expect_err("10 + 2 - 1 are in it");
    for (pos, taken) in [(0, 100), (2, 101), (2, 102), (4, 103)] {
        assert_eq!(consumer.pop().expect("ours"), Some(taken));
        assert_eq!(end("pos"), pos);
    }
    drop(producer);
    assert_eq!(end("producer"), own(&page) | page.place("Process", "closed", 1));
}

#[test]
fn a_ring_of_many() {
    let page = Page::read();
    let ring = Mpmc::<[u64; 2]>::create(4, 5).expect("a ring");
    let bytes = Bytes::of(&page, ring.as_fd());
    assert_eq!(bytes.head(), [page.value("Ring kinds", "CELLS"), 4, 16, 8]);
    assert_eq!([bytes.count("MEMBERS"), bytes.count("CELLS")], [5, 4 + 4 * 5]);
    let (first, second) = (ring.join().expect("a place"), ring.join().expect("a place"));
    let who = |number: u32| bytes.element("MEMBERS", u64::from(number) - 1, "Member", "who");
    assert_eq!((who(first.number()), who(second.number()), who(3)), (own(&page), own(&page), 0));

    let cell = |index, name| bytes.element("CELLS", index, "Cell", name);
    let state = |name| page.value("Slot states", name);
    // Once round, so that no cycle is 0.
    for value in 0..4 {
        first.push([value; 2]).expect("room");
        assert_eq!(second.pop().expect("ours"), Some([value; 2]));
        assert_eq!(page.bits("Slot word", "state", cell(value, "word")), state("Free"));
        assert_eq!(page.bits("Slot word", "generation", cell(value, "word")), 2);
    }
    second.push([7, 8]).expect("room");
    let entry = ["slot", "generation", "cycle"].map(|name| page.bits("Queue entry", name, cell(0, "entry")));
    assert_eq!(entry, [1, 3, 1]);
    let word = ["state", "asleep", "event", "ring", "holder", "caller", "generation"];
    let word = word.map(|name| page.bits("Slot word", name, cell(0, "word")));
    assert_eq!(word, [state("Queued"), 0, 1, 0, second.number().into(), 0, 3]);
    assert_eq!(cell(0, "value"), 7);
    // An end moves by its stride, here the capacity.
    assert_eq!(["head", "tail"].map(|name| bytes.element("MPMC_ENDS", 0, "Ends", name)), [4, 4]);
    drop(second);
    assert_eq!(who(2), 0);
}
