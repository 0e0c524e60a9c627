//! What the helpers and the guest's console write, bounded.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::pipe::PipeFlags;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;

use crate::guest_text;

/// Most bytes of one helper that go to the log. A guest that finds a way to make the VMM talk
/// must not fill the host's disk.
const MAX_LOGGED: usize = 256 * 1024;
/// Longest line; a longer one is split.
const MAX_LINE: usize = 1024;
/// Lines kept to be told with an error.
const KEPT_LINES: usize = 10;
/// Most bytes of a console that are kept in a file.
const MAX_CONSOLE_FILE: u64 = 16 * 1024 * 1024;
/// The writer is dead when its last output is asked for; what it wrote is in the pipe already, so
/// this only bounds the wait for a descendant that still holds the other end.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// The output of a helper, on its way to the log.
#[derive(Debug)]
pub(crate) struct HelperOutput {
    last_lines: Arc<Mutex<Vec<String>>>,
    reader: JoinHandle<()>,
}

impl HelperOutput {
    /// Makes a pipe whose content goes to the log line by line, marked with `name`.
    ///
    /// # Errors
    /// Fails when the process has no descriptors left.
    pub(crate) fn pipe(name: &'static str) -> io::Result<(OwnedFd, Self)> {
        let (receiver, writer) = pipe()?;
        let last_lines = Arc::new(Mutex::new(Vec::new()));
        let reader = tokio::spawn(log_lines(receiver, name, last_lines.clone()));
        Ok((writer, Self { last_lines, reader }))
    }

    /// The last lines, once the helper has ended.
    pub(crate) async fn finish(&mut self) -> String {
        if !self.reader.is_finished() {
            let _ = tokio::time::timeout(LAST_OUTPUT, &mut self.reader).await;
        }
        self.last_lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .join("\n")
    }
}

impl Drop for HelperOutput {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Makes a pipe whose content goes to `file`, up to 16 MiB.
///
/// # Errors
/// Fails when the process has no descriptors left.
pub(super) fn console_pipe(file: File) -> io::Result<OwnedFd> {
    let (receiver, writer) = pipe()?;
    tokio::spawn(copy_console(receiver, file));
    Ok(writer)
}

fn pipe() -> io::Result<(Receiver, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    Ok((Receiver::from_owned_fd(reader)?, writer))
}

async fn log_lines(mut receiver: Receiver, name: &str, last_lines: Arc<Mutex<Vec<String>>>) {
    let mut logged = 0;
    let mut buffer = [0; MAX_LINE];
    let mut line = Vec::new();
    let mut note = |line: &[u8]| {
        let text = guest_text::line(&String::from_utf8_lossy(line));
        if text.trim().is_empty() {
            return;
        }
        if logged < MAX_LOGGED {
            logged += text.len();
            if logged < MAX_LOGGED {
                tracing::info!("{name}: {text}");
            } else {
                tracing::warn!("{name}: writes too much, the rest is not logged");
            }
        }
        let mut last_lines = last_lines.lock().unwrap_or_else(PoisonError::into_inner);
        if last_lines.len() == KEPT_LINES {
            last_lines.remove(0);
        }
        last_lines.push(text);
    };
    // After an error nothing more can come; the pipe's end says the same.
    while let Ok(count @ 1..) = receiver.read(&mut buffer).await {
        for &byte in buffer.iter().take(count) {
            if byte == b'\n' || line.len() == MAX_LINE {
                note(&line);
                line.clear();
            }
            if byte != b'\n' {
                line.push(byte);
            }
        }
    }
    note(&line);
}

async fn copy_console(mut receiver: Receiver, mut file: File) {
    let mut left = MAX_CONSOLE_FILE;
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = receiver.read(&mut buffer).await {
        let bytes = buffer.get(..count).unwrap_or_default();
        let within = left >= bytes.len() as u64;
        left = left.saturating_sub(bytes.len() as u64);
        if within && let Err(error) = file.write_all(bytes) {
            tracing::warn!("console file: {error}");
            left = 0;
        }
    }
}

#[cfg(test)]
#[path = "output_test.rs"]
mod tests;
