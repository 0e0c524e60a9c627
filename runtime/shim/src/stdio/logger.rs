//! Logging programs (`binary://`): nerdctl's detached containers write their logs through one.
//!
//! containerd's contract for them: standard output of the process on descriptor 3, standard error
//! on 4, and on 5 a pipe that the program closes when it is ready.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::time::timeout;

/// How long the program may take to be ready, as in containerd's own shim.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// The first of the three descriptors of the contract.
const FIRST_FD: RawFd = 3;

/// A running logging program.
#[derive(Debug)]
pub(crate) struct Logger {
    /// Where standard output goes.
    pub(crate) stdout: pipe::Sender,
    /// Where standard error goes.
    pub(crate) stderr: pipe::Sender,
}

impl Logger {
    /// Starts `program` for a container and waits until it is ready.
    ///
    /// # Errors
    /// Fails when it cannot be started or is not ready within 10 s.
    pub(crate) async fn start(
        program: &Path,
        arguments: &[String],
        namespace: &str,
        container: &str,
    ) -> io::Result<Self> {
        let (stdout, to_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, to_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        let (ready, is_ready) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("CONTAINER_ID", container)
            .env("CONTAINER_NAMESPACE", namespace)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        pass(&mut command, &[stdout, stderr, is_ready])?;
        let mut child = command.spawn()?;
        // The command holds the program's ends of the pipes.
        drop(command);
        let id = child.id();
        tokio::spawn(async move {
            if let Ok(status) = child.wait().await {
                tracing::debug!("logging program {id:?} ended: {status}");
            }
        });
        let ready = pipe::Receiver::from_file(File::from(ready))?;
        let closed = timeout(READY_TIMEOUT, async {
            loop {
                ready.readable().await?;
                match ready.try_read(&mut [0]) {
                    // The newer form of the contract writes a byte first.
                    Ok(_) => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        });
        closed.await.unwrap_or_else(|_| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the logging program was not ready within 10 s: it must close descriptor 5",
            ))
        })?;
        Ok(Self {
            stdout: pipe::Sender::from_file(File::from(to_stdout))?,
            stderr: pipe::Sender::from_file(File::from(to_stderr))?,
        })
    }
}

/// Gives the program these files as descriptors 3, 4 and 5.
fn pass(command: &mut Command, files: &[OwnedFd; 3]) -> io::Result<()> {
    // Copies above the wanted numbers, so that no file is overwritten before it is in place.
    let above = FIRST_FD + 3;
    let files = files
        .iter()
        .map(|file| rustix::io::fcntl_dupfd_cloexec(file.as_fd(), above))
        .collect::<Result<Vec<OwnedFd>, _>>()?;
    let place = move || {
        for (file, number) in files.iter().zip(FIRST_FD..) {
            // SAFETY: dup2 takes no pointers; `file` is open and `number` belongs to nobody here
            // that is used before the exec.
            if unsafe { libc::dup2(file.as_raw_fd(), number) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec and only calls dup2, which is
    // async-signal-safe; it allocates nothing.
    unsafe { command.pre_exec(place) };
    Ok(())
}
