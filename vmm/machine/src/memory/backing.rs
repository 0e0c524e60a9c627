//! What guest memory is made of.

use std::fs::File;
use std::io;

use rustix::fs::{MemfdFlags, SealFlags};

use super::MemoryError;

/// Who else sees the guest's memory.
#[derive(Debug)]
pub(crate) enum Backing {
    /// Only this process: private anonymous memory.
    Private,
    /// Also the processes that receive its file: a sealed memfd, mapped shared. Needed by
    /// vhost-user devices.
    Shared,
    /// The same with a file that came from outside: an empty one on a tmpfs. Such a file cannot
    /// be sealed: another process that has it can truncate it and thereby end this one. Only the
    /// file server of the same pod gets it.
    File(File),
}

impl Backing {
    /// The file of `bytes` bytes, unless the memory is private.
    ///
    /// # Errors
    /// Fails when the file cannot be made, or the one from outside is not what it should be.
    pub(super) fn file(self, bytes: u64) -> Result<Option<File>, MemoryError> {
        match self {
            Self::Private => Ok(None),
            Self::Shared => sealed_memfd(bytes).map(Some),
            Self::File(file) => sized(file, bytes).map(Some),
        }
    }
}

/// A memory file that can neither shrink (which would turn accesses into SIGBUS) nor grow.
fn sealed_memfd(bytes: u64) -> Result<File, MemoryError> {
    let make = || -> io::Result<File> {
        let fd =
            rustix::fs::memfd_create("guest-ram", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, bytes)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(File::from(fd))
    };
    make().map_err(|source| MemoryError::File { bytes, source })
}

/// Gives an empty file of a tmpfs its size.
fn sized(file: File, bytes: u64) -> Result<File, MemoryError> {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    let failed = |source| MemoryError::File { bytes, source };
    let metadata = file.metadata().map_err(failed)?;
    let kind = rustix::fs::fstatfs(&file).map_err(|errno| failed(errno.into()))?;
    if !metadata.is_file() || kind.f_type != TMPFS_MAGIC {
        return Err(MemoryError::BadFile(format!(
            "is on a file system of type {:#x}",
            kind.f_type
        )));
    }
    if metadata.len() != 0 {
        let length = metadata.len();
        return Err(MemoryError::BadFile(format!("has {length} bytes")));
    }
    // A tmpfs that is too small would show when the guest touches a page too many, by SIGBUS. One
    // without a limit says 0.
    let block = u64::try_from(kind.f_bsize).unwrap_or(0);
    let room = kind.f_blocks.saturating_mul(block);
    if room > 0 && room < bytes {
        let (room, bytes) = (room >> 20, bytes >> 20);
        return Err(MemoryError::BadFile(format!(
            "is on one of {room} MiB, where {bytes} MiB are needed"
        )));
    }
    file.set_len(bytes).map_err(failed)?;
    Ok(file)
}
