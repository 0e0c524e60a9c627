//! The directory of one sandbox.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::tree::{self, Attributes, DetachedTree, Propagation};
use super::volumes::Volumes;
use super::{mountinfo, remove_tree};
use crate::{ErrorKind, SandboxError};

const SHARED: &str = "shared";
const EXPORT: &str = "export";
const STAGING: &str = "staging";
/// Directories and empty files to mount on need no space, but inodes.
const SHARED_SIZE: &std::ffi::CStr = c"1m";

/// The state directory with `shared` and `export` mounted; all of it goes when this is dropped.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    shared: OwnedFd,
    staging: OwnedFd,
    export: OwnedFd,
    volumes: Volumes,
}

impl StateDir {
    /// Makes the directory at `path`, an absolute path, with mode 0700, and missing parents too.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] if there is one; [`ErrorKind::Internal`] otherwise. Nothing is
    /// left then.
    pub(crate) fn create(path: &Path) -> Result<Self, SandboxError> {
        make_private_directory(path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => SandboxError::new(
                ErrorKind::AlreadyExists,
                format!(
                    "{} exists: a sandbox of this name runs, or one was not cleaned up",
                    path.display()
                ),
            ),
            _ => Self::failed(path, &error),
        })?;
        Self::furnish(path).map_err(|error| {
            if let Err(left) = Self::remove(path) {
                tracing::warn!("{}: not removed: {left}", path.display());
            }
            Self::failed(path, &error)
        })
    }

    fn furnish(path: &Path) -> io::Result<Self> {
        let directory = open(path)?;
        for name in [SHARED, EXPORT, STAGING] {
            rustix::fs::mkdirat(&directory, name, Mode::RWXU)?;
        }
        let shared = DetachedTree::tmpfs(SHARED_SIZE)?;
        let change = Attributes {
            propagation: Propagation::Shared,
            ..Attributes::NONE
        };
        shared.change(change, false)?;
        shared.attach(directory.as_fd(), SHARED)?;
        let shared = tree::open_directory(&directory, SHARED)?;

        let export = DetachedTree::clone_of_open(&shared, false)?;
        let change = Attributes {
            set: MountAttrFlags::MOUNT_ATTR_RDONLY,
            ..Attributes::NONE
        };
        export.change(change, false)?;
        export.attach(directory.as_fd(), EXPORT)?;
        Ok(Self {
            path: path.to_owned(),
            volumes: Volumes::make(&shared)?,
            shared,
            staging: tree::open_directory(&directory, STAGING)?,
            export: tree::open_directory(&directory, EXPORT)?,
        })
    }

    fn failed(path: &Path, error: &io::Error) -> SandboxError {
        SandboxError::new(
            ErrorKind::Internal,
            format!("state directory {}: {error}", path.display()),
        )
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The host's side of the shared directory.
    pub(crate) fn shared(&self) -> BorrowedFd<'_> {
        self.shared.as_fd()
    }

    /// Where root file systems are put together.
    pub(crate) fn staging(&self) -> BorrowedFd<'_> {
        self.staging.as_fd()
    }

    /// What bind mounts of the pod's containers show.
    pub(super) fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    /// What the file server is to serve, opened with `O_PATH`.
    pub(crate) fn export(&self) -> BorrowedFd<'_> {
        self.export.as_fd()
    }

    /// Unmounts everything at and below `path` in this mount namespace and removes the
    /// directory, and its two parents when they are empty. Does nothing if it does not exist.
    ///
    /// # Errors
    /// Fails when something is still mounted or in the way. Never removes a file that is not on
    /// the file system of the directory itself.
    pub(crate) fn remove(path: &Path) -> io::Result<()> {
        let path = match fs::canonicalize(path) {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return remove_empty_parents(path);
            }
            Err(error) => return Err(error),
        };
        for mount_point in mountinfo::outermost(&path)? {
            match tree::unmount(&mount_point) {
                Ok(()) => {}
                // Somebody else was faster.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str()))
        else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        remove_tree::remove_tree(open(parent)?, name)?;
        remove_empty_parents(&path)
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        if let Err(error) = Self::remove(&self.path) {
            tracing::warn!("{}: not removed: {error}", self.path.display());
        }
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(
        CWD,
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    )?)
}

/// Makes `path` and its missing parents with mode 0700; an existing `path` is an error.
fn make_private_directory(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    let mut with_parents = DirBuilder::new();
    with_parents.mode(0o700).recursive(true);
    // Another sandbox that ends may remove the parent it leaves empty between the two steps;
    // each turn of the loop means that one such sandbox has ended.
    loop {
        if let Some(parent) = path.parent() {
            with_parents.create(parent)?;
        }
        match builder.create(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
    }
}

/// Removes the two directories above `path` as far as they are empty.
fn remove_empty_parents(path: &Path) -> io::Result<()> {
    for parent in path.ancestors().skip(1).take(2) {
        match rustix::fs::rmdir(parent) {
            Ok(()) | Err(Errno::NOENT) => {}
            // Not empty, or a mount point or file system root that is not ours to remove.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY | Errno::INVAL) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "state_dir_test.rs"]
mod tests;
