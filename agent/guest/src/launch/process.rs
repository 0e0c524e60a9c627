//! The system calls that turn this program into a container's process.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;

use rustix::io::Errno;

/// Where [`clone_sibling`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// In the caller, with the number of the new process.
    Caller(i32),
    /// In the new process.
    New,
}

/// Forks a process that is a child of the caller's parent, the agent.
///
/// To be called in a process with a single thread only: the new one goes on allocating memory.
///
/// # Errors
/// What `clone(2)` answers.
pub fn clone_sibling() -> io::Result<Side> {
    // With CLONE_PARENT the new process takes over the caller's exit signal, SIGCHLD.
    let flags = libc::CLONE_PARENT as libc::c_ulong;
    let zero: libc::c_ulong = 0;
    // SAFETY: without CLONE_VM and with no stack given, clone is fork: both sides go on with their
    // own copy of memory. No other thread exists that could hold a lock.
    match unsafe { libc::syscall(libc::SYS_clone, flags, zero, zero, zero, zero) } {
        0 => Ok(Side::New),
        pid @ 1.. => i32::try_from(pid)
            .map(Side::Caller)
            .map_err(io::Error::other),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Closes every descriptor but the standard streams when the program is executed, also those that
/// whoever started the agent has left open.
///
/// # Errors
/// What `close_range(2)` answers.
pub fn close_all_at_exec() -> io::Result<()> {
    let first: libc::c_ulong = 3;
    let last = libc::c_ulong::from(u32::MAX);
    let flags = libc::c_ulong::from(libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: the call takes three integers, and closes nothing in this program.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Replaces this process by a program, with `restrict` as the very last step before it. Comes back
/// only with the reason why it could not.
///
/// Nothing is allocated between the two: after `restrict`, a filter may forbid what that needs.
///
/// # Errors
/// The error of `restrict`.
pub fn execute<E>(
    program: &CStr,
    args: &[CString],
    env: &[CString],
    restrict: impl FnOnce() -> Result<(), E>,
) -> Result<Errno, E> {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings
            .iter()
            .map(|string| string.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    restrict()?;
    // SAFETY: the strings end with NUL, both lists end with a null pointer, and all of them live
    // until the call returns.
    unsafe {
        libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr());
    }
    Ok(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
}
