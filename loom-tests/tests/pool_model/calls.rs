//! Calls and events above rings, sleepers, and recovery.

use super::search::Machine;

const SLOTS: usize = 2;
const QUEUES: usize = 2;
const DEPTH: usize = 3;
const MAX: usize = 5;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
enum Is {
    #[default]
    Free,
    Owned,
    Queued,
    Taken,
    Executing,
    Replied,
    /// Its worker died, before it was handed over.
    Unrun,
    /// Its worker died afterwards.
    Died,
}

/// Numbers of participants are those of the parties plus one; 0 is nobody.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Word {
    generation: u8,
    is: Is,
    caller: u8,
    holder: u8,
    queue: u8,
    asleep: bool,
    event: bool,
}

impl Word {
    fn freed(self) -> Self {
        Self { generation: self.generation + 1, ..Self::default() }
    }
    fn orphan(self, serve: bool) -> Self {
        Self { caller: 0, asleep: false, event: self.event || serve, ..self }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Entry {
    slot: u8,
    generation: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum At {
    Done,
    // Callers.
    Alloc,
    Send,
    Install,
    Wait,
    ReadBell,
    Mark,
    SleepOnSlot,
    AsleepOnSlot,
    GiveUp,
    Complete,
    // Waking one sleeper of a queue, then `after`.
    Parked,
    Claim,
    Ring,
    Wake,
    // Workers.
    Serve,
    Word,
    Take,
    Clear,
    More,
    Handed,
    Start,
    StartSwap,
    Run,
    Reply,
    ReplySwap,
    RingSlot,
    WakeSlot,
    PlaceBell,
    Park,
    LookAgain,
    Sleep,
    Asleep,
    Unpark,
    // The supervisor.
    Idle,
    Snapshot,
    Slot,
    Swap,
    ClearBits,
    RingPlace,
    WakePlace,
    RingQueues,
    RingSlots,
    SlotBell,
    SlotWake,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Party {
    at: At,
    after: At,
    step: u8,
    slot: u8,
    generation: u8,
    queue: u8,
    other: u8,
    bell_queue: u8,
    word: Word,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State {
    slots: [Word; SLOTS],
    /// Whether the bell of a slot was bumped since its caller read it; it has no other reader.
    bells: [bool; SLOTS],
    queues: [[Entry; DEPTH]; QUEUES],
    length: [u8; QUEUES],
    parked: [u8; QUEUES],
    /// The same for the bell of a place.
    places: [bool; MAX],
    parties: [Party; MAX],
    dead: u8,
    recovered: u8,
    /// What the supervisor saw in the queues: a bit for each (slot, generation).
    seen: u32,
    executed: u32,
    completed: u32,
    /// Installed events whose sender and takers lived, and those of them that ran.
    events: u8,
    events_run: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    Call(u8),
    Event(u8),
    /// An event of a batch whose last one rings.
    Quiet(u8),
}

pub struct Calls {
    /// What each caller does.
    pub callers: &'static [&'static [Op]],
    /// Which queues each worker serves, a bit each.
    pub workers: &'static [u8],
    pub deaths: u32,
    /// Whether a request that its dead caller left in a queue is served.
    pub serve: bool,
    pub mutant: &'static str,
}

fn bit(slot: u8, generation: u8) -> u32 {
    1 << (slot * 16 + generation % 16)
}

impl Calls {
    fn is(&self, mutant: &str) -> bool {
        self.mutant == mutant
    }

    fn supervisor(&self) -> usize {
        self.callers.len() + self.workers.len()
    }

    fn fresh(&self, at: At) -> Party {
        let word = Word::default();
        let after = At::Done;
        Party { at, after, step: 0, slot: 0, generation: 0, queue: 0, other: 0, bell_queue: 0, word }
    }

    fn op(&self, me: usize, step: u8) -> Option<Op> {
        self.callers[me].get(step as usize).copied()
    }

    /// The caller's next operation.
    fn next_op(&self, me: usize, p: Party) -> Party {
        let step = p.step + 1;
        let at = if self.op(me, step).is_some() { At::Alloc } else { At::Done };
        Party { step, ..self.fresh(at) }
    }
}

impl Machine for Calls {
    type State = State;
    const NAME: &'static str = "pool model,";

    fn parties(&self) -> usize {
        self.supervisor() + 1
    }

    fn start(&self) -> State {
        let mut parties = [self.fresh(At::Done); MAX];
        parties[..self.callers.len()].fill(self.fresh(At::Alloc));
        parties[self.callers.len()..self.supervisor()].fill(self.fresh(At::Serve));
        parties[self.supervisor()].at = At::Idle;
        State {
            slots: Default::default(),
            bells: [false; SLOTS],
            queues: Default::default(),
            length: [0; QUEUES],
            parked: [0; QUEUES],
            places: [false; MAX],
            parties,
            dead: 0,
            recovered: 0,
            seen: 0,
            executed: 0,
            completed: 0,
            events: 0,
            events_run: 0,
        }
    }

    fn kill(&self, at: &State, party: usize) -> Option<State> {
        let done = at.parties[party].at == At::Done;
        let may = party < self.supervisor() && !done && at.dead.count_ones() < self.deaths;
        may.then(|| {
            let mut s = State { dead: at.dead | 1 << party, ..*at };
            s.parties[party] = self.fresh(At::Done);
            s
        })
    }

    fn step(&self, at: &State, me: usize, next: &mut Vec<State>) -> Result<(), String> {
        let number = me as u8 + 1;
        let mut s = *at;
        let p = at.parties[me];
        // The supervisor's walk ends beyond the last slot.
        let word = at.slots.get(p.slot as usize).copied().unwrap_or_default();
        let serves = |queue: usize| {
            me >= self.callers.len()
                && me < self.supervisor()
                && self.workers[me - self.callers.len()] >> queue & 1 == 1
        };
        let q = &mut s.parties[me];
        match p.at {
            At::Done | At::Asleep | At::AsleepOnSlot => return Ok(()),

            At::Alloc => match at.slots.iter().position(|word| word.is == Is::Free) {
                None => *q = self.next_op(me, p),
                Some(free) => {
                    s.slots[free] = Word { is: Is::Owned, holder: number, ..at.slots[free] };
                    *q = Party { at: At::Send, slot: free as u8, ..p };
                }
            },
            At::Send => {
                let Some(op) = self.op(me, p.step) else { return Err("no operation".into()) };
                let (event, queue) = match op {
                    Op::Event(queue) | Op::Quiet(queue) => (true, queue),
                    Op::Call(queue) => (false, queue),
                };
                let generation = word.generation + 1;
                let caller = if event { 0 } else { number };
                // The sender stays its holder until it is taken: an event of a dead sender is found by it.
                let holder = if event && self.is("an event forgets its sender") { 0 } else { number };
                s.slots[p.slot as usize] =
                    Word { generation, is: Is::Queued, caller, holder, queue, asleep: false, event };
                *q = Party { at: At::Install, generation, queue, ..p };
            }
            At::Install => {
                let queue = p.queue as usize;
                let length = at.length[queue] as usize;
                if length == DEPTH {
                    return Err("the queue is too short for this model".into());
                }
                s.queues[queue][length] = Entry { slot: p.slot, generation: p.generation };
                s.length[queue] += 1;
                let op = self.op(me, p.step);
                s.events += u8::from(!matches!(op, Some(Op::Call(_))));
                q.at = if matches!(op, Some(Op::Quiet(_))) { At::Wait } else { At::Parked };
                q.after = At::Wait;
            }
            At::Wait => match self.op(me, p.step) {
                Some(Op::Event(_) | Op::Quiet(_)) => *q = self.next_op(me, p),
                _ => {
                    if word.generation != p.generation || word.caller != number {
                        return Err("the caller lost its slot".into());
                    }
                    q.word = word;
                    if matches!(word.is, Is::Replied | Is::Died | Is::Unrun) {
                        q.at = At::Complete;
                    } else {
                        q.at = At::ReadBell;
                        let mut other = s;
                        other.parties[me].at = At::GiveUp;
                        next.push(other);
                    }
                }
            },
            At::ReadBell => {
                s.bells[p.slot as usize] = false;
                q.at = At::Mark;
            }
            At::Mark => {
                if word == p.word || self.is("W set without looking again") {
                    s.slots[p.slot as usize].asleep = true;
                    q.at = At::SleepOnSlot;
                } else {
                    q.at = At::Wait;
                }
            }
            At::SleepOnSlot => {
                q.at = if at.bells[p.slot as usize] { At::Wait } else { At::AsleepOnSlot };
            }
            At::GiveUp => {
                if word != p.word {
                    q.at = At::Wait;
                } else if word.is == Is::Queued {
                    s.slots[p.slot as usize] = word.freed();
                    if at.completed & bit(p.slot, p.generation) != 0 {
                        return Err("completed twice".into());
                    }
                    s.completed |= bit(p.slot, p.generation);
                    // Not executed, and it must stay so: whoever executes it finds it completed.
                    if at.executed & bit(p.slot, p.generation) != 0 {
                        return Err("given up as not executed, but executed".into());
                    }
                    *q = self.next_op(me, p);
                } else {
                    s.slots[p.slot as usize] = word.orphan(false);
                    s.completed |= bit(p.slot, p.generation);
                    *q = self.next_op(me, p);
                }
            }
            At::Complete => {
                if word != p.word || at.completed & bit(p.slot, p.generation) != 0 {
                    return Err("completed twice".into());
                }
                let executed = at.executed & bit(p.slot, p.generation) != 0;
                if word.is == Is::Unrun && executed || word.is == Is::Replied && !executed {
                    return Err("the completion does not say what was executed".into());
                }
                s.completed |= bit(p.slot, p.generation);
                s.slots[p.slot as usize] = word.freed();
                *q = self.next_op(me, p);
            }

            At::Parked => match at.parked[p.queue as usize] {
                0 => q.at = p.after,
                // Any of them.
                mask => {
                    for place in (0..MAX as u8).filter(|place| mask >> place & 1 == 1) {
                        let mut s = *at;
                        s.parties[me] = Party { at: At::Claim, other: place, ..p };
                        next.push(s);
                    }
                    return Ok(());
                }
            },
            At::Claim => {
                let mask = 1 << p.other;
                q.at = if at.parked[p.queue as usize] & mask != 0 { At::Ring } else { At::Parked };
                s.parked[p.queue as usize] &= !mask;
            }
            At::Ring => {
                s.places[p.other as usize] = true;
                q.at = At::Wake;
            }
            At::Wake => {
                q.at = p.after;
                wake_place(&mut s, p.other);
            }

            At::Serve => {
                let queue = p.queue as usize;
                if queue == QUEUES {
                    q.at = At::PlaceBell;
                } else if serves(queue) && at.length[queue] > 0 {
                    let Entry { slot, generation } = at.queues[queue][0];
                    *q = Party { at: At::Word, slot, generation, ..p };
                } else {
                    q.queue += 1;
                }
            }
            At::Word => {
                q.word = word;
                let queued = word.is == Is::Queued && word.generation == p.generation && word.queue == p.queue;
                // What is no longer queued is only cleared.
                q.at = if queued { At::Take } else { At::Clear };
            }
            At::Take => {
                if word == p.word {
                    s.slots[p.slot as usize] = Word { is: Is::Taken, holder: number, ..word };
                    (q.at, q.other) = (At::Clear, 1);
                } else {
                    q.at = At::Word;
                }
            }
            At::Clear => {
                let queue = p.queue as usize;
                let head = Entry { slot: p.slot, generation: p.generation };
                if at.length[queue] > 0 && at.queues[queue][0] == head {
                    s.queues[queue].rotate_left(1);
                    s.queues[queue][DEPTH - 1] = Entry::default();
                    s.length[queue] -= 1;
                }
                q.at = if p.other == 1 { At::More } else { At::Serve };
                q.other = 0;
            }
            At::More => {
                // Of every queue it serves: two wakers may have claimed two bits of this one place.
                let queue = p.other as usize;
                let one = self.is("dequeue hands on its own queue only");
                if queue == QUEUES || self.is("dequeue does not hand on") {
                    q.at = At::Start;
                } else if serves(queue) && at.length[queue] > 0 && (!one || queue == p.queue.into()) {
                    (q.at, q.after, q.step, q.queue) = (At::Parked, At::Handed, p.queue, p.other);
                    q.bell_queue = p.other;
                } else {
                    q.other += 1;
                }
            }
            At::Handed => {
                *q = Party { at: At::More, queue: p.step, other: p.bell_queue + 1, step: 0, bell_queue: 0, ..p }
            }
            At::Start => (q.word, q.at) = (word, At::StartSwap),
            At::StartSwap => {
                let hers = word.generation == p.generation && word.is == Is::Taken && word.holder == number;
                if !hers {
                    return Err("a taken slot was stolen".into());
                }
                let event = word.event && !self.is("event freed as abandoned");
                if word != p.word {
                    q.at = At::Start;
                } else if word.caller == 0 && !event {
                    s.slots[p.slot as usize] = word.freed();
                    *q = self.fresh(At::Serve);
                } else {
                    s.slots[p.slot as usize].is = Is::Executing;
                    q.at = At::Run;
                }
            }
            At::Run => {
                let mark = bit(p.slot, p.generation);
                if at.executed & mark != 0 {
                    return Err("executed twice".into());
                }
                s.executed |= mark;
                s.events_run += u8::from(word.event);
                q.at = At::Reply;
            }
            At::Reply => {
                if word.generation != p.generation || word.is != Is::Executing || word.holder != number {
                    return Err("an executing slot was stolen".into());
                }
                (q.word, q.at) = (word, At::ReplySwap);
            }
            At::ReplySwap => {
                if word != p.word {
                    q.at = At::Reply;
                } else {
                    // Served, a worker goes on or leaves; a long handler is like leaving.
                    let asleep = word.asleep && !self.is("reply does not look at W");
                    s.slots[p.slot as usize] = match word.caller {
                        0 => word.freed(),
                        _ => Word { is: Is::Replied, holder: 0, ..word },
                    };
                    for after in [At::Serve, At::Done] {
                        let mut s = s;
                        s.parties[me] = Party { after, ..self.fresh(after) };
                        if word.caller != 0 && asleep {
                            s.parties[me] = Party { at: At::RingSlot, after, slot: p.slot, ..s.parties[me] };
                        }
                        next.push(s);
                    }
                    return Ok(());
                }
            }
            At::RingSlot => {
                s.bells[p.slot as usize] = true;
                q.at = At::WakeSlot;
            }
            At::WakeSlot => {
                let after = p.after;
                *q = self.fresh(after);
                wake_slot(&mut s, p.slot);
            }

            At::PlaceBell => {
                s.places[me] = false;
                *q = self.fresh(At::Park);
            }
            At::Park => {
                let queue = p.queue as usize;
                if serves(queue) {
                    s.parked[queue] |= 1 << me;
                }
                let q = &mut s.parties[me];
                q.queue += 1;
                if q.queue as usize == QUEUES {
                    (q.at, q.queue) = (At::LookAgain, 0);
                }
            }
            At::LookAgain => {
                let queue = p.queue as usize;
                if self.is("parked without looking again") || queue == QUEUES {
                    q.at = At::Sleep;
                } else if serves(queue) && at.length[queue] > 0 {
                    (q.at, q.queue) = (At::Unpark, 0);
                } else {
                    q.queue += 1;
                }
            }
            At::Sleep => {
                *q = self.fresh(if at.places[me] { At::Unpark } else { At::Asleep });
            }
            // A waker has claimed one bit at most.
            At::Unpark => {
                s.parked[p.queue as usize] &= !(1 << me);
                let q = &mut s.parties[me];
                q.queue += 1;
                if q.queue as usize == QUEUES {
                    *q = self.fresh(At::Serve);
                }
            }

            At::Idle => {
                let left = at.dead & !at.recovered;
                if left == 0 {
                    return Ok(());
                }
                *q = Party { at: At::Snapshot, other: left.trailing_zeros() as u8, ..self.fresh(At::Done) };
                s.seen = 0;
            }
            At::Snapshot => {
                let queue = p.queue as usize;
                for entry in &at.queues[queue][..at.length[queue] as usize] {
                    s.seen |= bit(entry.slot, entry.generation);
                }
                q.queue += 1;
                if q.queue as usize == QUEUES {
                    (q.at, q.slot, q.queue) = (At::Slot, 0, 0);
                }
            }
            At::Slot => {
                let dead = p.other + 1;
                if p.slot as usize == SLOTS {
                    (q.at, q.slot, q.queue) = (At::ClearBits, 0, 0);
                } else if word.is != Is::Free && (word.holder == dead || word.caller == dead) {
                    (q.at, q.word) = (At::Swap, word);
                } else {
                    q.slot += 1;
                }
            }
            At::Swap => {
                let dead = p.other + 1;
                let held = p.word.holder == dead;
                let caller = if p.word.caller == dead { 0 } else { p.word.caller };
                let new = match p.word.is {
                    Is::Queued if at.seen & bit(p.slot, p.word.generation) != 0 => {
                        Word { holder: 0, ..if p.word.event { p.word } else { p.word.orphan(self.serve) } }
                    }
                    Is::Taken | Is::Executing if !held => p.word.orphan(self.serve && p.word.is == Is::Taken),
                    Is::Taken if caller != 0 => Word { is: Is::Unrun, holder: 0, ..p.word },
                    Is::Executing if caller != 0 && !self.is("executing slot freed by recovery") => {
                        Word { is: Is::Died, holder: 0, ..p.word }
                    }
                    _ => p.word.freed(),
                };
                if word == p.word {
                    // At most once: an event that its worker had taken is gone with it.
                    let lost = held && p.word.event && matches!(p.word.is, Is::Taken | Is::Executing);
                    let ran = at.executed & bit(p.slot, p.word.generation) != 0;
                    s.events_run += u8::from(lost && !ran);
                    // Served in place of its caller, like an event.
                    let orphaned = !p.word.event && new.event && new.is != Is::Free;
                    s.events += u8::from(orphaned);
                    s.slots[p.slot as usize] = new;
                }
                q.at = At::Slot;
            }
            At::ClearBits => {
                if !self.is("bits not cleared") {
                    s.parked[p.queue as usize] &= !(1 << p.other);
                }
                q.queue += 1;
                if q.queue as usize == QUEUES {
                    *q = Party { at: At::RingPlace, step: p.other, other: 0, ..self.fresh(At::Done) };
                    if self.is("recovery does not ring") {
                        (q.at, q.slot) = (At::RingSlots, SLOTS as u8);
                    } else if self.is("recovery rings a sleeper of each queue only") {
                        q.at = At::RingQueues;
                    }
                }
            }
            // Every place: the dead one may have claimed the bit of any, and not rung.
            At::RingPlace => {
                if p.other as usize == self.supervisor() {
                    (q.at, q.other, q.slot) = (At::RingSlots, 0, 0);
                } else {
                    s.places[p.other as usize] = true;
                    q.at = At::WakePlace;
                }
            }
            At::WakePlace => {
                (q.at, q.other) = (At::RingPlace, p.other + 1);
                wake_place(&mut s, p.other);
            }
            At::RingQueues => {
                let queue = p.queue as usize;
                if queue == QUEUES {
                    (q.at, q.slot, q.queue) = (At::RingSlots, 0, 0);
                } else if at.length[queue] > 0 && p.bell_queue == 0 {
                    *q = Party { at: At::Parked, after: At::RingQueues, bell_queue: 1, ..p };
                } else {
                    (q.queue, q.bell_queue) = (p.queue + 1, 0);
                }
            }
            At::RingSlots => {
                if p.slot as usize == SLOTS {
                    s.recovered |= 1 << p.step;
                    *q = self.fresh(At::Idle);
                } else if matches!(word.is, Is::Replied | Is::Died | Is::Unrun) && word.asleep {
                    q.at = At::SlotBell;
                } else {
                    q.slot += 1;
                }
            }
            At::SlotBell => {
                s.bells[p.slot as usize] = true;
                q.at = At::SlotWake;
            }
            At::SlotWake => {
                (q.at, q.slot) = (At::RingSlots, p.slot + 1);
                wake_slot(&mut s, p.slot);
            }
        }
        // What a party no longer needs must not tell states apart.
        let q = &mut s.parties[me];
        if !matches!(
            q.at,
            At::ReadBell | At::Mark | At::GiveUp | At::Complete | At::Take | At::StartSwap | At::ReplySwap | At::Swap
        ) {
            q.word = Word::default();
        }
        if !matches!(q.at, At::Claim | At::Ring | At::Wake | At::Clear | At::More) && me != self.supervisor() {
            q.other = 0;
        }
        next.push(s);
        Ok(())
    }

    fn finished(&self, s: &State) -> Result<(), String> {
        let living = |party: &usize| s.dead & 1 << party == 0;
        let asleep: Vec<_> = (0..self.supervisor()).filter(living).filter(|p| s.parties[*p].at == At::Asleep).collect();
        for queue in 0..QUEUES {
            let serves = |p: &&usize| self.workers[**p - self.callers.len()] >> queue & 1 == 1;
            if s.length[queue] > 0 && asleep.iter().filter(serves).count() > 0 {
                return Err("a request waits beside a sleeping worker".into());
            }
        }
        for party in (0..self.callers.len()).filter(living) {
            let p = s.parties[party];
            let word = s.slots[p.slot as usize];
            // It sleeps rightly if its request is queued and no worker is left.
            if p.at == At::AsleepOnSlot && word.is != Is::Queued {
                return Err("a caller sleeps beside its reply".into());
            }
        }
        for word in &s.slots {
            if word.is != Is::Free && word.is != Is::Queued {
                return Err("a slot is lost".into());
            }
        }
        let queued = |slot: usize| {
            let in_queue = |queue: usize| {
                let entry = Entry { slot: slot as u8, generation: s.slots[slot].generation };
                s.queues[queue][..s.length[queue] as usize].contains(&entry)
            };
            s.slots[slot].is == Is::Queued && in_queue(s.slots[slot].queue as usize)
        };
        let waiting = (0..SLOTS).filter(|slot| s.slots[*slot].is == Is::Queued);
        for slot in waiting.clone() {
            if !queued(slot) {
                return Err("a slot is queued nowhere".into());
            }
        }
        let left = waiting.filter(|slot| s.slots[*slot].event).count();
        if usize::from(s.events) != usize::from(s.events_run) + left {
            return Err("an event was dropped".into());
        }
        Ok(())
    }
}

fn wake_place(s: &mut State, place: u8) {
    let sleeper = &mut s.parties[place as usize];
    if sleeper.at == At::Asleep {
        (sleeper.at, sleeper.queue) = (At::Unpark, 0);
    }
}

fn wake_slot(s: &mut State, slot: u8) {
    for party in &mut s.parties {
        if party.at == At::AsleepOnSlot && party.slot == slot {
            party.at = At::Wait;
        }
    }
}
