//! The child that runs one more process in a container. Not the library's way, which gives such
//! processes no system call filter and reads the whole configuration again.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::LinuxNamespaceType;
use rustix::process::{DumpableBehavior, Pid, PidfdFlags};
use rustix::thread::ThreadNameSpaceType;

use super::Enter;
use super::create::write_failure;
use super::finish::Finish;
use super::process::{Side, clone_sibling};
use super::report::{self, Report};
use crate::error::{AgentError, Doing};
use crate::terminal;

/// Joins the container and reports the new process.
///
/// # Errors
/// What the kernel answers.
pub fn run(job: &Enter, report: &OwnedFd, failure: &OwnedFd) -> Result<(), AgentError> {
    // Everything below is charged to the container and dies with it.
    fs::write(job.cgroup.join("cgroup.procs"), "0").doing("join the cgroup of the container")?;
    if let Some(score) = job.finish.process.oom_score_adj() {
        fs::write("/proc/self/oom_score_adj", score.to_string()).doing("set the OOM score")?;
    }
    // Processes of the container must not look into this one once it is among them.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .doing("become invisible to the container")?;
    let gone =
        || AgentError::FailedPrecondition("the container's init process has ended".to_owned());
    let init = Pid::from_raw(job.init).ok_or_else(gone)?;
    let init = rustix::process::pidfd_open(init, PidfdFlags::empty()).map_err(|_| gone())?;
    rustix::thread::move_into_thread_name_spaces(init.as_fd(), namespace_flags(&job.namespaces))
        .map_err(|error| match error {
            // A process that has ended has no namespaces any more.
            rustix::io::Errno::SRCH => gone(),
            error => {
                AgentError::Internal(format!("cannot join the container's namespaces: {error}"))
            }
        })?;
    let terminal = if job.terminal {
        let (master, slave) = terminal::open().doing("open a terminal in the container")?;
        if let Some((width, height)) = job.size {
            // Now, because the program may look before the agent has the master. A wrong size is
            // not worth a process.
            let _ = terminal::resize(master.as_fd(), width, height);
        }
        Some((master, slave))
    } else {
        None
    };
    // The pid namespace is that of children, not of this process.
    match clone_sibling().doing("fork a process")? {
        Side::Caller(pid) => {
            let master = terminal.as_ref().map(|(master, _)| master.as_fd());
            report::send(report.as_fd(), &Report::Launched { pid }, master);
            Ok(())
        }
        Side::New => {
            let slave = terminal.map(|(_, slave)| slave);
            let error = become_process(&job.finish, slave);
            write_failure(failure.as_fd(), error);
            // The report was the business of the process this is a copy of.
            std::process::exit(255)
        }
    }
}

fn become_process(finish: &Finish, terminal: Option<OwnedFd>) -> AgentError {
    let prepare = || {
        rustix::process::setsid().doing("begin a session")?;
        if let Some(terminal) = terminal {
            take_terminal(&terminal).doing("connect the process to its terminal")?;
        }
        finish.prepare()
    };
    match prepare() {
        Ok(ready) => finish.execute(&ready),
        Err(error) => error,
    }
}

fn take_terminal(terminal: &OwnedFd) -> io::Result<()> {
    rustix::process::ioctl_tiocsctty(terminal)?;
    rustix::stdio::dup2_stdin(terminal)?;
    rustix::stdio::dup2_stdout(terminal)?;
    Ok(rustix::stdio::dup2_stderr(terminal)?)
}

fn namespace_flags(namespaces: &[LinuxNamespaceType]) -> ThreadNameSpaceType {
    use LinuxNamespaceType as Type;
    namespaces
        .iter()
        .fold(ThreadNameSpaceType::empty(), |flags, namespace| {
            flags
                | match namespace {
                    Type::Mount => ThreadNameSpaceType::MOUNT,
                    Type::Cgroup => ThreadNameSpaceType::CONTROL_GROUP,
                    Type::Uts => ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME,
                    Type::Ipc => ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION,
                    Type::User => ThreadNameSpaceType::USER,
                    Type::Pid => ThreadNameSpaceType::PROCESS_ID,
                    Type::Network => ThreadNameSpaceType::NETWORK,
                    Type::Time => ThreadNameSpaceType::TIME,
                }
        })
}
