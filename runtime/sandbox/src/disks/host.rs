//! A block device or file of the host, opened for the VMM.
//!
//! For a volume, the configuration tells no path of the host: that of the device in the container is
//! all there is. The device is therefore opened through a node of our own, on a file system that is
//! mounted nowhere, so that it is the one with that number and no other.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use caisson_control::SECTOR;
use rustix::fs::{FileType, Mode, OFlags, makedev};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use super::DeviceNumber;
use super::source::Lock;

/// Where the kernel lists block devices by their numbers.
const DEVICES: &str = "/sys/dev/block";

/// Why a block device or file of the host cannot become a disk.
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
    /// There is nothing at the path.
    #[error("it is not there on the host: {0}")]
    Missing(io::Error),
    /// A directory, a socket or whatever else.
    #[error("it is neither a file nor a block device of the host")]
    Kind,
    /// The size is no multiple of a sector.
    #[error("it has {0} bytes, and not a multiple of 512: it is no image of a disk, or cut off")]
    Size(u64),
    /// Another machine has it, or the host has mounted it.
    #[error("it is in use: another pod has it, or the host has mounted it")]
    InUse,
}

/// An open block device or file.
#[derive(Debug)]
pub(super) struct HostDisk {
    /// For the VMM.
    pub(super) file: OwnedFd,
    /// Bytes of a file; of a device the VMM finds out.
    pub(super) bytes: u64,
    /// It is not to be written, or cannot be.
    pub(super) read_only: bool,
    /// Past the host's page cache.
    pub(super) direct: bool,
    /// To be kept as long as the VMM has it.
    pub(super) lock: Option<Lock>,
}

impl HostDisk {
    /// Opens a device, past the host's page cache: whoever else has it, perhaps on another host,
    /// sees what the guest has written. It is not locked: two pods may share a volume.
    ///
    /// # Errors
    /// See [`HostDiskError`].
    pub(super) fn open(number: DeviceNumber, writable: bool) -> Result<Self, HostDiskError> {
        let read_only = is_read_only(number)? || !writable;
        let (way, name) = way(read_only);
        let directory = unattached().map_err(HostDiskError::Node)?;
        let file = open_node(&directory, number, way, name)?;
        Ok(Self {
            file,
            bytes: 0,
            read_only,
            direct: true,
            lock: None,
        })
    }

    /// Opens a device with a file system that no other kernel may have mounted meanwhile, if it is to
    /// be written. `place` is open on its node as a path.
    ///
    /// # Errors
    /// See [`HostDiskError`]; one that cannot be written is [`HostDiskError::Refused`].
    pub(super) fn at_device(
        place: &OwnedFd,
        number: DeviceNumber,
        writable: bool,
    ) -> Result<Self, HostDiskError> {
        if is_read_only(number)? && writable {
            let error = io::ErrorKind::ReadOnlyFilesystem.into();
            return Err(HostDiskError::Refused("writing", error));
        }
        if writable {
            // The kernel refuses this for what is mounted or a part of another device.
            drop(reopen(place, OFlags::RDONLY | OFlags::EXCL, "reading")?);
        }
        let (way, name) = way(!writable);
        let file = reopen(place, way | OFlags::DIRECT, name)?;
        let lock = Lock::of(&file, writable)?;
        Ok(Self {
            file,
            bytes: 0,
            read_only: !writable,
            direct: true,
            lock: Some(lock),
        })
    }

    /// Opens a file with a file system; see [`HostDisk::at_device`]. The host's page cache keeps it once
    /// for all pods.
    ///
    /// # Errors
    /// As there.
    pub(super) fn at_file(place: &OwnedFd, writable: bool) -> Result<Self, HostDiskError> {
        let (way, name) = way(!writable);
        let file = reopen(place, way, name)?;
        let lock = Lock::of(&file, writable)?;
        let status = rustix::fs::fstat(&file);
        let status = status
            .map_err(|error| HostDiskError::Refused("asking how large it is", error.into()))?;
        let bytes = u64::try_from(status.st_size).unwrap_or(0);
        if bytes == 0 || !bytes.is_multiple_of(SECTOR) {
            return Err(HostDiskError::Size(bytes));
        }
        Ok(Self {
            file,
            bytes,
            read_only: !writable,
            direct: false,
            lock: Some(lock),
        })
    }
}

fn way(read_only: bool) -> (OFlags, &'static str) {
    if read_only {
        (OFlags::RDONLY, "reading")
    } else {
        (OFlags::RDWR, "reading and writing")
    }
}

/// Whether a device cannot be written.
fn is_read_only(number: DeviceNumber) -> Result<bool, HostDiskError> {
    let device = Path::new(DEVICES).join(number.to_string());
    // Opening a node may make the kernel look for a driver, or make a device.
    if !device.exists() {
        return Err(HostDiskError::Absent);
    }
    if read(&device, "size")? == "0" {
        return Err(HostDiskError::Empty);
    }
    Ok(read(&device, "ro")? == "1")
}

/// Opens what `place` is open on as a path.
fn reopen(place: &OwnedFd, way: OFlags, way_name: &'static str) -> Result<OwnedFd, HostDiskError> {
    let path = format!("/proc/self/fd/{}", place.as_raw_fd());
    match rustix::fs::open(path, way | OFlags::CLOEXEC, Mode::empty()) {
        Err(rustix::io::Errno::BUSY) => Err(HostDiskError::InUse),
        opened => opened.map_err(|error| HostDiskError::Refused(way_name, error.into())),
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
