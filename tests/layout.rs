//! `docs/layout.md` and the code say the same, and the page is enough to be one end of a link.

#[allow(unused_imports, unused_macros, reason = "roles are for tests with children")]
mod common;
#[path = "layout/page.rs"]
mod page;
#[path = "layout/peer.rs"]
mod peer;
#[path = "layout/shared.rs"]
mod shared;

use busway::Geometry;
use busway::internals::join::{FEATURES, Kind, Packet, Refusal, SOCKET_VARIABLE};
use busway::internals::link::words::{self, Line};
use busway::internals::{Process, ring};
use busway::pool::{PoolConfig, words as pool};
use busway::region::{self, Header, Section, TABLE_AT};
use busway::ring::mpmc::{Cell, Ends, Words, entry_at};
use busway::ring::spsc::Entry;
use busway::slots::SlotRef;
use busway::slots::owned::{self, Handle, State, Word};
use busway::sync::{AtomicU32, AtomicU64, Ordering};
use busway::wake::{FUTEX_STAGE, HOW_BITS, How};
use page::{Field, Page, number};

/// The fields of a struct as they lie in the code, and its size. Does not compile if one of them is left out.
macro_rules! fields {
    ($struct:ty => $name:path { $($field:ident),* $(,)? }) => {{
        type Struct = $struct;
        #[allow(dead_code, reason = "it has only to compile")]
        fn complete($name { $($field: _),* }: &Struct) {}
        fn size_behind<F>(_: fn(&Struct) -> &F) -> usize {
            size_of::<F>()
        }
        let mut fields = vec![$(Field {
            name: stringify!($field).to_owned(),
            offset: core::mem::offset_of!(Struct, $field),
            size: size_behind(|s| &s.$field),
        }),*];
        fields.sort_by_key(|field| field.offset);
        (fields, size_of::<Struct>())
    }};
}

/// The variants of an enum and their numbers. Does not compile if one of them is left out.
macro_rules! variants {
    ($name:ident: $($variant:ident),*) => {{
        #[allow(dead_code, reason = "it has only to compile")]
        fn complete(value: $name) {
            match value {
                $($name::$variant => {})*
            }
        }
        vec![$((stringify!($variant).to_owned(), $name::$variant as u64)),*]
    }};
}

/// Constants of a module by name.
macro_rules! constants {
    ($module:path: $($name:ident),*) => {{
        use $module as module;
        vec![$((stringify!($name).to_owned(), module::$name as u64)),*]
    }};
}

/// Puts the fields of `inner` in the place of the field `outer`.
fn unfold(
    (mut fields, size): (Vec<Field>, usize),
    outer: &str,
    (inner, inner_size): (Vec<Field>, usize),
) -> (Vec<Field>, usize) {
    let at = fields.iter().position(|f| f.name == outer).expect("the field to unfold");
    assert_eq!(fields[at].size, inner_size);
    let offset = fields[at].offset;
    fields.splice(at..=at, inner.into_iter().map(|f| Field { offset: offset + f.offset, ..f }));
    (fields, size)
}

/// Takes the padding off words that are alone on their cache lines.
fn on_lines((mut fields, size): (Vec<Field>, usize)) -> (Vec<Field>, usize) {
    assert_eq!((size_of::<Line<AtomicU32>>(), core::mem::offset_of!(Line<AtomicU32>, 0)), (64, 0));
    assert_eq!((size_of::<pool::Line>(), core::mem::offset_of!(pool::Line, 0)), (64, 0));
    for field in &mut fields {
        if field.size == 64 {
            field.size = size_of::<AtomicU32>();
        }
    }
    (fields, size)
}

/// The names of the constants that a module of a source file declares.
fn declared(source: &str, module: &str) -> Vec<String> {
    let (_, text) = source.split_once(&format!("pub mod {module} {{\n")).expect("a module of this name");
    let (text, _) = text.split_once("\n}").expect("the end of the module");
    let name = |line: &str| Some(line.trim().strip_prefix("pub const ")?.split_once(':')?.0.to_owned());
    text.lines().filter_map(name).collect()
}

const WORDS: &str = include_str!("../src/link/words.rs");
const POOL: &str = include_str!("../src/pool/words.rs");
const RING: &str = include_str!("../src/ring/shared.rs");
const REQUEST: &str = include_str!("../src/call/request.rs");

/// Every table of offsets, as the code has it.
fn structs() -> Vec<(&'static str, (Vec<Field>, usize))> {
    type Control = words::Control<AtomicU32>;
    let control = fields!(Control => words::Control { state, sleepers, cpu, fd_armed, arena_wait, rings });
    let lane = fields!(words::Lane<AtomicU32> => words::Lane { space_wait });
    let bells = fields!(words::Bells => words::Bells { requests, room, slots });
    let intake = fields!(words::Intake<AtomicU32> => words::Intake { pos, park });
    let entry = fields!(Entry<words::Body> => Entry { word, value });
    let body = fields!(words::Body => words::Body { method, length, call, deadline, inline });
    let cell = fields!(words::ReplyCell<AtomicU32> => words::ReplyCell { word, flags, body });
    let reply = fields!(words::ReplyBody => words::ReplyBody { code, zero, length, inline });
    let stats = fields!(words::Counters => words::Counters {
        sent, sent_bytes, received, received_bytes, full, parks, wakes, spins_paid, spins_missed, violations,
    });
    let (mut ends, ends_size) = fields!(Ends => Ends { head, tail });
    for end in &mut ends {
        assert_eq!(end.size, 64);
        end.size = size_of::<AtomicU64>();
    }
    let header = fields!(owned::Header<pool::Body> => owned::Header { word, ext, body });
    let pool_body = fields!(pool::Body => pool::Body { words, what, length });
    let claims = fields!(ring::Claims => ring::Claims { producer, consumer });
    let spsc_ends = unfold(fields!(ring::Ends => ring::Ends { pos, claims }), "claims", claims);
    vec![
        ("Header", fields!(Header => Header { magic, version, sections, length, zero })),
        ("Section", fields!(Section => Section { kind, version, id, count, offset, stride, zero })),
        ("Control", on_lines(control)),
        ("Lane", on_lines(lane)),
        ("Intake", on_lines(intake)),
        ("Bells", on_lines(bells)),
        ("Entry", unfold(entry, "value", body)),
        ("Reply cell", unfold(cell, "body", reply)),
        ("Stats", stats),
        ("Pool control", on_lines(fields!(pool::Control => pool::Control { state, joins }))),
        ("Place", on_lines(fields!(pool::Place => pool::Place { requests, room, slots, events, armed, who }))),
        ("Row", fields!(pool::Row => pool::Row { searcher, zero, parked })),
        ("Queue", fields!(pool::Queue => pool::Queue { ends, requests, room, name })),
        ("Ends", (ends, ends_size)),
        ("Slot header", unfold(header, "body", pool_body)),
        ("Head", fields!(ring::Head => ring::Head { ring, capacity, size, align, namespaces, zero })),
        ("SPSC ends", spsc_ends),
        ("Ring entry", fields!(Entry<u64> => Entry { word, value })),
        ("Member", fields!(ring::Place => ring::Place { who, healer })),
        (
            "Cell",
            unfold(fields!(Cell<[u64; 2]> => Cell { words, value }), "words", fields!(Words => Words { entry, word })),
        ),
        ("Packet", fields!(Packet => Packet { magic, version, kind, features, nonce, reason, place })),
    ]
}

/// Every table of values, as the code has it.
fn values() -> Vec<(&'static str, Vec<(String, u64)>)> {
    let mut how = variants!(How: Futex, Descriptor);
    how.extend(constants!(words: GIVEN_UP));
    let mut sizes = constants!(words: INLINE_REQUEST, INLINE_REPLY, CALL_GENERATION);
    sizes.extend(constants!(busway::slots: GENERATION_BITS));
    sizes.extend(constants!(busway::wake: HOW_BITS));
    let mut pool_limits = constants!(pool: MAX_MEMBERS, MAX_QUEUES, MAX_CLASSES, MAX_NAME, INLINE_REQUEST, DEADLINE);
    pool_limits.extend(constants!(owned: MAX_SLOTS, MAX_PARTICIPANT, GENERATION_BITS));
    pool_limits.extend(constants!(busway::ring::mpmc: STRIDE));
    vec![
        ("Limits", constants!(region: MAGIC, VERSION, HEADER_SIZE, TABLE_AT, MAX_SECTIONS, MAX_LENGTH)),
        (
            "Kinds",
            constants!(words::kind: CONTROL, LANE, ENTRIES, INTAKE, CELLS, CALL_WORDS, RELEASED, STATS, CLASS, BELLS, REPLY_BELLS),
        ),
        ("States", constants!(words::state: OPEN, DRAINING, CLOSED)),
        ("Entry kinds and flags", constants!(words::entry: CALL, EVENT, SLOT, EXT)),
        ("Statuses and flags", constants!(words::reply: OK, REJECTED, PANICKED, NO_METHOD, DISCARDED, SLOT, RELEASED)),
        ("Rejection codes", constants!(busway::reject: UNANSWERED, TOO_DEEP, NO_SLOT)),
        ("How", how),
        ("Sizes", sizes),
        (
            "Pool kinds",
            constants!(pool::kind: CONTROL, PLACES, QUEUES, QUEUE_ENTRIES, HEADERS, SLOT_BELLS, HINTS, SLOT_ROWS, PAYLOADS),
        ),
        ("Pool limits", pool_limits),
        ("Reply kinds", constants!(pool::reply: INLINE, SLOT, REJECTED, PANICKED, NO_METHOD)),
        (
            "Slot states",
            variants!(State: Free, Owned, Queued, Taken, Executing, Replied, Died, Unrun, Attached, Unknown),
        ),
        ("Ring kinds", constants!(ring::kind: HEAD, SPSC_ENDS, ENTRIES, MPMC_ENDS, MEMBERS, CELLS)),
        ("Packet kinds", variants!(Kind: Hello, Offer, Ack, Go, Refuse)),
        ("Reasons", variants!(Refusal: Version, Identity, Policy, Failed)),
    ]
}

/// The bits that make a difference.
fn bits(seen: impl Fn(u64) -> bool) -> u64 {
    (0..64).map(|bit| 1 << bit).filter(|bit| seen(*bit)).sum()
}

/// Every table of bits, as the code has it.
fn masks() -> Vec<(&'static str, Vec<(&'static str, u64)>)> {
    let word = u64::from(u32::MAX);
    let how = (1 << HOW_BITS) - 1;
    let slot = |class, index, generation| SlotRef::new(class, index, generation).bits();
    let (class, index, generation) = (slot(u8::MAX, 0, 0), slot(0, u32::MAX, 0), slot(0, 0, u32::MAX));
    let segment = !(class | index | generation);
    assert_eq!(SlotRef::from_bits(segment).segment(), u8::MAX);
    let call = u64::from(words::CALL_GENERATION);
    let status = u64::from(words::reply::STATUS);
    let part = |seen: fn(Word) -> bool| bits(|word| seen(Word::from_bits(word)));
    let slot_word = vec![
        ("state", part(|word| word.state() != State::Free)),
        ("asleep", part(Word::asleep)),
        ("event", part(Word::event)),
        ("ring", part(|word| word.ring() != 0)),
        ("holder", part(|word| word.holder() != 0)),
        ("caller", part(|word| word.caller() != 0)),
        ("generation", part(|word| word.generation() != 0)),
    ];
    let number = Handle { index: owned::MAX_SLOTS - 1, generation: 0 }.bits();
    let use_of_it = Handle { index: 0, generation: u32::MAX }.bits() & !number;
    let handle = |rest| vec![("slot", number), ("generation", use_of_it), (rest, !(number | use_of_it))];
    let empty = |cycle| entry_at(0, 1, cycle).load(Ordering::Relaxed);
    let (high, low) = (empty(((1 << 28) - 1) << 20), empty((1 << 20) - 1));
    let pid = bits(|word| Process::from_bits(word).is_some_and(|who| who.pid() != 0));
    let process = vec![("pid", pid), ("start", !(pid | ring::CLOSED)), ("closed", ring::CLOSED)];
    vec![
        ("Slot word", slot_word),
        ("Handle", handle("zero")),
        ("Queue entry", handle("cycle")),
        ("Empty entry", vec![("slot", !(high | low)), ("high", high), ("low", low)]),
        ("Process", process),
        ("Slot reference", vec![("generation", generation), ("index", index), ("class", class), ("segment", segment)]),
        ("Mark", vec![("how", how), ("epoch", word & !how)]),
        ("Call word", vec![("how", how), ("generation", call << HOW_BITS)]),
        ("Reply flags", vec![("status", status), ("flags", word & !status)]),
        // The code has these two as shifts where it needs them. That they are right, the peer shows.
        ("Call id", vec![("cell", word), ("generation", call << 32), ("zero", !(word | call << 32))]),
        ("Entry word", vec![("position", word), ("kind", 0xff << 32), ("flags", 0xff << 40), ("parent", 0xffff << 48)]),
    ]
}

#[test]
fn offsets_and_sizes() {
    let page = Page::read();
    for (heading, in_code) in structs() {
        assert_eq!(page.fields(heading), in_code, "{heading}");
    }
}

#[test]
fn numbers() {
    let page = Page::read();
    for (heading, in_code) in values() {
        assert_eq!(page.values(heading), in_code, "{heading}");
    }
    for (heading, in_code) in masks() {
        let in_code: Vec<_> = in_code.into_iter().map(|(name, mask)| (name.to_owned(), mask)).collect();
        assert_eq!(page.masks(heading), in_code, "{heading}");
    }
}

/// A constant that the code gets and `values` lacks is missing from the page, too.
#[test]
fn no_constant_is_missing() {
    let listed = values();
    for (heading, source, module) in [
        ("Kinds", WORDS, "kind"),
        ("States", WORDS, "state"),
        ("Entry kinds and flags", WORDS, "entry"),
        ("Statuses and flags", WORDS, "reply"),
        ("Rejection codes", REQUEST, "reject"),
        ("Pool kinds", POOL, "kind"),
        ("States", POOL, "state"),
        ("Reply kinds", POOL, "reply"),
        ("Ring kinds", RING, "kind"),
    ] {
        let (_, listed) = listed.iter().find(|(h, _)| *h == heading).expect("a heading of values");
        let mut declared = declared(source, module);
        // A mask, which the table of bits has.
        declared.retain(|name| name != "STATUS");
        assert_eq!(declared, listed.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), "{heading}");
    }
}

#[test]
fn default_geometry() {
    let page = Page::read();
    let plan = Geometry::default().plan().expect("the default is possible");
    let row = |row: &Vec<String>| Section {
        kind: page.value("Kinds", &row[0]) as u32,
        version: 1,
        id: number(&row[1]) as u32,
        count: number(&row[2]) as u32,
        stride: number(&row[3]) as u32,
        offset: number(&row[4]),
        zero: 0,
    };
    let bells = Geometry::default().plan_bells().expect("the default is possible");
    let on_page: Vec<_> = page.table("Default geometry").iter().map(row).collect();
    assert_eq!(on_page, [plan.sections(), bells.sections()].concat());
    assert!(TEXT.contains(&format!("The region is {} bytes long, that of the bells {}.", plan.len(), bells.len())));

    // What a stride is said to be above is what it is here.
    for (kind, heading) in [
        ("CONTROL", "Control"),
        ("LANE", "Lane"),
        ("INTAKE", "Intake"),
        ("STATS", "Stats"),
        ("ENTRIES", "Entry"),
        ("CELLS", "Reply cell"),
        ("BELLS", "Bells"),
    ] {
        let kind = page.value("Kinds", kind) as u32;
        let section = on_page.iter().find(|s| s.kind == kind).expect("a section of each kind");
        assert_eq!(section.stride as usize, page.fields(heading).1, "{heading}");
    }
}

#[test]
fn default_pool() {
    let page = Page::read();
    let plan = pool::plan(&PoolConfig::new(["work"])).expect("the default is possible");
    let row = |row: &Vec<String>| Section {
        kind: page.value("Pool kinds", &row[0]) as u32,
        version: 1,
        id: number(&row[1]) as u32,
        count: number(&row[2]) as u32,
        stride: number(&row[3]) as u32,
        offset: number(&row[4]),
        zero: 0,
    };
    let on_page: Vec<_> = page.table("Default pool").iter().map(row).collect();
    assert_eq!(on_page, plan.sections());
    assert!(TEXT.contains(&format!("The region is {} bytes long.", plan.len())));
    assert_eq!(constants!(pool::state: OPEN, DRAINING, CLOSED), page.values("States"));
    for (kind, heading) in [
        ("CONTROL", "Pool control"),
        ("PLACES", "Place"),
        ("QUEUES", "Queue"),
        ("SLOT_ROWS", "Row"),
        ("HEADERS", "Slot header"),
    ] {
        let kind = page.value("Pool kinds", kind) as u32;
        let section = on_page.iter().find(|s| s.kind == kind).expect("a section of each kind");
        assert_eq!(section.stride as usize, page.fields(heading).1, "{heading}");
    }
    assert_eq!(page.field("Queue", "ends").size, page.fields("Ends").1);
    assert_eq!(page.field("Queue", "requests").size, page.fields("Row").1);
}

/// The header page, read by the offsets of the page.
#[test]
fn header_page() {
    let page = Page::read();
    let table = Geometry::default().plan().expect("the default is possible");
    let bytes = table.to_page();
    let field = |heading, name, at: usize, len: usize| {
        let mut value = [0; 8];
        value[..len].copy_from_slice(&bytes[at + page.at(heading, name)..][..len]);
        u64::from_le_bytes(value)
    };
    assert_eq!(field("Header", "magic", 0, 8).to_le_bytes(), *b"busway\0\x01");
    assert_eq!(field("Header", "sections", 0, 4), table.sections().len() as u64);
    assert_eq!(field("Header", "length", 0, 8), table.len() as u64);
    for (i, section) in table.sections().iter().enumerate() {
        let at = TABLE_AT + i * page.fields("Section").1;
        assert_eq!(field("Section", "kind", at, 4), u64::from(section.kind));
        assert_eq!(field("Section", "count", at, 4), u64::from(section.count));
        assert_eq!(field("Section", "offset", at, 8), section.offset);
        assert_eq!(field("Section", "stride", at, 4), u64::from(section.stride));
    }
}

const TEXT: &str = include_str!("../docs/layout.md");

/// What the page says in sentences and the code in constants.
#[test]
fn sentences() {
    assert_eq!(FEATURES, 0, "the page says that there are none");
    assert!(TEXT.contains(&format!("environment variable `{SOCKET_VARIABLE}`")));
    assert!(TEXT.contains(&format!("at most {} ms", FUTEX_STAGE.as_millis())));
    let Geometry { entries, cells, .. } = Geometry::default();
    assert!(TEXT.contains(&format!("N is {entries}, C is {cells}.")));
    assert_eq!(region::VERSION, 1, "the page is about version 1");
}

/// The words that the table of bells names are words of the page.
#[test]
fn bells_are_words() {
    let page = Page::read();
    let things: Vec<_> = page.table("Waking").iter().map(|row| row[0].as_str()).collect();
    assert_eq!(things, ["requests", "room in the ring", "slots", "reply i", "anything"]);
    for row in page.table("Waking") {
        for cell in &row[1..3] {
            match cell.trim_matches('`').split_once('.') {
                Some((section, name)) => {
                    let heading = page.headings().into_iter().find(|h| h.to_lowercase() == section).expect("a section");
                    page.at(heading, name);
                }
                None => {
                    assert!(
                        ["`call_words[i]`", "`reply_bells[i]`", "the doorbell only"].contains(&cell.as_str()),
                        "{cell}"
                    );
                }
            }
        }
    }
}

/// As above, for a pool.
#[test]
fn bells_of_a_pool_are_words() {
    let page = Page::read();
    for row in page.table("Pool waking") {
        for (section, name) in row[1..3].iter().filter_map(|cell| cell.trim_matches('`').split_once('.')) {
            let heading = if section == "place" { "Place" } else { "Queue" };
            page.at(heading, name);
        }
    }
    let things: Vec<_> = page.table("Pool waking").iter().map(|row| row[0].as_str()).collect();
    assert_eq!(things, ["requests", "room", "slots", "the reply in slot i"]);
}

/// Every table of the page is compared with something.
#[test]
fn no_table_is_left_out() {
    let mut compared: Vec<_> = structs().into_iter().map(|(heading, _)| heading).collect();
    compared.extend(values().into_iter().map(|(heading, _)| heading));
    compared.extend(masks().into_iter().map(|(heading, _)| heading));
    // By tests of their own; the descriptors by the peer.
    compared.extend(["Default geometry", "Waking", "Descriptors"]);
    compared.extend(["Default pool", "Pool waking", "Pool descriptors"]);
    compared.sort_unstable();
    assert_eq!(Page::read().headings(), compared);
}
