//! What on the host is to be a disk: a block device by its number, or what is at a path.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags};

use super::DeviceNumber;
use super::host::{HostDisk, HostDiskError};

/// What tells disks of a pod apart: two paths may lead to one device or file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DiskKey {
    /// A block device.
    Device(DeviceNumber),
    /// A file, by the numbers of its file system and in that.
    File {
        /// Of the file system.
        device: u64,
        /// Of the file.
        inode: u64,
    },
}

impl DiskKey {
    /// What the guest reads as the serial number: at most 20 characters (virtio 1.3 §5.2.6.1).
    pub(super) fn serial(self) -> String {
        match self {
            Self::Device(number) => number.to_string(),
            Self::File { inode, .. } => format!("ino:{inode:x}"),
        }
    }
}

impl fmt::Display for DiskKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(number) => write!(formatter, "block device {number} of the host"),
            Self::File { device, inode } => {
                write!(formatter, "file {inode} of the host's file system {device}")
            }
        }
    }
}

/// What is to be a disk.
#[derive(Debug, Clone)]
pub(crate) enum DiskSource {
    /// A block device, by its number.
    Device(DeviceNumber),
    /// A block device or a file, looked up already.
    Place(Arc<Place>),
}

/// What was found at a path, whatever is there later.
#[derive(Debug)]
pub(crate) struct Place {
    opened: OwnedFd,
    key: DiskKey,
}

impl DiskSource {
    /// Looks at what is at `path`. Follows links: the path is from the trusted side.
    ///
    /// # Errors
    /// [`HostDiskError::Missing`] and [`HostDiskError::Kind`].
    pub(crate) fn at(path: &Path) -> Result<Self, HostDiskError> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let missing = |error: rustix::io::Errno| HostDiskError::Missing(error.into());
        let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(missing)?;
        let status = rustix::fs::fstat(&opened).map_err(missing)?;
        let key = match FileType::from_raw_mode(status.st_mode) {
            FileType::RegularFile => DiskKey::File {
                device: status.st_dev,
                inode: status.st_ino,
            },
            FileType::BlockDevice => DiskKey::Device(DeviceNumber {
                major: rustix::fs::major(status.st_rdev),
                minor: rustix::fs::minor(status.st_rdev),
            }),
            _ => return Err(HostDiskError::Kind),
        };
        Ok(Self::Place(Arc::new(Place { opened, key })))
    }

    /// What tells it apart.
    pub(crate) fn key(&self) -> DiskKey {
        match self {
            Self::Device(number) => DiskKey::Device(*number),
            Self::Place(place) => place.key,
        }
    }

    /// Whether it can be one of several files of a disk, if nobody writes to it: a file goes through the page
    /// cache, and is in units of 512 bytes, whichever file it is. A device has its own ways.
    pub(super) fn is_file(&self) -> bool {
        matches!(self.key(), DiskKey::File { .. })
    }

    /// Opens it for the VMM. What is named by a path is locked: it holds a file system, and two kernels
    /// that write to one would destroy it.
    ///
    /// # Errors
    /// See [`HostDiskError`].
    pub(super) fn open(&self, writable: bool) -> Result<HostDisk, HostDiskError> {
        match self {
            Self::Device(number) => HostDisk::open(*number, writable),
            Self::Place(place) => match place.key {
                DiskKey::Device(number) => HostDisk::at_device(&place.opened, number, writable),
                DiskKey::File { .. } => HostDisk::at_file(&place.opened, writable),
            },
        }
    }
}

/// Nobody else has what this is the lock of; with one that reads, nobody else writes. Kept beside the
/// descriptor of the VMM, which shares it, so that it ends when this is dropped and not when the last
/// descriptor is closed: an io_uring keeps one for a moment longer.
#[derive(Debug)]
pub(super) struct Lock(OwnedFd);

impl Lock {
    /// Locks an open file.
    ///
    /// # Errors
    /// [`HostDiskError::InUse`].
    pub(super) fn of(file: &OwnedFd, alone: bool) -> Result<Self, HostDiskError> {
        use rustix::fs::FlockOperation::{NonBlockingLockExclusive, NonBlockingLockShared};
        let way = if alone {
            NonBlockingLockExclusive
        } else {
            NonBlockingLockShared
        };
        match rustix::fs::flock(file, way) {
            Err(rustix::io::Errno::WOULDBLOCK) => Err(HostDiskError::InUse),
            // A file system that knows no locks is no reason to refuse.
            _ => {
                let copy = rustix::io::fcntl_dupfd_cloexec(file, 0);
                let copy = copy.map_err(io::Error::from);
                copy.map(Self)
                    .map_err(|error| HostDiskError::Refused("locking", error))
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0, rustix::fs::FlockOperation::Unlock);
    }
}

#[cfg(test)]
#[path = "source_test.rs"]
mod tests;
