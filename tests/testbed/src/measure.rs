//! `cargo measure`: Caisson beside runc, or its VMM beside others, in one run of the testbed.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use caisson_testbed::packages;
use clap::Args;

use crate::measure_vmm;
use crate::testbed_command::{again, passed_on};
use crate::verify::cargo;

/// Time containers of Caisson and of runc in turns, and show where time and memory go.
#[derive(Debug, Args)]
pub(crate) struct MeasureArguments {
    /// Rounds that count, after one that does not.
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// Count instructions instead of time: one nanosecond each, the same in every run.
    #[arg(long)]
    icount: bool,
    /// The VMM alone beside QEMU: starts, disks, networks and vsock.
    #[arg(long)]
    vmm: bool,
    /// Only one part of it: start or transfer.
    #[arg(long, value_name = "PART", requires = "vmm", value_parser = ["start", "transfer"])]
    only: Option<String>,
    /// Only those transfers in whose name this occurs: disk, network, "to the guest" …
    #[arg(long, value_name = "TEXT", requires = "vmm")]
    rows: Option<String>,
    /// Only the starts of contenders with this in their name, such as "pod's devices".
    #[arg(long, value_name = "NAME", requires = "vmm")]
    contender: Option<String>,
}

/// Builds the benchmark and runs it in the testbed.
///
/// # Errors
/// Fails when the benchmark or the testbed cannot be had.
pub(crate) fn run(workspace: &Path, arguments: MeasureArguments) -> Result<ExitCode> {
    packages::install_missing()?;
    let share = workspace.join("target/testbed/measure");
    let program = if arguments.vmm {
        measure_vmm::stage(workspace, &share)?
    } else {
        stage(workspace, &share)?
    };
    let mut testbed = again()?;
    testbed
        .args(arguments.icount.then_some("--icount"))
        .arg("--share")
        .arg(share);
    testbed.args([
        "--",
        &format!("/share/{program}"),
        &arguments.rounds.to_string(),
    ]);
    if arguments.vmm {
        testbed.arg(arguments.only.unwrap_or_else(|| "all".to_owned()));
        testbed.arg(arguments.rows.unwrap_or_default());
        testbed.arg(match arguments.icount {
            true => "instructions",
            false => "time",
        });
        testbed.arg(arguments.contender.as_deref().unwrap_or_default());
    }
    passed_on(testbed)
}

/// Builds the benchmark of containers and copies it to `share`; returns its name.
fn stage(workspace: &Path, share: &Path) -> Result<&'static str> {
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
    fs::create_dir_all(share).with_context(|| format!("cannot make {}", share.display()))?;
    let staged = share.join("caisson-measure");
    fs::copy(workspace.join("target/release/caisson-measure"), &staged)
        .with_context(|| format!("cannot write {}", staged.display()))?;
    Ok("caisson-measure")
}
