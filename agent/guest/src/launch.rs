//! Makes processes of containers.
//!
//! Namespaces and root file systems are never prepared in the agent itself, but in a child with a
//! single thread that is the agent's own program in another role (see [`child`]). It gets its
//! [`Job`] in a memory file, tells what became of it over a socket ([`Report`]) and ends; the
//! container's process is a child of the agent from the start. From then until its `execve`, the
//! process can still say what went wrong, over a pipe that exec closes.

pub mod child;
pub mod create;
pub mod credentials;
pub mod enter;
pub mod finish;
pub mod hold;
pub mod process;
pub mod program;
mod reasons;
pub mod report;
pub mod start_hooks;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use oci_spec::runtime::LinuxNamespaceType;
use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::descriptor::Descriptor;
use crate::error::{AgentError, Doing};
use crate::launch::finish::Finish;
use crate::launch::report::Report;
use crate::launch::start_hooks::StartHooks;
use crate::reaper::Launch;
use crate::stdio::ProcessSide;

/// The first argument that makes the agent's program a child of this kind.
pub const ROLE: &str = "container-process";

/// Largest failure a process may write before it executes its program.
const MAX_FAILURE: usize = 8 << 10;

/// What the child is to do.
#[derive(Debug, Serialize, Deserialize)]
pub enum Job {
    /// Make a container and leave its init process waiting before its program.
    Create(Create),
    /// Run one more process in a container.
    Enter(Enter),
    /// Make a process namespace, and hold it.
    Hold,
}

/// See [`Job::Create`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Create {
    /// Where the state of all containers is.
    pub state: PathBuf,
    /// The name of the container's directory therein; its bundle is `<state>/<name>-bundle`.
    pub name: String,
    /// Whether the process has a terminal.
    pub terminal: bool,
    /// Whether the loopback of a new network namespace must be set up.
    pub own_network: bool,
    /// What runs before the last steps.
    pub start_hooks: StartHooks,
    /// The last steps before the program.
    pub finish: Finish,
}

/// See [`Job::Enter`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Enter {
    /// The container's init process.
    pub init: i32,
    /// The container's cgroup.
    pub cgroup: PathBuf,
    /// The namespaces to join.
    pub namespaces: Vec<LinuxNamespaceType>,
    /// Whether the process has a terminal.
    pub terminal: bool,
    /// Columns and rows of its terminal, as far as they are known.
    pub size: Option<(u16, u16)>,
    /// The last steps before the program.
    pub finish: Finish,
}

/// A process that was made.
#[derive(Debug)]
pub struct Launched {
    /// Its number in the agent's pid namespace.
    pub pid: i32,
    /// The master of its terminal, if it has one.
    pub terminal: Option<OwnedFd>,
    /// Where it says that it could not run its program.
    pub failure: FailurePipe,
}

/// The program that is run for jobs.
#[derive(Debug, Clone)]
pub struct Launcher {
    program: PathBuf,
}

impl Default for Launcher {
    fn default() -> Self {
        // The link leads to the program even when its path has been hidden by a mount.
        Self {
            program: PathBuf::from("/proc/self/exe"),
        }
    }
}

impl Launcher {
    /// Runs jobs with another program than this one; for tests.
    #[must_use]
    pub fn new(program: PathBuf) -> Self {
        Self { program }
    }

    /// Does a job and waits until its process exists.
    ///
    /// The caller has begun `launch`, because the child and the process may end at any time.
    ///
    /// # Errors
    /// What the child reports, or that it ended without a report.
    pub async fn launch(
        &self,
        launch: &Launch,
        job: &Job,
        stdio: ProcessSide,
    ) -> Result<Launched, AgentError> {
        let (failure_reader, failure_writer) =
            pipe_with(PipeFlags::CLOEXEC).doing("make a pipe for a container process")?;
        let (ours, theirs) = report::socket_pair()?;
        let job = memory_file(job)?;
        let mut command = Command::new(&self.program);
        command
            .arg(ROLE)
            .args(
                [
                    job.as_raw_fd(),
                    theirs.as_raw_fd(),
                    failure_writer.as_raw_fd(),
                ]
                .map(|fd| fd.to_string()),
            )
            .env_clear()
            .stdin(or_null(stdio.stdin))
            .stdout(or_null(stdio.stdout))
            .stderr(or_null(stdio.stderr));
        // The agent has one thread and does not await in between, so nothing else can be spawned
        // that would inherit these.
        for fd in [&job, &theirs, &failure_writer] {
            rustix::io::fcntl_setfd(fd, FdFlags::empty()).doing("pass a descriptor on")?;
        }
        // The reaper collects it, like every child.
        let child = command
            .spawn()
            .doing("start a child for a container process")?;
        let mut child = launch.watch(i32::try_from(child.id()).unwrap_or_default());
        drop((job, theirs, failure_writer, command));

        let mut ended = false;
        let received = tokio::select! {
            biased;
            received = report::receive(&ours) => received,
            // The process it made may hold the socket open, but what the child said is there.
            _ = &mut child => {
                ended = true;
                let received = timeout(Duration::ZERO, report::receive(&ours)).await;
                received.unwrap_or_else(|_| Err(report::silence()))
            }
        };
        match received {
            Ok((Report::Launched { pid }, terminal)) => {
                let failure =
                    FailurePipe(Descriptor::new(failure_reader).doing("watch a process")?);
                Ok(Launched {
                    pid,
                    terminal,
                    failure,
                })
            }
            Ok((Report::Failed(error), _)) | Err(error) => {
                // The library clears away what it made, by the name of the cgroup. Another
                // container of that name must not exist before it is done.
                if !ended {
                    let _ = child.await;
                }
                Err(error)
            }
        }
    }
}

fn or_null(fd: Option<OwnedFd>) -> Stdio {
    fd.map_or_else(Stdio::null, Stdio::from)
}

fn memory_file(job: &Job) -> Result<OwnedFd, AgentError> {
    let json = serde_json::to_vec(job)
        .map_err(|error| AgentError::Internal(format!("cannot write down a job: {error}")))?;
    let fd = rustix::fs::memfd_create("job", MemfdFlags::CLOEXEC).doing("make a memory file")?;
    let mut file = File::from(fd);
    file.write_all(&json).doing("write a job")?;
    Ok(file.into())
}

/// Reads a job from its file, which the parent left at its end.
///
/// # Errors
/// When it cannot be read.
pub fn read_job(fd: OwnedFd) -> Result<Job, AgentError> {
    let mut file = File::from(fd);
    std::io::Seek::rewind(&mut file).doing("read a job")?;
    let mut json = Vec::new();
    file.read_to_end(&mut json).doing("read a job")?;
    serde_json::from_slice(&json)
        .map_err(|error| AgentError::Internal(format!("cannot read a job: {error}")))
}

/// Where a process that runs the agent's code, shortly before it runs its own, says what failed.
#[derive(Debug)]
pub struct FailurePipe(Descriptor);

impl FailurePipe {
    /// Waits until the process has executed its program, or could not.
    ///
    /// # Errors
    /// What the process said before it gave up.
    pub async fn executed(&self) -> Result<(), AgentError> {
        let mut text = Vec::new();
        let mut buffer = [0_u8; 512];
        loop {
            let count = self.0.read(&mut buffer).await.doing("watch a process")?;
            if count == 0 || text.len() > MAX_FAILURE {
                break;
            }
            text.extend_from_slice(buffer.get(..count).unwrap_or_default());
        }
        if text.is_empty() {
            return Ok(());
        }
        Err(serde_json::from_slice(&text).unwrap_or_else(|_| {
            AgentError::Internal("a process failed and its reason was cut off".to_owned())
        }))
    }
}
