//! Plays the rounds of a target, and says which one failed.

use std::env;
use std::io::Write;
use std::num::ParseIntError;
use std::process::abort;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rustix::rand::GetRandomFlags;

use super::random::Random;

/// How long each target runs, in seconds, each time from another seed.
const SECONDS: &str = "CAISSON_FUZZ_SECONDS";
/// The seed of one round, to see it again; with [`SECONDS`], that of the first one.
const SEED: &str = "CAISSON_FUZZ_SEED";

/// The first seed where none is given.
const FIRST_SEED: u64 = 0x0ca1_5505;

/// A step without an end: the slowest one takes milliseconds, on a machine that is busy with
/// something else perhaps a second.
const HANG: Duration = Duration::from_secs(60);

/// Where a target is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    seed: AtomicU64,
    step: AtomicU64,
    /// Steps of all rounds.
    total: AtomicU64,
}

impl Progress {
    pub(super) fn step(&self) {
        self.step.fetch_add(1, Ordering::Relaxed);
        self.total.fetch_add(1, Ordering::Relaxed);
    }

    fn begin(&self, seed: u64) {
        self.seed.store(seed, Ordering::Relaxed);
        self.step.store(0, Ordering::Relaxed);
    }

    /// Past the capture of the test runner, which would lose it when the process aborts.
    fn report(&self, target: &str, what: &str) {
        let seed = self.seed.load(Ordering::Relaxed);
        let step = self.step.load(Ordering::Relaxed);
        let _ = writeln!(
            std::io::stderr(),
            "fuzz target {target} {what} in step {step} of the round with seed {seed:#x}; to see \
             it again: cargo fuzz --seed {seed:#x} {target}"
        );
    }
}

/// What was played.
#[derive(Debug, Clone, Copy)]
pub struct Played {
    /// How many rounds.
    pub rounds: u64,
    /// Whether they are those that `cargo test` plays, of which a target can say what they reach.
    pub fixed: bool,
}

/// Plays `rounds` rounds of `target`, or those that the environment asks for: for
/// `CAISSON_FUZZ_SECONDS` seconds, from `CAISSON_FUZZ_SEED` on or only that.
///
/// # Panics
/// When a round does, and for numbers that are none. A step that does not end within a minute aborts
/// the process.
pub fn run(target: &'static str, rounds: u64, mut round: impl FnMut(&mut Random)) -> Played {
    let plan = Plan::from_environment(rounds);
    let progress = Arc::new(Progress::default());
    let _watchdog = Watchdog::start(target, Arc::clone(&progress));
    let blame = Blame {
        target,
        progress: &progress,
    };
    let begin = Instant::now();
    let mut played = 0;
    while plan.goes_on(played, begin) {
        // The rounds of a run have neighbouring seeds, which is good enough for splitmix64.
        let seed = plan.first.wrapping_add(played);
        progress.begin(seed);
        round(&mut Random::new(seed, Arc::clone(&progress)));
        played += 1;
    }
    drop(blame);
    if plan.seconds.is_some() {
        let steps = progress.total.load(Ordering::Relaxed);
        let first = plan.first;
        let _ = writeln!(
            std::io::stderr(),
            "fuzz target {target}: {played} rounds from seed {first:#x}, {steps} steps"
        );
    }
    Played {
        rounds: played,
        fixed: plan.fixed,
    }
}

/// How long to play.
struct Plan {
    first: u64,
    rounds: u64,
    seconds: Option<Duration>,
    fixed: bool,
}

impl Plan {
    fn from_environment(rounds: u64) -> Self {
        let number = |name| env::var(name).ok().map(|text| parse(&text).unwrap());
        let seconds = number(SECONDS).map(Duration::from_secs);
        match (number(SEED), seconds) {
            (Some(first), seconds) => Self {
                first,
                rounds: 1,
                seconds,
                fixed: false,
            },
            (None, Some(_)) => {
                let mut first = [0; 8];
                rustix::rand::getrandom(&mut first, GetRandomFlags::empty()).unwrap();
                Self {
                    first: u64::from_ne_bytes(first),
                    rounds,
                    seconds,
                    fixed: false,
                }
            }
            (None, None) => Self {
                first: FIRST_SEED,
                rounds,
                seconds,
                fixed: true,
            },
        }
    }

    fn goes_on(&self, played: u64, begin: Instant) -> bool {
        match self.seconds {
            Some(seconds) => played == 0 || begin.elapsed() < seconds,
            None => played < self.rounds,
        }
    }
}

fn parse(text: &str) -> Result<u64, ParseIntError> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    }
}

/// Names the round when the target panics.
struct Blame<'a> {
    target: &'static str,
    progress: &'a Progress,
}

impl Drop for Blame<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.progress.report(self.target, "failed");
        }
    }
}

/// Aborts when a step does not end. Dropping it ends its thread.
struct Watchdog(#[expect(dead_code, reason = "there for its drop")] Sender<()>);

impl Watchdog {
    fn start(target: &'static str, progress: Arc<Progress>) -> Self {
        let (sender, end) = channel();
        std::thread::spawn(move || {
            let mut seen = u64::MAX;
            while end.recv_timeout(HANG) == Err(RecvTimeoutError::Timeout) {
                let now = progress.total.load(Ordering::Relaxed);
                if now == seen {
                    progress.report(target, "hangs");
                    abort();
                }
                seen = now;
            }
        });
        Self(sender)
    }
}

#[cfg(test)]
#[path = "run_test.rs"]
mod tests;
