//! Doing it at every point, counting, and reporting.

use super::scene::{Fate, Played, traceless};
use super::walk::Event;
use crate::common::figures::{duration, figure, is_long};
use crate::common::{Watchdog, watchdog_of};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
    what: &'static str,
    _turn: MutexGuard<'static, ()>,
    _watchdog: Watchdog,
    operations: u32,
    instructions: u32,
    points: u32,
    kills: u32,
    pauses: u32,
    issued: u32,
    denied: u32,
    failures: Vec<String>,
}

/// After so many failures it is over: those that hang take their time.
const MOST: usize = 3;

/// Every so many of the points: all in a long run, and where there are not too many for a short one.
fn stride(points: usize) -> usize {
    match (is_long(), cfg!(debug_assertions)) {
        (true, _) => 1,
        (false, true) => points.div_ceil(3),
        (false, false) => points.div_ceil(50),
    }
}

impl Sweep {
    /// Of what.
    pub fn begin(what: &'static str) -> Self {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // Not while others have their turn, which may take longer.
        let _watchdog = watchdog_of(600 + duration(Duration::ZERO).as_secs() as u32);
        stay_here();
        let (operations, instructions, points, kills, pauses, issued, denied) = Default::default();
        Self {
            what,
            _turn,
            _watchdog,
            operations,
            instructions,
            points,
            kills,
            pauses,
            issued,
            denied,
            failures: Vec::new(),
        }
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
                let fate = format!("{fate:?}").replace(&usize::MAX.to_string(), "at the end");
                self.failures.push(format!("{name}, {fate}"));
                None
            }
        }
    }

    /// An operation: walked through once, then killed, and paused, at each point. Each scene is told the events of the first walk.
    pub fn over(&mut self, name: &str, scene: impl Fn(Fate, &[Event]) -> Played) {
        if self.failures.len() >= MOST {
            return;
        }
        let (failed, kills) = (self.failures.len(), self.kills);
        let Some(walk) = self.play(name, Fate::Walks, |fate| scene(fate, &[])) else { return };
        let points = walk.events.len() + 1;
        let stride = stride(points);
        for point in (self.operations as usize % stride..points).step_by(stride) {
            // At the last one it has come to the end.
            let point = if point + 1 == points { usize::MAX } else { point };
            self.kills += 1;
            self.play(name, Fate::Killed(point), |fate| scene(fate, &walk.events));
            self.pauses += 1;
            self.play(name, Fate::Paused(point), |fate| scene(fate, &walk.events));
            if self.failures.len() >= MOST {
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
        let Self { what, operations, instructions, points, kills, pauses, issued, denied, .. } = self;
        let failures = self.failures.len();
        if operations > 0 {
            let sum = format!("{operations} operations, {instructions} instructions, {points} points");
            figure("G2", &format!("crash points of {what}"), format!("{sum}, {kills} kills, {failures} failures"));
            figure("G1", &format!("kills at crash points of {what}, each told to the survivor"), kills);
            let paused = format!("{pauses} times, {failures} failures");
            figure("G9", &format!("stood still at crash points of {what}, not reclaimed from"), paused);
        }
        if issued > 0 {
            let ended = format!("{issued}, {denied} of them told not to be executed, none of which was");
            figure("G3", &format!("requests at crash points of {what}, each ended once"), ended);
        }
        assert!(self.failures.is_empty(), "failed:\n{}", self.failures.join("\n"));
    }
}
