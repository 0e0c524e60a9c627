//! The standard streams of a process: what containerd names, opened and copied.

mod destination;
mod fifo;
mod logger;
mod pump;
mod sink;

use std::path::PathBuf;

use caisson_sandbox::ProcessStreams;
use tokio::sync::oneshot;

pub(crate) use pump::ProcessIo;

use destination::Destination;
use logger::Logger;
use sink::Sink;

/// The streams of a process as containerd names them; empty for those that are not wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StdioPaths {
    /// Standard input: a FIFO.
    pub(crate) stdin: String,
    /// Standard output: a FIFO, a file or a logging program.
    pub(crate) stdout: String,
    /// Standard error, likewise; not used with a terminal.
    pub(crate) stderr: String,
    /// Whether the process has a terminal.
    pub(crate) terminal: bool,
}

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StdioError {
    /// A URI of a kind that is not supported.
    #[error("cannot use {uri:?} for {stream}: {reason}")]
    Destination {
        /// Which stream.
        stream: &'static str,
        /// What containerd named.
        uri: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The FIFO, file or program could not be opened.
    #[error("cannot open {stream} {uri:?}: {source}")]
    Open {
        /// Which stream.
        stream: &'static str,
        /// What containerd named.
        uri: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Opened streams, not yet connected to a process.
#[derive(Debug)]
pub(crate) struct Stdio {
    /// The FIFO, which is opened when the process starts.
    stdin: Option<PathBuf>,
    stdout: Option<Sink>,
    stderr: Option<Sink>,
}

impl Stdio {
    /// Opens the streams that `paths` name for a process of `container`. Waits a bounded time for
    /// readers of FIFOs.
    ///
    /// # Errors
    /// See [`StdioError`].
    pub(crate) async fn open(
        paths: &StdioPaths,
        namespace: &str,
        container: &str,
    ) -> Result<Self, StdioError> {
        let stdin = match destination("stdin", &paths.stdin)? {
            Destination::Discard => None,
            Destination::Fifo(path) if fifo::is_fifo(&path) => Some(path),
            Destination::Fifo(_) => {
                let missing = std::io::Error::other("there is no FIFO");
                return Err(open_error("stdin", &paths.stdin, missing));
            }
            // Only outputs can be files or programs; with those there is no input.
            Destination::File(_) | Destination::Program { .. } => None,
        };
        let stdout = destination("stdout", &paths.stdout)?;
        let stderr = if paths.terminal {
            Destination::Discard
        } else {
            destination("stderr", &paths.stderr)?
        };
        // One logging program takes both streams, and the one named for stdout decides.
        if let Destination::Program { path, arguments } = stdout {
            let logger = Logger::start(&path, &arguments, namespace, container)
                .await
                .map_err(|source| open_error("stdout", &paths.stdout, source))?;
            return Ok(Self {
                stdin,
                stdout: Some(Sink::from(logger.stdout)),
                stderr: (stderr != Destination::Discard).then(|| Sink::from(logger.stderr)),
            });
        }
        let (stdout, stderr) = tokio::join!(Sink::open(stdout), Sink::open(stderr));
        Ok(Self {
            stdin,
            stdout: stdout.map_err(|source| open_error("stdout", &paths.stdout, source))?,
            stderr: stderr.map_err(|source| open_error("stderr", &paths.stderr, source))?,
        })
    }

    /// Whether standard input is wanted.
    pub(crate) fn has_stdin(&self) -> bool {
        self.stdin.is_some()
    }

    /// Whether standard output is wanted.
    pub(crate) fn has_stdout(&self) -> bool {
        self.stdout.is_some()
    }

    /// Whether standard error is wanted.
    pub(crate) fn has_stderr(&self) -> bool {
        self.stderr.is_some()
    }

    /// Starts to copy between the opened streams and those of a process, except for its input;
    /// `first_output` is told when the process first says something.
    pub(crate) fn connect(
        self,
        streams: ProcessStreams,
        first_output: Option<oneshot::Sender<()>>,
    ) -> ProcessIo {
        ProcessIo::start(self, streams, first_output)
    }
}

fn destination(stream: &'static str, uri: &str) -> Result<Destination, StdioError> {
    Destination::parse(uri).map_err(|reason| StdioError::Destination {
        stream,
        uri: uri.to_owned(),
        reason,
    })
}

fn open_error(stream: &'static str, uri: &str, source: std::io::Error) -> StdioError {
    StdioError::Open {
        stream,
        uri: uri.to_owned(),
        source,
    }
}
