//! `cargo demo`: the main job, shown once.

use std::process::ExitCode;

use anyhow::Result;
use caisson_testbed::packages;

use crate::testbed_command::{again, passed_on};

/// What runs in the testbed.
const SCRIPT: &str = include_str!("demo.sh");

/// Installs what is missing, builds everything, and runs the demonstration in the testbed.
///
/// # Errors
/// Fails when a package, the workspace or the testbed cannot be had.
pub(crate) fn run() -> Result<ExitCode> {
    packages::install_missing()?;
    let mut testbed = again();
    testbed.args(["--", "sh", "-c", SCRIPT]);
    passed_on(testbed)
}
