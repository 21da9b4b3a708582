//! Exploring all states of a machine.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::time::Instant;

/// A machine to explore: its state, and what each party may do next.
pub trait Machine {
    type State: Copy + Eq + Hash + Debug;
    const NAME: &'static str;

    fn start(&self) -> Self::State;
    fn parties(&self) -> usize;
    /// States after one step of a living party; none if it is done, or asleep.
    fn step(&self, at: &Self::State, party: usize, next: &mut Vec<Self::State>) -> Result<(), String>;
    /// The state after the death of a party, if it may die.
    fn kill(&self, at: &Self::State, party: usize) -> Option<Self::State>;
    /// What must hold where nobody can do anything any more.
    fn finished(&self, at: &Self::State) -> Result<(), String>;
}

/// Explores all states, and demands that from each of them the survivors can finish.
fn explore<M: Machine>(machine: &M, label: &str) -> Result<(), String> {
    let began = Instant::now();
    let mut ids: HashMap<M::State, u32, BuildHasherDefault<Mix>> = HashMap::default();
    let mut states = vec![machine.start()];
    // Edges by their target, for the way back from the ends.
    let mut edges: Vec<(u32, u32)> = Vec::new();
    let (mut ends, mut deaths, mut next) = (Vec::new(), 0u64, Vec::new());
    ids.insert(states[0], 0);
    let mut at = 0;
    let mut verdict = Ok(());
    while at < states.len() && verdict.is_ok() {
        assert!(states.len() < 14_000_000, "{label}: the model has grown too large");
        let state = states[at];
        next.clear();
        for party in 0..machine.parties() {
            if let Err(e) = machine.step(&state, party, &mut next) {
                verdict = Err(format!("{e}: {state:?}"));
            }
        }
        if next.is_empty() {
            ends.push(at as u32);
            verdict = verdict.and_then(|()| machine.finished(&state).map_err(|e| format!("{e}: {state:?}")));
        }
        let steps = next.len();
        next.extend((0..machine.parties()).filter_map(|party| machine.kill(&state, party)));
        deaths += (next.len() - steps) as u64;
        for (number, state) in next.iter().enumerate() {
            let id = *ids.entry(*state).or_insert_with(|| {
                states.push(*state);
                states.len() as u32 - 1
            });
            // A death is not how survivors finish.
            if number < steps {
                edges.push((id, at as u32));
            }
        }
        at += 1;
    }
    if verdict.is_ok() {
        verdict = match stuck(states.len(), edges, &ends) {
            Some(state) => Err(format!("survivors cannot finish: {:?}", states[state])),
            None => Ok(()),
        };
    }
    let (count, seconds) = (states.len(), began.elapsed().as_secs_f64());
    let word = if verdict.is_ok() { "holds" } else { "fails" };
    println!("{} {label}: {word}, {count} states, {deaths} crash points, {} ends, {seconds:.1} s", M::NAME, ends.len());
    verdict
}

/// A state from which no end is reached.
fn stuck(states: usize, mut edges: Vec<(u32, u32)>, ends: &[u32]) -> Option<usize> {
    edges.sort_unstable();
    let mut ok = vec![false; states];
    let mut work = ends.to_vec();
    ends.iter().for_each(|end| ok[*end as usize] = true);
    while let Some(state) = work.pop() {
        let first = edges.partition_point(|edge| edge.0 < state);
        for (_, before) in edges[first..].iter().take_while(|edge| edge.0 == state) {
            if !std::mem::replace(&mut ok[*before as usize], true) {
                work.push(*before);
            }
        }
    }
    ok.iter().position(|ok| !ok)
}

/// A quick hash; states come from no adversary.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }
    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }
    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(23) ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 29
    }
}

pub fn holds<M: Machine>(machine: &M, label: &str) {
    if let Err(e) = explore(machine, label) {
        panic!("{} {label}: {e}", M::NAME);
    }
}

pub fn fails<M: Machine>(machine: &M, mutant: &str, how: &str) {
    match explore(machine, mutant) {
        Ok(()) => panic!("{}: the mutant \"{mutant}\" goes unnoticed", M::NAME),
        Err(e) => assert!(e.contains(how), "{}: the mutant \"{mutant}\" fails, but not by \"{how}\": {e}", M::NAME),
    }
}
