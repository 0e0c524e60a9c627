//! Reading from and writing to a descriptor where the bytes lie in guest memory.
//!
//! It is done by the calls that take an offset, and with the one that means "where it stands": disks
//! need these calls as well, so that the filters have two less.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;

/// The offset of descriptors that have none, and no flags.
const HERE: (libc::off_t, libc::c_int) = (-1, 0);

/// Most slices of one call, the kernel's `UIO_MAXIOV`.
pub(crate) const MAX_SLICES: usize = 1024;

/// Reads into `slices`, front to back, at most [`MAX_SLICES`] of them.
///
/// # Errors
/// As preadv2(2).
pub(crate) fn read(fd: BorrowedFd<'_>, slices: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let vectors = iovecs(slices);
    let (list, count) = (vectors.as_ptr(), vectors.len() as i32);
    let (offset, flags) = HERE;
    repeat(|| {
        // SAFETY: the vectors describe memory that stays mapped as long as `slices` live; the
        // kernel writes plain bytes to it, which guest memory may be changed to at any time.
        unsafe { libc::preadv2(fd.as_raw_fd(), list, count, offset, flags) }
    })
}

/// Writes `slices`, front to back, at most [`MAX_SLICES`] of them.
///
/// # Errors
/// As pwritev2(2).
pub(crate) fn write(fd: BorrowedFd<'_>, slices: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let vectors = iovecs(slices);
    let (list, count) = (vectors.as_ptr(), vectors.len() as i32);
    let (offset, flags) = HERE;
    repeat(|| {
        // SAFETY: the vectors describe memory that stays mapped as long as `slices` live; the
        // kernel only reads it.
        unsafe { libc::pwritev2(fd.as_raw_fd(), list, count, offset, flags) }
    })
}

/// The first [`MAX_SLICES`] of `slices` as the kernel takes them.
pub(crate) fn iovecs(slices: &[VolatileSlice<'_>]) -> Vec<libc::iovec> {
    let vector = |slice: &VolatileSlice<'_>| libc::iovec {
        iov_base: slice.ptr_guard_mut().as_ptr().cast(),
        iov_len: slice.len(),
    };
    slices.iter().take(MAX_SLICES).map(vector).collect()
}

/// Calls again when a signal interrupted the call.
pub(crate) fn repeat(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(count) => return Ok(count),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "iovec_test.rs"]
mod tests;
