//! Programs of others, written in Go, that Debian has no packages of.
//!
//! They are built where there is Go, once; elsewhere what needs them says that it goes without.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, io};

use anyhow::{Context, Result};
use caisson_testbed::progress;

/// A program and where it comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GoProgram {
    module: &'static str,
    version: &'static str,
    /// What it is called here.
    name: &'static str,
    /// Names one that somebody has built already.
    variable: &'static str,
}

/// The Kubernetes project's client of CRI, which plays the kubelet. CRI is the same interface in all
/// versions of containerd that we test with.
pub(crate) const CRICTL: GoProgram = GoProgram {
    module: "sigs.k8s.io/cri-tools/cmd/crictl",
    version: "v1.37.0",
    name: "crictl",
    variable: "CAISSON_CRICTL",
};

/// Where Go's own archive installs it, which need not be in PATH.
const USUAL_GO: &str = "/usr/local/go/bin/go";

impl GoProgram {
    /// Puts the program into `share`, or says why there is none.
    ///
    /// # Errors
    /// Fails when its file cannot be copied.
    pub(crate) fn stage(&self, workspace: &Path, share: &Path) -> Result<Result<(), String>> {
        let program = match self.find(workspace)? {
            Ok(program) => program,
            Err(reason) => return Ok(Err(reason)),
        };
        let staged = share.join(self.name);
        fs::copy(&program, &staged)
            .with_context(|| format!("copying {} to {}", program.display(), staged.display()))?;
        Ok(Ok(()))
    }

    fn find(&self, workspace: &Path) -> Result<Result<PathBuf, String>> {
        if let Some(named) = env::var_os(self.variable) {
            return Ok(Ok(PathBuf::from(named)));
        }
        let folder = format!("target/testbed/{}-{}", self.name, self.version);
        let folder = workspace.join(folder);
        let program = folder.join(self.built_name());
        if program.exists() {
            return Ok(Ok(program));
        }
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        progress::line(&format!("building {} {}", self.name, self.version));
        let command = |go: &str| self.install(go, &folder);
        let output = match command("go").output() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => command(USUAL_GO).output(),
            started => started,
        };
        let Self {
            module,
            version,
            variable,
            name,
        } = self;
        Ok(match output {
            Ok(output) if output.status.success() => Ok(program),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                let last = said.trim().lines().last().unwrap_or("it said nothing");
                Err(format!("Go cannot build {module}@{version}: {last}"))
            }
            Err(error) => Err(format!(
                "{module} needs Go, which cannot be run ({error}); install it, or name a {name} in \
                 {variable}"
            )),
        })
    }

    /// Go calls a program as its folder is called.
    fn built_name(&self) -> &'static str {
        self.module.rsplit('/').next().unwrap_or(self.module)
    }

    /// A program of its own, whatever the testbed's libraries are.
    fn install(&self, go: &str, folder: &Path) -> Command {
        let mut command = Command::new(go);
        command
            .args(["install", "-trimpath", "-ldflags=-s -w"])
            .arg(format!("{}@{}", self.module, self.version))
            .env("GOBIN", OsString::from(folder))
            .env("CGO_ENABLED", "0")
            // No other toolchain is fetched for it.
            .env("GOTOOLCHAIN", "local");
        command
    }
}

#[cfg(test)]
#[path = "go_program_test.rs"]
mod tests;
