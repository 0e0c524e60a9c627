//! Bind mounts of a container's configuration.

use std::io;

use rustix::fs::FileType;
use rustix::mount::MountAttrFlags;

use super::tree::{Attributes, DetachedTree, Propagation};
use crate::spec::BindMount;
use crate::{ErrorKind, SandboxError};

/// Clones what is to be seen, with its attributes set.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] without a source; [`ErrorKind::Unimplemented`] for what cannot
/// be shared with another kernel.
pub(super) fn prepare(bind: &BindMount) -> Result<DetachedTree, SandboxError> {
    let failed = |error: io::Error| error_for(bind, ErrorKind::Internal, &error.to_string());
    let tree = DetachedTree::clone_of(&bind.source, bind.recursive).map_err(|error| match error
        .kind()
    {
        io::ErrorKind::NotFound => error_for(
            bind,
            ErrorKind::InvalidArgument,
            &format!("{error}; create it or correct the mount"),
        ),
        _ => error_for(bind, ErrorKind::InvalidArgument, &error.to_string()),
    })?;
    if let Some(obstacle) = obstacle(tree.file_type().map_err(failed)?) {
        return Err(error_for(bind, ErrorKind::Unimplemented, obstacle));
    }
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
    tree.change(attributes, true).map_err(failed)?;
    Ok(tree)
}

/// Why a file cannot be shared with another kernel, if it cannot. What is looked at is what was
/// cloned, so that nobody can exchange it in between.
fn obstacle(kind: FileType) -> Option<&'static str> {
    match kind {
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
    }
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
