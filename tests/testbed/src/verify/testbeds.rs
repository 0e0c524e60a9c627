//! The tests in the testbed: several machines at once, because one in emulation keeps one
//! processor busy.

use std::io::{self, Write};
use std::num::NonZero;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use anyhow::{Context, Result};
use caisson_testbed::Tally;

use super::{heading, lines_of};
use crate::testbed_command::again;

/// One machine and what is tested in it.
struct Run {
    /// Stands before each line.
    name: &'static str,
    /// Version of containerd.
    containerd: &'static str,
    /// Program in the shared directory, and which of its tests.
    tests: &'static [&'static str],
}

/// All tests with the containerd that most people have, the smoke tests with the others. The
/// longest first.
const RUNS: [Run; 4] = [
    Run {
        name: "containerd 1.7",
        containerd: "1.7",
        tests: &["/share/e2e"],
    },
    Run {
        name: "VMM alone",
        containerd: "1.7",
        tests: &["/share/machine"],
    },
    Run {
        name: "containerd 1.6",
        containerd: "1.6",
        tests: &["/share/e2e", "smoke::"],
    },
    Run {
        name: "containerd 2",
        containerd: "2",
        tests: &["/share/e2e", "smoke::"],
    },
];

/// Runs all of them with what lies in `share` and says whether they hold.
///
/// # Errors
/// When a testbed could not be run.
pub(super) fn run(share: &Path, tally: &mut Tally) -> Result<bool> {
    let at_once = thread::available_parallelism().map_or(1, NonZero::get);
    heading("tests in the testbed");
    let left = Mutex::new(RUNS.iter());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let (results, done) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..at_once.min(RUNS.len()) {
            let (next, results) = (&next, results.clone());
            scope.spawn(move || {
                while let Some(run) = next() {
                    let _ = results.send(run.run(share));
                }
            });
        }
    });
    drop(results);
    let mut holds = true;
    for result in done {
        let (counted, held) = result?;
        *tally += counted;
        holds &= held;
    }
    Ok(holds)
}

impl Run {
    fn run(&self, share: &Path) -> Result<(Tally, bool)> {
        let mut tally = Tally::default();
        let held = lines_of(self.command(share)?, |line| {
            if let Some(counted) = Tally::from_closing_line(line) {
                tally += counted;
            }
            Ok(writeln!(io::stdout(), "[{}] {line}", self.name)?)
        })
        .with_context(|| format!("tests in the testbed, {}", self.name))?;
        Ok((tally, held))
    }

    fn command(&self, share: &Path) -> Result<Command> {
        let mut command = again()?;
        command
            .args(["--containerd", self.containerd, "--share"])
            .arg(share)
            .arg("--")
            .args(self.tests)
            .args(["--ignored", "--test-threads=1"]);
        Ok(command)
    }
}
