//! Disks: block devices of the host that containers are to have. The host puts one on the bus before
//! it makes the first container that has it, and takes it away after the last.
//!
//! The layers of an image come as one disk, which is taken apart here: each is a block device of its own.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use caisson_protocol::MAX_DISK_PARTS;
use caisson_protocol::agent::{AddDiskRequest, DiskNumber, DiskPart};

use crate::bus;
use crate::error::{AgentError, Doing};
use crate::partition;

/// Where the kernel makes the nodes of its devices.
const NODES: &str = "/dev";

/// Finds a disk and makes its parts block devices; answers with their numbers, or that of the disk if it has
/// no parts.
///
/// # Errors
/// [`AgentError::FailedPrecondition`] when there is no such disk; [`AgentError::InvalidArgument`] for too many
/// parts; [`AgentError::Internal`] for those that the kernel does not take.
pub fn add(request: &AddDiskRequest) -> Result<Vec<DiskNumber>, AgentError> {
    if request.parts.len() > MAX_DISK_PARTS {
        return Err(AgentError::InvalidArgument(format!(
            "a disk of {} parts is not possible, {MAX_DISK_PARTS} are",
            request.parts.len()
        )));
    }
    let disk = find(Path::new(bus::PCI), request.slot)?;
    if request.parts.is_empty() {
        return Ok(vec![number(&disk)?]);
    }
    take_apart(&disk, Path::new(NODES), &request.parts, partition::add)
}

/// The kernel's directory of the disk in `slot`.
fn find(pci: &Path, slot: u32) -> Result<PathBuf, AgentError> {
    let find = || bus::device(pci, slot, "block").doing("look at the bus");
    let disk = match find()? {
        Some(disk) => Some(disk),
        None => {
            bus::rescan(pci)?;
            find()?
        }
    };
    disk.ok_or_else(|| {
        AgentError::FailedPrecondition(format!("there is no disk in slot {slot} of the bus"))
    })
}

/// Has the parts of a disk made block devices; their numbers.
fn take_apart(
    disk: &Path,
    nodes: &Path,
    parts: &[DiskPart],
    add: impl Fn(&File, u8, u64, u64) -> io::Result<()>,
) -> Result<Vec<DiskNumber>, AgentError> {
    let name = disk.file_name().unwrap_or_default();
    let node = File::open(nodes.join(name)).doing("open a disk")?;
    let name = name.to_string_lossy();
    let add = |(part, count): (&DiskPart, u8)| {
        add(&node, count, part.offset, part.bytes).doing(format!("make part {count} of a disk"))?;
        // Disks of virtio have names that end in a letter, behind which the number is.
        number(&disk.join(format!("{name}{count}")))
    };
    parts.iter().zip(1..).map(add).collect()
}

/// The number of a block device, of which this is the kernel's directory.
fn number(device: &Path) -> Result<DiskNumber, AgentError> {
    let text = fs::read_to_string(device.join("dev")).doing("find out the number of a disk")?;
    let parsed = || {
        let (major, minor) = text.trim_end().split_once(':')?;
        Some(DiskNumber {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            ..Default::default()
        })
    };
    parsed().ok_or_else(|| {
        AgentError::Internal(format!("{} has the number {text:?}", device.display()))
    })
}

/// Writes what is left to be written to the disk in `slot` and lets go of it.
///
/// # Errors
/// [`AgentError::Internal`] when it could not be written or the kernel keeps the device; in the first
/// case it is let go of all the same.
pub fn remove(slot: u32) -> Result<(), AgentError> {
    remove_below(Path::new(bus::PCI), Path::new(NODES), slot)
}

fn remove_below(pci: &Path, nodes: &Path, slot: u32) -> Result<(), AgentError> {
    let disk = bus::device(pci, slot, "block").doing("look at the bus")?;
    let name = disk.as_deref().and_then(Path::file_name);
    let written = name.map_or(Ok(()), |name| write_back(nodes, name));
    bus::remove(pci, slot).doing(format!("let go of the device in slot {slot}"))?;
    written.doing(format!("write what is left for the disk in slot {slot}"))
}

/// Also what the disk itself may still have in a cache.
fn write_back(nodes: &Path, name: &OsStr) -> io::Result<()> {
    File::open(nodes.join(name))?.sync_all()
}

#[cfg(test)]
#[path = "disk_test.rs"]
mod tests;
