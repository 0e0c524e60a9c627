//! What the containers of a pod see of the host besides their root file systems.
//!
//! The file server tells files apart by mount, device and inode number. Were each bind mount of the
//! configuration a mount of its own, two containers with the same volume would have two files where
//! the host has one: a unix socket or FIFO made by the one could not be reached by the other, and locks
//! would not be seen. So what is the same on the host is mounted once for the pod, and the agent
//! binds it into each container.
//!
//! Two bind mounts are the same if nobody can tell them apart on the host: the same file or directory,
//! reached through mounts with the same flags, with the same mounts below it, and as much in touch
//! with mounts of later. A part of a volume (`subPath`) is another directory than the volume and so
//! has a mount of its own; sockets in it are shared by those containers that mount the same part.
//!
//! **Read-only.** A bind mount that is read-only is so on the host, as long as no container of the
//! pod has the same volume writable. Where one has, those that ask for it read-only afterwards get
//! the writable mount, since a second one would make different files again, and for them the guest
//! makes it read-only. That is no weaker: a guest in which one container may write the volume may
//! write it as a whole. Who came first with read-only keeps a mount on which the host refuses every
//! write, beside the writable one of who comes later; they share no sockets until it is made anew.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use caisson_protocol::{SHARED_PATH, VOLUMES};
use rustix::fs::{AtFlags, Mode, OFlags, StatVfsMountFlags, StatxFlags};

use super::versions::Version;
use super::{bind, mountinfo, tree};
use crate::SandboxError;
use crate::spec::BindMount;

/// The volumes of a pod that are mounted.
#[derive(Debug)]
pub(super) struct Volumes {
    /// `shared/.volumes`.
    directory: Arc<OwnedFd>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Of the next one. Never used twice: the guest may still remember what a number was.
    number: u64,
    mounted: Vec<(Source, Weak<Volume>)>,
}

/// What makes two bind mounts the same; see the [module](self).
#[derive(Debug, PartialEq, Eq)]
struct Source {
    device: u64,
    inode: u64,
    flags: StatVfsMountFlags,
    /// The mount it is on, where it matters which one it is: one from which later mounts come, or
    /// one with others below.
    mount: Option<u64>,
    /// Whether later mounts come from it.
    follow_host: bool,
    /// The mounts below it, as the kernel describes them.
    below: Vec<Vec<u8>>,
}

/// A volume that is mounted for the pod; unmounted and removed with its last user.
#[derive(Debug)]
pub(crate) struct Volume {
    directory: Arc<OwnedFd>,
    name: String,
    is_directory: bool,
    read_only: bool,
    /// Open on it if it is one that the kubelet updates.
    updated: Option<OwnedFd>,
}

impl Volumes {
    /// With an empty directory of their own in `shared`.
    pub(super) fn make(shared: &OwnedFd) -> io::Result<Self> {
        rustix::fs::mkdirat(shared, VOLUMES, Mode::from_raw_mode(0o755))?;
        Ok(Self {
            directory: Arc::new(tree::open_directory(shared, VOLUMES)?),
            table: Mutex::default(),
        })
    }

    /// The volume that `bind` is to show, mounted now unless it is already. Blocks.
    ///
    /// # Errors
    /// As in [`bind`].
    pub(super) fn mount(&self, bind: &BindMount) -> Result<Arc<Volume>, SandboxError> {
        let opened = bind::open(bind)?;
        let failed = |error: io::Error| bind::failed(bind, &error);
        let source = Source::of(&opened, bind).map_err(failed)?;
        // Held while it is mounted, so that two containers that are made at once share it.
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table
            .mounted
            .retain(|(_, volume)| volume.strong_count() > 0);
        if let Some(volume) = table.find(&source, bind.read_only) {
            return Ok(volume);
        }
        let tree = bind::prepare(bind, &opened)?;
        let name = table.number.to_string();
        table.number += 1;
        let is_directory = tree.is_directory().map_err(failed)?;
        make_place(&self.directory, &name, is_directory).map_err(failed)?;
        // Undone when the next step fails.
        let mut volume = Volume {
            directory: self.directory.clone(),
            name,
            is_directory,
            read_only: bind.read_only,
            updated: None,
        };
        tree.attach(self.directory.as_fd(), &volume.name)
            .map_err(failed)?;
        if is_directory && bind.read_only && source.is_plain() {
            volume.updated = volume.open_updated().map_err(failed)?;
        }
        let volume = Arc::new(volume);
        table.mounted.push((source, Arc::downgrade(&volume)));
        Ok(volume)
    }
}

impl Table {
    /// A mount of `source` for somebody who wants it so: the writable one if there is one.
    fn find(&self, source: &Source, read_only: bool) -> Option<Arc<Volume>> {
        let same = || {
            self.mounted
                .iter()
                .filter(|(other, _)| other == source)
                .filter_map(|(_, volume)| volume.upgrade())
        };
        same()
            .find(|volume| !volume.read_only)
            .or_else(|| same().find(|_| read_only))
    }
}

impl Source {
    fn of(opened: &OwnedFd, bind: &BindMount) -> io::Result<Self> {
        let status = rustix::fs::statx(
            opened,
            "",
            AtFlags::EMPTY_PATH,
            StatxFlags::BASIC_STATS | StatxFlags::MNT_ID,
        )?;
        let is_directory = rustix::fs::FileType::from_raw_mode(status.stx_mode.into()).is_dir();
        let below = if bind.recursive && is_directory {
            mountinfo::described_below(opened)?
        } else {
            Vec::new()
        };
        let matters = bind.follow_host || !below.is_empty();
        Ok(Self {
            device: rustix::fs::makedev(status.stx_dev_major, status.stx_dev_minor),
            inode: status.stx_ino,
            flags: rustix::fs::fstatvfs(opened)?.f_flag,
            mount: matters.then_some(status.stx_mnt_id),
            follow_host: bind.follow_host,
            below,
        })
    }

    /// Whether it is nothing but the files of one mount.
    fn is_plain(&self) -> bool {
        self.mount.is_none()
    }
}

impl Volume {
    /// Opens it if it is one that the kubelet updates. Through our own mount: one of the host's
    /// would be held busy.
    fn open_updated(&self) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&*self.directory, &self.name, flags, Mode::empty())?;
        Ok(Version::read(&opened)?.map(|_| opened))
    }

    /// Open on it, if it was one that the kubelet updates when it was mounted.
    pub(crate) fn updated(&self) -> Option<&OwnedFd> {
        self.updated.as_ref()
    }

    /// What it consists of now, if it is one that the kubelet updates. Blocks.
    pub(crate) fn version(&self) -> io::Result<Option<Version>> {
        match &self.updated {
            Some(directory) => Version::read(directory),
            None => Ok(None),
        }
    }

    /// One that is mounted nowhere, called `name` in `directory`, where nothing must be.
    #[cfg(test)]
    pub(crate) fn pretended(directory: OwnedFd, name: &str, read_only: bool) -> Self {
        Self {
            directory: Arc::new(directory),
            name: name.to_owned(),
            is_directory: true,
            read_only,
            updated: None,
        }
    }

    /// Where the guest has it.
    pub(crate) fn in_guest(&self) -> PathBuf {
        [SHARED_PATH, VOLUMES, &self.name].iter().collect()
    }

    /// Whether the host refuses writes.
    pub(crate) fn read_only(&self) -> bool {
        self.read_only
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let flags = if self.is_directory {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        let unmounted = tree::unmount_at(self.directory.as_fd(), &self.name);
        let unlinked = rustix::fs::unlinkat(&*self.directory, &self.name, flags);
        for error in [unmounted.err(), unlinked.err().map(io::Error::from)] {
            // EINVAL and ENOENT: not mounted, not there, for example after a failed start.
            if let Some(error) = error
                && ![Some(libc::EINVAL), Some(libc::ENOENT)].contains(&error.raw_os_error())
            {
                tracing::warn!("volume {}: not removed: {error}", self.name);
            }
        }
    }
}

/// Makes something to mount on.
fn make_place(directory: &OwnedFd, name: &str, is_directory: bool) -> io::Result<()> {
    if is_directory {
        rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o755))?;
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o644))?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "volumes_test.rs"]
mod tests;
