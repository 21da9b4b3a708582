//! Doing it at every point, counting, and reporting.

use super::scene::{Fate, Played, traceless};
use crate::common::figures::{figure, is_long};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One after another: each looks at the descriptors of this process.
static TURN: Mutex<()> = Mutex::new(());

/// Keeps this thread and its children to one CPU: only one of them runs at a time, and to wake one on another CPU takes thirty
/// times as long as a step.
fn stay_here() {
    // SAFETY: a set of CPUs of this size, for this thread.
    let stays = unsafe {
        let mut cpus: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu() as usize, &mut cpus);
        libc::sched_setaffinity(0, size_of_val(&cpus), &cpus)
    };
    assert_eq!(stays, 0, "sched_setaffinity");
}

pub struct Sweep {
    _turn: MutexGuard<'static, ()>,
    operations: u32,
    instructions: u32,
    points: u32,
    kills: u32,
    pauses: u32,
    issued: u32,
    denied: u32,
    failures: Vec<String>,
}

/// Every so many points: all where it is quick.
fn stride() -> usize {
    if is_long() || !cfg!(debug_assertions) { 1 } else { 8 }
}

impl Sweep {
    pub fn begin() -> Self {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        stay_here();
        let (operations, instructions, points, kills, pauses, issued, denied) = Default::default();
        Self { _turn, operations, instructions, points, kills, pauses, issued, denied, failures: Vec::new() }
    }

    /// Plays one scene, as nothing but a count if it fails.
    pub fn play(&mut self, name: &str, fate: Fate, scene: impl FnOnce(Fate) -> Played) -> Option<Played> {
        let played = catch_unwind(AssertUnwindSafe(|| traceless(|| scene(fate))));
        match played {
            Ok(played) => {
                self.issued += played.audit.issued;
                self.denied += played.audit.denied;
                Some(played)
            }
            Err(_) => {
                self.failures.push(format!("{name}, {fate:?}"));
                None
            }
        }
    }

    /// An operation: walked through once, then killed, and paused, at each point.
    pub fn over(&mut self, name: &str, scene: impl Fn(Fate) -> Played) {
        let (failed, kills) = (self.failures.len(), self.kills);
        let Some(walk) = self.play(name, Fate::Walks, &scene) else { return };
        let points = walk.events.len() + 1;
        let first = self.operations as usize % stride().min(points);
        for point in (first..points).step_by(stride()) {
            self.kills += 1;
            self.play(name, Fate::Killed(point), &scene);
            self.pauses += 1;
            self.play(name, Fate::Paused(point), &scene);
            if self.failures.len() > failed + 3 {
                break;
            }
        }
        self.operations += 1;
        self.instructions += walk.instructions;
        self.points += points as u32;
        let (instructions, kills, failures) = (walk.instructions, self.kills - kills, self.failures.len() - failed);
        figure(
            "G2",
            &format!("crash points, {name}"),
            format!("{instructions} instructions, {points} points, {kills} kills, {failures} failures"),
        );
    }

    pub fn failures(&self) -> usize {
        self.failures.len()
    }

    pub fn report(self) {
        assert!(self.failures.is_empty(), "failed:\n{}", self.failures.join("\n"));
    }
}
