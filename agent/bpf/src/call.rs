//! `bpf(2)` itself.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// The beginning of `union bpf_attr` for one command; the kernel takes what follows for zero.
///
/// # Safety
/// The structure is what the command expects, without padding, and its addresses are those of
/// memory that outlives the call, as large as the command reads or writes.
pub(crate) unsafe trait Attributes {
    /// The command.
    const COMMAND: libc::c_long;
}

/// Calls the kernel.
pub(crate) fn call<T: Attributes>(attributes: &T) -> io::Result<i32> {
    // SAFETY: the kernel reads `attributes`, which are for this command and live until this returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            T::COMMAND,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}

/// Calls the kernel for a descriptor.
///
/// # Safety
/// The command makes one.
pub(crate) unsafe fn make<T: Attributes>(attributes: &T) -> io::Result<OwnedFd> {
    let fd = call(attributes)?;
    // SAFETY: the call made this descriptor, which is closed on exec, for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor as the kernel wants it here.
pub(crate) fn number(fd: &impl AsRawFd) -> io::Result<u32> {
    u32::try_from(fd.as_raw_fd()).map_err(io::Error::other)
}
