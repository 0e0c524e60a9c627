//! The startContainer hooks of a container: programs of its image that run in it between its start
//! and its own program (OCI runtime specification, "startContainer Hooks").
//!
//! The runtime library could run them, but would not tell which one failed, nor why.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::{ContainerState, Hook, State};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

use crate::error::AgentError;

/// How much of what a hook writes is told when it fails, in bytes: its end, where the reason is.
const MAX_OUTPUT: usize = 1024;
/// What a pipe holds (pipe(7)).
const PIPE: usize = 64 << 10;

/// The hooks, and the container they are told of.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StartHooks {
    /// In the order in which they run.
    pub hooks: Vec<Hook>,
    /// The container; what only the process itself knows is added when they run.
    pub state: State,
}

impl StartHooks {
    /// Runs them one after the other. Called by the process that then becomes the container's
    /// program.
    ///
    /// # Errors
    /// [`AgentError::FailedPrecondition`] with the hook that failed and what it said.
    pub fn run(&self, bundle: &Path) -> Result<(), AgentError> {
        if self.hooks.is_empty() {
            return Ok(());
        }
        let mut state = self.state.clone();
        state
            .set_status(ContainerState::Created)
            .set_pid(Some(rustix::process::getpid().as_raw_nonzero().get()))
            .set_bundle(bundle.to_owned());
        for hook in &self.hooks {
            run(hook, &state).map_err(|reason| {
                AgentError::FailedPrecondition(format!(
                    "startContainer hook {} of config.json {reason}",
                    hook.path().display()
                ))
            })?;
        }
        Ok(())
    }
}

fn run(hook: &Hook, state: &State) -> Result<(), String> {
    let not_run = |error: io::Error| format!("cannot be run: {error}");
    let (mut child, output) = start(hook, state).map_err(not_run)?;
    let seconds = hook
        .timeout()
        .and_then(|seconds| u64::try_from(seconds).ok());
    let deadline = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut written = Vec::new();
    let ended = follow(&child, &output, deadline, &mut written).map_err(not_run)?;
    if !ended {
        // What it has started lives on; the container's end ends it.
        let _ = child.kill();
    }
    let status: ExitStatus = child.wait().map_err(not_run)?;
    let said = match last_words(&written) {
        words if words.is_empty() => words,
        words => format!(": {words}"),
    };
    match seconds {
        Some(seconds) if !ended => Err(format!(
            "did not end within {seconds} s and was killed{said}"
        )),
        _ if status.success() => Ok(()),
        _ => Err(format!("failed with {status}{said}")),
    }
}

fn start(hook: &Hook, state: &State) -> io::Result<(Child, OwnedFd)> {
    let mut input = File::from(rustix::fs::memfd_create("state", MemfdFlags::CLOEXEC)?);
    input.write_all(&serde_json::to_vec(state)?)?;
    input.rewind()?;
    let (output, its_output) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // Its own end may wait; only the reader must not.
    rustix::io::ioctl_fionbio(&its_output, false)?;
    let mut command = Command::new(hook.path());
    if let Some((name, arguments)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(arguments);
    }
    let variables = hook.env().iter().flatten();
    let child = command
        .env_clear()
        .envs(variables.filter_map(|variable| variable.split_once('=')))
        .stdin(input)
        .stdout(its_output.try_clone()?)
        .stderr(Stdio::from(its_output))
        .spawn()?;
    Ok((child, output))
}

/// Reads what the hook writes until it has ended. Returns false if `deadline` comes first.
fn follow(
    child: &Child,
    output: &OwnedFd,
    deadline: Option<Instant>,
    written: &mut Vec<u8>,
) -> io::Result<bool> {
    let process = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let mut open = true;
    loop {
        let mut fds = vec![PollFd::new(&process, PollFlags::IN)];
        if open {
            fds.push(PollFd::new(output, PollFlags::IN));
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, left.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ended = fds.first().is_some_and(|fd| !fd.revents().is_empty());
        open = open && collect(output, written)?;
        if ended {
            return Ok(true);
        }
    }
}

/// Takes what there is to read, a full pipe at most, and keeps its end. Returns false when nothing
/// can come any more.
fn collect(output: &OwnedFd, kept: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; MAX_OUTPUT];
    for _ in 0..PIPE / MAX_OUTPUT {
        match rustix::io::read(output.as_fd(), &mut buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => {
                kept.extend_from_slice(buffer.get(..count).unwrap_or_default());
                let surplus = kept.len().saturating_sub(MAX_OUTPUT);
                kept.drain(..surplus);
            }
            Err(Errno::AGAIN | Errno::INTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// What was written, in one line.
fn last_words(written: &[u8]) -> String {
    let text = String::from_utf8_lossy(written);
    let words = text.split(|letter: char| letter.is_whitespace() || letter.is_control());
    words
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
#[path = "start_hooks_test.rs"]
mod tests;
