//! Moves the standard streams of a process: pipes or a terminal on the side of the process, vsock
//! on the side of the host.
//!
//! Every stream has a task of its own and no more buffer than one chunk, so a host that does not
//! read stalls the process that writes, and nobody else. Output is moved until the process's side
//! ends, which may be after the process itself: a grandchild may hold it. Nothing is lost at the
//! end, because the end of the pipe comes after its last byte.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use caisson_protocol::agent;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use tokio::task::JoinHandle;

use crate::descriptor::Descriptor;
use crate::error::{AgentError, Doing};
use crate::streams::{Claim, Streams};

/// Bytes moved in one go.
const CHUNK: usize = 64 << 10;

/// Size of output pipes in bytes. Larger than the default of 64 KiB, so that a process that writes
/// fast is woken less often. The kernel takes pages only for what is in the pipe.
const OUTPUT_PIPE: usize = 256 << 10;

/// The claimed streams of a process that is not connected to them yet.
#[derive(Debug)]
pub struct Claims {
    stdin: Option<Claim>,
    stdout: Option<Claim>,
    stderr: Option<Claim>,
}

/// The process's side of its standard streams. What is absent is /dev/null.
#[derive(Debug, Default)]
pub struct ProcessSide {
    /// To become descriptor 0.
    pub stdin: Option<OwnedFd>,
    /// To become descriptor 1.
    pub stdout: Option<OwnedFd>,
    /// To become descriptor 2.
    pub stderr: Option<OwnedFd>,
}

/// The tasks that move a process's streams. Dropping it lets the output run to its end.
#[derive(Debug, Default)]
pub struct Movers {
    stdin: Option<JoinHandle<()>>,
}

impl Claims {
    /// Claims the streams a request names.
    ///
    /// # Errors
    /// When one is claimed by another process.
    pub fn new(streams: &Streams, stdio: &agent::Stdio) -> Result<Self, AgentError> {
        Ok(Self {
            stdin: streams.claim(stdio.stdin)?,
            stdout: streams.claim(stdio.stdout)?,
            stderr: streams.claim(stdio.stderr)?,
        })
    }

    /// Makes a pipe for every claimed stream and starts to move. Pipes, because a program may open
    /// `/dev/stdout`, which fails for a socket.
    ///
    /// # Errors
    /// When a pipe cannot be made.
    pub fn connect_pipes(self) -> Result<(ProcessSide, Movers), AgentError> {
        let mut side = ProcessSide::default();
        let mut movers = Movers::default();
        if let Some(claim) = self.stdin {
            let (reader, writer) = new_pipe()?;
            side.stdin = Some(reader);
            movers.stdin = Some(tokio::spawn(move_input(claim, writer)));
        }
        for (claim, end) in [
            (self.stdout, &mut side.stdout),
            (self.stderr, &mut side.stderr),
        ] {
            let Some(claim) = claim else { continue };
            let (reader, writer) = new_pipe()?;
            // A smaller pipe works as well.
            let _ = fcntl_setpipe_size(&writer, OUTPUT_PIPE);
            *end = Some(writer);
            tokio::spawn(move_output(claim, reader));
        }
        Ok((side, movers))
    }

    /// Starts to move between a terminal and its two streams.
    #[must_use]
    pub fn connect_terminal(self, master: &Arc<Descriptor>) -> Movers {
        if let Some(claim) = self.stdout {
            tokio::spawn(move_terminal_output(claim, Arc::clone(master)));
        }
        let stdin = self
            .stdin
            .map(|claim| tokio::spawn(move_terminal_input(claim, Arc::clone(master))));
        Movers { stdin }
    }
}

impl Movers {
    /// Ends the input of a process that has ended; what it did not read is lost, as with any pipe.
    pub fn end_input(&mut self) {
        if let Some(stdin) = self.stdin.take() {
            stdin.abort();
        }
    }
}

fn new_pipe() -> Result<(OwnedFd, OwnedFd), AgentError> {
    pipe_with(PipeFlags::CLOEXEC).doing("make a pipe for a standard stream")
}

/// Pipe to stream, until the pipe ends.
async fn move_output(claim: Claim, pipe: OwnedFd) {
    let Ok(pipe) = Descriptor::new(pipe) else {
        return;
    };
    if let Some(stream) = claim.stream().await {
        loop {
            match pipe.splice(&stream, CHUNK).await {
                Ok(0) => return stream.shutdown_write(),
                Ok(_) => {}
                // The host no longer reads.
                Err(_) => break,
            }
        }
    }
    discard(&pipe).await;
}

/// Reads to the end, so that the process does not stall or die because nobody reads.
async fn discard(source: &Descriptor) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(1..) = source.read(&mut buffer).await {}
}

/// Stream to pipe, until the stream ends or nobody reads the pipe any more. The end of the stream
/// closes the pipe, which is the end of input for the process.
async fn move_input(claim: Claim, pipe: OwnedFd) {
    let Ok(pipe) = Descriptor::new(pipe) else {
        return;
    };
    tokio::select! {
        () = pipe.broken() => {}
        () = copy_input(claim, &pipe) => {}
    }
}

async fn copy_input(claim: Claim, to: &Descriptor) {
    let Some(stream) = claim.stream().await else {
        return;
    };
    // A first small buffer: most processes get no input at all.
    let mut buffer = vec![0; 4096];
    loop {
        let Ok(count @ 1..) = stream.read(&mut buffer).await else {
            return;
        };
        let data = buffer.get(..count).unwrap_or_default();
        if to.write_all(data).await.is_err() {
            return;
        }
        if count == buffer.len() {
            buffer.resize(CHUNK, 0);
        }
    }
}

async fn move_terminal_output(claim: Claim, master: Arc<Descriptor>) {
    let mut buffer = vec![0; 4096];
    let Some(stream) = claim.stream().await else {
        return discard(&master).await;
    };
    // EIO is how a terminal ends: the last process has closed it.
    while let Ok(count @ 1..) = master.read(&mut buffer).await {
        let data = buffer.get(..count).unwrap_or_default();
        if stream.write_all(data).await.is_err() {
            return discard(&master).await;
        }
    }
    stream.shutdown_write();
}

async fn move_terminal_input(claim: Claim, master: Arc<Descriptor>) {
    copy_input(claim, &master).await;
}

#[cfg(test)]
#[path = "stdio_test.rs"]
mod tests;
