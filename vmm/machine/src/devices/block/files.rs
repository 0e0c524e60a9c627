//! The files of a disk: one that is all of it, or several, each with a place on it.
//!
//! ```text
//!   disk:  0 ──────────────▶                                         capacity
//!          ┌─ file 0 ─┐       ┌──── file 1 ────┐      ┌─ file 2 ─┐       ┊
//!          └──────────┘ gap   └────────────────┘ gap  └──────────┘  gap  ┊
//! ```
//!
//! Whatever the driver asks for lies in one file, or is an error: nothing is split, and what is in a
//! gap is nobody's. The driver has no reason to look there (see [`caisson_control::DiskPart`]).

use std::fs::File;
use std::io;

use caisson_control::{DiskPart, MAX_DISK_PARTS, PART_ALIGNMENT, SECTOR};

use super::disk::Extent;

/// Why files cannot be put together to a disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PartsError {
    /// Their number is out of range.
    #[error("{0} files: there can be 1 to {MAX_DISK_PARTS}")]
    Count(usize),
    /// Only what nobody writes to is put together.
    #[error("a disk of several files must be read-only, and not direct")]
    Way,
    /// It is not where a file can be.
    #[error(
        "file {index} is to be at byte {} with {} bytes, which is not aligned or not behind the others",
        part.offset, part.bytes
    )]
    Place {
        /// Which.
        index: usize,
        /// Where it is to be.
        part: DiskPart,
    },
    /// It is not the size that it should be.
    #[error("file {index} has {bytes} bytes, and not {expected}")]
    Size {
        /// Which.
        index: usize,
        /// Its size.
        bytes: u64,
        /// What was said.
        expected: u64,
    },
    /// A block device or whatever else.
    #[error("file {0} is no regular file")]
    Kind(usize),
}

/// Checks that files can be where `parts` says; returns the size of the disk, in bytes.
///
/// # Errors
/// [`PartsError::Count`] and [`PartsError::Place`].
pub(super) fn size(parts: &[DiskPart]) -> Result<u64, PartsError> {
    if parts.is_empty() || parts.len() > MAX_DISK_PARTS {
        return Err(PartsError::Count(parts.len()));
    }
    let mut free = 0;
    for (index, &part) in parts.iter().enumerate() {
        // The first begins where the disk does.
        let is_good = part.offset >= free
            && (index > 0 || part.offset == 0)
            && part.offset.is_multiple_of(PART_ALIGNMENT)
            && part.bytes > 0
            && part.bytes.is_multiple_of(SECTOR);
        let next = part.next_offset().filter(|_| is_good);
        // No call of the kernel takes a larger offset.
        let next = next.filter(|next| i64::try_from(*next).is_ok());
        free = next.ok_or(PartsError::Place { index, part })?;
    }
    Ok(free)
}

/// A file and where it is.
#[derive(Debug)]
pub(super) struct Placed {
    /// Where on the disk.
    pub(super) extent: Extent,
    /// The file, for calls with an offset.
    pub(super) file: File,
}

/// The files of a disk, in the order of their places, which do not overlap. There is one or more.
#[derive(Debug)]
pub(super) struct Files(Vec<Placed>);

/// Where in the files something of the disk is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// Which file.
    pub(super) index: usize,
    /// That file.
    pub(super) file: &'a File,
    /// Where in it, in bytes.
    pub(super) offset: u64,
}

impl Files {
    /// One file that is the whole disk.
    pub(super) fn whole(file: File, bytes: u64) -> Self {
        let extent = Extent {
            offset: 0,
            length: bytes,
        };
        Self(vec![Placed { extent, file }])
    }

    /// Files for whose places [`size`] has answered.
    pub(super) fn placed(files: Vec<Placed>) -> Self {
        Self(files)
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &File> {
        self.0.iter().map(|placed| &placed.file)
    }

    /// Finds the file that has all of `extent`.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] when none has.
    pub(super) fn place(&self, extent: Extent) -> io::Result<Place<'_>> {
        // The last that does not begin behind it.
        let after = self
            .0
            .partition_point(|placed| placed.extent.offset <= extent.offset);
        let found = after.checked_sub(1).and_then(|index| {
            let placed = self.0.get(index)?;
            let offset = extent.offset.checked_sub(placed.extent.offset)?;
            let end = offset.checked_add(extent.length)?;
            (end <= placed.extent.length).then_some(Place {
                index,
                file: &placed.file,
                offset,
            })
        });
        found.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

#[cfg(test)]
#[path = "files_test.rs"]
mod tests;
