//! `cargo measure --vmm`: what its benchmark takes into the testbed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use caisson_testbed::{cache_folder, progress, static_program};

use crate::verify::cargo;

const BENCHMARK: &str = "caisson-measure-vmm";
const PACKAGE: &str = "caisson-machine-tests";
/// The first programs of the guests.
const GUESTS: [&str; 2] = ["caisson-measured-guest", "caisson-test-guest"];

const QEMU: &str = "qemu-system-x86_64";
/// What QEMU's machines q35 and microvm load with a kernel given to them.
const FIRMWARE: [&str; 6] = [
    "bios-256k.bin",
    "bios-microvm.bin",
    "kvmvapic.bin",
    "linuxboot_dma.bin",
    "pvh.bin",
    "qboot.rom",
];
const FIRMWARE_FOLDERS: [&str; 3] = ["/usr/share/qemu", "/usr/share/seabios", "/usr/share/qboot"];

/// VMMs that are compared when somebody has built them; ours as it was before a change, too.
const PEERS: [&str; 3] = ["firecracker", "cloud-hypervisor", "caisson-vmm"];

/// Builds and gathers everything in `share`.
///
/// # Errors
/// When something does not build or is not installed.
pub(crate) fn stage(workspace: &Path, share: &Path) -> Result<()> {
    let build = [
        "build",
        "--release",
        "--package",
        PACKAGE,
        "--bin",
        BENCHMARK,
    ];
    let status = cargo(&build).status().context("cannot run cargo")?;
    if !status.success() {
        bail!("the benchmark does not build");
    }
    let built = workspace.join("target/release").join(BENCHMARK);
    copy(&built, &share.join(BENCHMARK))?;
    for guest in GUESTS {
        copy(&static_program(PACKAGE, guest)?, &share.join(guest))?;
    }
    stage_qemu(&share.join("qemu"))?;
    stage_peers(&share.join("peers"))?;
    Ok(())
}

/// QEMU with its libraries and firmware: the testbed's Debian is another one than this machine's.
fn stage_qemu(folder: &Path) -> Result<()> {
    let program = env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join(QEMU))
        .find(|program| program.is_file())
        .with_context(|| format!("{QEMU} is not installed"))?;
    empty(folder)?;
    for name in ["lib", "firmware"] {
        fs::create_dir(folder.join(name))?;
    }
    copy(&program, &folder.join(QEMU))?;
    let output = Command::new("ldd").arg(&program).output();
    let output = output.context("cannot run ldd")?;
    let libraries = libraries(&String::from_utf8_lossy(&output.stdout));
    if libraries.is_empty() {
        bail!("ldd names no libraries of {}", program.display());
    }
    for library in libraries {
        let name = library.file_name().unwrap_or_default();
        if name.to_string_lossy().starts_with("ld-linux") {
            copy(&library, &folder.join("ld.so"))?;
        } else {
            copy(&library, &folder.join("lib").join(name))?;
        }
    }
    for name in FIRMWARE {
        let place = FIRMWARE_FOLDERS
            .iter()
            .map(|folder| Path::new(folder).join(name));
        let place = place.clone().find(|place| place.is_file());
        let place = place.with_context(|| format!("QEMU's {name} is not installed"))?;
        copy(&place, &folder.join("firmware").join(name))?;
    }
    Ok(())
}

/// The files that `ldd` names: `name => PATH (address)`, and the loader as `PATH (address)`.
fn libraries(listing: &str) -> Vec<PathBuf> {
    let words = listing.lines().filter_map(|line| {
        let line = line.split_once("=> ").map_or(line, |(_, path)| path);
        line.split_whitespace().next()
    });
    words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

/// What lies in the folder that `CAISSON_PEERS` names, or else in the cache's `peers`.
fn stage_peers(folder: &Path) -> Result<()> {
    empty(folder)?;
    let from = match env::var_os("CAISSON_PEERS") {
        Some(named) => PathBuf::from(named),
        None => cache_folder()?.join("peers"),
    };
    for name in PEERS {
        let program = from.join(name);
        if program.is_file() {
            copy(&program, &folder.join(name))?;
        } else {
            progress::line(&format!("without {name}: it is not in {}", from.display()));
        }
    }
    Ok(())
}

fn empty(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))
}

#[cfg(test)]
#[path = "measure_vmm_test.rs"]
mod tests;
