//! Whom a VMM runs as: a user and group of its own, so that what the kernel lets one do to another
//! (signals, tracing, files) is nothing.
//!
//! The numbers come from a range in the configuration. One that is in use has a file of its name,
//! which is locked by the shim and by the VMM itself, with the same lock: it is free when both are
//! gone, in whichever order and by whatever they end, and then the file is nothing but a name.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::config::Ids;

/// Beside the namespaces' directories, none of which can have this name.
const DIRECTORY: &str = ".ids";

/// A number that nobody else has.
#[derive(Debug)]
pub(super) struct Identity {
    path: PathBuf,
    /// Open for reading only, for the VMM holds it too. `None` in the end.
    file: Option<File>,
}

impl Identity {
    /// Takes a number of `ids` for the sandbox whose state is in `state_dir`; it is written in the
    /// file.
    ///
    /// # Errors
    /// Fails when all are taken, or the files cannot be made.
    pub(super) fn take(state_dir: &Path, ids: Ids) -> io::Result<Self> {
        let directory = directory(state_dir);
        // Shims differ in their process ids, and so mostly find theirs at once.
        let start = std::process::id();
        for step in 0..ids.count {
            let offset = start.wrapping_add(step) % ids.count;
            let id = ids.first.saturating_add(offset);
            let path = directory.join(id.to_string());
            if let Some(file) = lock(&directory, &path)? {
                let identity = Self {
                    path,
                    file: Some(file),
                };
                fs::write(&identity.path, format!("{id}\n"))?;
                return Ok(identity);
            }
        }
        Err(io::Error::other(format!(
            "all {} user numbers from {} on are in use by other pods: set `jail.ids` to more in the \
             configuration file",
            ids.count, ids.first
        )))
    }

    /// The file.
    pub(super) fn as_fd(&self) -> io::Result<BorrowedFd<'_>> {
        let file = self.file.as_ref().map(AsFd::as_fd);
        file.ok_or_else(|| io::Error::other("the user number is given back"))
    }

    /// Frees the number of a VMM that is known to have ended.
    pub(super) fn give_back(mut self) {
        // Before the lock is gone, so that it is still our file.
        let removed = fs::remove_file(&self.path);
        self.tell(removed);
        drop(self.file.take());
    }

    fn tell(&self, removed: io::Result<()>) {
        if let Err(error) = removed.and_then(|()| remove_empty(&self.path)) {
            tracing::warn!("{}: not removed: {error}", self.path.display());
        }
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        // If the VMM still has it, it is cleaned up later.
        if self.file.take().is_some() {
            self.tell(release(&self.path));
        }
    }
}

/// Removes what shims left that are gone, as is their VMM. `state_dir` is that of one of them.
///
/// # Errors
/// Fails when a file cannot be removed.
pub(crate) fn release_dead(state_dir: &Path) -> io::Result<()> {
    let directory = directory(state_dir);
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        release(&entry?.path())?;
    }
    remove_empty(&directory.join("any"))
}

/// The directory of the numbers: state directories are `<root>/<namespace>/<id>`.
fn directory(state_dir: &Path) -> PathBuf {
    let root = state_dir.ancestors().nth(2).unwrap_or(state_dir);
    root.join(DIRECTORY)
}

/// The file at `path` with its lock; `None` if somebody else has that.
fn lock(directory: &Path, path: &Path) -> io::Result<Option<File>> {
    loop {
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory);
        let created = made.and_then(|()| {
            File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)
        });
        let file = match created.and_then(|_| File::open(path)) {
            // Whoever ended just now took the directory or the file with it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
        // It may have been removed before we had the lock; then others do not see ours.
        if file.metadata()?.nlink() > 0 {
            return Ok(Some(file));
        }
    }
}

/// Removes the file at `path` unless somebody has its lock.
fn release(path: &Path) -> io::Result<()> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        // Only who has the lock removes the file, so that this is still the one of this name, or
        // it was removed before and the name is free or somebody else's.
        Ok(()) if file.metadata()?.nlink() > 0 => fs::remove_file(path),
        Ok(()) | Err(Errno::WOULDBLOCK) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Removes the directory that `file` was in, and its parent, as far as they are empty.
fn remove_empty(file: &Path) -> io::Result<()> {
    for directory in file.ancestors().skip(1).take(2) {
        match rustix::fs::rmdir(directory) {
            Ok(()) | Err(Errno::NOENT) => {}
            // Not empty, or a mount point that is not ours to remove.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "identity_test.rs"]
mod tests;
