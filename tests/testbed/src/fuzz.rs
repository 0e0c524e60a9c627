//! `cargo fuzz`: the fuzz targets of what reads a guest's bytes, for as long as one likes.
//!
//! They are tests of [`PACKAGES`] that play other rounds when the environment asks for it; see
//! `tests/fuzz`.

use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::verify::cargo;

/// What to play.
#[derive(Debug, Args)]
pub(crate) struct FuzzArguments {
    /// How long each target runs. As many run at a time as there are processors.
    #[arg(long)]
    seconds: Option<u64>,
    /// Play the round with this seed, which the target printed when it failed.
    #[arg(long)]
    seed: Option<String>,
    /// The only target to run.
    target: Option<String>,
}

/// Where the targets are: below modules `fuzz` of the packages' libraries.
const PACKAGES: [&str; 3] = ["caisson-vmm", "caisson-fs", "caisson-sandbox"];

/// How long each target runs unless something else is asked for.
const SECONDS: u64 = 60;

/// Runs the targets.
///
/// # Errors
/// Fails when they do not build or there is no such target; one that finds something is an exit
/// code.
pub(crate) fn run(arguments: &FuzzArguments) -> Result<ExitCode> {
    let targets = targets()?;
    let chosen: Vec<&str> = targets
        .iter()
        .map(String::as_str)
        .filter(|test| {
            let target = arguments.target.as_deref();
            target.is_none_or(|target| name(test) == target)
        })
        .collect();
    if chosen.is_empty() {
        let known: Vec<&str> = targets.iter().map(|test| name(test)).collect();
        bail!("no such fuzz target; there are {}", known.join(", "));
    }
    let mut command = tests();
    command.args(["--exact", "--nocapture"]).args(chosen);
    if let Some(seed) = &arguments.seed {
        command.env("CAISSON_FUZZ_SEED", seed);
    }
    let seconds = match (arguments.seconds, &arguments.seed) {
        (None, Some(_)) => None,
        (seconds, _) => Some(seconds.unwrap_or(SECONDS)),
    };
    if let Some(seconds) = seconds {
        command.env("CAISSON_FUZZ_SECONDS", seconds.to_string());
    }
    let status = command.status().context("cannot run cargo")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The tests that are fuzz targets, by their full names.
fn targets() -> Result<Vec<String>> {
    let mut list = tests();
    let output = list
        .args(["fuzz::", "--list"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the fuzz targets do not build");
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let tests = text.lines().filter_map(|line| line.strip_suffix(": test"));
    // The tests of the machinery itself are not targets.
    let targets = tests.filter(|test| !test.contains("::tests::"));
    Ok(targets.map(str::to_owned).collect())
}

/// What a target is called: the last part of the test's name.
fn name(test: &str) -> &str {
    test.rsplit("::").next().unwrap_or(test)
}

/// The test programs, one after the other, built to be fast and with overflow checks; arguments for
/// them can follow.
fn tests() -> std::process::Command {
    let mut arguments = vec!["test", "--quiet", "--no-fail-fast", "--profile", "fuzz"];
    for package in PACKAGES {
        arguments.extend(["--package", package]);
    }
    arguments.extend(["--lib", "--"]);
    cargo(&arguments)
}
