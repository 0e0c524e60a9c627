//! What is served, and what lies next to it.
#![allow(unsafe_code, unreachable_pub, clippy::unwrap_used)]

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags};

/// A directory that is a shared mount in a mount namespace of this thread only.
pub struct Shared {
    place: tempfile::TempDir,
    path: PathBuf,
}

impl Shared {
    /// `None`, with the reason printed, where the test has not the privileges of root.
    pub fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: mounting takes root");
            return None;
        }
        let place = tempfile::tempdir().unwrap();
        // Something next to the shared directory that nobody may reach.
        std::fs::write(place.path().join("outside"), "untouched").unwrap();
        let path = place.path().join("shared");
        std::fs::create_dir(&path).unwrap();
        // SAFETY: the table of descriptors stays shared.
        let unshared =
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) };
        if let Err(error) = unshared {
            println!("skipped: no mount namespace of its own: {error}");
            return None;
        }
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        mount_tmpfs(&path);
        rustix::mount::mount_change(&path, MountPropagationFlags::SHARED).unwrap();
        Some(Self { place, path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether what lies next to the directory is as it was.
    pub fn surroundings_are_untouched(&self) -> bool {
        let outside = std::fs::read(self.place.path().join("outside")).unwrap();
        let entries = std::fs::read_dir(self.place.path()).unwrap().count();
        outside == b"untouched" && entries == 2
    }

    pub fn open(&self) -> OwnedFd {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, &self.path, flags, Mode::empty()).unwrap()
    }
}

/// A new file system on `path`, of a size that the memory of any machine has.
pub fn mount_tmpfs(path: &Path) {
    let limits = c"size=32m,nr_inodes=10000";
    rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::empty(), limits).unwrap();
}
