//! Root file systems that the guest mounts: what is on disks, and overlays of that.
//!
//! ```text
//!   <state>/<name>-root/0   erofs on vda1 ─┐ lower
//!   <state>/<name>-root/1   erofs on vda2 ─┤ lower
//!   <state>/<name>-root/2   ext4 on vdb  ──┤ upper, work
//!   <state>/<name>-root/3   overlay  ◀─────┘             the root
//! ```
//!
//! What a disk holds may have been written by another guest: no link in it is followed on the way to
//! a directory, and nothing is run or opened as a device.

mod kernel_log;
mod mount;
mod overlay;

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use caisson_protocol::agent::RootMount;
use caisson_protocol::{MAX_DISK_PARTS, MAX_NEW_DIRECTORIES, MAX_ROOT_MOUNTS};
use rustix::mount::UnmountFlags;

use crate::error::{AgentError, Doing};

/// That no mount is of more than there can be.
fn check(mounts: &[RootMount]) -> Result<(), AgentError> {
    for mount in mounts {
        for (what, count, most) in [
            ("disks", mount.disks.len(), MAX_DISK_PARTS),
            ("layers", mount.lower.len(), MAX_ROOT_MOUNTS),
            ("directories", mount.directories.len(), MAX_NEW_DIRECTORIES),
        ] {
            if count > most {
                return Err(AgentError::InvalidArgument(format!(
                    "{}: {count} {what} are not possible, {most} are",
                    mount.name
                )));
            }
        }
    }
    Ok(())
}

/// Name of the directory of what is mounted for a container, next to that of its state.
#[must_use]
pub fn directory_name(name: &str) -> String {
    format!("{name}-root")
}

/// A root file system. It is unmounted when this is dropped, for better or worse; see
/// [`Root::unmount`].
#[derive(Debug)]
pub struct Root {
    directory: PathBuf,
    /// Where something is mounted.
    places: Vec<PathBuf>,
}

impl Root {
    /// Mounts a root file system below `directory`, which is made. Blocks on the disks.
    ///
    /// # Errors
    /// [`AgentError::InvalidArgument`] for what makes no sense; [`AgentError::FailedPrecondition`]
    /// with the kernel's words for what it does not mount. Nothing is left then.
    pub fn mount(directory: PathBuf, mounts: &[RootMount]) -> Result<Self, AgentError> {
        if mounts.is_empty() || mounts.len() > MAX_ROOT_MOUNTS {
            return Err(AgentError::InvalidArgument(format!(
                "a root file system of {} mounts is not possible, 1 to {MAX_ROOT_MOUNTS} are",
                mounts.len()
            )));
        }
        check(mounts)?;
        make_directory(&directory)?;
        // From here on, dropping it undoes what was done.
        let mut root = Self {
            directory,
            places: Vec::new(),
        };
        for (number, request) in mounts.iter().enumerate() {
            let place = root.directory.join(number.to_string());
            make_directory(&place)?;
            if let Err(error) = mount::mount(request, &root.places, &place) {
                // The first error is the one to tell.
                let _ = fs::remove_dir(&place);
                return Err(error);
            }
            root.places.push(place);
        }
        Ok(root)
    }

    /// Where the root file system is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.places.last().unwrap_or(&self.directory)
    }

    /// Unmounts it, when what was written is on the disks. Blocks on them.
    ///
    /// # Errors
    /// [`AgentError::Internal`] when something is still used or could not be written; it is unmounted
    /// all the same as soon as nobody uses it.
    pub fn unmount(mut self) -> Result<(), AgentError> {
        self.undo().doing("unmount a root file system")
    }

    fn undo(&mut self) -> io::Result<()> {
        let mut result = Ok(());
        // An overlay has the file systems below it in use: it goes first.
        while let Some(place) = self.places.pop() {
            result = result.and(leave(&place));
            // Not what is in it: if it is still mounted, that is the container's.
            result = result.and(fs::remove_dir(&place));
        }
        result.and(match fs::remove_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        })
    }
}

/// See [`Root::mount`], on a thread that may wait; `None` if there is nothing to mount.
///
/// # Errors
/// Those of [`Root::mount`].
pub async fn mount(
    state: &Path,
    name: &str,
    mounts: Vec<RootMount>,
) -> Result<Option<Root>, AgentError> {
    if mounts.is_empty() {
        return Ok(None);
    }
    let directory = state.join(directory_name(name));
    let mounting = tokio::task::spawn_blocking(move || Root::mount(directory, &mounts));
    let mounted = mounting.await;
    let mounted = mounted.map_err(|error| AgentError::Internal(format!("a mount: {error}")))?;
    mounted.map(Some)
}

/// See [`Root::unmount`], on a thread that may wait.
///
/// # Errors
/// Those of [`Root::unmount`].
pub async fn unmount(root: Option<Root>) -> Result<(), AgentError> {
    let Some(root) = root else {
        return Ok(());
    };
    let unmounting = tokio::task::spawn_blocking(|| root.unmount());
    let unmounted = unmounting.await;
    unmounted.map_err(|error| AgentError::Internal(format!("an unmount: {error}")))?
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = self.undo();
    }
}

/// The disk is taken away next, and whoever still sees the mount could not write any more: so all is
/// written first.
fn leave(place: &Path) -> io::Result<()> {
    let written = fs::File::open(place).and_then(|top| Ok(rustix::fs::syncfs(top)?));
    let unmounted = match rustix::mount::unmount(place, UnmountFlags::NOFOLLOW) {
        Err(rustix::io::Errno::BUSY) => {
            rustix::mount::unmount(place, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?;
            Err(io::ErrorKind::ResourceBusy.into())
        }
        unmounted => Ok(unmounted?),
    };
    written.and(unmounted)
}

fn make_directory(path: &Path) -> Result<(), AgentError> {
    fs::DirBuilder::new()
        .mode(0o755)
        .create(path)
        .doing("make a directory for a root file system")
}
