//! Disks: block devices of the host that containers are to have. The host puts one on the bus before
//! it makes the first container that has it, and takes it away after the last.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::bus;
use crate::error::{AgentError, Doing};

/// Where the kernel makes the nodes of its devices.
const NODES: &str = "/dev";

/// The number of a block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    /// Which driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

/// Finds the disk in `slot`.
///
/// # Errors
/// [`AgentError::FailedPrecondition`] when there is none.
pub fn add(slot: u32) -> Result<Number, AgentError> {
    add_below(Path::new(bus::PCI), slot)
}

fn add_below(pci: &Path, slot: u32) -> Result<Number, AgentError> {
    let find = || bus::device(pci, slot, "block").doing("look at the bus");
    let disk = match find()? {
        Some(disk) => Some(disk),
        None => {
            bus::rescan(pci)?;
            find()?
        }
    };
    let disk = disk.ok_or_else(|| {
        AgentError::FailedPrecondition(format!("there is no disk in slot {slot} of the bus"))
    })?;
    let text = fs::read_to_string(disk.join("dev")).doing("find out the number of a disk")?;
    number(&text)
        .ok_or_else(|| AgentError::Internal(format!("{} has the number {text:?}", disk.display())))
}

fn number(text: &str) -> Option<Number> {
    let (major, minor) = text.trim_end().split_once(':')?;
    Some(Number {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
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
