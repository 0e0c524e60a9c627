//! How the process locks itself in: after this it has what it was given, and nothing to reach for.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use caisson_control::IDENTITY_FD;
use rustix::process::Resource;

use crate::filter;

/// Descriptors. A machine needs at most some 6600: 1023 for connections, for each of 32 devices as many
/// as it has queues and interrupts, and for each of them that is a disk up to 128 files.
const DESCRIPTORS: u64 = 8192;
/// Threads of the user: vCPUs, two more, and workers of the kernel for each disk.
const THREADS: u64 = 512;
/// Memory that cannot be paged out: what rings took before Linux 5.12.
const LOCKED_BYTES: u64 = 8 << 20;

/// Longest number of a user, with the end of the line.
const MAX_IDENTITY: usize = 11;

/// Why the process is not locked in.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// The file does not say who the process is to be.
    #[error("descriptor {IDENTITY_FD} holds {0:?} instead of the number of a user other than root")]
    Identity(String),
    /// It cannot be read.
    #[error("descriptor {IDENTITY_FD} cannot be read: {0}")]
    Unreadable(io::Error),
    /// A step failed.
    #[error("cannot lock itself in: {0}")]
    Step(#[from] caisson_jail::JailError),
    /// The system calls could not be restricted.
    #[error("cannot set the system call filter: {0}")]
    Filter(io::Error),
}

/// Locks the process in as the user and group that `identity` names; gives the file back.
///
/// # Errors
/// See [`JailError`].
pub(crate) fn enter(identity: File) -> Result<File, JailError> {
    leave_everything(&identity)?;
    filter::enforce().map_err(JailError::Filter)?;
    Ok(identity)
}

/// All of it but the filter.
fn leave_everything(identity: &File) -> Result<(), JailError> {
    let id = number(identity)?;
    caisson_jail::close_from(IDENTITY_FD.unsigned_abs() + 1)?;
    caisson_jail::set_limits(&[
        (Resource::Nofile, DESCRIPTORS),
        (Resource::Nproc, THREADS),
        (Resource::Memlock, LOCKED_BYTES),
        (Resource::Core, 0),
    ])?;
    caisson_jail::leave_namespaces()?;
    let root = caisson_jail::empty_root()?;
    caisson_jail::pivot_into(root.as_fd())?;
    drop(root);
    caisson_jail::become_user(id)?;
    // Whether the shim ended before this shows at the control channel.
    caisson_jail::die_with_parent()?;
    one_arena();
    Ok(())
}

fn number(identity: &File) -> Result<u32, JailError> {
    let mut text = [0; MAX_IDENTITY];
    let count = identity
        .read_at(&mut text, 0)
        .map_err(JailError::Unreadable)?;
    let text = String::from_utf8_lossy(text.get(..count).unwrap_or_default());
    let text = text.trim_end();
    text.parse()
        .ok()
        .filter(|id| (1..u32::MAX).contains(id))
        .ok_or_else(|| JailError::Identity(text.to_owned()))
}

/// Makes all threads allocate from one heap. glibc gives each thread its own and asks the system how
/// many processors there are to limit them, which takes files; and the threads here hardly allocate.
#[allow(unsafe_code)]
fn one_arena() {
    // SAFETY: the parameter is a number, and there is one thread.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

#[cfg(test)]
#[path = "jail_test.rs"]
mod tests;
