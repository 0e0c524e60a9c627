//! `cargo measure`: Caisson beside runc, crun and gVisor, and its VMM beside others, in one run of
//! the testbed.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use caisson_testbed::{packages, progress, runsc, static_program, tool};
use clap::Args;

use crate::go_program::CRICTL;
use crate::measure_vmm;
use crate::record;
use crate::testbed_command::{again, passed_on};
use crate::verify::cargo;

/// The file in the shared folder to which the benchmarks add what they have counted.
const COUNTS: &str = "counts.tsv";
/// The picture of a start, where the benchmark leaves it and where it is kept.
const CHART_DRAWN: &str = "target/testbed/measure/boot-chart.svg";
const CHART: &str = "docs/boot-chart.svg";
/// Its width as pixels, in pixels: twice what its own unit says, for screens with small ones.
const CHART_WIDTH: &str = "1800";
/// What turns it into pixels, and the Debian package of that.
const RASTERIZER: &str = "rsvg-convert";
const RASTERIZERS_PACKAGE: &str = "librsvg2-bin";
/// Something that is "sans-serif".
const CHARTS_FONT: &str = "fonts-dejavu-core";
/// MiB of the machine that holds fifty pods.
const MEMORY_FOR_PODS: &str = "10240";

/// The benchmark of containers, pods and work, its package, and what it has done in containers.
const BENCHMARK: &str = "caisson-measure";
const PACKAGE: &str = "caisson-e2e";
const WORK: &str = "caisson-measured-work";
/// Where they lie in the shared folder.
const PROGRAMS: &str = "programs";
/// A program in the shared folder is read anew each time it starts.
const RUN_BENCHMARK: &str = "cp -r /share/programs /var/tmp/measure && \
                             /var/tmp/measure/caisson-measure \"$1\" \"$2\" \"$3\" \"$4\" \"$5\" \"$6\"";
const RUN_BENCHMARK_OF_VMM: &str = "/share/caisson-measure-vmm \"$2\" \"$3\" \"$6\" \"$7\" \"$4\"";

/// Caisson beside others, by turns in one run: containers, pods, work inside containers, and the VMM
/// alone. Without an option that names one of them, all of them.
#[derive(Debug, Args)]
pub(crate) struct MeasureArguments {
    /// Rounds that count, after one that does not.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Count instructions instead of time: one nanosecond each, the same in every run. Without an
    /// option that names something else, of containers and of the VMM.
    #[arg(long)]
    icount: bool,
    /// Keep the counts in docs/instructions.tsv.
    #[arg(long, requires = "icount", conflicts_with = "pods")]
    record: bool,
    /// Compare the counts with those that a revision of this repository has kept.
    #[arg(long, value_name = "REV", requires = "icount", conflicts_with = "pods")]
    against: Option<String>,
    /// Put a picture of one start, which is part of "idle", into docs/boot-chart.svg and .png.
    #[arg(long)]
    chart: bool,
    /// Containers of ctr: their start, an exec, one that is idle; and what is installed for them.
    #[arg(long)]
    containers: bool,
    /// Pods through CRI: one after the other, many at once, and the memory of idle ones.
    #[arg(long)]
    pods: bool,
    /// Work inside containers: disks, many small files, network, system calls, memory given back.
    #[arg(long)]
    work: bool,
    /// The VMM alone beside QEMU: starts, disks, networks and vsock.
    #[arg(long)]
    vmm: bool,
    /// Only one part: of containers start, exec or idle; of pods start, idle or overhead; of the VMM
    /// start or transfer.
    #[arg(long, value_name = "PART", default_value = "all")]
    only: String,
    /// Only those contenders with this in their name, such as "pod's devices" of the VMM's starts.
    #[arg(long, value_name = "NAME", default_value = "")]
    contender: String,
    /// How many idle pods there are at once, one number after the other.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 10, 50])]
    at_once: Vec<u32>,
    /// Only those rows of work, and those transfers of the VMM, in whose name this occurs: disk,
    /// network, "to the guest", "volume: " …
    #[arg(long, value_name = "TEXT", default_value = "")]
    rows: String,
}

/// Something that is measured, and its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    name: &'static str,
    parts: &'static [&'static str],
}

const CONTAINERS: Kind = Kind {
    name: "containers",
    parts: &["start", "exec", "idle"],
};
const PODS: Kind = Kind {
    name: "pods",
    parts: &["start", "idle", "overhead"],
};
const WORK_INSIDE: Kind = Kind {
    name: "work",
    parts: &[],
};
const VMM: Kind = Kind {
    name: "vmm",
    parts: &["start", "transfer"],
};

impl MeasureArguments {
    /// What is measured: what is named, or all, as far as it has the part that is asked for.
    fn kinds(&self) -> Result<Vec<Kind>> {
        let named = [
            (CONTAINERS, self.containers),
            (PODS, self.pods),
            (WORK_INSIDE, self.work),
            (VMM, self.vmm),
        ];
        let none_is_named = named.iter().all(|(_, is_named)| !is_named);
        let by_default = |kind: Kind| !self.icount || kind == CONTAINERS || kind == VMM;
        let chosen = named
            .into_iter()
            .filter(|(kind, is_named)| *is_named || none_is_named && by_default(*kind))
            .map(|(kind, _)| kind);
        let chosen: Vec<Kind> = chosen.collect();
        let with_part = chosen.iter().copied().filter(|kind| {
            let only = self.only.as_str();
            only == "all" || kind.parts.contains(&only)
        });
        let with_part: Vec<Kind> = with_part.collect();
        if with_part.is_empty() {
            let parts = chosen.iter().map(|kind| {
                let all = ["all"].iter().chain(kind.parts).copied();
                format!("of {}: {}", kind.name, all.collect::<Vec<_>>().join(", "))
            });
            let parts: Vec<String> = parts.collect();
            bail!("--only {}: the parts are {}", self.only, parts.join("; "));
        }
        Ok(with_part)
    }
}

/// Builds the benchmarks and runs them in the testbed.
///
/// # Errors
/// Fails when a benchmark or the testbed cannot be had.
pub(crate) fn run(workspace: &Path, arguments: &MeasureArguments) -> Result<ExitCode> {
    let mut kinds = arguments.kinds()?;
    packages::install_missing()?;
    let share = workspace.join("target/testbed/measure");
    // What another run has put there need not be copied.
    if share.exists() {
        fs::remove_dir_all(&share).with_context(|| format!("removing {}", share.display()))?;
    }
    fs::create_dir_all(&share).with_context(|| format!("cannot make {}", share.display()))?;
    let counts = share.join(COUNTS);
    fs::write(&counts, "").with_context(|| format!("cannot write {}", counts.display()))?;
    let mut testbed = again();
    testbed
        .args(arguments.icount.then_some("--icount"))
        .arg("--share")
        .arg(&share);
    if kinds.contains(&PODS) {
        testbed.args(["--memory", MEMORY_FOR_PODS]);
    }
    let mut commands = Vec::new();
    let vmm = kinds.extract_if(.., |kind| *kind == VMM).next();
    if !kinds.is_empty() {
        stage(workspace, &share.join(PROGRAMS))?;
        commands.push(RUN_BENCHMARK);
    }
    if vmm.is_some() {
        measure_vmm::stage(workspace, &share)?;
        commands.push(RUN_BENCHMARK_OF_VMM);
    }
    let kinds: Vec<&str> = kinds.iter().map(|kind| kind.name).collect();
    let at_once: Vec<String> = arguments.at_once.iter().map(u32::to_string).collect();
    testbed.args(["--", "sh", "-c", &commands.join(" && "), BENCHMARK]);
    testbed.args([&kinds.join(","), &arguments.rounds.to_string()]);
    testbed.args([&arguments.only, &arguments.contender]);
    testbed.args([&at_once.join(","), &arguments.rows]);
    testbed.arg(match arguments.icount {
        true => "instructions",
        false => "time",
    });
    let code = passed_on(testbed)?;
    if code == ExitCode::SUCCESS {
        if arguments.chart {
            keep_chart(workspace)?;
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

/// Keeps the picture that was drawn, and the same as a PNG for readers that show no SVG.
fn keep_chart(workspace: &Path) -> Result<()> {
    let (drawn, kept) = (workspace.join(CHART_DRAWN), workspace.join(CHART));
    fs::copy(&drawn, &kept)
        .with_context(|| format!("cannot copy {} to {}", drawn.display(), kept.display()))?;
    packages::ensure(&[RASTERIZERS_PACKAGE, CHARTS_FONT])?;
    tool::run(
        Command::new(RASTERIZER)
            .args(["--width", CHART_WIDTH, "--output"])
            .arg(kept.with_extension("png"))
            .arg(&kept),
    )
}

/// Builds the benchmark and copies it to `folder`, with what it needs and the contenders that are not
/// in the testbed.
fn stage(workspace: &Path, folder: &Path) -> Result<()> {
    let build = [
        "build",
        "--release",
        "--package",
        PACKAGE,
        "--bin",
        BENCHMARK,
    ];
    let status = cargo(&build).status().context("cannot run cargo")?;
    if !status.success() {
        bail!("the benchmark does not build");
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let copy = |from: &Path, name: &str| {
        let staged = folder.join(name);
        fs::copy(from, &staged).with_context(|| format!("cannot write {}", staged.display()))
    };
    copy(&workspace.join("target/release").join(BENCHMARK), BENCHMARK)?;
    copy(&static_program(PACKAGE, WORK)?, WORK)?;
    if let Err(reason) = CRICTL.stage(workspace, folder)? {
        progress::line(&format!("without pods: {reason}"));
    }
    match runsc() {
        Ok(program) => {
            copy(&program, "runsc")?;
        }
        Err(reason) => progress::line(&format!("without gVisor: {reason:#}")),
    }
    Ok(())
}

#[cfg(test)]
#[path = "measure_test.rs"]
mod tests;
