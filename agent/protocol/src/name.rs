//! What stands before a question to the name server of the pod's namespace, and before its answer.
//!
//! The connection begins with the four bytes of the server's address, from the shim, and a byte by
//! which the agent says that it listens there. Then each question of the guest goes to the host and each answer
//! comes back, in any order, behind a header.

/// Bytes of a header: the number, the transport, the length.
pub const NAME_HEADER: usize = 7;

/// Port of name servers, over UDP and TCP (RFC 1035 §4.2).
pub const NAME_SERVICE: u16 = 53;

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// As a datagram.
    Udp,
    /// Over a connection.
    Tcp,
}

/// The head of a question or an answer, whose bytes follow: what is in a datagram or, over TCP, behind the
/// length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameHeader {
    /// The agent's number for the question; the answer has it, too.
    pub number: u32,
    /// How it came, and how it is asked.
    pub transport: Transport,
    /// Bytes that follow. An answer of none says that there is none.
    pub length: u16,
}

/// What should be a header is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a question to a name server came neither over UDP nor over TCP")]
pub struct NameHeaderError;

impl NameHeader {
    /// The header as it is written.
    #[must_use]
    pub fn to_bytes(self) -> [u8; NAME_HEADER] {
        let [a, b, c, d] = self.number.to_be_bytes();
        let transport = match self.transport {
            Transport::Udp => b'u',
            Transport::Tcp => b't',
        };
        let [high, low] = self.length.to_be_bytes();
        [a, b, c, d, transport, high, low]
    }

    /// Reads a header.
    ///
    /// # Errors
    /// Fails for a transport that is none.
    pub fn from_bytes(bytes: [u8; NAME_HEADER]) -> Result<Self, NameHeaderError> {
        let [a, b, c, d, transport, high, low] = bytes;
        Ok(Self {
            number: u32::from_be_bytes([a, b, c, d]),
            transport: match transport {
                b'u' => Transport::Udp,
                b't' => Transport::Tcp,
                _ => return Err(NameHeaderError),
            },
            length: u16::from_be_bytes([high, low]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_back() {
        for transport in [Transport::Udp, Transport::Tcp] {
            let header = NameHeader {
                number: 0x0102_0304,
                transport,
                length: 0x0506,
            };
            assert_eq!(NameHeader::from_bytes(header.to_bytes()), Ok(header));
        }
    }

    #[test]
    fn other_transports_are_refused() {
        assert_eq!(
            NameHeader::from_bytes([0, 0, 0, 1, b'x', 0, 0]),
            Err(NameHeaderError)
        );
    }
}
