//! The two descriptors with which the program is started.
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::fs::FileType;
use rustix::io::Errno;

/// A descriptor is not what it has to be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InheritedError {
    /// It is not open.
    #[error("descriptor {number} is not open ({source}); caisson-fs is started by the shim only")]
    Missing {
        /// Its number.
        number: RawFd,
        /// What failed.
        source: Errno,
    },
    /// It is something else.
    #[error("descriptor {number} is no {expected}; caisson-fs is started by the shim only")]
    Kind {
        /// Its number.
        number: RawFd,
        /// What it should be.
        expected: &'static str,
    },
}

/// Takes the connection to the VMM.
///
/// # Errors
/// Fails when `number` is not a socket.
pub(crate) fn socket(number: RawFd) -> Result<UnixStream, InheritedError> {
    take(number, FileType::Socket, "socket").map(UnixStream::from)
}

/// Takes the directory to serve.
///
/// # Errors
/// Fails when `number` is not a directory.
pub(crate) fn directory(number: RawFd) -> Result<OwnedFd, InheritedError> {
    take(number, FileType::Directory, "directory")
}

fn take(number: RawFd, kind: FileType, expected: &'static str) -> Result<OwnedFd, InheritedError> {
    let missing = |source| InheritedError::Missing { number, source };
    // SAFETY: only tells whether the number is in use; ownership is taken below.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    let stat = rustix::fs::fstat(borrowed).map_err(missing)?;
    if FileType::from_raw_mode(stat.st_mode) != kind {
        return Err(InheritedError::Kind { number, expected });
    }
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC).map_err(missing)?;
    // SAFETY: the descriptor is open, and `main` asks for each number once, before anything else
    // could have been given it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
