//! The kernel's command line.

use vm_memory::{Bytes, GuestMemoryError};

use super::COMMAND_LINE;
use crate::memory::GuestRam;

/// Longest command line that Linux keeps on x86, without the terminating zero.
pub(crate) const MAX_LENGTH: usize = 2047;

/// Why a command line cannot be given to the kernel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandLineError {
    /// Linux would cut it off.
    #[error("the command line has {0} bytes; the kernel takes at most {MAX_LENGTH}")]
    TooLong(usize),
    /// It contains a zero byte, where the kernel would stop to read.
    #[error("the command line contains a zero byte at {0}")]
    Zero(usize),
    /// It does not fit into guest memory.
    #[error("command line: {0}")]
    Memory(#[from] GuestMemoryError),
}

/// Writes the command line to [`COMMAND_LINE`].
///
/// # Errors
/// See [`CommandLineError`].
pub(crate) fn write(memory: &GuestRam, text: &str) -> Result<(), CommandLineError> {
    if text.len() > MAX_LENGTH {
        return Err(CommandLineError::TooLong(text.len()));
    }
    if let Some(position) = text.bytes().position(|byte| byte == 0) {
        return Err(CommandLineError::Zero(position));
    }
    let mut bytes = Vec::with_capacity(text.len() + 1);
    bytes.extend(text.as_bytes());
    bytes.push(0);
    Ok(memory.write_slice(&bytes, COMMAND_LINE)?)
}
