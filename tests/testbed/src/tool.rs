//! Running the machine's own programs (mmdebstrap, mkfs.ext4, apt-get …).

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::progress;

/// How many of a failed program's last lines are shown.
const SHOWN: usize = 20;

/// Runs a program to its end, quietly; its last lines are in the error if it fails.
///
/// # Errors
/// When it cannot be started or ends with anything but 0.
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs a program to its end and returns what it printed.
///
/// # Errors
/// As [`run`].
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let name = name(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {name}; is it installed and in PATH?"))?;
    if !output.status.success() {
        let mut said = output.stdout;
        said.extend_from_slice(&output.stderr);
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().collect();
        bail!("{name} failed ({}):\n{}", output.status, last(&lines));
    }
    Ok(output.stdout)
}

/// Runs a program that takes long and passes the lines it prints on standard error on as progress.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_with_progress(command: &mut Command) -> Result<()> {
    let name = name(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}; is it installed and in PATH?"))?;
    let mut lines = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n') {
            let line = line.with_context(|| format!("reading from {name}"))?;
            let line = String::from_utf8_lossy(&line).into_owned();
            progress::line(&format!("  {}", line.trim_end()));
            lines.push(line);
        }
    }
    let status = child
        .wait()
        .with_context(|| format!("waiting for {name}"))?;
    if !status.success() {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        bail!("{name} failed ({status}):\n{}", last(&lines));
    }
    Ok(())
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn last(lines: &[&str]) -> String {
    lines
        .get(lines.len().saturating_sub(SHOWN)..)
        .unwrap_or_default()
        .join("\n")
}
