//! The end of the machine.

use rustix::system::{RebootCommand, reboot};

use super::mounts;

/// Writes back what is dirty and resets the machine, which the VMM takes for its orderly end. Comes
/// back only if the kernel refuses.
#[must_use]
pub fn reset() -> std::io::Error {
    mounts::unmount_shared();
    rustix::fs::sync();
    match reboot(RebootCommand::Restart) {
        Ok(()) => std::io::Error::other("the machine was reset and still runs"),
        Err(error) => error.into(),
    }
}
