//! Removing a directory with what is in it, and never what is mounted there.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Deepest directory: the sandbox makes `shared/.volumes/<n>` and no deeper.
const MAX_DEPTH: usize = 8;

/// Removes `name` of `directory`. Symlinks are removed, not followed; mounts are an error.
pub(super) fn remove_tree(directory: impl AsFd, name: &str) -> io::Result<()> {
    remove(directory, name, MAX_DEPTH)
}

fn remove(directory: impl AsFd, name: &str, depth: usize) -> io::Result<()> {
    if depth == 0 {
        return Err(io::Error::other(format!("{name} is too deep")));
    }
    let opened = open_same_mount(&directory, name)?;
    for entry in Dir::read_from(&opened)? {
        let entry = entry?;
        let Ok(child) = entry.file_name().to_str() else {
            return Err(io::Error::other(format!("unexpected file in {name}")));
        };
        if matches!(child, "." | "..") {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            remove(&opened, child, depth - 1)?;
        } else {
            rustix::fs::unlinkat(&opened, child, AtFlags::empty())?;
        }
    }
    match rustix::fs::unlinkat(&directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Opens a directory unless something is mounted on it.
fn open_same_mount(directory: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat2(
        directory,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
    )?)
}
