//! The index ring over slots with owners.

use super::search::Machine;

const ENTRIES: usize = 2;
const SLOTS: usize = 3;
const MAX: usize = 5;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
enum Is {
    #[default]
    Free,
    Owned,
    Queued,
    Taken,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Slot {
    generation: u8,
    is: Is,
    holder: u8,
    marked: bool,
}

/// `slot` is one more than the index, 0 where the entry is empty.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Entry {
    cycle: u8,
    generation: u8,
    slot: u8,
}

/// Where a party stands, before the step of that name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum At {
    Done,
    Alloc,
    Queue,
    Tail,
    Find,
    FullOrStale,
    Install,
    MoveTail,
    Mind,
    Mark,
    GiveUp,
    Back,
    Drop,
    Head,
    Look,
    Word,
    Take,
    Clear,
    MoveHead,
    Release,
    Idle,
    Snapshot,
    Slot,
    Swap,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Party {
    at: At,
    left: u8,
    slot: u8,
    generation: u8,
    position: u8,
    start: u8,
    won: bool,
    entry: Entry,
    word: Slot,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State {
    head: u8,
    tail: u8,
    entries: [Entry; ENTRIES],
    slots: [Slot; SLOTS],
    parties: [Party; MAX],
    /// Number of the dead party plus one.
    dead: u8,
    /// What the supervisor saw in the ring, by entry.
    seen: [Entry; ENTRIES],
    /// One bit for each (slot, generation) that was delivered.
    delivered: u32,
    /// Requests in the ring that were neither delivered nor given up by their own producer.
    owed: u8,
}

pub struct Ring {
    pub producers: usize,
    pub consumers: usize,
    pub rounds: u8,
    /// The ends are moved once they lag by so much.
    pub stride: u8,
    /// Whether a consumer clears its entry; else the next producer there finds it stale.
    pub clears: bool,
    /// Whether producers may mark or give up what they have queued.
    pub minds: bool,
    pub mutant: &'static str,
}

impl Ring {
    fn is(&self, mutant: &str) -> bool {
        self.mutant == mutant
    }
}

impl Machine for Ring {
    type State = State;
    const NAME: &'static str = "ring model,";

    fn parties(&self) -> usize {
        self.producers + self.consumers + 1
    }

    fn start(&self) -> State {
        let none = Party {
            at: At::Done,
            left: 0,
            slot: 0,
            generation: 0,
            position: 0,
            start: 0,
            won: false,
            entry: Entry::default(),
            word: Slot::default(),
        };
        let mut parties = [none; MAX];
        parties[..self.producers].fill(Party { at: At::Alloc, left: self.rounds, ..none });
        parties[self.producers..][..self.consumers].fill(Party { at: At::Head, left: self.rounds, ..none });
        parties[self.producers + self.consumers].at = At::Idle;
        State {
            head: 0,
            tail: 0,
            entries: Default::default(),
            slots: Default::default(),
            parties,
            dead: 0,
            seen: Default::default(),
            delivered: 0,
            owed: 0,
        }
    }

    fn kill(&self, at: &State, party: usize) -> Option<State> {
        let killable = at.dead == 0 && party < self.parties() - 1 && at.parties[party].at != At::Done;
        killable.then(|| State { dead: party as u8 + 1, ..*at })
    }

    fn step(&self, at: &State, me: usize, next: &mut Vec<State>) -> Result<(), String> {
        if at.dead == me as u8 + 1 {
            return Ok(());
        }
        let n = ENTRIES as u8;
        let mut s = *at;
        let holder = me as u8 + 1;
        let p = at.parties[me];
        let q = &mut s.parties[me];
        let entry = at.entries[(p.position % n) as usize];
        let cycle = p.position / n;
        // Which (generation, index) an entry or a party means.
        let queued = |slot: u8, generation: u8| {
            let word = at.slots[slot as usize];
            word.is == Is::Queued && word.generation == generation
        };
        match p.at {
            At::Done => return Ok(()),
            At::Alloc => match at.slots.iter().position(|slot| slot.is == Is::Free) {
                None => q.at = At::Done,
                Some(free) => {
                    q.at = At::Queue;
                    q.slot = free as u8;
                    s.slots[free] = Slot { is: Is::Owned, holder, ..at.slots[free] };
                }
            },
            At::Queue => {
                let slot = &mut s.slots[p.slot as usize];
                *slot = Slot { generation: slot.generation + 1, is: Is::Queued, holder, marked: false };
                q.generation = slot.generation;
                q.at = At::Tail;
            }
            At::Tail => (q.at, q.start, q.position) = (At::Find, at.tail, at.tail),
            At::Find => {
                q.entry = entry;
                if entry.cycle > cycle && self.is("tail not helped once the entry's cycle is ahead") {
                    q.at = At::Tail;
                } else if entry.cycle > cycle || entry.cycle == cycle && entry.slot > 0 {
                    q.position += 1;
                    if self.is("tail not helped over an occupied entry") {
                        q.at = At::Tail;
                    }
                } else if entry.cycle < cycle {
                    q.at = if entry.slot > 0 { At::FullOrStale } else { Err("an empty entry is behind")? };
                } else {
                    q.at = At::Install;
                }
            }
            At::FullOrStale => {
                let stale = !queued(p.entry.slot - 1, p.entry.generation);
                q.at = if stale || self.is("entry overwritten before its slot is looked at") {
                    At::Install
                } else {
                    At::Back
                };
            }
            At::Install => {
                if entry == p.entry {
                    s.owed += 1;
                    s.entries[(p.position % n) as usize] = Entry { cycle, generation: p.generation, slot: p.slot + 1 };
                    q.at = if p.position + 1 - p.start >= self.stride { At::MoveTail } else { At::Mind };
                } else {
                    q.at = At::Find;
                }
            }
            At::MoveTail => {
                q.at = At::Mind;
                if at.tail == p.start {
                    s.tail = p.position + 1;
                }
            }
            // The caller, once its request is in the ring: leaves it alone, falls asleep on it, or gives it up.
            At::Mind => {
                q.word = at.slots[p.slot as usize];
                if self.minds && queued(p.slot, p.generation) {
                    for at in [At::Mark, At::GiveUp] {
                        let mut s = s;
                        s.parties[me].at = at;
                        next.push(s);
                    }
                }
                let q = &mut s.parties[me];
                q.left -= 1;
                *q = Party {
                    at: if q.left > 0 { At::Alloc } else { At::Done },
                    left: q.left,
                    ..self.start().parties[me]
                };
            }
            At::Mark | At::GiveUp => {
                let mut word = p.word;
                if p.at == At::Mark {
                    word.marked = true;
                } else {
                    word = Slot { generation: word.generation + 1, ..Slot::default() };
                }
                if at.slots[p.slot as usize] == p.word {
                    s.slots[p.slot as usize] = word;
                    s.owed -= u8::from(p.at == At::GiveUp);
                }
                q.left -= 1;
                *q = Party {
                    at: if q.left > 0 { At::Alloc } else { At::Done },
                    left: q.left,
                    ..self.start().parties[me]
                };
            }
            At::Back => {
                if !queued(p.slot, p.generation) {
                    return Err("full, but it was sent".into());
                }
                s.slots[p.slot as usize].is = Is::Owned;
                q.at = At::Drop;
            }
            At::Drop => {
                s.slots[p.slot as usize] = Slot { generation: p.generation + 1, ..Slot::default() };
                *q = Party { at: At::Done, ..self.start().parties[me] };
            }
            At::Head => (q.at, q.start, q.position) = (At::Look, at.head, at.head),
            At::Look => {
                q.entry = entry;
                if entry.cycle < cycle || entry.cycle == cycle && entry.slot == 0 {
                    *q = Party { at: At::Done, left: 0, ..self.start().parties[me] };
                } else if entry.cycle > cycle {
                    q.position += 1;
                } else {
                    q.at = At::Word;
                }
            }
            At::Word => {
                q.word = at.slots[p.entry.slot as usize - 1];
                q.won = queued(p.entry.slot - 1, p.entry.generation);
                q.at = if q.won { At::Take } else { At::Clear };
                if self.is("entry cleared before the slot is taken") && q.won && entry == p.entry {
                    s.entries[(p.position % n) as usize] = Entry { cycle: cycle + 1, ..Entry::default() };
                }
            }
            At::Take => {
                let slot = p.entry.slot - 1;
                if at.slots[slot as usize] == p.word {
                    s.slots[slot as usize] = Slot { is: Is::Taken, holder, ..p.word };
                    let bit = 1 << (slot * 8 + p.entry.generation % 8);
                    if at.delivered & bit != 0 {
                        return Err("delivered twice".into());
                    }
                    s.delivered |= bit;
                    s.owed -= 1;
                    q.at = At::Clear;
                } else if self.is("a take that fails is not looked at again") {
                    (q.at, q.won) = (At::Clear, false);
                } else {
                    q.at = At::Word;
                }
            }
            At::Clear => {
                if self.clears && entry == p.entry {
                    s.entries[(p.position % n) as usize] = Entry { cycle: cycle + 1, ..Entry::default() };
                }
                q.at = match p.won {
                    _ if p.position + 1 - p.start >= self.stride => At::MoveHead,
                    true => At::Release,
                    false => At::Look,
                };
                q.position += u8::from(q.at == At::Look);
            }
            At::MoveHead => {
                if at.head == p.start {
                    s.head = p.position + 1;
                }
                q.at = if p.won { At::Release } else { At::Head };
            }
            At::Release => {
                let slot = p.entry.slot as usize - 1;
                let expected = Slot { is: Is::Taken, holder, ..p.word };
                if at.slots[slot] != expected {
                    return Err("a taken slot was stolen".into());
                }
                s.slots[slot] = Slot { generation: p.entry.generation + 1, ..Slot::default() };
                let left = p.left - 1;
                *q = Party { at: if left > 0 { At::Head } else { At::Done }, left, ..self.start().parties[me] };
            }
            At::Idle if at.dead == 0 => return Ok(()),
            At::Idle => q.at = At::Snapshot,
            At::Snapshot => {
                s.seen[p.slot as usize] = at.entries[p.slot as usize];
                q.slot += 1;
                if q.slot == n {
                    (q.at, q.slot) = (At::Slot, 0);
                }
            }
            At::Slot => {
                q.word = at.slots[p.slot as usize];
                let hers = q.word.holder == at.dead && q.word.is != Is::Free;
                q.at = if hers { At::Swap } else { At::Slot };
                q.slot += u8::from(!hers);
                if q.slot as usize == SLOTS {
                    q.at = At::Done;
                }
            }
            At::Swap => {
                let present = (at.seen.iter()).any(|e| e.slot == p.slot + 1 && e.generation == p.word.generation);
                let word = if p.word.is == Is::Queued && present && !self.is("queued slot freed by recovery") {
                    Slot { holder: 0, ..p.word }
                } else {
                    Slot { generation: p.word.generation + 1, ..Slot::default() }
                };
                if at.slots[p.slot as usize] == p.word || self.is("recovery stores") {
                    s.slots[p.slot as usize] = word;
                }
                q.at = At::Slot;
            }
        }
        next.push(s);
        Ok(())
    }

    fn finished(&self, s: &State) -> Result<(), String> {
        let count = |is| s.slots.iter().filter(|slot| slot.is == is).count();
        if count(Is::Owned) + count(Is::Taken) > 0 {
            return Err("a slot is lost".into());
        }
        // A fresh consumer finds everything that is queued.
        let mut found = 0;
        for position in s.head..s.head + 4 * ENTRIES as u8 {
            let entry = s.entries[position as usize % ENTRIES];
            let cycle = position / ENTRIES as u8;
            if entry.cycle < cycle || entry.cycle == cycle && entry.slot == 0 {
                break;
            }
            if entry.cycle == cycle {
                let slot = s.slots[entry.slot as usize - 1];
                found += usize::from(slot.is == Is::Queued && slot.generation == entry.generation);
            }
        }
        if found != count(Is::Queued) {
            return Err("what is queued is not found".into());
        }
        if found != s.owed.into() { Err("a request was dropped".into()) } else { Ok(()) }
    }
}
