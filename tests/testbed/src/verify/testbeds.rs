//! The tests in the testbed: several machines at once, because one in emulation keeps one
//! processor busy.

use std::io::{self, Write};
use std::num::NonZero;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use caisson_testbed::Tally;

use super::{heading, lines_of};
use crate::conformance;
use crate::testbed_command::again;

/// Versions of containerd, and what is tested there, as a program of the shared directory and which
/// of its tests: all with the one that most people have, the smoke tests with the others, and with
/// the newest the main ones of pods. The longest first.
const OURS: [(&str, &str, &[&str]); 6] = [
    (
        "containerd 1.7",
        "1.7",
        &["/share/e2e", "--skip", "faults::", "--skip", "cri::"],
    ),
    ("pods", "1.7", &["/share/e2e", "cri::"]),
    (
        "containerd 2",
        "2",
        &[
            "/share/e2e",
            "smoke::",
            "cri::life::",
            "cri::network::",
            "cri::sandbox_api::",
            "cri::security::",
            "cri::volumes::volumes_of",
            "roots::blockfile::",
        ],
    ),
    ("faults", "1.7", &["/share/e2e", "faults::"]),
    ("VMM alone", "1.7", &["/share/machine"]),
    ("containerd 1.6", "1.6", &["/share/e2e", "smoke::"]),
];

/// One machine and what is tested in it.
struct Run {
    /// Stands before each line.
    name: &'static str,
    /// Runs it.
    command: Command,
}

/// Runs all of them, ours with what lies in `share`, and says whether they hold.
///
/// # Errors
/// When a testbed could not be run.
pub(super) fn run(workspace: &Path, share: &Path, tally: &mut Tally) -> Result<bool> {
    heading("tests in the testbed");
    let runs = all(workspace, share)?;
    let at_once = thread::available_parallelism().map_or(1, NonZero::get);
    let workers = at_once.min(runs.len());
    let left = Mutex::new(runs.into_iter());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let (results, done) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..workers {
            let (next, results) = (&next, results.clone());
            scope.spawn(move || {
                while let Some(run) = next() {
                    let _ = results.send(run.finish());
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

fn all(workspace: &Path, share: &Path) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for (name, containerd, tests) in OURS {
        let mut command = again();
        command
            .args(["--containerd", containerd, "--share"])
            .arg(share)
            .arg("--")
            .args(tests)
            .args(["--ignored", "--test-threads=1"]);
        runs.push(Run { name, command });
    }
    match conformance::for_verify(workspace)? {
        Ok(command) => runs.push(Run {
            name: "shimtest",
            command,
        }),
        Err(reason) => println!("skipped: containerd's tests of shims: {reason}"),
    }
    Ok(runs)
}

impl Run {
    fn finish(self) -> Result<(Tally, bool)> {
        let Self { name, command } = self;
        let mut tally = Tally::default();
        let began = Instant::now();
        let held = lines_of(command, |line| {
            if let Some(counted) = Tally::from_line(line) {
                tally += counted;
            }
            // The harness does not tell how long a test takes.
            let seconds = began.elapsed().as_secs();
            Ok(writeln!(io::stdout(), "[{name}, {seconds} s] {line}")?)
        })
        .with_context(|| format!("tests in the testbed, {name}"))?;
        Ok((tally, held))
    }
}
