//! Pseudo terminals.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

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

/// Sets the size of the terminal whose master this is.
///
/// # Errors
/// What `ioctl(TIOCSWINSZ)` answers.
pub fn resize(master: BorrowedFd<'_>, width: u16, height: u16) -> io::Result<()> {
    let size = rustix::termios::Winsize {
        ws_row: height,
        ws_col: width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(rustix::termios::tcsetwinsize(master, size)?)
}
