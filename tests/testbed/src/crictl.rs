//! crictl, the Kubernetes project's client of CRI, which plays the kubelet in the end-to-end tests.
//!
//! Debian has no package of it. It is built where there is Go, once; elsewhere the tests that need
//! it say that they are skipped.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, io};

use anyhow::{Context, Result};
use caisson_testbed::progress;

/// What is built. CRI is the same interface in all versions of containerd that we test with.
const MODULE: &str = "sigs.k8s.io/cri-tools/cmd/crictl";
const VERSION: &str = "v1.37.0";
const PROGRAM: &str = "crictl";
/// Names a program that somebody has built already.
const VARIABLE: &str = "CAISSON_CRICTL";
/// Where Go's own archive installs it, which need not be in PATH.
const USUAL_GO: &str = "/usr/local/go/bin/go";

/// Puts crictl where the tests look for it, or says why there is none.
///
/// # Errors
/// Fails when its file cannot be copied.
pub(crate) fn stage(workspace: &Path, share: &Path) -> Result<Result<(), String>> {
    let program = match find(workspace)? {
        Ok(program) => program,
        Err(reason) => return Ok(Err(reason)),
    };
    let staged = share.join(PROGRAM);
    fs::copy(&program, &staged)
        .with_context(|| format!("copying {} to {}", program.display(), staged.display()))?;
    Ok(Ok(()))
}

fn find(workspace: &Path) -> Result<Result<PathBuf, String>> {
    if let Some(named) = env::var_os(VARIABLE) {
        return Ok(Ok(PathBuf::from(named)));
    }
    let folder = workspace.join(format!("target/testbed/{PROGRAM}-{VERSION}"));
    let program = folder.join(PROGRAM);
    if program.exists() {
        return Ok(Ok(program));
    }
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    progress::line(&format!("building {PROGRAM} {VERSION}"));
    let command = |go: &str| install(go, &folder);
    let output = match command("go").output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => command(USUAL_GO).output(),
        started => started,
    };
    Ok(match output {
        Ok(output) if output.status.success() => Ok(program),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.trim().lines().last().unwrap_or("it said nothing");
            Err(format!("Go cannot build {MODULE}@{VERSION}: {last}"))
        }
        Err(error) => Err(format!(
            "{MODULE} needs Go, which cannot be run ({error}); install it, or name a crictl in \
             {VARIABLE}"
        )),
    })
}

/// A program of its own, whatever the testbed's libraries are.
fn install(go: &str, folder: &Path) -> Command {
    let mut command = Command::new(go);
    command
        .args(["install", "-trimpath", "-ldflags=-s -w"])
        .arg(format!("{MODULE}@{VERSION}"))
        .env("GOBIN", OsString::from(folder))
        .env("CGO_ENABLED", "0")
        // No other toolchain is fetched for it.
        .env("GOTOOLCHAIN", "local");
    command
}

#[cfg(test)]
#[path = "crictl_test.rs"]
mod tests;
