//! Volumes that the host updates, kept in the guest.
//!
//! The kubelet fills a volume of a ConfigMap, a Secret, the downward API or several of these with
//! versions: a directory with a time in its name holds the files, a link `..data` leads to it, links
//! with the names of the files lead through that, and an update is a new directory and an exchange
//! of `..data` at once. Programs that reload what has changed wait for that by inotify(7). A change
//! on the host is no event in the guest: virtio-fs does not tell. So such a volume is copied into
//! memory of the guest, where the container sees it, and each version that the host tells of is
//! copied and exchanged in the kubelet's order, which makes the events that the kubelet makes.
//!
//! What is copied is bounded; what is larger stays with the file server, without events.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use caisson_protocol::agent::UpdatedVolume;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps};

/// Most bytes in the files of a version. The API server allows a ConfigMap or Secret one MiB; a
/// projected volume may have several. While one is exchanged there are two.
const MAX_BYTES: u64 = 4 << 20;
/// Most files, links and directories of a version.
const MAX_ENTRIES: usize = 1024;
/// Deepest directory below a version.
const MAX_DEPTH: usize = 16;

/// The link to the version that holds.
const DATA: &str = "..data";
/// What it is called before it is exchanged.
const NEW_DATA: &str = "..data_tmp";

/// A volume that is kept in the guest.
#[derive(Debug)]
pub struct Mirror {
    source: OwnedFd,
    place: OwnedFd,
}

impl Mirror {
    /// Copies the volume at `source` to a new directory `place`.
    ///
    /// # Errors
    /// When it is too large or of a form the kubelet does not make, and whatever prevents copying.
    pub fn make(source: &Path, place: &Path, volume: &UpdatedVolume) -> io::Result<Self> {
        let source = open_at(rustix::fs::CWD, source)?;
        fs::create_dir_all(place)?;
        let place = open_at(rustix::fs::CWD, place)?;
        let mirror = Self { source, place };
        mirror.update(volume)?;
        give(&mirror.place, &rustix::fs::fstat(&mirror.source)?)?;
        Ok(mirror)
    }

    /// Makes it what the host says that the volume is now.
    ///
    /// # Errors
    /// As [`Mirror::make`]; it stays as it was then, or goes on with the new version.
    pub fn update(&self, volume: &UpdatedVolume) -> io::Result<()> {
        let version = volume.version.as_str();
        check(volume)?;
        if exists(&self.place, DATA, version)? {
            return self.exchange_names(volume);
        }
        let mut budget = Budget::default();
        // Left from an update that failed.
        self.remove(version)?;
        let copied = copy_directory(&self.source, &self.place, version, MAX_DEPTH, &mut budget);
        if let Err(error) = copied {
            let _ = self.remove(version);
            return Err(error);
        }
        self.remove(NEW_DATA)?;
        rustix::fs::symlinkat(version, &self.place, NEW_DATA)?;
        rustix::fs::renameat(&self.place, NEW_DATA, &self.place, DATA)?;
        self.exchange_names(volume)
    }

    /// Makes the links that are missing and removes what the volume does not have any more.
    fn exchange_names(&self, volume: &UpdatedVolume) -> io::Result<()> {
        for name in &volume.names {
            let target = format!("{DATA}/{name}");
            if !exists(&self.place, name, &target)? {
                self.remove(name)?;
                rustix::fs::symlinkat(&target, &self.place, name.as_str())?;
            }
        }
        let mut keep: HashSet<&str> = volume.names.iter().map(String::as_str).collect();
        keep.extend([DATA, volume.version.as_str()]);
        for name in names(&self.place)? {
            if !keep.contains(name.as_str()) {
                self.remove(&name)?;
            }
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        remove(&self.place, name, MAX_DEPTH + 1)
    }
}

/// What the host says is checked like all else that comes from outside.
fn check(volume: &UpdatedVolume) -> io::Result<()> {
    let is_name = |name: &str| !name.is_empty() && name.len() <= 255 && !name.contains(['/', '\0']);
    let version = volume.version.as_str();
    let is_version =
        is_name(version) && version.starts_with("..") && ![DATA, NEW_DATA, ".."].contains(&version);
    let are_names = volume
        .names
        .iter()
        .all(|name| is_name(name) && name != "." && !name.starts_with(".."));
    if is_version && are_names && volume.names.len() <= MAX_ENTRIES {
        return Ok(());
    }
    Err(invalid("it is not laid out as the kubelet does it"))
}

/// What may still be copied.
struct Budget {
    bytes: u64,
    entries: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            bytes: MAX_BYTES,
            entries: MAX_ENTRIES,
        }
    }
}

impl Budget {
    fn take_entry(&mut self) -> io::Result<()> {
        let left = self.entries.checked_sub(1);
        self.entries =
            left.ok_or_else(|| invalid(format!("it has more than {MAX_ENTRIES} files")))?;
        Ok(())
    }
}

/// Copies the directory `name` of `from` into `to`.
fn copy_directory(
    from: &OwnedFd,
    to: &OwnedFd,
    name: &str,
    depth: usize,
    budget: &mut Budget,
) -> io::Result<()> {
    let depth = depth
        .checked_sub(1)
        .ok_or_else(|| invalid(format!("it is more than {MAX_DEPTH} directories deep")))?;
    let source = open_at(from, name)?;
    rustix::fs::mkdirat(to, name, Mode::RWXU)?;
    let copy = open_at(to, name)?;
    for name in names(&source)? {
        budget.take_entry()?;
        let name = name.as_str();
        let status = rustix::fs::statat(&source, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => copy_directory(&source, &copy, name, depth, budget)?,
            FileType::RegularFile => copy_file(&source, &copy, name, budget)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&source, name, Vec::new())?;
                rustix::fs::symlinkat(&*target, &copy, name)?;
            }
            _ => return Err(invalid("it has a file that is no file, directory or link")),
        }
    }
    // With what is in it, its time would change.
    give(&copy, &rustix::fs::fstat(&source)?)
}

fn copy_file(from: &OwnedFd, to: &OwnedFd, name: &str, budget: &mut Budget) -> io::Result<()> {
    let open = |directory, flags| {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(directory, name, flags, Mode::RUSR).map(fs::File::from)
    };
    let source = open(from, OFlags::RDONLY)?;
    let mut copy = open(to, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
    // One byte more than there may be tells whether there is more.
    let mut bounded = io::Read::take(&source, budget.bytes.saturating_add(1));
    let copied = io::copy(&mut bounded, &mut copy)?;
    let left = budget.bytes.checked_sub(copied);
    budget.bytes = left.ok_or_else(|| invalid(format!("it has more than {MAX_BYTES} bytes")))?;
    give(&copy, &rustix::fs::fstat(&source)?)
}

/// Gives a copy the owner, the mode and the time of what it is a copy of.
fn give(copy: impl AsFd, status: &Stat) -> io::Result<()> {
    let owner = rustix::fs::Uid::from_raw(status.st_uid);
    let group = rustix::fs::Gid::from_raw(status.st_gid);
    rustix::fs::fchown(&copy, Some(owner), Some(group))?;
    rustix::fs::fchmod(&copy, Mode::from_raw_mode(status.st_mode & 0o7777))?;
    let time = Timespec {
        tv_sec: status.st_mtime,
        tv_nsec: status.st_mtime_nsec.try_into().unwrap_or_default(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rustix::fs::futimens(&copy, &times)?)
}

/// Whether `name` is a link to `target`.
fn exists(directory: &OwnedFd, name: &str, target: &str) -> io::Result<bool> {
    match rustix::fs::readlinkat(directory, name, Vec::new()) {
        Ok(link) => Ok(link.as_bytes() == target.as_bytes()),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What is in a directory.
fn names(directory: &OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_str();
        let name = name.map_err(|_| invalid("it has a name that is not UTF-8"))?;
        if ![".", ".."].contains(&name) {
            names.push(name.to_owned());
        }
        if names.len() > MAX_ENTRIES {
            return Err(invalid(format!("it has more than {MAX_ENTRIES} files")));
        }
    }
    Ok(names)
}

/// Removes what is called `name`, if there is something; follows no link.
fn remove(directory: &OwnedFd, name: &str, depth: usize) -> io::Result<()> {
    let removed = match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(rustix::io::Errno::ISDIR) => {
            let depth = depth
                .checked_sub(1)
                .ok_or_else(|| invalid("it is too deep"))?;
            let opened = open_at(directory, name)?;
            for child in names(&opened)? {
                remove(&opened, &child, depth)?;
            }
            rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)
        }
        result => result,
    };
    match removed {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn open_at<P: rustix::path::Arg>(directory: impl AsFd, path: P) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, path, flags, Mode::empty())?)
}

fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message.into())
}

#[cfg(test)]
#[path = "mirror_test.rs"]
mod tests;
