//! What a child process needs between fork and exec that std cannot say.

#![allow(unsafe_code, reason = "std::process has these only as pre_exec")]

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::FdFlags;
use rustix::process::Signal;

/// Makes the child the leader of a new session with no signal blocked, and gives it `terminal`
/// (already its standard input) as controlling terminal if asked.
pub fn new_session(command: &mut Command, terminal: bool) -> &mut Command {
    let prepare = move || -> io::Result<()> {
        crate::signal::unblock_all()?;
        rustix::process::setsid()?;
        if terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        Ok(())
    };
    // SAFETY: the closure only makes async-signal-safe system calls and allocates nothing.
    unsafe { command.pre_exec(prepare) }
}

/// Makes the child die with the thread that starts it, keeps it out of the terminal's foreground
/// group (so that Ctrl-C ends us first and it with us), and lets it inherit `keep`.
pub(crate) fn tied_to_us(command: &mut Command, keep: Vec<OwnedFd>) -> &mut Command {
    command.process_group(0);
    let parent = rustix::process::getpid();
    let prepare = move || -> io::Result<()> {
        crate::signal::unblock_all()?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above: then nobody would send the signal.
        if rustix::process::getppid() != Some(parent) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        for fd in &keep {
            rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: the closure only makes async-signal-safe system calls and allocates nothing.
    unsafe { command.pre_exec(prepare) }
}

/// The path under which a child that inherits `fd` can open the same file again.
#[must_use]
pub(crate) fn inherited_path(fd: RawFd) -> String {
    format!("/proc/self/fd/{fd}")
}
