//! The agent's program in its other role: a child with one thread that does one [`Job`] and ends.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::FdFlags;

use super::report::{self, Report, shorten};
use super::{Job, create, enter, hold, read_job};
use crate::error::{AgentError, Doing};

/// Does the job whose three descriptors (job, report, failure) are the arguments after the role.
/// The result is the exit code.
pub fn run(arguments: impl Iterator<Item = OsString>) -> i32 {
    let numbers: Vec<RawFd> = arguments
        .filter_map(|argument| argument.to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    let [job, report, failure] = numbers.as_slice() else {
        return 2;
    };
    let (Ok(job), Ok(report), Ok(failure)) = (adopt(*job), adopt(*report), adopt(*failure)) else {
        return 2;
    };
    if let Ok(report) = report.try_clone() {
        report_panics(report);
    }
    match work(job, &report, failure) {
        Ok(()) => 0,
        Err(error) => {
            report_failure(report.as_fd(), error);
            1
        }
    }
}

fn work(job: OwnedFd, report: &OwnedFd, failure: OwnedFd) -> Result<(), AgentError> {
    match read_job(job)? {
        Job::Create(job) => create::run(job, report, failure),
        Job::Enter(job) => enter::run(&job, report, &failure),
        Job::Hold => hold::run(report, failure),
    }
}

/// Reports why a job failed.
pub fn report_failure(socket: BorrowedFd<'_>, error: AgentError) {
    report::send(socket, &Report::Failed(shorten(error)), None);
}

/// Takes an inherited descriptor over, and keeps it from the programs to come.
fn adopt(number: RawFd) -> Result<OwnedFd, AgentError> {
    // SAFETY: only asks the kernel whether the number is an open descriptor.
    let open = unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
    if !open {
        return Err(AgentError::Internal(format!(
            "descriptor {number} was not passed on"
        )));
    }
    // SAFETY: the descriptor is open, and nothing in this new process has taken it yet.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC).doing("keep a descriptor from programs")?;
    Ok(fd)
}

/// A panic would otherwise appear in the container's standard error, if anywhere.
fn report_panics(socket: OwnedFd) {
    std::panic::set_hook(Box::new(move |panic| {
        let error = AgentError::Internal(format!("making a container process failed: {panic}"));
        report_failure(socket.as_fd(), error);
    }));
}
