//! Sending signals by number, real-time signals included.
#![allow(unsafe_code)]

use std::io;

/// Highest signal number of Linux (`SIGRTMAX`).
pub const MAX_SIGNAL: i32 = 64;

/// Sends signal `number` (1 to 64) to a process. `false` when it does not exist.
///
/// The caller makes sure that the pid still belongs to the process that is meant.
///
/// # Errors
/// What `kill(2)` answers, other than that the process does not exist.
pub fn send(pid: i32, number: i32) -> io::Result<bool> {
    if pid <= 1 || !(1..=MAX_SIGNAL).contains(&number) {
        // Pids 0 and below are groups, 1 is the agent itself.
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: kill takes two integers and touches no memory of ours.
    if unsafe { libc::kill(pid, number) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ESRCH) {
        Ok(false)
    } else {
        Err(error)
    }
}

/// Ignores SIGPIPE: a peer that is gone is an error of `write(2)`, not the death of the agent.
pub fn ignore_broken_pipes() {
    // SAFETY: setting a disposition to "ignore" installs no handler.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}
