//! `cargo measure`: Caisson beside runc, in one run of the testbed.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use caisson_testbed::packages;

use crate::testbed_command::{again, passed_on};
use crate::verify::cargo;

/// Builds the benchmark and runs `rounds` rounds of it in the testbed, with `counted` on a clock
/// that counts instructions instead of time.
///
/// # Errors
/// Fails when the benchmark or the testbed cannot be had.
pub(crate) fn run(workspace: &Path, rounds: u32, counted: bool) -> Result<ExitCode> {
    packages::install_missing()?;
    let build = [
        "build",
        "--release",
        "--package",
        "caisson-e2e",
        "--bin",
        "caisson-measure",
    ];
    let status = cargo(&build).status().context("cannot run cargo")?;
    if !status.success() {
        bail!("the benchmark does not build");
    }
    let share = workspace.join("target/testbed/measure");
    fs::create_dir_all(&share).with_context(|| format!("cannot make {}", share.display()))?;
    let staged = share.join("caisson-measure");
    fs::copy(workspace.join("target/release/caisson-measure"), &staged)
        .with_context(|| format!("cannot write {}", staged.display()))?;
    let mut testbed = again()?;
    testbed
        .args(counted.then_some("--icount"))
        .arg("--share")
        .arg(share);
    testbed.args(["--", "/share/caisson-measure", &rounds.to_string()]);
    passed_on(testbed)
}
