//! One pod's virtual machine.

use std::io;
use std::path::Path;
use std::sync::Arc;

use caisson_protocol::agent::StatsResponse;

use crate::{
    Config, CreateContainer, CreateExec, ErrorKind, ProcessExit, ProcessId, ProcessStreams,
    SandboxError, SandboxOptions, VmEnd,
};

/// One pod's virtual machine with its file server and agent. Share it as `Arc<Sandbox>`.
#[derive(Debug)]
pub struct Sandbox {}

fn missing() -> SandboxError {
    SandboxError::new(ErrorKind::Internal, "not written yet")
}

impl Sandbox {
    /// Starts `caisson-fs` and `caisson-vmm`, boots the guest and waits for its agent. On any
    /// failure everything is undone and the error carries the last lines of the console.
    ///
    /// Call it on a thread that lives as long as the sandbox: the kernel kills the VMM when the
    /// thread that started it ends (`PR_SET_PDEATHSIG`).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for options out of range,
    /// [`ErrorKind::FailedPrecondition`] for what the machine lacks (a file, `/dev/kvm`),
    /// [`ErrorKind::Unavailable`] when the guest did not come up.
    pub async fn start(
        _config: &Config,
        _options: SandboxOptions,
    ) -> Result<Arc<Self>, SandboxError> {
        Err(missing())
    }

    /// Host process id of the VMM.
    #[must_use]
    pub fn pid(&self) -> u32 {
        0
    }

    /// Release of the guest kernel (`uname -r`), as the agent reported it.
    #[must_use]
    pub fn guest_kernel(&self) -> &str {
        ""
    }

    /// The phases of the start that were reached, in order, with `CLOCK_MONOTONIC` in
    /// nanoseconds: sandbox-start, vmm-started, vcpu-entered, agent-started, hello, connected.
    #[must_use]
    pub fn phases(&self) -> Vec<(String, u64)> {
        Vec::new()
    }

    /// Returns when the virtual machine is gone, for whatever reason. Any number of callers.
    pub async fn ended(&self) -> VmEnd {
        std::future::pending().await
    }

    /// Prepares the root file system and the bind mounts, opens the streams and has the agent
    /// create the container; its init process waits for [`Sandbox::start_process`]. Undoes
    /// everything on failure.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] for a second container of that id; what the agent says for a
    /// program that does not exist or cannot be run.
    pub async fn create_container(
        &self,
        _request: CreateContainer,
    ) -> Result<ProcessStreams, SandboxError> {
        Err(missing())
    }

    /// Registers one more process for a container; it runs at [`Sandbox::start_process`].
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without such a container, [`ErrorKind::FailedPrecondition`] when
    /// its init has ended, [`ErrorKind::AlreadyExists`] for a second exec of that name.
    pub async fn create_exec(&self, _request: CreateExec) -> Result<ProcessStreams, SandboxError> {
        Err(missing())
    }

    /// Runs a created process.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] or [`ErrorKind::FailedPrecondition`].
    pub async fn start_process(&self, _process: &ProcessId) -> Result<(), SandboxError> {
        Err(missing())
    }

    /// Waits until a process has ended; returns at once if it already has.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown process, [`ErrorKind::Unavailable`] when the
    /// machine ends first.
    pub async fn wait_process(&self, _process: &ProcessId) -> Result<ProcessExit, SandboxError> {
        Err(missing())
    }

    /// Sends a signal (1 to 64) to a process, or with `all` to every process of its container.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when it has ended, [`ErrorKind::FailedPrecondition`] for an exec
    /// that was not started.
    pub async fn signal(
        &self,
        _process: &ProcessId,
        _signal: u32,
        _all: bool,
    ) -> Result<(), SandboxError> {
        Err(missing())
    }

    /// Forgets an ended process. For a container's init it also ends what is left of the
    /// container and undoes its mounts on the host, even when the machine is gone.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], or [`ErrorKind::FailedPrecondition`] while it runs.
    pub async fn delete_process(&self, _process: &ProcessId) -> Result<(), SandboxError> {
        Err(missing())
    }

    /// Sets the size of a process's terminal in characters; without a terminal does nothing.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown process.
    pub async fn resize(
        &self,
        _process: &ProcessId,
        _width: u32,
        _height: u32,
    ) -> Result<(), SandboxError> {
        Err(missing())
    }

    /// Tells the agent that no more input follows what was already sent.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown process.
    pub async fn close_stdin(&self, _process: &ProcessId) -> Result<(), SandboxError> {
        Err(missing())
    }

    /// The processes of a container as the guest numbers them.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown container.
    pub async fn list_processes(&self, _container_id: &str) -> Result<Vec<u32>, SandboxError> {
        Err(missing())
    }

    /// Resource usage of a container.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown container.
    pub async fn stats(&self, _container_id: &str) -> Result<StatsResponse, SandboxError> {
        Err(missing())
    }

    /// Ends the VMM and the file server and removes everything on the host. Idempotent.
    pub async fn stop(&self) {}
}

/// Cleans up after a sandbox whose process is gone: kills the VMM and the file server recorded in
/// `state_dir` (after comparing their start times), unmounts what is mounted below it and removes
/// it. Idempotent. Returns the process id of the VMM if one was recorded.
///
/// # Errors
/// Fails when something could not be removed.
pub fn clean_up(_state_dir: &Path) -> io::Result<Option<u32>> {
    Err(io::ErrorKind::Unsupported.into())
}
