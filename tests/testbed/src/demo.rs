//! `cargo demo`: the main job, shown once.

use std::env;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use caisson_testbed::packages;

/// What runs in the testbed.
const SCRIPT: &str = include_str!("demo.sh");

/// Installs what is missing, builds everything, and runs the demonstration in the testbed.
///
/// # Errors
/// Fails when a package, the workspace or the testbed cannot be had.
pub(crate) fn run() -> Result<ExitCode> {
    packages::install_missing()?;
    let status = Command::new(env::current_exe().context("cannot find this program")?)
        .args(["testbed", "--", "sh", "-c", SCRIPT])
        .status()
        .context("cannot run the testbed")?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, Into::into))
}
