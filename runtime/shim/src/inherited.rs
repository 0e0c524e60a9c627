//! Descriptors that this process was started with.
#![allow(unsafe_code)]

use std::io;

/// Marks every descriptor above standard error to be closed when another program is executed.
///
/// # Errors
/// Fails on kernels before 5.11, which Caisson does not support.
pub(crate) fn close_on_exec() -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
    // SAFETY: close_range takes numbers only and closes nothing with this flag.
    let result = unsafe { libc::close_range(3, libc::c_uint::MAX, flags) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
