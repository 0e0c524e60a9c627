//! The one line that says where in the guest a connection is to go.

use std::net::SocketAddr;

/// Bytes of a header: the family, a blank, five digits and a newline.
pub const DIAL_HEADER: usize = 8;

/// A port of the guest's own loopback addresses. The guest tries the other family when nobody listens
/// on this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DialHeader {
    /// First ::1, then 127.0.0.1; otherwise the other way round.
    pub ipv6: bool,
    /// The port.
    pub port: u16,
}

/// The first line of a connection is not a header.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a connection to be passed on must begin with 4 or 6, a blank, a port of five digits and a newline"
)]
pub struct DialHeaderError;

impl DialHeader {
    /// The header for what was dialled outside.
    #[must_use]
    pub fn to(dialled: SocketAddr) -> Self {
        Self {
            ipv6: dialled.is_ipv6(),
            port: dialled.port(),
        }
    }

    /// The header line, always [`DIAL_HEADER`] bytes.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let family = if self.ipv6 { 6 } else { 4 };
        format!("{family} {:05}\n", self.port).into_bytes()
    }

    /// Reads a header line.
    ///
    /// # Errors
    /// Fails for anything but what [`DialHeader::to_bytes`] writes.
    pub fn from_bytes(header: &[u8; DIAL_HEADER]) -> Result<Self, DialHeaderError> {
        let [family, b' ', digits @ .., b'\n'] = header else {
            return Err(DialHeaderError);
        };
        let ipv6 = match family {
            b'4' => false,
            b'6' => true,
            _ => return Err(DialHeaderError),
        };
        if !digits.iter().all(u8::is_ascii_digit) {
            return Err(DialHeaderError);
        }
        let digits = std::str::from_utf8(digits).map_err(|_| DialHeaderError)?;
        let port = digits.parse().map_err(|_| DialHeaderError)?;
        Ok(Self { ipv6, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_back() {
        for dialled in ["127.0.0.1:80", "[::1]:65535"] {
            let header = DialHeader::to(dialled.parse().unwrap());
            let bytes = header.to_bytes().try_into().unwrap();
            assert_eq!(DialHeader::from_bytes(&bytes), Ok(header));
        }
    }

    #[test]
    fn other_headers_are_refused() {
        for bad in [
            b"4 65536\n",
            b"5 00080\n",
            b"4 +0080\n",
            b"4-00080\n",
            b"4 000800",
        ] {
            assert_eq!(DialHeader::from_bytes(bad), Err(DialHeaderError));
        }
    }
}
