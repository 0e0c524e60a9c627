//! Timestamps of a start-up, so that a slow start can be explained: one log line each, and a table
//! in the sandbox's state directory.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use rustix::time::{ClockId, clock_gettime};

/// Environment variable by which `start` tells the daemon when it began, in nanoseconds of
/// `CLOCK_MONOTONIC`.
pub(crate) const START_VARIABLE: &str = "CAISSON_SHIM_START_NS";
/// The table's name.
const FILE: &str = "phases";

/// The phases of the start of a pod's first container.
#[derive(Debug)]
pub(crate) struct Phases {
    id: String,
    state_dir: PathBuf,
    reached: Mutex<Vec<(String, u64)>>,
}

impl Phases {
    /// No phases yet of the container `id`. The table goes into `state_dir` once that exists.
    pub(crate) fn new(id: &str, state_dir: PathBuf) -> Self {
        Self {
            id: id.to_owned(),
            state_dir,
            reached: Mutex::default(),
        }
    }

    /// A phase that the container `id` reaches now. Containers after the first are not recorded.
    pub(crate) fn reached(&self, id: &str, phase: &str) {
        if id == self.id {
            self.reached_at(phase, now());
        }
    }

    /// A phase that was reached at `at_ns` of `CLOCK_MONOTONIC`.
    pub(crate) fn reached_at(&self, phase: &str, at_ns: u64) {
        tracing::info!(id = self.id, phase, at_ns, "phase");
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        // Each is reached once; a second container of the same name does not change the first's.
        if reached.iter().any(|(known, _)| known == phase) {
            return;
        }
        reached.push((phase.to_owned(), at_ns));
        let table = table(&mut reached.clone());
        drop(reached);
        // Without a directory there is no machine yet; the next phase writes them all.
        let _ = fs::write(self.state_dir.join(FILE), table);
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or_default();
    seconds * 1_000_000_000 + nanoseconds
}

/// One line for each phase in order of time: its name, milliseconds since the first, and since the
/// one before it.
fn table(phases: &mut [(String, u64)]) -> String {
    phases.sort_by_key(|(_, at)| *at);
    let first = phases.first().map_or(0, |(_, at)| *at);
    let mut table = format!("{:<20} {:>10} {:>10}\n", "phase", "at ms", "took ms");
    let mut before = first;
    for (name, at) in phases {
        let _ = writeln!(
            table,
            "{name:<20} {:>10} {:>10}",
            milliseconds(*at - first),
            milliseconds(*at - before)
        );
        before = *at;
    }
    table
}

/// Nanoseconds as milliseconds with one digit after the point, rounded down.
fn milliseconds(nanoseconds: u64) -> String {
    format!("{}.{}", nanoseconds / 1_000_000, nanoseconds / 100_000 % 10)
}

#[cfg(test)]
#[path = "phases_test.rs"]
mod tests;
