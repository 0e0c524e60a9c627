//! The agent's first words.

use serde::{Deserialize, Serialize};

/// Longest hello in bytes, with its newline.
pub const MAX_HELLO: usize = 4096;

/// What the agent says when it is ready: one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Must be [`crate::VERSION`].
    pub version: u32,
    /// `uname -r` of the guest.
    pub kernel: String,
    /// Kernel options that containers need and this kernel lacks, for example `CONFIG_MEMCG`.
    /// Empty when all is well.
    pub missing: Vec<String>,
}

/// Why a hello was not understood.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// Longer than [`MAX_HELLO`].
    #[error("the agent's hello is longer than {MAX_HELLO} bytes")]
    TooLong,
    /// Not the JSON it should be.
    #[error("the agent's hello is not understood: {0}")]
    Malformed(#[from] serde_json::Error),
}

impl Hello {
    /// The bytes to send.
    ///
    /// # Errors
    /// Fails when the hello would be longer than [`MAX_HELLO`].
    pub fn to_line(&self) -> Result<Vec<u8>, HelloError> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        if line.len() > MAX_HELLO {
            Err(HelloError::TooLong)
        } else {
            Ok(line)
        }
    }

    /// Reads what [`Hello::to_line`] wrote.
    ///
    /// # Errors
    /// Fails for a line that is too long or not a hello.
    pub fn from_line(line: &[u8]) -> Result<Self, HelloError> {
        if line.len() > MAX_HELLO {
            return Err(HelloError::TooLong);
        }
        Ok(serde_json::from_slice(line)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            version: 1,
            kernel: "6.12.0".into(),
            missing: vec!["CONFIG_MEMCG".into()],
        }
    }

    #[test]
    fn a_hello_survives_the_wire() {
        assert_eq!(
            Hello::from_line(&hello().to_line().unwrap()).unwrap(),
            hello()
        );
    }

    #[test]
    fn an_endless_hello_is_refused() {
        let long = Hello {
            kernel: "x".repeat(MAX_HELLO),
            ..hello()
        };
        assert!(matches!(long.to_line(), Err(HelloError::TooLong)));
        assert!(matches!(
            Hello::from_line(&[b' '; MAX_HELLO + 1]),
            Err(HelloError::TooLong)
        ));
    }
}
