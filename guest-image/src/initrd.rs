//! The guest root: the agent, and the few names that a kernel needs to start it.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::cpio::{Archive, ArchiveError, Entry};
use crate::progress::run_logged;
use crate::{Options, replace_file};

/// What the agent is compiled for. Naming it, although it is the machine's own, keeps the flags
/// below away from build scripts, which cannot be linked statically.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The workspace's profile for what runs in the guest.
const PROFILE: &str = "guest";

/// Folders on which the agent mounts file systems.
const MOUNT_POINTS: &[&str] = &["dev", "proc", "run", "sys", "tmp"];

/// Builds the agent and puts it into the guest root, or finds both up to date. Returns the path
/// of the archive.
///
/// # Errors
/// Fails if the agent does not compile or is not a static program.
pub fn build_initrd(options: &Options) -> anyhow::Result<PathBuf> {
    let _lock = options.lock_cache()?;
    let agent = build_agent(options)?;
    let archive = initrd_from_agent(agent)?;
    let path = options.cache.join("initrd.img");
    replace_file(&path, &archive)?;
    Ok(path)
}

/// The guest root with `agent`, an executable's bytes, as its first program. Not compressed: our
/// kernel then keeps its pages where they are, another one copies them, and neither has a decompressor.
///
/// # Errors
/// Fails if the agent has 4 GiB or more.
pub fn initrd_from_agent(agent: Vec<u8>) -> Result<Vec<u8>, ArchiveError> {
    let mut archive = Archive::default();
    archive.add(
        "init",
        Entry::File {
            mode: 0o755,
            content: agent,
        },
    )?;
    for name in MOUNT_POINTS {
        archive.add(name, Entry::Directory { mode: 0o755 })?;
    }
    // The kernel opens it as the first program's standard streams, before anything is mounted.
    archive.add(
        "dev/console",
        Entry::CharacterDevice {
            mode: 0o600,
            major: 5,
            minor: 1,
        },
    )?;
    archive.to_bytes()
}

/// Compiles the agent as a static program and returns its bytes.
fn build_agent(options: &Options) -> anyhow::Result<Vec<u8>> {
    let workspace = fs::canonicalize(&options.workspace)
        .with_context(|| format!("cannot find the checkout {}", options.workspace.display()))?;
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target_dir = workspace.join("target/guest");
    let mut command = Command::new("nice");
    command
        .arg(&cargo)
        .args([
            "build",
            "--profile",
            PROFILE,
            "--locked",
            "--package",
            "caisson-agent",
        ])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target_dir)
        .arg("--jobs")
        .arg(options.jobs().to_string())
        .current_dir(&workspace)
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", rust_flags(&workspace)?);
    run_logged(
        command,
        "compiling the agent",
        &options.cache.join("agent.log"),
        None,
    )?;
    let path = target_dir.join(TARGET).join(PROFILE).join("caisson-agent");
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(
        is_static(&bytes),
        "{} is not a static program, and there is no loader in the guest",
        path.display()
    );
    Ok(bytes)
}

/// What the agent is compiled with besides its profile. All of it is copied at every start, and
/// stays in memory: so its 16 thousand relocations are packed into bits, and the tables for unwinding
/// are left out.
const FLAGS: [&str; 3] = [
    "-Ctarget-feature=+crt-static",
    "-Clink-arg=-Wl,-z,pack-relative-relocs",
    "-Clink-arg=-Wl,--no-eh-frame-hdr",
];
/// For the linker, in the workspace.
const LINKER_SCRIPT: &str = "guest-image/agent.ld";

/// Compiler flags of the agent, with the separator that cargo takes: a static program, in which
/// no path of this machine is to be found.
fn rust_flags(workspace: &Path) -> anyhow::Result<OsString> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(&rustc)
        .args(["--print", "sysroot"])
        .current_dir(workspace)
        .output()
        .with_context(|| format!("cannot run {}", rustc.display()))?;
    let sysroot = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));

    let mut flags = OsString::from(FLAGS.join("\x1f"));
    flags.push("\x1f-Clink-arg=-Wl,-T,");
    flags.push(workspace.join(LINKER_SCRIPT));
    let mut remap = |from: &Path, to: &str| {
        if from.is_absolute() {
            flags.push("\x1f--remap-path-prefix=");
            flags.push(from);
            flags.push("=");
            flags.push(to);
        }
    };
    // The last prefix that fits is the one that counts.
    if let Some(cargo_home) = cargo_home {
        remap(&cargo_home, "/cargo");
    }
    remap(Path::new(&sysroot), "/rust");
    remap(workspace, "/caisson");
    Ok(flags)
}

/// Whether an ELF file names no loader (a segment of type PT_INTERP, ELF gABI chapter 5).
fn is_static(elf: &[u8]) -> bool {
    let number = |at: usize, size: usize| -> Option<usize> {
        let bytes = elf.get(at..at.checked_add(size)?)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |value, &byte| value << 8 | usize::from(byte)),
        )
    };
    let kinds = || -> Option<Vec<usize>> {
        let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        (0..count)
            .map(|index| number(table.checked_add(index * size)?, 4))
            .collect()
    };
    elf.starts_with(b"\x7fELF") && kinds().is_some_and(|kinds| !kinds.contains(&3))
}

#[cfg(test)]
#[path = "initrd_test.rs"]
mod tests;
