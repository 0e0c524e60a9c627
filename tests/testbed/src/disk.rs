//! Disk images for the outer machine's persistent memory.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tool;

/// Sizes are multiples of this, which every nvdimm alignment divides.
const UNIT: u64 = 128 << 20;

/// Makes an ext4 image of `size` bytes with the content of `folder`.
///
/// No journal: the image is either scratch or written back as a whole.
pub(crate) fn make(folder: &Path, size: u64, image: &Path) -> Result<()> {
    let file = fs::File::create(image).with_context(|| format!("creating {}", image.display()))?;
    file.set_len(size)
        .with_context(|| format!("sizing {}", image.display()))?;
    tool::run(
        Command::new("mkfs.ext4")
            .args(["-q", "-F", "-O", "^has_journal", "-m", "0"])
            // One inode per 32 KiB is plenty and makes the file system's tables small. Nothing is
            // left to be initialised by a kernel thread in the middle of a measurement.
            .args(["-i", "32768", "-E", "lazy_itable_init=0,root_owner=0:0"])
            .arg("-d")
            .arg(folder)
            .arg(image),
    )
    .with_context(|| format!("making a disk of {}", folder.display()))
}

/// A size with room for `folder` and `spare` bytes more.
pub(crate) fn size_for(folder: &Path, spare: u64) -> Result<u64> {
    Ok((content_size(folder)? + spare).next_multiple_of(UNIT))
}

/// Bytes that the files of a folder need on a disk with 4 KiB blocks.
fn content_size(folder: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        total += if metadata.is_dir() {
            content_size(&entry.path())?
        } else {
            metadata.size().next_multiple_of(4096)
        };
    }
    Ok(total)
}

/// Fails with a sentence when the file system that holds `path` has less than `bytes` free.
pub(crate) fn require_space(path: &Path, bytes: u64, purpose: &str) -> Result<()> {
    let status = rustix::fs::statvfs(path)
        .with_context(|| format!("asking for space in {}", path.display()))?;
    let free = status.f_bavail * status.f_frsize;
    if free < bytes {
        bail!(
            "{purpose} needs {} MiB of disk space in {}, which has {} MiB left: free some, or set \
             CAISSON_CACHE to a folder on another disk",
            bytes >> 20,
            path.display(),
            free >> 20
        );
    }
    Ok(())
}

#[cfg(test)]
#[path = "disk_test.rs"]
mod tests;
