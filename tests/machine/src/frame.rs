//! What the test guest answers: pieces of output, and how it ended.
//!
//! A frame is a byte that says what it is, the length of the rest as four bytes in little-endian
//! order, and the rest.

use std::io::{self, ErrorKind, Read, Write};

/// Longest content of a frame in bytes.
const MAX_CONTENT: usize = 64 * 1024;

const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const EXIT: u8 = 3;

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Standard output, or what was asked for.
    Stdout(Vec<u8>),
    /// Standard error, or what went wrong.
    Stderr(Vec<u8>),
    /// The exit code; 128 plus the signal if one ended the program. The last frame.
    Exit(i32),
}

impl Frame {
    /// Writes the frame; content that is too long becomes several frames.
    ///
    /// # Errors
    /// What writing answers.
    pub fn write_to(&self, target: &mut impl Write) -> io::Result<()> {
        let (kind, content): (_, &[u8]) = match self {
            Self::Stdout(bytes) => (STDOUT, bytes),
            Self::Stderr(bytes) => (STDERR, bytes),
            Self::Exit(code) => (EXIT, &code.to_le_bytes()),
        };
        for piece in content.chunks(MAX_CONTENT) {
            let mut frame = vec![kind];
            // A piece is never longer than what fits four bytes.
            frame.extend((piece.len() as u32).to_le_bytes());
            frame.extend(piece);
            target.write_all(&frame)?;
        }
        Ok(())
    }

    /// Reads the next frame.
    ///
    /// # Errors
    /// [`ErrorKind::UnexpectedEof`] when the stream ends, [`ErrorKind::InvalidData`] for what is
    /// no frame, and what reading answers.
    pub fn read_from(source: &mut impl Read) -> io::Result<Self> {
        let mut kind = [0];
        source.read_exact(&mut kind)?;
        let mut length = [0; 4];
        source.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_CONTENT {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                format!("a frame of {length} bytes"),
            ));
        }
        let mut content = vec![0; length];
        source.read_exact(&mut content)?;
        match (kind, content.as_slice()) {
            ([STDOUT], _) => Ok(Self::Stdout(content)),
            ([STDERR], _) => Ok(Self::Stderr(content)),
            ([EXIT], &[a, b, c, d]) => Ok(Self::Exit(i32::from_le_bytes([a, b, c, d]))),
            ([kind], _) => Err(io::Error::new(
                ErrorKind::InvalidData,
                format!("a frame of kind {kind} with {length} bytes"),
            )),
        }
    }
}

#[cfg(test)]
#[path = "frame_test.rs"]
mod tests;
