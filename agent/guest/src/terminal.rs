//! Pseudo terminals.

use std::io;
use std::os::fd::OwnedFd;

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};

/// Opens a new terminal of the mount namespace this process is in: master and slave. Neither
/// becomes the controlling terminal, both are closed on exec.
///
/// # Errors
/// What `open("/dev/ptmx")` or the ioctls answer.
pub fn open() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    unlockpt(&master)?;
    // Asks the master for its peer, so that no path of the container is followed.
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    Ok((master, slave))
}
