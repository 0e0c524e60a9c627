//! Where the output of a process goes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;

use super::destination::Destination;
use super::fifo::{Output, is_fifo};

/// An opened output.
#[derive(Debug)]
pub(crate) enum Sink {
    /// A FIFO that a client reads.
    Fifo(Output),
    /// A pipe to a logging program.
    Pipe(pipe::Sender),
    /// A file that is appended to; `None` while a thread writes to it.
    File(Option<File>),
}

impl From<pipe::Sender> for Sink {
    fn from(pipe: pipe::Sender) -> Self {
        Self::Pipe(pipe)
    }
}

impl Sink {
    /// Opens a FIFO or a file; `None` for [`Destination::Discard`].
    ///
    /// # Errors
    /// Fails when it cannot be opened, and for a FIFO that nobody reads.
    pub(crate) async fn open(destination: Destination) -> io::Result<Option<Self>> {
        match destination {
            Destination::Discard => Ok(None),
            Destination::Fifo(path) if is_fifo(&path) => {
                Ok(Some(Self::Fifo(Output::open(&path).await?)))
            }
            // A path without a scheme may also be an existing file.
            Destination::Fifo(path) => {
                let file = OpenOptions::new().append(true).open(path)?;
                Ok(Some(Self::File(Some(file))))
            }
            Destination::File(path) => Ok(Some(Self::File(Some(append(&path)?)))),
            Destination::Program { .. } => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a logging program must be named for stdout too",
            )),
        }
    }

    /// Writes all of `buffer` and gives it back. Waits while a FIFO is full.
    pub(crate) async fn write(&mut self, buffer: Vec<u8>) -> (Vec<u8>, io::Result<()>) {
        let result = match self {
            Self::Fifo(output) => output.fifo.write_all(&buffer).await,
            Self::Pipe(pipe) => pipe.write_all(&buffer).await,
            Self::File(file) => return write_file(file, buffer).await,
        };
        (buffer, result)
    }
}

/// A slow disk must not hold up the other calls and streams of the pod: a thread writes.
async fn write_file(file: &mut Option<File>, buffer: Vec<u8>) -> (Vec<u8>, io::Result<()>) {
    let Some(mut open) = file.take() else {
        return (buffer, Err(io::ErrorKind::BrokenPipe.into()));
    };
    let written = tokio::task::spawn_blocking(move || {
        let result = open.write_all(&buffer);
        (open, buffer, result)
    });
    match written.await {
        Ok((open, buffer, result)) => {
            *file = Some(open);
            (buffer, result)
        }
        Err(error) => (Vec::new(), Err(io::Error::other(error))),
    }
}

fn append(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    OpenOptions::new().append(true).create(true).open(path)
}
