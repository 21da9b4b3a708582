//! Running models.

use busway::sync::{explore_steps, with_mutant};
use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Once};
use std::time::Instant;

/// One model: a name, and how far it is explored.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    name: &'static str,
    bound: Option<usize>,
    stepwise: bool,
}

/// How an exploration chooses its schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// As loom does by itself: it leaves out what it takes for equivalent, and sometimes more.
    Loom,
    /// All orders of all accesses, see `busway::sync`.
    Steps,
}

/// Every model is also explored stepwise, with a preemption bound of no more than this.
const STEPS_BOUND: usize = 2;

/// How a mutant fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Two threads touch data at the same time, or data that was not yet handed over.
    Race,
    /// Everybody sleeps: a wake-up was lost.
    Deadlock,
    /// An assertion of the model with this text.
    Assertion(&'static str),
}

impl Model {
    /// A model that is explored completely.
    pub const fn new(name: &'static str) -> Self {
        Self { name, bound: None, stepwise: false }
    }

    /// Explores the model stepwise only, up to its own bound: for algorithms that load a word and then swap it, of which loom by
    /// itself explores next to nothing.
    pub const fn stepwise(self) -> Self {
        Self { stepwise: true, ..self }
    }

    /// Explores only schedules that take the CPU away from a thread at most `preemptions` times; where it blocks or ends it
    /// is not taken away.
    pub const fn bound(self, preemptions: usize) -> Self {
        Self { bound: Some(preemptions), ..self }
    }

    /// Explores the model, which must hold.
    pub fn holds(self, body: impl Fn() + Sync + Send + 'static) {
        self.must_hold(None, body);
    }

    /// Explores the model with a mutant switched on that makes one side misbehave: it must hold for the other side.
    pub fn holds_against(self, mutant: &'static str, body: impl Fn() + Sync + Send + 'static) {
        with_mutant(mutant, || self.must_hold(Some(mutant), body));
    }

    /// Explores a model of a wake-up that is lost at worst until the sleeper looks again, after ten milliseconds: it must be
    /// a deadlock here, where sleeps have no limit, so that what is said about it stays true.
    pub fn leans_on_looking_again(self, body: impl Fn() + Sync + Send + 'static) {
        let (_, result) = quietly(|| self.explore(None, Arc::new(body)));
        let Err(panic) = result else { panic!("{}: no wake-up is lost any more: let the model hold", self.name) };
        assert!(text(&*panic).contains("deadlock; threads"), "{}: not a lost wake-up: {}", self.name, text(&*panic));
    }

    fn must_hold(self, mutant: Option<&str>, body: impl Fn() + Sync + Send + 'static) {
        let (iterations, result) = self.explore(mutant, Arc::new(body));
        if let Err(panic) = result {
            panic!("{}: fails at iteration {iterations}: {}", self.name, text(&*panic));
        }
    }

    /// Explores the model with a mutant switched on: it must fail, and in this way.
    pub fn fails(self, mutant: &'static str, how: Failure, body: impl Fn() + Sync + Send + 'static) {
        let (iterations, result) = quietly(|| with_mutant(mutant, || self.explore(Some(mutant), Arc::new(body))));
        let Err(panic) = result else { panic!("{}: the mutant \"{mutant}\" goes unnoticed", self.name) };
        let text = text(&*panic);
        let expected = match how {
            Failure::Race => "Causality violation",
            Failure::Deadlock => "deadlock; threads",
            Failure::Assertion(text) => text,
        };
        assert!(text.contains(expected), "the mutant fails at iteration {iterations}, but not by {how:?}: {text}");
    }

    /// Explores in both ways, or until one fails.
    fn explore(self, mutant: Option<&str>, body: Arc<dyn Fn() + Sync + Send>) -> (usize, std::thread::Result<()>) {
        if self.stepwise {
            return self.explore_by(Way::Steps, self.bound, mutant, body);
        }
        let (iterations, result) = self.explore_by(Way::Loom, self.bound, mutant, body.clone());
        if result.is_err() {
            return (iterations, result);
        }
        let bound = self.bound.map_or(STEPS_BOUND, |bound| bound.min(STEPS_BOUND));
        self.explore_by(Way::Steps, Some(bound), mutant, body)
    }

    fn explore_by(
        self,
        way: Way,
        bound: Option<usize>,
        mutant: Option<&str>,
        body: Arc<dyn Fn() + Sync + Send>,
    ) -> (usize, std::thread::Result<()>) {
        let iterations = Arc::new(AtomicUsize::new(0));
        let counter = iterations.clone();
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = bound;
        builder.max_branches = 10_000;
        let start = Instant::now();
        let explore = || {
            catch_unwind(AssertUnwindSafe(|| {
                builder.check(move || {
                    counter.fetch_add(1, Relaxed);
                    body();
                });
            }))
        };
        let result = if way == Way::Steps { explore_steps(explore) } else { explore() };
        let iterations = iterations.load(Relaxed);
        let steps = if way == Way::Steps { " stepwise" } else { "" };
        let bound = bound.map_or("none".to_string(), |b| b.to_string());
        let verdict = if result.is_ok() { "holds" } else { "fails" };
        let seconds = start.elapsed().as_secs_f64();
        let mutant = mutant.map_or_else(String::new, |mutant| format!(" with mutant \"{mutant}\""));
        println!(
            "{}{mutant}:{steps} {verdict}, {iterations} iterations, preemption bound {bound}, {seconds:.1} s",
            self.name
        );
        (iterations, result)
    }
}

fn text(panic: &(dyn Any + Send)) -> String {
    let string = panic.downcast_ref::<String>().cloned();
    string.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs `body` without the report of a panic on this thread.
fn quietly<R>(body: impl FnOnce() -> R) -> R {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                report(info);
            }
        }));
    });
    QUIET.set(true);
    let result = body();
    QUIET.set(false);
    result
}
