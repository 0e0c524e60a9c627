//! `cargo verify`: every check there is, ending with one line that counts the tests.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::{env, fs, io};

use anyhow::{Context, Result, bail};
use caisson_testbed::{Tally, packages};

use crate::testbed_command::again;

/// Versions of containerd the end-to-end tests run with, and which of the tests: all with the one
/// most people have, the smoke tests with the others.
const VERSIONS: [(&str, &str); 3] = [("1.7", ""), ("1.6", "smoke::"), ("2", "smoke::")];

/// Runs every check.
///
/// # Errors
/// Fails when a check could not be run at all; a check that does not hold is an exit code.
pub(crate) fn run(workspace: &Path) -> Result<ExitCode> {
    packages::install_missing()?;
    check("formatting", cargo(&["fmt", "--all", "--check"]))?;
    let lints = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ];
    check("lints", cargo(&lints))?;

    let mut tally = Tally::default();
    heading("unit tests");
    let unit_tests = [
        "test",
        "--workspace",
        "--exclude",
        "caisson-e2e",
        "--no-fail-fast",
    ];
    let mut holds = tests(cargo(&unit_tests), &mut tally)?;

    let share = stage_end_to_end_tests(workspace)?;
    for (version, filter) in VERSIONS {
        heading(&format!("end-to-end tests with containerd {version}"));
        holds &= tests(end_to_end(version, &share, filter)?, &mut tally)?;
    }
    println!("\n{tally}");
    Ok(if holds && tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Copies the end-to-end tests to a directory that the testbed can share.
fn stage_end_to_end_tests(workspace: &Path) -> Result<PathBuf> {
    heading("building the end-to-end tests");
    let share = workspace.join("target/testbed/e2e");
    fs::create_dir_all(&share).with_context(|| format!("cannot make {}", share.display()))?;
    let program = built_tests("caisson-e2e")?;
    let staged = share.join("e2e");
    fs::copy(&program, &staged).with_context(|| format!("cannot write {}", staged.display()))?;
    Ok(share)
}

/// Builds the integration tests of a package and gives the path of their program.
fn built_tests(package: &str) -> Result<PathBuf> {
    let mut build = cargo(&[
        "test",
        "--package",
        package,
        "--no-run",
        "--message-format=json",
    ]);
    let output = build
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the end-to-end tests do not build");
    }
    output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok())
        .filter(|message| {
            message
                .pointer("/target/kind/0")
                .is_some_and(|kind| kind == "test")
        })
        .find_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
        .context("cargo named no program for the end-to-end tests")
}

fn end_to_end(containerd: &str, share: &Path, filter: &str) -> Result<Command> {
    let mut command = again()?;
    command
        .args(["--containerd", containerd, "--share"])
        .arg(share);
    command.args(["--", "/share/e2e", "--ignored", "--test-threads=1"]);
    command.args(Some(filter).filter(|filter| !filter.is_empty()));
    Ok(command)
}

/// Runs a check that has no tests to count; the first one that does not hold ends it all.
fn check(name: &str, mut command: Command) -> Result<()> {
    heading(name);
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", shown(&command)))?;
    if !status.success() {
        bail!("{name} failed; run `{}` to see it again", shown(&command));
    }
    Ok(())
}

/// Runs a test runner, passing on what it prints, and counts its tests.
fn tests(mut command: Command, tally: &mut Tally) -> Result<bool> {
    let mut runner = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", shown(&command)))?;
    if let Some(stdout) = runner.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.context("cannot read what the tests print")?;
            let line = String::from_utf8_lossy(&line);
            writeln!(io::stdout(), "{line}")?;
            if let Some(counted) = Tally::from_closing_line(&line) {
                *tally += counted;
            }
        }
    }
    Ok(runner
        .wait()
        .context("cannot wait for the tests")?
        .success())
}

/// A call of cargo, the one that runs us if one does.
pub(crate) fn cargo<S: AsRef<OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args);
    command
}

fn heading(name: &str) {
    eprintln!("\n== {name}");
}

fn shown(command: &Command) -> String {
    let words = [command.get_program()]
        .into_iter()
        .chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
