//! Bind mounts of a container's configuration.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::FileType;
use rustix::mount::MountAttrFlags;

use super::tree::{self, Attributes, DetachedTree, Propagation};
use crate::spec::BindMount;
use crate::{ErrorKind, SandboxError};

/// `HUGETLBFS_MAGIC` of statfs(2).
const HUGETLBFS: i64 = 0x958458f6;

/// Opens what is to be seen, as a path.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] without a source; [`ErrorKind::Unimplemented`] for what cannot
/// be shared with another kernel.
pub(super) fn open(bind: &BindMount) -> Result<OwnedFd, SandboxError> {
    let opened = tree::open_source(&bind.source).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => error_for(
            bind,
            ErrorKind::InvalidArgument,
            &format!("{error}; create it or correct the mount"),
        ),
        _ => error_for(bind, ErrorKind::InvalidArgument, &error.to_string()),
    })?;
    if let Some(obstacle) = obstacle(&opened).map_err(|error| failed(bind, &error))? {
        return Err(error_for(bind, ErrorKind::Unimplemented, obstacle));
    }
    Ok(opened)
}

/// Clones what was opened, with its attributes set.
///
/// # Errors
/// [`ErrorKind::Internal`] for what the kernel refuses.
pub(super) fn prepare(bind: &BindMount, opened: &OwnedFd) -> Result<DetachedTree, SandboxError> {
    // Nothing on the host opens a device or runs a program through these mounts.
    let mut set = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    if bind.read_only {
        set |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    let propagation = if bind.follow_host {
        Propagation::Slave
    } else {
        Propagation::Private
    };
    let attributes = Attributes {
        set,
        propagation,
        ..Attributes::NONE
    };
    let tree = DetachedTree::clone_of_open(opened, bind.recursive)
        .and_then(|tree| tree.change(attributes, true).map(|()| tree));
    tree.map_err(|error| failed(bind, &error))
}

/// The error for what the kernel refuses.
pub(super) fn failed(bind: &BindMount, error: &io::Error) -> SandboxError {
    error_for(bind, ErrorKind::Internal, &error.to_string())
}

/// Why it cannot be shared with another kernel, if it cannot. What is looked at is what will be
/// cloned, so that nobody can exchange it in between.
fn obstacle(opened: &OwnedFd) -> io::Result<Option<&'static str>> {
    if rustix::fs::fstatfs(opened)?.f_type == HUGETLBFS {
        return Ok(Some(
            "huge pages of the host (emptyDir with medium HugePages) cannot be passed to a virtual \
             machine",
        ));
    }
    let status = rustix::fs::fstat(opened)?;
    Ok(match FileType::from_raw_mode(status.st_mode) {
        FileType::Directory | FileType::RegularFile => None,
        FileType::Socket => {
            Some("a unix socket of the host cannot be reached from inside a virtual machine")
        }
        FileType::Fifo => {
            Some("a named pipe of the host cannot be reached from inside a virtual machine")
        }
        FileType::BlockDevice => Some(
            "a block device of the host is not passed on as a mount: name it as a device \
             (volumeDevices of Kubernetes, --device of docker and ctr)",
        ),
        FileType::CharacterDevice => {
            Some("character devices of the host cannot be passed to a virtual machine")
        }
        FileType::Symlink | FileType::Unknown => Some("it is neither a file nor a directory"),
    })
}

fn error_for(bind: &BindMount, kind: ErrorKind, problem: &str) -> SandboxError {
    SandboxError::new(
        kind,
        format!(
            "bind mount of {} at {}: {problem}",
            bind.source.display(),
            bind.destination.display()
        ),
    )
}
