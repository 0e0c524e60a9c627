//! `cargo measure`: Caisson beside runc, crun and gVisor, or its VMM beside others, in one run of
//! the testbed.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use caisson_testbed::{packages, progress, runsc};
use clap::Args;

use crate::go_program::{CRICTL, GVISOR_SHIM};
use crate::measure_vmm;
use crate::record;
use crate::testbed_command::{again, passed_on};
use crate::verify::cargo;

/// The file in the shared folder to which the benchmarks add what they have counted.
const COUNTS: &str = "counts.tsv";
/// The picture of a start, where the benchmark leaves it and where it is kept.
const CHART_DRAWN: &str = "target/testbed/measure/boot-chart.svg";
const CHART: &str = "docs/boot-chart.svg";
/// MiB of the machine that holds fifty pods.
const MEMORY_FOR_PODS: &str = "10240";

/// Time containers and pods of Caisson and of others in turns, and show where time and memory go.
#[derive(Debug, Args)]
pub(crate) struct MeasureArguments {
    /// Rounds that count, after one that does not.
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// Count instructions instead of time: one nanosecond each, the same in every run.
    #[arg(long)]
    icount: bool,
    /// Keep the counts in docs/instructions.tsv.
    #[arg(long, requires = "icount", conflicts_with = "pods")]
    record: bool,
    /// Compare the counts with those that a revision of this repository has kept.
    #[arg(long, value_name = "REV", requires = "icount", conflicts_with = "pods")]
    against: Option<String>,
    /// Put a picture of one start, which is part of "idle", into docs/boot-chart.svg.
    #[arg(long, conflicts_with_all = ["pods", "vmm"])]
    chart: bool,
    /// Pods through CRI: one after the other, many at once, and the memory of idle ones.
    #[arg(long)]
    pods: bool,
    /// The VMM alone beside QEMU: starts, disks, networks and vsock.
    #[arg(long, conflicts_with = "pods")]
    vmm: bool,
    /// Only one part of it. Of containers: start, exec, idle; of pods: start, idle, overhead; of the
    /// VMM: start, transfer.
    #[arg(long, value_name = "PART", default_value = "all")]
    only: String,
    /// Only those contenders with this in their name, such as "pod's devices" of the VMM's starts.
    #[arg(long, value_name = "NAME", default_value = "")]
    contender: String,
    /// How many idle pods there are at once, one number after the other.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 10, 50],
        requires = "pods")]
    at_once: Vec<u32>,
    /// Only those transfers in whose name this occurs: disk, network, "to the guest" …
    #[arg(long, value_name = "TEXT", requires = "vmm", default_value = "")]
    rows: String,
}

impl MeasureArguments {
    /// What is measured, and the parts of it.
    fn parts(&self) -> (&'static str, &'static [&'static str]) {
        match (self.vmm, self.pods) {
            (true, _) => ("vmm", &["all", "start", "transfer"]),
            (_, true) => ("pods", &["all", "start", "idle", "overhead"]),
            _ => ("containers", &["all", "start", "exec", "idle"]),
        }
    }
}

/// Builds the benchmark and runs it in the testbed.
///
/// # Errors
/// Fails when the benchmark or the testbed cannot be had.
pub(crate) fn run(workspace: &Path, arguments: &MeasureArguments) -> Result<ExitCode> {
    let (what, parts) = arguments.parts();
    if !parts.contains(&arguments.only.as_str()) {
        let parts = parts.join(", ");
        bail!("--only {}: the parts of {what} are {parts}", arguments.only);
    }
    packages::install_missing()?;
    let share = workspace.join("target/testbed/measure");
    let program = if arguments.vmm {
        measure_vmm::stage(workspace, &share)?
    } else {
        stage(workspace, &share)?
    };
    let counts = share.join(COUNTS);
    fs::write(&counts, "").with_context(|| format!("cannot write {}", counts.display()))?;
    let mut testbed = again();
    testbed
        .args(arguments.icount.then_some("--icount"))
        .arg("--share")
        .arg(share);
    if arguments.pods {
        testbed.args(["--memory", MEMORY_FOR_PODS]);
    }
    testbed.arg("--");
    let rounds = arguments.rounds.to_string();
    if arguments.vmm {
        testbed.arg(format!("/share/{program}"));
        testbed.args([&rounds, &arguments.only, &arguments.rows]);
        testbed.arg(match arguments.icount {
            true => "instructions",
            false => "time",
        });
        testbed.arg(&arguments.contender);
    } else {
        // A program in the shared folder is read anew each time it starts.
        let script =
            format!("cp -r /share /var/tmp/measure && exec /var/tmp/measure/{program} \"$@\"");
        testbed.args(["sh", "-c", &script, program, what, &rounds]);
        testbed.args([&arguments.only, &arguments.contender]);
        let at_once: Vec<String> = arguments.at_once.iter().map(u32::to_string).collect();
        testbed.arg(at_once.join(","));
    }
    let code = passed_on(testbed)?;
    if code == ExitCode::SUCCESS {
        if arguments.chart {
            let (drawn, kept) = (workspace.join(CHART_DRAWN), workspace.join(CHART));
            fs::copy(&drawn, &kept).with_context(|| {
                format!("cannot copy {} to {}", drawn.display(), kept.display())
            })?;
        }
        if let Some(revision) = &arguments.against {
            record::compare(workspace, &counts, revision)?;
        }
        if arguments.record {
            record::keep(workspace, &counts)?;
        }
    }
    Ok(code)
}

/// Builds the benchmark of containers and copies it to `share`, and with it the contenders that are
/// not in the testbed; returns its name.
fn stage(workspace: &Path, share: &Path) -> Result<&'static str> {
    const PROGRAM: &str = "caisson-measure";
    let build = [
        "build",
        "--release",
        "--package",
        "caisson-e2e",
        "--bin",
        PROGRAM,
    ];
    let status = cargo(&build).status().context("cannot run cargo")?;
    if !status.success() {
        bail!("the benchmark does not build");
    }
    // What another benchmark has put there need not be copied.
    if share.exists() {
        fs::remove_dir_all(share).with_context(|| format!("removing {}", share.display()))?;
    }
    fs::create_dir_all(share).with_context(|| format!("cannot make {}", share.display()))?;
    let copy = |from: &Path, name: &str| {
        let staged = share.join(name);
        fs::copy(from, &staged).with_context(|| format!("cannot write {}", staged.display()))
    };
    copy(&workspace.join("target/release").join(PROGRAM), PROGRAM)?;
    if let Err(reason) = CRICTL.stage(workspace, share)? {
        progress::line(&format!("without pods: {reason}"));
    }
    let gvisor = GVISOR_SHIM.stage(workspace, share)?;
    let gvisor = gvisor.map_err(anyhow::Error::msg).and_then(|()| runsc());
    match gvisor {
        Ok(program) => {
            copy(&program, "runsc")?;
        }
        Err(reason) => progress::line(&format!("without gVisor: {reason:#}")),
    }
    Ok(PROGRAM)
}
