//! Parts of a disk as block devices of their own.
//!
//! The kernel is told where they are, part by part, and reads no table for it: the host knows what it has
//! put on the disk.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `BLKPG` of linux/fs.h and `BLKPG_ADD_PARTITION` of linux/blkpg.h, which the libc crate does not have.
const BLKPG: libc::Ioctl = 0x1269;
const ADD_PARTITION: libc::c_int = 1;

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct Argument {
    operation: libc::c_int,
    flags: libc::c_int,
    length: libc::c_int,
    data: *const Partition,
}

/// `struct blkpg_partition`, with its two names, of which nothing is made.
#[repr(C)]
#[derive(Debug)]
struct Partition {
    start: i64,
    length: i64,
    number: libc::c_int,
    names: [u8; 128],
}

/// Makes the `length` bytes from `start` on of a disk its partition of this number, from 1 to 255. When this
/// returns, its block device is there.
///
/// # Errors
/// What the kernel answers: for what is not on the disk or not in whole blocks, or a part of another.
pub fn add(disk: &File, number: u8, start: u64, length: u64) -> io::Result<()> {
    let partition = Partition {
        start: i64::try_from(start).map_err(io::Error::other)?,
        length: i64::try_from(length).map_err(io::Error::other)?,
        number: number.into(),
        names: [0; 128],
    };
    let argument = Argument {
        operation: ADD_PARTITION,
        flags: 0,
        length: size_of::<Partition>() as libc::c_int,
        data: &raw const partition,
    };
    // SAFETY: this call reads an argument of that layout, and what it points to, from where they are until
    // it returns.
    match unsafe { libc::ioctl(disk.as_raw_fd(), BLKPG, &raw const argument) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
