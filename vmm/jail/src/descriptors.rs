//! Descriptors that the process was not given on purpose, and what it may use of the host.
#![allow(unsafe_code)]

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

use crate::{JailError, step};

/// Closes every descriptor from `first` on.
///
/// # Errors
/// Fails on a kernel before 5.9.
pub fn close_from(first: u32) -> Result<(), JailError> {
    // SAFETY: close_range takes three numbers. Called before anything has been opened, so that
    // nothing in this process owns a descriptor in the range.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    let closed = match result {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    };
    step("close descriptors it was not given", closed)
}

/// Sets limits for good, each to one value for what is used and what may be asked for.
///
/// # Errors
/// Fails without the privilege to raise a limit that is lower.
pub fn set_limits(limits: &[(Resource, u64)]) -> Result<(), JailError> {
    for (resource, most) in limits {
        let limit = Rlimit {
            current: Some(*most),
            maximum: Some(*most),
        };
        let set = rustix::process::setrlimit(*resource, limit);
        step("limit what it may use of the host", set)?;
    }
    Ok(())
}
