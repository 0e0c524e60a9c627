//! What is installed in the testbed: this workspace's binaries and guest image, and files the
//! caller adds.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cache::{Key, remove};
use crate::disk;
use crate::progress;
use crate::request::INSTALLED_DIRECTORIES;
use crate::workspace;

/// Room for what tests write to the installed folders, in bytes.
const SPARE: u64 = 64 << 20;

/// Disks of this many different contents are kept: `demo`, `verify` and a shell take turns.
const KEPT: usize = 3;

/// A file of this machine and its place in the testbed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledFile {
    /// Where it is here.
    pub source: PathBuf,
    /// Where it appears: an absolute path under /usr/local or /opt.
    pub destination: PathBuf,
}

/// Where install.sh puts files unless it is told otherwise.
pub(crate) const PREFIX: &str = "/usr/local";
/// What installs Caisson on a node, in this repository. An installation holds it, so that it can
/// be removed, and is itself what an installation can be made of.
const INSTALLER: &str = "deploy/install.sh";
/// An installation, below its prefix.
const FILES: [&str; 7] = [
    "libexec/caisson/install.sh",
    "share/caisson/vmlinux",
    "share/caisson/initrd.img",
    "bin/containerd-shim-caisson-v2",
    "libexec/caisson/caisson-vmm",
    "libexec/caisson/caisson-fs",
    "libexec/caisson/caisson-pod",
];

/// Builds Caisson and returns the files of an installation.
///
/// # Errors
/// When cargo or the guest image's build fails.
pub(crate) fn caisson() -> Result<Vec<InstalledFile>> {
    let built = progress::step("building Caisson", || {
        let packages = [
            "-p",
            "containerd-shim-caisson",
            "-p",
            "caisson-vmm",
            "-p",
            "caisson-fs",
        ];
        workspace::build(
            &[&["build", "--release", "--bins"], &packages[..]].concat(),
            &[],
        )
    })?;
    let image = progress::step("building the guest image", || {
        let options = caisson_guest_image::Options::new(workspace::folder()?)?;
        caisson_guest_image::build(&options)
    })?;
    let source = |file: &str| match file.rsplit('/').next().unwrap_or_default() {
        "install.sh" => Ok(workspace::folder()?.join(INSTALLER)),
        "vmlinux" => Ok(image.kernel.clone()),
        "initrd.img" => Ok(image.initrd.clone()),
        program => workspace::executable(&built, program).map(Path::to_path_buf),
    };
    let installed = |file: &&str| {
        Ok(InstalledFile {
            source: source(file)?,
            destination: place(file),
        })
    };
    FILES.iter().map(installed).collect()
}

/// Where a file of an installation goes.
pub(crate) fn place(relative: &str) -> PathBuf {
    Path::new(PREFIX).join(relative)
}

/// Finds or makes a disk with `files` in `folder`.
pub(crate) fn disk(files: &[InstalledFile], folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let name = format!("install-{}.ext4", key(files)?.as_str());
    let image = folder.join(name);
    if image.exists() {
        // The most recently used disks are kept.
        fs::File::open(&image)
            .and_then(|file| file.set_modified(std::time::SystemTime::now()))
            .with_context(|| format!("touching {}", image.display()))?;
        return Ok(image);
    }
    let tree = folder.join("install");
    remove(&tree)?;
    for place in INSTALLED_DIRECTORIES {
        fs::create_dir_all(tree.join(place.trim_start_matches('/')))?;
    }
    for file in files {
        copy(file, &tree)?;
    }
    let unfinished = folder.join("install.unfinished");
    disk::make(&tree, disk::size_for(&tree, SPARE)?, &unfinished)?;
    fs::rename(&unfinished, &image).with_context(|| format!("creating {}", image.display()))?;
    forget_old(folder)?;
    Ok(image)
}

/// Names, sizes and times of the files: reading a hundred megabytes on every start would cost more
/// than it finds, since cargo and the guest image's build leave unchanged files alone.
fn key(files: &[InstalledFile]) -> Result<Key> {
    let mut inputs = vec![b"1".to_vec()];
    for file in files {
        let metadata = fs::metadata(&file.source)
            .with_context(|| format!("{} cannot be installed", file.source.display()))?;
        let text = format!(
            "{:?} {} {} {} {:o}",
            file,
            metadata.size(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.mode()
        );
        inputs.push(text.into_bytes());
    }
    Ok(Key::of(&inputs))
}

fn copy(file: &InstalledFile, tree: &Path) -> Result<()> {
    let inside = INSTALLED_DIRECTORIES
        .iter()
        .any(|place| file.destination.starts_with(place))
        && !file
            .destination
            .components()
            .any(|part| part.as_os_str() == "..");
    let Some(relative) = file.destination.strip_prefix("/").ok().filter(|_| inside) else {
        bail!(
            "{} cannot be installed in the testbed: only {} can",
            file.destination.display(),
            INSTALLED_DIRECTORIES.join(" and ")
        );
    };
    let target = tree.join(relative);
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    }
    fs::copy(&file.source, &target)
        .map(drop)
        .with_context(|| format!("copying {} to {}", file.source.display(), target.display()))
}

fn forget_old(folder: &Path) -> Result<()> {
    let mut disks = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_disk = name
            .to_str()
            .is_some_and(|name| name.starts_with("install-") && name.ends_with(".ext4"));
        if is_disk {
            disks.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    disks.sort();
    disks.reverse();
    for (_, path) in disks.into_iter().skip(KEPT) {
        // A machine that runs from it has it open and goes on.
        remove(&path)?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "install_script_test.rs"]
mod script_tests;
#[cfg(test)]
#[path = "install_test.rs"]
mod tests;
