//! What a build tells the person who waits for it: one line a phase, a percentage where it takes
//! long, and the end of the log when it fails.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

/// Lines of a log that are shown when the command behind it has failed.
const SHOWN_LINES: usize = 20;

/// Says what is done now, on stderr.
pub(crate) fn say(message: &str) {
    eprintln!("guest image: {message}");
}

/// Runs `command` with all its output in `log`. `steps` is how many steps (lines that begin with
/// two spaces, as the kernel's make writes them) are expected, for the percentage. Returns how
/// many there were.
///
/// # Errors
/// Fails if the command cannot be run or does not succeed; then with the end of the log.
pub(crate) fn run_logged(
    mut command: Command,
    title: &str,
    log: &Path,
    steps: Option<u64>,
) -> anyhow::Result<u64> {
    say(title);
    let mut log_file =
        File::create(log).with_context(|| format!("cannot create the log {}", log.display()))?;
    let program = command.get_program().to_string_lossy().into_owned();
    let (reader, writer) = io::pipe().context("cannot make a pipe")?;
    let mut child = command
        .stdin(std::process::Stdio::null())
        .stdout(writer.try_clone().context("cannot copy a descriptor")?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    // The command's own copies of the pipe's end must go, or the pipe never ends.
    drop(command);

    let mut counter = Counter::new(steps);
    let mut last: Vec<String> = Vec::new();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader
        .read_until(b'\n', &mut line)
        .context("cannot read the output")?
        > 0
    {
        log_file
            .write_all(&line)
            .with_context(|| format!("cannot write the log {}", log.display()))?;
        if line.starts_with(b"  ") {
            counter.step();
        }
        if last.len() == SHOWN_LINES {
            last.remove(0);
        }
        last.push(String::from_utf8_lossy(&line).into_owned());
        line.clear();
    }
    counter.finish();
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for {program}"))?;
    if !status.success() {
        bail!(
            "{title}: failed ({status}). The end of {}:\n{}",
            log.display(),
            last.concat().trim_end()
        );
    }
    Ok(counter.done)
}

/// Shows how far a command has come: in place on a terminal, every tenth part elsewhere.
struct Counter {
    done: u64,
    expected: Option<u64>,
    shown: u64,
    terminal: bool,
}

impl Counter {
    fn new(expected: Option<u64>) -> Self {
        Self {
            done: 0,
            expected: expected.filter(|&count| count > 0),
            shown: 0,
            terminal: io::stderr().is_terminal(),
        }
    }

    fn step(&mut self) {
        self.done += 1;
        let Some(percent) = self.percent() else {
            return;
        };
        let unit = if self.terminal { 1 } else { 10 };
        if percent / unit > self.shown / unit {
            self.shown = percent;
            if self.terminal {
                eprint!("\rguest image: {percent:3} %");
            } else {
                eprintln!("guest image: {percent:3} %");
            }
        }
    }

    /// Never 100 before the end: the expectation is last time's count.
    fn percent(&self) -> Option<u64> {
        self.expected
            .map(|expected| (self.done.saturating_mul(100) / expected).min(99))
    }

    fn finish(&self) {
        if self.terminal && self.shown > 0 {
            eprint!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
#[path = "progress_test.rs"]
mod tests;
