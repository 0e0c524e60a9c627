//! Nothing but answers comes from the agent.
//!
//! ttrpc also has frames with parts of streams. The agent's calls have none, but the library would
//! keep each part that names a call under way, as many as there are, and the entry of a call whose
//! answer came as such a part, for as long as the connection lasts. So a frame of any other type than
//! an answer is the end of the connection. Of answers the library keeps one for each call, of at most
//! 4 MiB.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of the header of a frame: lengths of what follows, stream, type, flags.
const HEADER: usize = 10;
/// The type of an answer.
const ANSWER: u8 = 2;

/// A connection to the agent, from which only answers can be read.
pub(super) struct OnlyAnswers<S> {
    stream: S,
    place: Place,
}

/// How far the other side has come.
struct Place {
    header: [u8; HEADER],
    /// Bytes of the header that are there.
    known: usize,
    /// Bytes that follow it and are not there yet.
    left: usize,
}

impl<S> OnlyAnswers<S> {
    pub(super) fn new(stream: S) -> Self {
        let place = Place {
            header: [0; HEADER],
            known: 0,
            left: 0,
        };
        Self { stream, place }
    }
}

impl Place {
    /// Goes on by these bytes.
    fn pass(&mut self, mut bytes: &[u8]) -> Result<()> {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let passed = self.left.min(bytes.len());
                self.left -= passed;
                bytes = bytes.get(passed..).unwrap_or_default();
                continue;
            }
            if let Some(byte) = self.header.get_mut(self.known) {
                *byte = first;
            }
            self.known += 1;
            bytes = rest;
            if self.known == HEADER {
                let [a, b, c, d, .., kind, _] = self.header;
                if kind != ANSWER {
                    let message = format!("a frame of type {kind} is no answer");
                    return Err(Error::new(ErrorKind::InvalidData, message));
                }
                self.known = 0;
                self.left = u32::from_be_bytes([a, b, c, d]) as usize;
            }
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for OnlyAnswers<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        let passed = this
            .place
            .pass(buffer.filled().get(before..).unwrap_or_default());
        if passed.is_err() {
            buffer.set_filled(before);
        }
        Poll::Ready(passed)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for OnlyAnswers<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
