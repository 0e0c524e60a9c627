//! Debian packages this machine needs, and their installation.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::progress;
use crate::tool;

/// What the testbed itself uses: root file systems, disks, the outer machine.
pub const FOR_THE_TESTBED: &[&str] = &[
    "debian-archive-keyring",
    "e2fsprogs",
    "kmod",
    "mmdebstrap",
    "qemu-system-x86",
    "xz-utils",
    "zstd",
];

/// What building Caisson's binaries and its guest kernel uses.
pub const FOR_BUILDING: &[&str] = &[
    "bc",
    "bison",
    "build-essential",
    "flex",
    "libcap-ng-dev",
    "libelf-dev",
    "libseccomp-dev",
    "patch",
    "xz-utils",
];

/// What tests on this machine use: real containers for the agent, network namespaces for the shim.
pub const FOR_TESTS: &[&str] = &["busybox-static", "iproute2", "util-linux"];

/// Installs what is missing of everything that building, the testbed and the tests use.
///
/// # Errors
/// As [`ensure`].
pub fn install_missing() -> Result<()> {
    let mut all: Vec<&str> = [FOR_THE_TESTBED, FOR_BUILDING, FOR_TESTS].concat();
    all.sort_unstable();
    all.dedup();
    ensure(&all)
}

/// Installs those of `packages` that are missing.
///
/// # Errors
/// One sentence when that is impossible: no apt, not root, no mirror in reach.
pub fn ensure(packages: &[&str]) -> Result<()> {
    let listing = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Abbrev}\n"])
        .args(packages)
        // Unknown packages are no error here; they are what we look for.
        .output()
        .context("this is not a Debian system: dpkg-query is missing, so install by hand what the README lists")?;
    let missing = missing(packages, &String::from_utf8_lossy(&listing.stdout));
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.iter().copied().collect::<Vec<_>>().join(" ");
    if !rustix::process::geteuid().is_root() {
        bail!(
            "these Debian packages are missing and only root can install them: {names}\n\
             Run this command as root, or as root: apt-get install --no-install-recommends {names}"
        );
    }
    progress::line(&format!("these Debian packages are missing: {names}"));
    progress::step("apt-get update", update)?;
    progress::step("apt-get install", || {
        tool::run(
            apt_get()
                .args(["install", "-y", "--no-install-recommends"])
                .args(&missing),
        )
        .with_context(|| format!("installing {names} failed"))
    })
}

fn update() -> Result<()> {
    tool::run(
        apt_get()
            .arg("update")
            .arg("-o")
            .arg("APT::Update::Error-Mode=any"),
    )
    .or_else(|_| {
        // A machine with a wrong clock, or a mirror frozen in the past, has lists that look expired
        // or not valid yet. The signatures are checked all the same.
        tool::run(apt_get().arg("update").args(crate::apt::ANY_DATE)).context(
            "the package lists cannot be updated: check the network and the sources in /etc/apt",
        )
    })
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Those of `wanted` that dpkg's listing does not show as installed.
fn missing<'a>(wanted: &[&'a str], listing: &str) -> BTreeSet<&'a str> {
    let installed: BTreeSet<&str> = listing
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, status)| status.trim_end() == "ii")
        .map(|(name, _)| name)
        .collect();
    wanted
        .iter()
        .copied()
        .filter(|name| !installed.contains(name))
        .collect()
}

#[cfg(test)]
#[path = "packages_test.rs"]
mod tests;
