//! The frames spoken between the testbed's host side and its init, over one virtio-serial port.
//!
//! A frame is one kind byte, a 32-bit little-endian payload length and the payload. The first frame
//! of a connection goes to the guest and is a [`Frame::Request`]; the last comes from the guest and
//! is [`Frame::Exit`] or [`Frame::Failed`]. Standard input is paid for with credit
//! ([`Frame::StdinTaken`]), so that a command that does not read leaves room for a resize.

use std::io;

/// Largest payload of one frame, in bytes.
pub(crate) const MAX_PAYLOAD: usize = 64 * 1024;

/// How many bytes of standard input the host may send before the guest has taken any.
pub(crate) const STDIN_CREDIT: usize = 64 * 1024;

const HEADER: usize = 5;

/// One message on the port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// To the guest: what to do, as JSON of [`crate::Request`].
    Request(Vec<u8>),
    /// To the guest: bytes for the command's standard input.
    Stdin(Vec<u8>),
    /// To the guest: standard input has ended.
    StdinEnd,
    /// To the guest: the terminal now has this many rows and columns.
    Resize {
        /// Lines of the terminal.
        rows: u16,
        /// Columns of the terminal.
        columns: u16,
    },
    /// From the guest: containerd answers and the command is about to start.
    Started,
    /// From the guest: bytes of the command's standard output.
    Stdout(Vec<u8>),
    /// From the guest: bytes of the command's standard error.
    Stderr(Vec<u8>),
    /// From the guest: so many bytes of standard input left the guest's buffer.
    StdinTaken(u32),
    /// From the guest: still running. Sent now and then so that a hang can be told from silence.
    Alive,
    /// From the guest: the command's exit status, 128 + n if signal n ended it.
    Exit(u8),
    /// From the guest: the request could not be carried out, and why.
    Failed(String),
}

impl Frame {
    /// The bytes of this frame. Payloads longer than [`MAX_PAYLOAD`] are the caller's mistake and
    /// are refused by the receiver.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, payload): (u8, &[u8]) = match self {
            Self::Request(bytes) => (1, bytes),
            Self::Stdin(bytes) => (2, bytes),
            Self::StdinEnd => (3, &[]),
            Self::Resize { rows, columns } => {
                let [r0, r1] = rows.to_le_bytes();
                let [c0, c1] = columns.to_le_bytes();
                return join(4, &[r0, r1, c0, c1]);
            }
            Self::Started => (16, &[]),
            Self::Stdout(bytes) => (17, bytes),
            Self::Stderr(bytes) => (18, bytes),
            Self::StdinTaken(count) => return join(19, &count.to_le_bytes()),
            Self::Alive => (20, &[]),
            Self::Exit(status) => return join(22, &[*status]),
            Self::Failed(text) => (23, text.as_bytes()),
        };
        join(kind, payload)
    }

    fn decode(kind: u8, payload: &[u8]) -> io::Result<Self> {
        let text = || String::from_utf8_lossy(payload).into_owned();
        Ok(match (kind, payload) {
            (1, bytes) => Self::Request(bytes.to_vec()),
            (2, bytes) => Self::Stdin(bytes.to_vec()),
            (3, []) => Self::StdinEnd,
            (4, &[r0, r1, c0, c1]) => Self::Resize {
                rows: u16::from_le_bytes([r0, r1]),
                columns: u16::from_le_bytes([c0, c1]),
            },
            (16, []) => Self::Started,
            (17, bytes) => Self::Stdout(bytes.to_vec()),
            (18, bytes) => Self::Stderr(bytes.to_vec()),
            (19, &[a, b, c, d]) => Self::StdinTaken(u32::from_le_bytes([a, b, c, d])),
            (20, []) => Self::Alive,
            (22, &[status]) => Self::Exit(status),
            (23, _) => Self::Failed(text()),
            (kind, payload) => {
                return Err(invalid(format!(
                    "unknown frame of kind {kind} with {} bytes",
                    payload.len()
                )));
            }
        })
    }
}

fn join(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.push(kind);
    // A payload of 4 GiB cannot be built from 64 KiB reads; saturating keeps the receiver's check.
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Turns the bytes of the port back into frames, however they were cut.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// Appends bytes as they arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        // Whole frames are taken from the front; what is kept is less than one frame.
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or `None` until more bytes arrive.
    ///
    /// # Errors
    /// `InvalidData` for an unknown kind, a payload of the wrong size or one over [`MAX_PAYLOAD`].
    pub fn next_frame(&mut self) -> io::Result<Option<Frame>> {
        let pending = self.buffer.get(self.start..).unwrap_or_default();
        let Some((&[kind, l0, l1, l2, l3], rest)) = pending.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > MAX_PAYLOAD {
            return Err(invalid(format!(
                "a frame of kind {kind} announces {length} bytes, more than {MAX_PAYLOAD}"
            )));
        }
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        let frame = Frame::decode(kind, payload)?;
        self.start += HEADER + length;
        Ok(Some(frame))
    }
}

#[cfg(test)]
#[path = "frame_test.rs"]
mod tests;
