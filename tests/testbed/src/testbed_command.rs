//! `cargo testbed`: a command where containerd is up and Caisson is installed.

use std::path::PathBuf;
use std::process::{self, ExitCode};

use anyhow::{Context, Result, bail};
use caisson_testbed::{
    Command, ContainerdVersion, Local, MachineOptions, Options, Stdin, Testbed, clean, progress,
};
use clap::Args;

/// Runs COMMAND (a shell without one) where containerd is up, Caisson from this checkout is
/// installed and the test images are imported. Ends with COMMAND's exit status, or with 125 if the
/// testbed itself failed.
#[derive(Debug, Args)]
pub(crate) struct TestbedArguments {
    /// Version of containerd: 1.6, 1.7 or 2.
    #[arg(long, value_name = "VERSION", default_value_t)]
    containerd: ContainerdVersion,
    /// A folder that appears as /share, to read and write.
    #[arg(long, value_name = "DIR")]
    share: Option<PathBuf>,
    /// Processors of the machine [default: what suits it; 1 in emulation].
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// Memory of the machine in MiB.
    #[arg(long, value_name = "MIB", default_value_t = MachineOptions::default().memory)]
    memory: u32,
    /// Count instructions instead of time: one nanosecond each, the same in every run.
    #[arg(long)]
    icount: bool,
    /// Use this machine instead of an outer one: installs Caisson and the images on it.
    #[arg(long, conflicts_with_all = ["containerd", "cpus", "memory", "icount"])]
    local: bool,
    /// Leave Caisson out: containerd, runc and crun only.
    #[arg(long)]
    bare: bool,
    /// Remove the cache and everything else the testbed has made, and do nothing more.
    #[arg(long)]
    clean: bool,
    /// Program and arguments.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// This program, also when cargo has put a new one in its place meanwhile: to test it is to build it.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// `cargo testbed`, for the other tools to add arguments to.
pub(crate) fn again() -> process::Command {
    let mut command = process::Command::new(THIS_PROGRAM);
    command.arg("testbed");
    command
}

/// Runs what [`again`] began to its end and passes its exit status on.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn passed_on(mut testbed: process::Command) -> Result<ExitCode> {
    let status = testbed.status().context("cannot run the testbed")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Does what the arguments say.
///
/// # Errors
/// When the testbed failed, not when the command did.
pub(crate) fn run(arguments: TestbedArguments) -> Result<ExitCode> {
    if arguments.clean {
        for folder in clean()? {
            progress::line(&format!("removed {}", folder.display()));
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(share) = arguments.share.as_ref().filter(|share| !share.is_dir()) {
        bail!("--share {}: there is no such folder", share.display());
    }
    let options = Options {
        containerd: arguments.containerd,
        machine: MachineOptions {
            cpus: arguments.cpus,
            memory: arguments.memory,
            icount: arguments.icount,
        },
        files: Vec::new(),
        bare: arguments.bare,
    };
    let mut command = Command {
        arguments: arguments.command,
        stdin: Stdin::Inherit,
        share: arguments.share,
        ..Command::default()
    };
    if command.arguments.is_empty() {
        command.arguments.push("bash".into());
    }
    let status = if arguments.local {
        Local::prepare(&options)?.run(&command)?
    } else {
        Testbed::prepare(&options)?.run(&command)?
    };
    Ok(ExitCode::from(status.code()))
}
