//! Starting the VMM and file servers with exactly the descriptors they are to have.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use caisson_control::CONTROL_FD;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::wait::PATIENCE;

/// Starts `program` with `files` as descriptors 3, 4, …; what it says goes to our standard error.
/// The kernel kills it when the calling thread ends.
///
/// # Errors
/// Fails when the program cannot be executed.
pub(crate) fn spawn(program: &Path, files: &[BorrowedFd<'_>]) -> io::Result<Child> {
    let after_last = CONTROL_FD + RawFd::try_from(files.len()).map_err(io::Error::other)?;
    let _occupied = occupy(after_last)?;
    // Out of the way of the places they go to.
    let sources = files
        .iter()
        .map(|file| Ok(fcntl_dupfd_cloexec(file, after_last)?))
        .collect::<io::Result<Vec<OwnedFd>>>()?;
    let mut command = Command::new(program);
    command.env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let in_child = move || {
        for (source, number) in sources.iter().zip(CONTROL_FD..) {
            // SAFETY: dup2 takes two numbers, and the source is open until the exec.
            if unsafe { libc::dup2(source.as_raw_fd(), number) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: PR_SET_PDEATHSIG takes one number.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only and allocates nothing.
    unsafe { command.pre_exec(in_child) };
    command.spawn()
}

/// Occupies what is free below `end`, lest the standard library's own pipe to the child get one of
/// these numbers.
fn occupy(end: RawFd) -> io::Result<Vec<OwnedFd>> {
    let null = std::fs::File::open("/dev/null")?;
    let mut occupied = Vec::new();
    loop {
        let file = fcntl_dupfd_cloexec(null.as_fd(), CONTROL_FD)?;
        if file.as_raw_fd() >= end {
            return Ok(occupied);
        }
        occupied.push(file);
    }
}

/// A file that says who a VMM is to be: somebody else each time.
///
/// # Errors
/// Fails when there are no descriptors left.
pub(crate) fn identity() -> io::Result<OwnedFd> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Above what the shim's configuration gives to pods.
    let id = 2_101_000_000 + NEXT.fetch_add(1, Ordering::Relaxed);
    let file = rustix::fs::memfd_create("identity", MemfdFlags::CLOEXEC)?;
    rustix::io::write(&file, format!("{id}\n").as_bytes())?;
    Ok(file)
}

/// Waits for the end of `child`; kills it when it does not end by itself.
///
/// # Errors
/// Says that it had to be killed.
pub(crate) fn wait(child: &mut Child) -> Result<ExitStatus, String> {
    let patience = Timespec {
        tv_sec: i64::try_from(PATIENCE.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: 0,
    };
    let ended = pidfd_open(Pid::from_child(child), PidfdFlags::empty())
        .and_then(|pidfd| poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience)));
    if !matches!(ended, Ok(1)) {
        // Both fail only for a child that has been waited for.
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!(
            "it did not end within {} s ({ended:?})",
            PATIENCE.as_secs()
        ));
    }
    child.wait().map_err(|error| error.to_string())
}

#[cfg(test)]
#[path = "process_test.rs"]
mod tests;
