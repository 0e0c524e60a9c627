//! `caisson-dev`: what the cargo aliases demo, verify, bundle, conformance,
//! fuzz, testbed and measure run.

mod conformance;
mod demo;
mod fuzz;
mod go_program;
mod measure;
mod measure_vmm;
mod record;
mod testbed_command;
mod verify;

use std::process::ExitCode;

use anyhow::Result;
use caisson_testbed::{ExitStatus, workspace_folder};
use clap::{Parser, Subcommand};

/// Tools for people who work on Caisson.
#[derive(Debug, Parser)]
#[command(
    name = "caisson-dev",
    bin_name = "cargo",
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Tool,
}

#[derive(Debug, Subcommand)]
enum Tool {
    /// Install what is missing, build everything, and show a container in its own machine.
    Demo,
    /// Run every check there is.
    Verify,
    /// Build everything, and make the archive that is installed on nodes.
    Bundle,
    Conformance(conformance::ConformanceArguments),
    /// Do to the VMM what no guest and no shim would, for a given time.
    Fuzz(fuzz::FuzzArguments),
    Measure(measure::MeasureArguments),
    Testbed(testbed_command::TestbedArguments),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitStatus::TESTBED_FAILED.code().into()
        }
    }
}

fn run(tool: Tool) -> Result<ExitCode> {
    match tool {
        Tool::Demo => demo::run(),
        Tool::Verify => verify::run(&workspace_folder()?),
        Tool::Bundle => {
            println!("{}", caisson_testbed::bundle()?.display());
            Ok(ExitCode::SUCCESS)
        }
        Tool::Conformance(arguments) => conformance::run(&workspace_folder()?, &arguments),
        Tool::Fuzz(arguments) => fuzz::run(&arguments),
        Tool::Measure(arguments) => measure::run(&workspace_folder()?, &arguments),
        Tool::Testbed(arguments) => testbed_command::run(arguments),
    }
}
