//! One container's part of the shared directory.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::tree::{self, DetachedTree};
use super::{StateDir, bind, rootfs};
use crate::spec::BindMount;
use crate::{ErrorKind, RootMount, SandboxError};

const ROOTFS: &str = "rootfs";
const MOUNTS: &str = "mounts";

/// `shared/<container>`: its root file system and bind mounts, unmounted and removed when this is
/// dropped.
#[derive(Debug)]
pub(crate) struct ContainerDir {
    id: String,
    shared: OwnedFd,
    /// `shared/<container>`.
    directory: OwnedFd,
    /// `shared/<container>/mounts`.
    mounts: OwnedFd,
    /// Names mounted or made in `mounts`, with whether they are directories.
    binds: Vec<(String, bool)>,
}

impl ContainerDir {
    /// Mounts the root file system (`host_root` when there are no mounts for it) and bind mounts
    /// of container `id`, a checked identifier. Blocks.
    ///
    /// # Errors
    /// As in [`rootfs`] and [`bind`]; nothing is left then.
    pub(crate) fn prepare(
        state: &StateDir,
        id: &str,
        rootfs: &[RootMount],
        host_root: &Path,
        binds: &[BindMount],
    ) -> Result<Self, SandboxError> {
        let mut prepared = Self::make(state, id).map_err(|error| Self::failed(id, &error))?;
        let root = if rootfs.is_empty() {
            rootfs::already_at(host_root)?
        } else {
            let staging = state.staging();
            rustix::fs::mkdirat(staging, id, Mode::RWXU)
                .map_err(|error| Self::failed(id, &error.into()))?;
            let tree = rootfs::assemble(rootfs, staging, id);
            if let Err(error) = rustix::fs::unlinkat(staging, id, AtFlags::REMOVEDIR) {
                tracing::warn!("container {id}: staging directory: {error}");
            }
            tree?
        };
        prepared
            .attach_root(root)
            .map_err(|error| Self::failed(id, &error))?;
        for bind in binds {
            let tree = bind::prepare(bind)?;
            prepared
                .attach_bind(tree)
                .map_err(|error| Self::failed(id, &error))?;
        }
        Ok(prepared)
    }

    fn make(state: &StateDir, id: &str) -> io::Result<Self> {
        let shared = rustix::io::fcntl_dupfd_cloexec(state.shared(), 0)?;
        let searchable = Mode::from_raw_mode(0o755);
        rustix::fs::mkdirat(&shared, id, searchable)?;
        let made = tree::open_directory(&shared, id).and_then(|directory| {
            rustix::fs::mkdirat(&directory, ROOTFS, searchable)?;
            rustix::fs::mkdirat(&directory, MOUNTS, searchable)?;
            let mounts = tree::open_directory(&directory, MOUNTS)?;
            Ok((directory, mounts))
        });
        match made {
            Ok((directory, mounts)) => Ok(Self {
                id: id.to_owned(),
                shared,
                directory,
                mounts,
                binds: Vec::new(),
            }),
            Err(error) => {
                let _ = rustix::fs::unlinkat(&shared, id, AtFlags::REMOVEDIR);
                Err(error)
            }
        }
    }

    fn attach_root(&mut self, tree: DetachedTree) -> io::Result<()> {
        tree.attach(self.directory.as_fd(), ROOTFS)
    }

    fn attach_bind(&mut self, tree: DetachedTree) -> io::Result<()> {
        let name = self.binds.len().to_string();
        let directory = tree.is_directory()?;
        if directory {
            rustix::fs::mkdirat(&self.mounts, &name, Mode::from_raw_mode(0o755))?;
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&self.mounts, &name, flags, Mode::from_raw_mode(0o644))?;
        }
        self.binds.push((name.clone(), directory));
        tree.attach(self.mounts.as_fd(), &name)
    }

    fn failed(id: &str, error: &io::Error) -> SandboxError {
        let kind = if error.kind() == io::ErrorKind::AlreadyExists {
            ErrorKind::AlreadyExists
        } else {
            ErrorKind::Internal
        };
        SandboxError::new(kind, format!("files of container {id}: {error}"))
    }

    /// Unmounts and removes as much as possible, and says what was not.
    fn undo(&mut self) {
        let mut trouble = Vec::new();
        let mut note = |what: &str, result: io::Result<()>| {
            // EINVAL and ENOENT: not mounted, not there, for example after a failed start.
            let absent = [Some(libc::EINVAL), Some(libc::ENOENT)];
            if let Err(error) = result
                && !absent.contains(&error.raw_os_error())
            {
                trouble.push(format!("{what}: {error}"));
            }
        };
        let unlink = |directory: &OwnedFd, name: &str, is_directory: bool| {
            let flags = if is_directory {
                AtFlags::REMOVEDIR
            } else {
                AtFlags::empty()
            };
            Ok(rustix::fs::unlinkat(directory, name, flags)?)
        };
        for (name, is_directory) in self.binds.drain(..).rev() {
            note(&name, tree::unmount_at(self.mounts.as_fd(), &name));
            note(&name, unlink(&self.mounts, &name, is_directory));
        }
        note(ROOTFS, tree::unmount_at(self.directory.as_fd(), ROOTFS));
        note(ROOTFS, unlink(&self.directory, ROOTFS, true));
        note(MOUNTS, unlink(&self.directory, MOUNTS, true));
        note(&self.id, unlink(&self.shared, &self.id, true));
        if !trouble.is_empty() {
            tracing::warn!("container {}: not removed: {}", self.id, trouble.join("; "));
        }
    }
}

impl Drop for ContainerDir {
    fn drop(&mut self) {
        self.undo();
    }
}

#[cfg(test)]
#[path = "container_dir_test.rs"]
mod tests;
