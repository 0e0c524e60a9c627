//! FIFOs between containerd's client and a process.
//!
//! Each is opened twice, once for each direction, so that a client that goes away (a restart of
//! containerd, a detached terminal) and comes back finds the stream as it left it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::net::unix::pipe;
use tokio::time::timeout;

/// How long a client may take to open its end of an output. Clients open theirs before they ask
/// for the process; docker gives up after 15 s.
const READER_TIMEOUT: Duration = Duration::from_secs(10);

/// The FIFO of standard input.
#[derive(Debug)]
pub(crate) struct Input {
    /// What the process is fed from.
    pub(crate) fifo: pipe::Receiver,
    /// A writer of our own: without it the end of one client would be the end of the input.
    /// Dropped by CloseIO; what clients have written by then still arrives.
    pub(crate) keeper: File,
}

impl Input {
    /// Opens the FIFO at `path`. Does not wait for a writer.
    ///
    /// # Errors
    /// Fails when there is no FIFO.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let fifo = pipe::OpenOptions::new().open_receiver(path)?;
        let keeper = nonblocking().write(true).open(path)?;
        Ok(Self { fifo, keeper })
    }
}

/// The FIFO of an output.
#[derive(Debug)]
pub(crate) struct Output {
    /// Where the process's output goes.
    pub(crate) fifo: pipe::Sender,
    /// A reader of our own: without it the loss of a client would be an error. What it leaves
    /// unread holds up the process alone, until a client reads again.
    _keeper: File,
}

impl Output {
    /// Opens the FIFO at `path` once a client has opened it for reading.
    ///
    /// # Errors
    /// Fails when it is not a FIFO, and after 10 s without a reader.
    pub(crate) async fn open(path: &Path) -> io::Result<Self> {
        Self::open_within(path, READER_TIMEOUT).await
    }

    async fn open_within(path: &Path, limit: Duration) -> io::Result<Self> {
        let fifo = match pipe::OpenOptions::new().open_sender(path) {
            // Nobody reads yet. A client that is about to would find an empty FIFO if the process
            // wrote and ended before it came.
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
                wait_for_reader(path, limit).await?
            }
            other => other?,
        };
        let keeper = nonblocking().read(true).open(path)?;
        Ok(Self {
            fifo,
            _keeper: keeper,
        })
    }
}

/// Whether there is a FIFO at `path`.
pub(crate) fn is_fifo(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

fn nonblocking() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    options
}

/// Opens a FIFO for writing as soon as it has a reader. Only a blocking open tells when that is,
/// so it has a thread of its own.
async fn wait_for_reader(path: &Path, limit: Duration) -> io::Result<pipe::Sender> {
    let release = Release(path.to_owned());
    let blocking = {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || OpenOptions::new().write(true).open(path))
    };
    match timeout(limit, blocking).await {
        Ok(opened) => {
            std::mem::forget(release);
            pipe::Sender::from_file(opened.map_err(io::Error::other)??)
        }
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("nobody opened it for reading within {} s", limit.as_secs()),
        )),
    }
}

/// Lets the thread that waits for a reader go, by being that reader for a moment.
struct Release(PathBuf);

impl Drop for Release {
    fn drop(&mut self) {
        let _ = nonblocking().read(true).open(&self.0);
    }
}

#[cfg(test)]
#[path = "fifo_test.rs"]
mod tests;
