//! A block device for a file: kernels before 6.12 mount no EROFS from a file.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

/// Hands out numbers of devices that are free (loop(4)).
const CONTROL: &str = "/dev/loop-control";
/// `LOOP_CTL_GET_FREE` and `LOOP_CONFIGURE` (linux/loop.h), which the libc crate does not have.
const GET_FREE: libc::Ioctl = 0x4c82;
const CONFIGURE: libc::Ioctl = 0x4c0a;
/// `LO_FLAGS_READ_ONLY` and `LO_FLAGS_AUTOCLEAR`: gone when nobody has it open or mounted any more.
const FLAGS: u32 = 1 | 4;
/// How often somebody else may take the free one first.
const TRIES: usize = 32;

/// `struct loop_config` of linux/loop.h, with its `struct loop_info64` spread out.
#[repr(C)]
struct LoopConfig {
    file: u32,
    block_size: u32,
    places: [u64; 5],
    number: u32,
    encryption: [u32; 2],
    flags: u32,
    names: [u8; 160],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// A device that is a file, to read only. Once it is mounted, it is kept by that.
#[derive(Debug)]
pub(super) struct LoopDevice {
    path: PathBuf,
    _open: File,
}

impl LoopDevice {
    /// One of the file at `path`.
    ///
    /// # Errors
    /// What the kernel answers.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let control = OpenOptions::new().read(true).write(true).open(CONTROL)?;
        for _ in 0..TRIES {
            let number = free(&control)?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = File::open(&path)?;
            match configure(&device, file.as_raw_fd()) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    return Ok(Self {
                        path,
                        _open: device,
                    });
                }
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Its node.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn free(control: &File) -> io::Result<libc::c_int> {
    // SAFETY: this call takes no argument.
    done(unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) })
}

fn configure(device: &File, file: RawFd) -> io::Result<()> {
    let config = LoopConfig {
        file: u32::try_from(file).map_err(|_| io::ErrorKind::InvalidInput)?,
        block_size: 0,
        places: [0; 5],
        number: 0,
        encryption: [0; 2],
        flags: FLAGS,
        names: [0; 160],
        init: [0; 2],
        reserved: [0; 8],
    };
    // SAFETY: this call reads a structure of that layout from where `config` is.
    done(unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE, &raw const config) }).map(drop)
}

fn done(result: libc::c_int) -> io::Result<libc::c_int> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        number => Ok(number),
    }
}

#[cfg(test)]
#[path = "loop_device_test.rs"]
mod tests;
