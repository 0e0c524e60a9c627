//! What a node needs of Caisson, as one archive.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::remove;
use crate::install::{self, InstalledFile};
use crate::progress;
use crate::tool;
use crate::workspace;

/// What Kubernetes is told of Caisson.
const MANIFEST: &str = "deploy/runtimeclass.yaml";

/// Builds Caisson and makes the archive; returns where it is. It unpacks to one folder, whose
/// `libexec/caisson/install.sh` installs it.
///
/// # Errors
/// When cargo, the guest image's build or tar fails.
pub fn bundle() -> Result<PathBuf> {
    let name = concat!("caisson-", env!("CARGO_PKG_VERSION"));
    let target = workspace::folder()?.join("target");
    let folder = target.join(name);
    remove(&folder)?;
    let mut files = install::caisson()?;
    files.push(InstalledFile {
        source: workspace::folder()?.join(MANIFEST),
        destination: install::place("share/caisson/runtimeclass.yaml"),
    });
    for file in &files {
        let relative = file.destination.strip_prefix(install::PREFIX);
        let place = folder.join(relative.context("a bundle holds what is below the prefix")?);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
        }
        fs::copy(&file.source, &place)
            .with_context(|| format!("copying to {}", place.display()))?;
    }
    let archive = target.join(format!("{name}-{}.tar.gz", env::consts::ARCH));
    progress::step("packing", || {
        let mut tar = Command::new("tar");
        tar.args(["--create", "--gzip", "--owner=0", "--group=0", "--file"]);
        tool::run(tar.arg(&archive).arg("--directory").arg(&target).arg(name))
    })?;
    Ok(archive)
}
