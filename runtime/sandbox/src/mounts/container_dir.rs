//! One container's part of the shared directory.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode};

use super::tree::{self, DetachedTree};
use super::{StateDir, Volume, rootfs};
use crate::spec::BindMount;
use crate::{ErrorKind, RootMount, SandboxError};

const ROOTFS: &str = "rootfs";
/// Tells the file server that nobody on the host changes the root file system, so that the guest may
/// keep what it knows of it (`private_roots.rs` there).
const MARK: &str = "private";

/// Where the root file system of a container comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RootSource<'a> {
    /// The host mounts it.
    Mounts(&'a [RootMount]),
    /// It is mounted already.
    At(&'a Path),
    /// The guest mounts it: there is nothing to share.
    Guest,
}

/// Whether nobody on the host changes a root file system of these mounts. What somebody else has
/// mounted, they may change; docker copies files into it. An overlay is mounted for one container
/// alone, and its directories must not be changed beside it (overlayfs.rst of the kernel's
/// documentation).
fn is_changed_by_guest_alone(mounts: &[RootMount]) -> bool {
    let is_overlay = |mount: &RootMount| mount.kind.rsplit('/').next() == Some("overlay");
    let is_root = |mount: &&RootMount| mount.target.trim_matches('/').is_empty();
    mounts.iter().rfind(is_root).is_some_and(is_overlay)
}

/// `shared/<container>` with its root file system, unmounted and removed when this is dropped, and
/// its share in the volumes of the pod.
#[derive(Debug)]
pub(crate) struct ContainerDir {
    id: String,
    shared: OwnedFd,
    /// `shared/<container>`.
    directory: OwnedFd,
    /// What its bind mounts show, in their order.
    volumes: Vec<Arc<Volume>>,
}

impl ContainerDir {
    /// Mounts the root file system and bind mounts of container `id`, a checked identifier. Blocks.
    ///
    /// # Errors
    /// As in [`rootfs`] and [`bind`](super::bind); nothing is left then.
    pub(crate) fn prepare(
        state: &StateDir,
        id: &str,
        root: RootSource<'_>,
        binds: &[BindMount],
    ) -> Result<Self, SandboxError> {
        let mut prepared = Self::make(state, id).map_err(|error| Self::failed(id, &error))?;
        let tree = match root {
            RootSource::Guest => None,
            RootSource::At(path) => Some(rootfs::already_at(path)?),
            RootSource::Mounts(mounts) => {
                if is_changed_by_guest_alone(mounts) {
                    prepared.mark().map_err(|error| Self::failed(id, &error))?;
                }
                let staging = state.staging();
                rustix::fs::mkdirat(staging, id, Mode::RWXU)
                    .map_err(|error| Self::failed(id, &error.into()))?;
                let tree = rootfs::assemble(mounts, staging, id);
                if let Err(error) = rustix::fs::unlinkat(staging, id, AtFlags::REMOVEDIR) {
                    tracing::warn!("container {id}: staging directory: {error}");
                }
                Some(tree?)
            }
        };
        if let Some(tree) = tree {
            prepared
                .attach_root(tree)
                .map_err(|error| Self::failed(id, &error))?;
        }
        for bind in binds {
            prepared.volumes.push(state.volumes().mount(bind)?);
        }
        Ok(prepared)
    }

    /// What its bind mounts show, in their order.
    pub(crate) fn volumes(&self) -> &[Arc<Volume>] {
        &self.volumes
    }

    fn make(state: &StateDir, id: &str) -> io::Result<Self> {
        let shared = rustix::io::fcntl_dupfd_cloexec(state.shared(), 0)?;
        let searchable = Mode::from_raw_mode(0o755);
        rustix::fs::mkdirat(&shared, id, searchable)?;
        let made = tree::open_directory(&shared, id).and_then(|directory| {
            rustix::fs::mkdirat(&directory, ROOTFS, searchable)?;
            Ok(directory)
        });
        match made {
            Ok(directory) => Ok(Self {
                id: id.to_owned(),
                shared,
                directory,
                volumes: Vec::new(),
            }),
            Err(error) => {
                let _ = rustix::fs::unlinkat(&shared, id, AtFlags::REMOVEDIR);
                Err(error)
            }
        }
    }

    fn mark(&self) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.directory, MARK, Mode::RWXU)?)
    }

    fn attach_root(&mut self, tree: DetachedTree) -> io::Result<()> {
        tree.attach(self.directory.as_fd(), ROOTFS)
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
        let unlink = |directory: &OwnedFd, name: &str| {
            Ok(rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)?)
        };
        note(ROOTFS, tree::unmount_at(self.directory.as_fd(), ROOTFS));
        note(ROOTFS, unlink(&self.directory, ROOTFS));
        note(MARK, unlink(&self.directory, MARK));
        note(&self.id, unlink(&self.shared, &self.id));
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
