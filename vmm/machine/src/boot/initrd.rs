//! The initial RAM file system.

use std::fs::File;
use std::io;
use std::io::Seek;

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::memory::GuestRam;

/// Pages of the initrd are given back to the guest as such once it is unpacked.
const PAGE: u64 = 4096;

/// Where the initrd is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Initrd {
    /// First address.
    pub(crate) address: GuestAddress,
    /// Length in bytes.
    pub(crate) length: u64,
}

/// Why an initrd cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitrdError {
    /// The file cannot be read.
    #[error("cannot read the initrd: {0}")]
    Read(io::Error),
    /// The file is empty.
    #[error("the initrd is empty")]
    Empty,
    /// It does not fit.
    #[error(
        "an initrd of {length} bytes does not fit into {memory} bytes of memory behind the kernel, \
         which ends at {kernel_end:#x}: give the guest more memory"
    )]
    TooLarge {
        /// Length of the file.
        length: u64,
        /// Bytes of memory below the hole.
        memory: u64,
        /// Where the kernel ends.
        kernel_end: u64,
    },
    /// The file became shorter while it was read, or memory could not be written.
    #[error("cannot load the initrd: {0}")]
    Load(#[from] GuestMemoryError),
}

/// Loads the initrd right behind the kernel.
///
/// # Errors
/// See [`InitrdError`].
pub(crate) fn load(
    memory: &GuestRam,
    file: &mut File,
    kernel_end: u64,
) -> Result<Initrd, InitrdError> {
    let length = file.metadata().map_err(InitrdError::Read)?.len();
    if length == 0 {
        return Err(InitrdError::Empty);
    }
    let too_large = InitrdError::TooLarge {
        length,
        memory: memory.low_bytes(),
        kernel_end,
    };
    let Some(start) = kernel_end.checked_next_multiple_of(PAGE) else {
        return Err(too_large);
    };
    let fits = start
        .checked_add(length)
        .is_some_and(|end| end <= memory.low_bytes());
    let (true, Ok(count)) = (fits, usize::try_from(length)) else {
        return Err(too_large);
    };
    file.rewind().map_err(InitrdError::Read)?;
    let address = GuestAddress(start);
    memory.read_exact_volatile_from(address, file, count)?;
    Ok(Initrd { address, length })
}

#[cfg(test)]
#[path = "initrd_test.rs"]
mod tests;
