//! The guest's file systems.

use std::io;
use std::path::Path;
use std::{fs, os::unix::fs::symlink};

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};

/// The tag of the file server that has the root.
const TAG: &str = "root";
/// Where it is mounted until it becomes the root.
const NEW: &str = "/new";

/// Mounts what programs expect. Comes back with the file server's directory for a root, if there
/// is one.
///
/// # Errors
/// Says what cannot be mounted where.
pub(crate) fn prepare() -> io::Result<()> {
    fs::create_dir_all(NEW)?;
    match mount(TAG, NEW, "virtiofs", MountFlags::RDONLY, None) {
        Ok(()) => enter()?,
        // No file server has this tag.
        Err(Errno::INVAL) => {}
        Err(error) => return Err(failed("virtiofs", NEW, error)),
    }
    for (kind, at) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
    ] {
        match mount(kind, at, kind, MountFlags::empty(), None) {
            // The kernel has mounted it already.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => return Err(failed(kind, at, error)),
        }
    }
    for (kind, at) in [("devpts", "/dev/pts"), ("tmpfs", "/dev/shm")] {
        fs::create_dir_all(at)?;
        mount(kind, at, kind, MountFlags::empty(), None)
            .map_err(|error| failed(kind, at, error))?;
    }
    if !Path::new("/dev/fd").exists() {
        symlink("/proc/self/fd", "/dev/fd")?;
    }
    Ok(())
}

/// Makes what is mounted at [`NEW`] the root. The initramfs stays below it for good.
fn enter() -> io::Result<()> {
    rustix::process::chdir(NEW)?;
    mount_move(".", "/").map_err(|error| failed("the new root", "/", error))?;
    rustix::process::chroot(".")?;
    Ok(rustix::process::chdir("/")?)
}

fn failed(kind: &str, at: &str, error: Errno) -> io::Error {
    io::Error::other(format!("cannot mount {kind} at {at}: {error}"))
}
