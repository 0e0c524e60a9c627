//! The child that makes a container, with youki's libcontainer: namespaces, mounts, devices,
//! masked paths and the wait for the start are the library's, the rest is [`super::finish`]'s.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::ThreadNameSpaceType;

use super::finish::{Finish, Ready};
use super::reasons::Reasons;
use super::report::{self, Report};
use super::start_hooks::StartHooks;
use super::{Create, child};
use crate::error::{AgentError, Doing};

/// Where init listens for its start; a file of libcontainer in the container's directory.
const START_SOCKET: &str = "notify.sock";

/// Name of the directory with the adapted configuration, next to that of the container's state.
#[must_use]
pub fn bundle_name(name: &str) -> String {
    format!("{name}-bundle")
}

/// Makes the container and reports its init process.
///
/// # Errors
/// What the library or the kernel says.
pub fn run(job: Create, report: &OwnedFd, failure: OwnedFd) -> Result<(), AgentError> {
    let bundle = job.state.join(bundle_name(&job.name));
    let console = if job.terminal {
        let path = bundle.join("console.sock");
        Some((
            UnixListener::bind(&path).doing("make a console socket")?,
            path,
        ))
    } else {
        None
    };
    let executor = FinishExecutor {
        shared: Arc::new(Shared {
            start_hooks: job.start_hooks,
            bundle: bundle.clone(),
            finish: job.finish,
            report: report.try_clone().doing("copy a descriptor")?,
            failure,
        }),
        ready: Arc::default(),
    };
    let mut reasons = Reasons::keep().doing("keep the reasons of failures")?;
    let container = ContainerBuilder::new(job.name.clone(), SyscallType::default())
        .with_executor(executor)
        .with_root_path(&job.state)
        .map_err(|error| library_error(&error, &mut reasons))?
        .with_console_socket(console.as_ref().map(|(_, path)| path))
        .as_init(&bundle)
        .with_systemd(false)
        .with_detach(true)
        // Makes the init process a child of the agent.
        .as_sibling(true)
        .build()
        .map_err(|error| library_error(&error, &mut reasons))?;
    let pid = container
        .pid()
        .ok_or_else(|| AgentError::Internal("the container has no init process".to_owned()))?
        .as_raw();
    let terminal = console
        .map(|(listener, _)| receive_terminal(&listener))
        .transpose()?;
    if job.own_network {
        raise_loopback_of(pid)?;
    }
    report::send(
        report.as_fd(),
        &Report::Launched { pid },
        terminal.as_ref().map(AsFd::as_fd),
    );
    Ok(())
}

/// The reason that was logged first, or what little the error itself says.
fn library_error(error: &dyn std::error::Error, reasons: &mut Reasons) -> AgentError {
    let text = reasons.first().unwrap_or_else(|| {
        let causes = std::iter::successors(Some(error), |cause| cause.source());
        causes
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(": ")
    });
    AgentError::Internal(format!("cannot make the container: {text}"))
}

/// Takes the master of the terminal that init has made in the container and sent before the
/// library said that the container is there.
fn receive_terminal(listener: &UnixListener) -> Result<OwnedFd, AgentError> {
    let (socket, _) = listener.accept().doing("accept a console")?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0_u8; 256];
    rustix::net::recvmsg(
        &socket,
        &mut [io::IoSliceMut::new(&mut name)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .doing("receive a console")?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .ok_or_else(|| AgentError::Internal("the container sent no console".to_owned()))
}

/// A new network namespace has a loopback interface that is down.
fn raise_loopback_of(pid: i32) -> Result<(), AgentError> {
    let what = "set up the loopback interface of the container";
    let pid =
        Pid::from_raw(pid).ok_or_else(|| AgentError::Internal("no init process".to_owned()))?;
    let init = rustix::process::pidfd_open(pid, PidfdFlags::empty()).doing(what)?;
    rustix::thread::move_into_thread_name_spaces(init.as_fd(), ThreadNameSpaceType::NETWORK)
        .doing(what)?;
    crate::boot::loopback::raise().doing(what)
}

/// What the init process needs of the child it is a copy of.
#[derive(Debug)]
struct Shared {
    start_hooks: StartHooks,
    bundle: PathBuf,
    finish: Finish,
    report: OwnedFd,
    failure: OwnedFd,
}

/// The library's hook for the last steps. Both methods are called in the init process, `validate`
/// before it waits for the start, `exec` after.
#[derive(Debug, Clone)]
struct FinishExecutor {
    shared: Arc<Shared>,
    ready: Arc<std::sync::Mutex<Option<Ready>>>,
}

impl Executor for FinishExecutor {
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        let failed = |error: AgentError| {
            let message = error.to_string();
            // Said here, in our own words, before the library says it in its own.
            child::report_failure(self.shared.report.as_fd(), error);
            ExecutorValidationError::ArgValidationError(message)
        };
        let ready = self.shared.finish.prepare().map_err(failed)?;
        if let Ok(mut slot) = self.ready.lock() {
            *slot = Some(ready);
        }
        Ok(())
    }

    fn setup_envs(
        &self,
        _: std::collections::HashMap<String, String>,
    ) -> Result<(), ExecutorSetEnvsError> {
        // The program gets its environment with exec, in the order of the specification.
        Ok(())
    }

    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        let ready = self.ready.lock().ok().and_then(|mut slot| slot.take());
        let hooks_run = self.shared.start_hooks.run(&self.shared.bundle);
        let error = match (hooks_run, ready) {
            (Err(error), _) => error,
            (Ok(()), Some(ready)) => self.shared.finish.execute(&ready),
            (Ok(()), None) => AgentError::Internal("the program was never looked for".to_owned()),
        };
        let message = error.to_string();
        write_failure(self.shared.failure.as_fd(), error);
        Err(ExecutorError::Other(message))
    }
}

/// Says over the failure pipe why a process could not become its program.
pub fn write_failure(pipe: BorrowedFd<'_>, error: AgentError) {
    if let Ok(json) = serde_json::to_vec(&report::shorten(error)) {
        // Short enough for the pipe to take it at once.
        let _ = rustix::io::write(pipe, &json);
    }
}

/// Where the init process of a container waits to be started.
#[must_use]
pub fn start_socket(state: &Path, name: &str) -> PathBuf {
    state.join(name).join(START_SOCKET)
}
