//! The volumes that the host shares with the pod.
//!
//! Each is a mount on the host, for which the guest's kernel makes one of its own when somebody
//! first walks into it: a file system with inodes of its own. Each container has its own mount
//! namespace, and were its child process the first to walk in, two containers would have two file
//! systems for one volume, and a socket in it would not be the same file for both. So the agent
//! walks in before a container is made, in the namespace of which those of containers are copies,
//! and leaves when the last container with that volume is gone: what is mounted here keeps the
//! volume mounted on the host.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::mount::UnmountFlags;

/// The volumes in use, with the number of their users. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Volumes {
    users: Arc<Mutex<HashMap<PathBuf, usize>>>,
}

/// A container's use of volumes; it ends when this is dropped.
#[derive(Debug)]
pub struct VolumeUse {
    volumes: Volumes,
    paths: Vec<PathBuf>,
}

impl Volumes {
    /// Walks into volumes. Blocks on the host's file server.
    #[must_use]
    pub fn enter(&self, paths: Vec<PathBuf>) -> VolumeUse {
        // Held meanwhile, so that no other container leaves what is just entered.
        let mut users = self.lock();
        for path in &paths {
            let count = users.entry(path.clone()).or_default();
            *count += 1;
            if *count == 1 {
                walk_into(path);
            }
        }
        drop(users);
        VolumeUse {
            volumes: self.clone(),
            paths,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, usize>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has the kernel mount what is there. Single files are no mounts of their own, and whoever needs
/// what cannot be opened says so.
fn walk_into(path: &Path) {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let _ = rustix::fs::open(path, flags, Mode::empty());
}

impl Drop for VolumeUse {
    fn drop(&mut self) {
        let mut users = self.volumes.lock();
        for path in self.paths.drain(..) {
            let Some(count) = users.get_mut(&path) else {
                continue;
            };
            *count -= 1;
            if *count == 0 {
                users.remove(&path);
                // It may be a file, on which nothing is mounted.
                let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
                let _ = rustix::mount::unmount(&path, flags);
            }
        }
    }
}

#[cfg(test)]
#[path = "volumes_test.rs"]
mod tests;
