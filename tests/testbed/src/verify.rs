//! `cargo verify`: every check there is, ending with one line that counts the tests.

mod testbeds;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::{env, fs, io};

use anyhow::{Context, Result, bail};
use caisson_testbed::{Tally, debug_program, packages, static_program};

use crate::go_program::CRICTL;

/// Packages with tests for the testbed, and what their programs are called there.
const STAGED: [(&str, &str); 2] = [("caisson-machine-tests", "machine"), ("caisson-e2e", "e2e")];

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
        "--exclude",
        "caisson-machine-tests",
        "--no-fail-fast",
    ];
    let mut holds = tests(cargo(&unit_tests), &mut tally)?;
    // Their other tests are for the testbed.
    let of_the_machine = ["test", "-p", "caisson-machine-tests", "--lib", "--bins"];
    holds &= tests(cargo(&of_the_machine), &mut tally)?;

    let share = stage(workspace)?;
    holds &= testbeds::run(workspace, &share, &mut tally)?;
    println!("\n{tally}");
    Ok(if holds && tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Copies the tests for the testbed to a directory that it can share.
fn stage(workspace: &Path) -> Result<PathBuf> {
    heading("building the end-to-end tests");
    let share = workspace.join("target/testbed/tests");
    fs::create_dir_all(&share).with_context(|| format!("cannot make {}", share.display()))?;
    let copy = |program: &Path, name: &str| {
        let staged = share.join(name);
        fs::copy(program, &staged).with_context(|| format!("cannot write {}", staged.display()))
    };
    for (package, name) in STAGED {
        copy(&built_tests(package)?, name)?;
    }
    let guest = "caisson-test-guest";
    copy(&static_program("caisson-machine-tests", guest)?, guest)?;
    // With fail points, which only a debug build has.
    let shim = "containerd-shim-caisson-v2";
    copy(&debug_program("containerd-shim-caisson", shim)?, shim)?;
    if let Err(reason) = CRICTL.stage(workspace, &share)? {
        println!("skipped: pods through CRI: {reason}");
    }
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
        bail!("the tests of {package} do not build");
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
        .with_context(|| format!("cargo named no program for the tests of {package}"))
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
fn tests(runner: Command, tally: &mut Tally) -> Result<bool> {
    lines_of(runner, |line| {
        if let Some(counted) = Tally::from_line(line) {
            *tally += counted;
        }
        Ok(writeln!(io::stdout(), "{line}")?)
    })
}

/// Runs a program, handing over each line that it prints, and says whether it succeeded.
fn lines_of(mut program: Command, mut line: impl FnMut(&str) -> Result<()>) -> Result<bool> {
    let mut child = program
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", shown(&program)))?;
    if let Some(stdout) = child.stdout.take() {
        for bytes in BufReader::new(stdout).split(b'\n') {
            let bytes = bytes.with_context(|| format!("cannot read from {}", shown(&program)))?;
            line(&String::from_utf8_lossy(&bytes))?;
        }
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for {}", shown(&program)))?;
    Ok(status.success())
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
