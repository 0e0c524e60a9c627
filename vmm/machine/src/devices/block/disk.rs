//! What is behind a block device: what its files must be, how large it is and in which units it works.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use caisson_control::{DiskPart, PART_ALIGNMENT};
use rustix::fs::{AtFlags, OFlags, SeekFrom, StatxFlags};

use super::block_device::{self, PreferredSizes};
use super::files::{self, Files, PartsError, Placed};

/// The unit of the protocol, whatever the block size (virtio 1.3 §5.2.4).
pub(super) use caisson_control::SECTOR;

/// Largest logical block size that Linux knows, in bytes.
const MAX_BLOCK_SIZE: u32 = 64 * 1024;

/// Why a file cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    /// A directory, a pipe or whatever else.
    #[error("its file is {0}: give it a regular file with the raw contents, or a block device")]
    Kind(&'static str),
    /// The size is no multiple of the unit in which the disk works.
    #[error(
        "its file has {bytes} bytes, which is no multiple of {unit}: enlarge it, for example with \
         truncate --size=%{unit}"
    )]
    Size {
        /// The size.
        bytes: u64,
        /// What it must be a multiple of.
        unit: u64,
    },
    /// Not opened for reading.
    #[error("its file is not open for reading")]
    Unreadable,
    /// Not opened for writing.
    #[error(
        "its file is open for reading only: open it for reading and writing, or make the disk \
         read-only"
    )]
    Unwritable,
    /// Every write would go to the end of the file, whatever the offset.
    #[error("its file is open for appending: open it without O_APPEND")]
    Append,
    /// O_DIRECT is wanted and missing.
    #[error("it shall go past the page cache, but its file is open without O_DIRECT")]
    NotDirect,
    /// Several files cannot be put together.
    #[error(transparent)]
    Parts(#[from] PartsError),
    /// The host could not be asked.
    #[error("cannot find out about its file: {0}")]
    Unknown(#[from] io::Error),
}

/// A stretch of the disk in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Where it begins.
    pub(super) offset: u64,
    /// How long it is.
    pub(super) length: u64,
}

/// What a request may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Bytes of the disk, a multiple of `block_size`.
    pub(super) bytes: u64,
    /// Bytes of a logical block, a power of two of 512 or more. Requests are aligned to it.
    pub(super) block_size: u32,
    /// Whether everything that changes the disk is refused.
    pub(super) read_only: bool,
}

/// How the disk is best used; nothing that a request is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Topology {
    /// Bytes of a physical block, a power of two of the logical block size or more.
    pub(super) physical_block: u32,
    /// The preferred sizes.
    pub(super) preferred: PreferredSizes,
}

/// An open disk.
#[derive(Debug)]
pub(super) struct Disk {
    files: Files,
    geometry: Geometry,
    topology: Topology,
    is_block_device: bool,
}

impl Disk {
    /// Looks at an open file, which is all of the disk.
    ///
    /// # Errors
    /// Fails when it is not what a disk can be made of.
    pub(super) fn new(file: OwnedFd, read_only: bool, direct: bool) -> Result<Self, DiskError> {
        let file = File::from(file);
        let metadata = file.metadata()?;
        let kind = metadata.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(DiskError::Kind(describe(kind)));
        }
        let flags = rustix::fs::fcntl_getfl(&file).map_err(io::Error::from)?;
        check_mode(flags, read_only, direct)?;

        let is_block_device = kind.is_block_device();
        let hint = u32::try_from(metadata.blksize()).unwrap_or(0);
        let (block_size, physical_block, preferred) = if is_block_device {
            let logical = rustix::fs::ioctl_blksszget(&file).map_err(io::Error::from)?;
            let physical = rustix::fs::ioctl_blkpbszget(&file).unwrap_or(logical);
            (logical, physical, block_device::preferred_sizes(&file))
        } else if flags.contains(OFlags::DIRECT) {
            let logical = direct_alignment(&file).unwrap_or(hint);
            (logical, hint, PreferredSizes::default())
        } else {
            (SECTOR as u32, hint, PreferredSizes::default())
        };
        let block_size = power(block_size, SECTOR as u32);
        let bytes = if is_block_device {
            // The size in the metadata of a block device is zero.
            rustix::fs::seek(&file, SeekFrom::End(0)).map_err(io::Error::from)?
        } else {
            metadata.len()
        };
        let unit = u64::from(block_size);
        if bytes == 0 || !bytes.is_multiple_of(unit) {
            return Err(DiskError::Size { bytes, unit });
        }
        Ok(Self {
            files: Files::whole(file, bytes),
            geometry: Geometry {
                bytes,
                block_size,
                read_only,
            },
            topology: Topology {
                physical_block: power(physical_block, block_size),
                preferred,
            },
            is_block_device,
        })
    }

    /// Looks at the open files that are to be at these places of a disk. Only what is not written and
    /// goes through the page cache is put together.
    ///
    /// # Errors
    /// Fails when they are not what such a disk can be made of.
    pub(super) fn of_parts(files: Vec<OwnedFd>, parts: &[DiskPart]) -> Result<Self, DiskError> {
        let bytes = files::size(parts)?;
        if files.len() != parts.len() {
            return Err(PartsError::Count(files.len()).into());
        }
        let mut placed = Vec::with_capacity(files.len());
        for (index, (file, part)) in files.into_iter().zip(parts).enumerate() {
            let file = File::from(file);
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(PartsError::Kind(index).into());
            }
            let flags = rustix::fs::fcntl_getfl(&file).map_err(io::Error::from)?;
            check_mode(flags, true, false)?;
            // Otherwise it would have to be read in larger units.
            if flags.contains(OFlags::DIRECT) {
                return Err(PartsError::Way.into());
            }
            if metadata.len() != part.bytes {
                return Err(PartsError::Size {
                    index,
                    bytes: metadata.len(),
                    expected: part.bytes,
                }
                .into());
            }
            let extent = Extent {
                offset: part.offset,
                length: part.bytes,
            };
            placed.push(Placed { extent, file });
        }
        Ok(Self {
            files: Files::placed(placed),
            geometry: Geometry {
                bytes,
                block_size: SECTOR as u32,
                read_only: true,
            },
            topology: Topology {
                physical_block: PART_ALIGNMENT as u32,
                preferred: PreferredSizes::default(),
            },
            is_block_device: false,
        })
    }

    /// The files, for calls with an offset.
    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// What a request may ask for.
    pub(super) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// How the disk is best used.
    pub(super) fn topology(&self) -> Topology {
        self.topology
    }

    /// Discards where the host could not punch a hole. A block device that cannot make zeroes may
    /// still be able to forget; for anything else a discard is a hint that is not followed.
    pub(super) fn forget(&self, extent: Extent) -> io::Result<()> {
        if !self.is_block_device {
            return Ok(());
        }
        let place = self.files.place(extent)?;
        let extent = Extent {
            offset: place.offset,
            ..extent
        };
        match block_device::discard(place.file, extent) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
            result => result,
        }
    }
}

fn check_mode(flags: OFlags, read_only: bool, direct: bool) -> Result<(), DiskError> {
    let mode = flags & OFlags::ACCMODE;
    if mode == OFlags::WRONLY || flags.contains(OFlags::PATH) {
        return Err(DiskError::Unreadable);
    }
    if !read_only && mode != OFlags::RDWR {
        return Err(DiskError::Unwritable);
    }
    if flags.contains(OFlags::APPEND) {
        return Err(DiskError::Append);
    }
    if direct && !flags.contains(OFlags::DIRECT) {
        return Err(DiskError::NotDirect);
    }
    Ok(())
}

/// To what offsets and lengths have to be aligned with O_DIRECT, where the kernel says (from 6.1).
/// To what addresses have to be, the driver cannot be told; the kernel refuses the others.
fn direct_alignment(file: &File) -> Option<u32> {
    let status = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    let known = status.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
    (known && status.stx_dio_offset_align > 0).then_some(status.stx_dio_offset_align)
}

/// `size` as a block size: a power of two between `least` and [`MAX_BLOCK_SIZE`].
fn power(size: u32, least: u32) -> u32 {
    let size = size.clamp(least, MAX_BLOCK_SIZE.max(least));
    match size.is_power_of_two() {
        true => size,
        false => least,
    }
}

fn describe(kind: std::fs::FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "neither a regular file nor a block device"
    }
}

#[cfg(test)]
#[path = "disk_test.rs"]
mod tests;
