//! The programs that a kernel build runs, and the Debian packages that have them.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

/// Programs, and the package of each.
const PROGRAMS: &[(&str, &str)] = &[
    ("gcc", "gcc"),
    ("ld", "binutils"),
    ("strip", "binutils"),
    ("make", "make"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("perl", "perl"),
    ("patch", "patch"),
    ("xz", "xz-utils"),
    ("tar", "tar"),
];

/// Headers for programs that the build makes for itself (objtool reads ELF files; libc's own).
const HEADERS: &[(&str, &str)] = &[
    ("/usr/include/libelf.h", "libelf-dev"),
    ("/usr/include/stdio.h", "libc6-dev"),
];

/// The Debian packages that are needed to build a guest kernel and are missing here.
pub fn missing_packages() -> Vec<&'static str> {
    let path = env::var_os("PATH").unwrap_or_default();
    let installed = |program: &str| env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let mut missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !installed(program))
        .chain(
            HEADERS
                .iter()
                .filter(|(header, _)| !Path::new(header).exists()),
        )
        .map(|&(_, package)| package)
        .collect();
    missing.sort_unstable();
    missing.dedup();
    missing
}

/// Fails with the command that mends it if a package is missing.
pub(crate) fn require() -> anyhow::Result<()> {
    let missing = missing_packages();
    if !missing.is_empty() {
        bail!(
            "programs for building the guest kernel are missing: run `apt-get install {}`",
            missing.join(" ")
        );
    }
    Ok(())
}

/// The versions of the programs that decide what bytes a kernel has.
pub(crate) fn versions() -> anyhow::Result<String> {
    let mut versions = String::new();
    for program in ["gcc", "ld"] {
        let output = Command::new(program)
            .arg("--version")
            .env("LC_ALL", "C")
            .output()
            .with_context(|| format!("cannot run {program}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        versions.push_str(text.lines().next().unwrap_or_default());
        versions.push('\n');
    }
    Ok(versions)
}
