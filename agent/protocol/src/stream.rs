//! The one line that says which stream a connection is.

use std::fmt;

/// Longest header in bytes: sixteen hexadecimal digits and a newline.
pub const MAX_STREAM_HEADER: usize = 17;

/// The number of a stream, chosen by the shim, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u64);

/// The first line of a connection is not a stream number.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stream must begin with its number: 16 hexadecimal digits, not all 0, and a newline")]
pub struct StreamHeaderError;

impl StreamId {
    /// A stream number; `None` for 0, which stands for "no stream".
    #[must_use]
    pub fn new(number: u64) -> Option<Self> {
        (number != 0).then_some(Self(number))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// The header line, always [`MAX_STREAM_HEADER`] bytes.
    #[must_use]
    pub fn to_header(self) -> Vec<u8> {
        format!("{:016x}\n", self.0).into_bytes()
    }

    /// Reads a header line.
    ///
    /// # Errors
    /// Fails for anything but what [`StreamId::to_header`] writes.
    pub fn from_header(header: &[u8]) -> Result<Self, StreamHeaderError> {
        let digits = header.strip_suffix(b"\n").ok_or(StreamHeaderError)?;
        if digits.len() != MAX_STREAM_HEADER - 1 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(StreamHeaderError);
        }
        let digits = std::str::from_utf8(digits).map_err(|_| StreamHeaderError)?;
        let number = u64::from_str_radix(digits, 16).map_err(|_| StreamHeaderError)?;
        Self::new(number).ok_or(StreamHeaderError)
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_back() {
        let id = StreamId::new(0xfeed).unwrap();
        assert_eq!(id.to_header().len(), MAX_STREAM_HEADER);
        assert_eq!(StreamId::from_header(&id.to_header()), Ok(id));
    }

    #[test]
    fn other_headers_are_refused() {
        for bad in [
            &b""[..],
            b"\n",
            b"0000000000000000\n",
            b"+00000000000000a\n",
            b"1\n",
            b"00000000000000010",
        ] {
            assert_eq!(
                StreamId::from_header(bad),
                Err(StreamHeaderError),
                "{bad:?}"
            );
        }
    }
}
