//! What only block devices of the host can be asked.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::disk::Extent;

/// `BLKDISCARD`, which the libc crate does not have: `_IO(0x12, 119)`.
const BLKDISCARD: libc::Ioctl = 0x1277;

/// The size of requests that a block device likes, in bytes; zero where it says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PreferredSizes {
    /// The smallest without a penalty.
    pub(super) least: u32,
    /// The best for long transfers.
    pub(super) best: u32,
}

/// Asks for the preferred sizes.
pub(super) fn preferred_sizes(file: &File) -> PreferredSizes {
    PreferredSizes {
        least: number(file, libc::BLKIOMIN).unwrap_or(0),
        best: number(file, libc::BLKIOOPT).unwrap_or(0),
    }
}

/// Tells the device that the content of `extent` is of no interest any more.
pub(super) fn discard(file: &File, extent: Extent) -> io::Result<()> {
    let range = [extent.offset, extent.length];
    // SAFETY: this call reads two numbers of 64 bits from where `range` is.
    done(unsafe { libc::ioctl(file.as_raw_fd(), BLKDISCARD, range.as_ptr()) })
}

fn number(file: &File, request: libc::Ioctl) -> io::Result<u32> {
    let mut value: libc::c_uint = 0;
    // SAFETY: these calls write one unsigned int to where `value` is.
    done(unsafe { libc::ioctl(file.as_raw_fd(), request, &raw mut value) })?;
    Ok(value)
}

fn done(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
