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

/// Has the kernel collect every child that ends, also one that is left to this process.
pub fn collect_no_children() {
    // SAFETY: setting a disposition to "ignore" installs no handler.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
    }
}

/// Gives a program to come the signals as a new process has them: none blocked, none ignored.
///
/// # Errors
/// What the system calls answer.
pub fn reset() -> io::Result<()> {
    /// The kernel's `struct sigaction`: handler, flags, restorer, mask.
    const DEFAULT: [u64; 4] = [0; 4];
    const MASK_SIZE: usize = 8;
    for number in 1..=MAX_SIGNAL {
        if number == libc::SIGKILL || number == libc::SIGSTOP {
            continue;
        }
        // The call itself, because the C library keeps two signals for itself, and ignores them in
        // every child it spawns.
        let null = std::ptr::null_mut::<u64>();
        // SAFETY: the kernel reads the 32 bytes of `DEFAULT`, which ask for no handler.
        let result = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                DEFAULT.as_ptr(),
                null,
                MASK_SIZE,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let empty = 0_u64;
    let old = std::ptr::null_mut::<u64>();
    // SAFETY: the kernel reads the eight bytes of `empty`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const empty,
            old,
            MASK_SIZE,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
