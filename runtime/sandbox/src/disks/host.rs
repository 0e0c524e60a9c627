//! A block device of the host, opened by its number.
//!
//! The configuration tells no path of the host: that of the device in the container is all there is.
//! The device is therefore opened through a node of our own, on a file system that is mounted
//! nowhere, so that it is the one with that number and no other.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, makedev};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use super::DeviceNumber;

/// Where the kernel lists block devices by their numbers.
const DEVICES: &str = "/sys/dev/block";

/// Why a block device of the host cannot become a disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostDiskError {
    /// There is none of that number.
    #[error("the host has no such block device: is what it was attached to detached?")]
    Absent,
    /// A loop device without a file, or a drive without a medium.
    #[error("it holds nothing: attach a file or a medium to it first")]
    Empty,
    /// The kernel was asked what it is.
    #[error("{path} does not say what it is: {source}")]
    Unknown {
        /// What was read.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// No node could be made for it.
    #[error("no device node can be made: {0}")]
    Node(io::Error),
    /// It could not be opened.
    #[error("the host does not open it for {0}: {1}")]
    Refused(&'static str, io::Error),
}

/// An open block device.
#[derive(Debug)]
pub(super) struct HostDisk {
    /// For the VMM.
    pub(super) file: OwnedFd,
    /// It is not to be written, or cannot be.
    pub(super) read_only: bool,
}

impl HostDisk {
    /// Opens a device, past the host's page cache: whoever else has it, perhaps on another host,
    /// sees what the guest has written. It is not locked: two pods may share a volume.
    ///
    /// # Errors
    /// See [`HostDiskError`].
    pub(super) fn open(number: DeviceNumber, writable: bool) -> Result<Self, HostDiskError> {
        let device = Path::new(DEVICES).join(number.to_string());
        // Opening a node may make the kernel look for a driver, or make a device.
        if !device.exists() {
            return Err(HostDiskError::Absent);
        }
        if read(&device, "size")? == "0" {
            return Err(HostDiskError::Empty);
        }
        let read_only = !writable || read(&device, "ro")? == "1";
        let (way, name) = if read_only {
            (OFlags::RDONLY, "reading")
        } else {
            (OFlags::RDWR, "reading and writing")
        };
        let directory = unattached().map_err(HostDiskError::Node)?;
        let file = open_node(&directory, number, way, name)?;
        Ok(Self { file, read_only })
    }
}

fn read(device: &Path, attribute: &str) -> Result<String, HostDiskError> {
    let path = device.join(attribute);
    let text = fs::read_to_string(&path);
    let text = text.map_err(|source| HostDiskError::Unknown { path, source })?;
    Ok(text.trim_end().to_owned())
}

/// An empty directory that has no place in any namespace, and in which device nodes work.
fn unattached() -> io::Result<OwnedFd> {
    let tmpfs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&tmpfs, "mode", "0700")?;
    fsconfig_create(&tmpfs)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(&tmpfs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

fn open_node(
    directory: impl AsFd,
    number: DeviceNumber,
    way: OFlags,
    way_name: &'static str,
) -> Result<OwnedFd, HostDiskError> {
    const NODE: &str = "disk";
    let wanted = makedev(number.major, number.minor);
    let only_ours = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(&directory, NODE, FileType::BlockDevice, only_ours, wanted)
        .map_err(|error| HostDiskError::Node(error.into()))?;
    let flags = way | OFlags::DIRECT | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(&directory, NODE, flags, Mode::empty())
        .map_err(|error| HostDiskError::Refused(way_name, error.into()))
}

#[cfg(test)]
#[path = "host_test.rs"]
mod tests;
