//! Copying between the streams of a process and the outside. Each stream is a task of its own: a
//! client that does not read holds up that stream and, when its buffers are full, that process,
//! and nothing else.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use caisson_sandbox::ProcessStreams;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

use super::Stdio;
use super::fifo::Input;
use super::sink::Sink;

/// Bytes copied at once: what a FIFO holds. A buffer exists only while there is something to copy,
/// so that idle streams cost no memory.
const CHUNK: usize = 64 * 1024;

/// The copying of one process's streams. Dropping it ends the copying and closes the streams.
#[derive(Debug)]
pub(crate) struct ProcessIo {
    stdin: Mutex<Stdin>,
    outputs: Vec<AbortHandle>,
    /// How many outputs are still open.
    open: watch::Receiver<usize>,
}

/// The input of a process.
#[derive(Debug)]
enum Stdin {
    /// There is none, or not any more.
    None,
    /// It waits for the start of the process.
    Waiting {
        /// The FIFO.
        path: PathBuf,
        /// The process's end.
        stream: UnixStream,
        /// Clients have nothing to add to what they wrote.
        closed: bool,
    },
    /// The process is fed.
    Open {
        /// Keeps the input open between clients; see [`Input`].
        keeper: Option<File>,
        task: AbortHandle,
    },
}

/// Counts an output as open until it is dropped, whether its task ended or was aborted.
struct OpenOutput(watch::Sender<usize>);

impl OpenOutput {
    fn new(open: &watch::Sender<usize>) -> Self {
        open.send_modify(|open| *open += 1);
        Self(open.clone())
    }
}

impl Drop for OpenOutput {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open = open.saturating_sub(1));
    }
}

impl ProcessIo {
    /// Starts to copy. A stream that exists on one side only is closed: a process whose output
    /// nobody wants has none, and so does a client of a process without that stream.
    /// `first_output` is told when the first bytes come.
    pub(crate) fn start(
        stdio: Stdio,
        streams: ProcessStreams,
        first_output: Option<oneshot::Sender<()>>,
    ) -> Self {
        let (open, open_outputs) = watch::channel(0);
        let mut outputs = Vec::new();
        // A start-up is timed by its standard output.
        let mut first_output = first_output;
        let pairs = [
            (streams.stdout, stdio.stdout),
            (streams.stderr, stdio.stderr),
        ];
        for (stream, sink) in pairs {
            if let (Some(stream), Some(sink)) = (stream, sink) {
                let counted = OpenOutput::new(&open);
                let first = first_output.take();
                let task = tokio::spawn(async move {
                    output(&stream, sink, first).await;
                    drop(counted);
                });
                outputs.push(task.abort_handle());
            }
        }
        let stdin = match (streams.stdin, stdio.stdin) {
            (Some(stream), Some(path)) => Stdin::Waiting {
                path,
                stream,
                closed: false,
            },
            _ => Stdin::None,
        };
        Self {
            stdin: Mutex::new(stdin),
            outputs,
            open: open_outputs,
        }
    }

    /// Opens the input, once the process runs.
    ///
    /// Not before: a client cannot open its end until we open ours, and `ctr` forgets to close the
    /// input of a process when its own ends before the process was created.
    pub(crate) fn open_stdin(&self) {
        let mut stdin = self.stdin();
        match std::mem::replace(&mut *stdin, Stdin::None) {
            Stdin::Waiting {
                path,
                stream,
                closed,
            } => match Input::open(&path) {
                Ok(Input { fifo, keeper }) => {
                    *stdin = Stdin::Open {
                        keeper: (!closed).then_some(keeper),
                        task: tokio::spawn(feed(fifo, stream)).abort_handle(),
                    };
                }
                Err(error) => {
                    tracing::warn!("no input from {}: {error}", path.display());
                }
            },
            other => *stdin = other,
        }
    }

    /// Ends the input once the clients have closed theirs and what they wrote was delivered.
    pub(crate) fn close_stdin(&self) {
        match &mut *self.stdin() {
            Stdin::None => {}
            Stdin::Waiting { closed, .. } => *closed = true,
            Stdin::Open { keeper, .. } => *keeper = None,
        }
    }

    /// Ends the input at once and discards what was not read.
    pub(crate) fn stop_stdin(&self) {
        if let Stdin::Open { task, .. } = std::mem::replace(&mut *self.stdin(), Stdin::None) {
            task.abort();
        }
    }

    fn stdin(&self) -> MutexGuard<'_, Stdin> {
        self.stdin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when everything on the outputs has been passed on and they are closed.
    pub(crate) fn drained(&self) -> impl Future<Output = ()> + use<> {
        let mut open = self.open.clone();
        async move {
            // An error means that every counter is gone, and with them the outputs.
            let _ = open.wait_for(|open| *open == 0).await;
        }
    }
}

impl Drop for ProcessIo {
    fn drop(&mut self) {
        self.stop_stdin();
        for output in &self.outputs {
            output.abort();
        }
    }
}

/// Passes on everything from `stream` until its end. A sink that fails (a full disk, a logging
/// program that died) is given up, but the stream is read on: the process must not block because
/// of it.
async fn output(stream: &UnixStream, sink: Sink, mut first: Option<oneshot::Sender<()>>) {
    let mut sink = Some(sink);
    let mut buffer = Vec::new();
    loop {
        if let Err(error) = stream.readable().await {
            tracing::warn!("output of a process lost: {error}");
            return;
        }
        buffer.reserve_exact(CHUNK);
        loop {
            match stream.try_read_buf(&mut buffer) {
                Ok(0) => return,
                Ok(_) => {
                    if let Some(first) = first.take() {
                        let _ = first.send(());
                    }
                    if let Some(open) = &mut sink {
                        let (back, result) = open.write(buffer).await;
                        buffer = back;
                        if let Err(error) = result {
                            tracing::warn!("output of a process is discarded: {error}");
                            sink = None;
                        }
                    }
                    buffer.clear();
                    // A sink that failed may not have given its buffer back.
                    buffer.reserve_exact(CHUNK);
                    give_way().await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    // The virtual machine is gone: its end of the stream was reset.
                    tracing::debug!("output of a process ended: {error}");
                    return;
                }
            }
        }
        buffer = Vec::new();
    }
}

/// Lets everything else of the pod have its turn: one thread serves all of it, and a process that
/// writes as fast as its output is taken would never let go of that thread.
async fn give_way() {
    tokio::task::yield_now().await;
}

/// Feeds a process from `fifo` until every writer has closed it, then ends its input.
async fn feed(fifo: tokio::net::unix::pipe::Receiver, mut stream: UnixStream) {
    let mut buffer = Vec::new();
    loop {
        if fifo.readable().await.is_err() {
            return;
        }
        buffer.reserve_exact(CHUNK);
        loop {
            match fifo.try_read_buf(&mut buffer) {
                Ok(0) => {
                    let _ = stream.shutdown().await;
                    return;
                }
                Ok(_) => {
                    if let Err(error) = stream.write_all(&buffer).await {
                        tracing::debug!("input of a process ended: {error}");
                        return;
                    }
                    buffer.clear();
                    give_way().await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::warn!("input of a process lost: {error}");
                    return;
                }
            }
        }
        buffer = Vec::new();
    }
}

#[cfg(test)]
#[path = "pump_test.rs"]
mod tests;
