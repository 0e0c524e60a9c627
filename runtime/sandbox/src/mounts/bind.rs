//! Bind mounts of a container's configuration.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;

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
    check_source(bind)?;
    let failed = |error: io::Error| {
        SandboxError::new(ErrorKind::Internal, format!("{}: {error}", describe(bind)))
    };
    let tree = DetachedTree::clone_of(&bind.source, bind.recursive).map_err(failed)?;
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

fn check_source(bind: &BindMount) -> Result<(), SandboxError> {
    let metadata = fs::metadata(&bind.source).map_err(|error| {
        let cure = if error.kind() == io::ErrorKind::NotFound {
            "; create it or correct the mount"
        } else {
            ""
        };
        SandboxError::new(
            ErrorKind::InvalidArgument,
            format!("{}: {error}{cure}", describe(bind)),
        )
    })?;
    let kind = metadata.file_type();
    let obstacle = if kind.is_socket() {
        "a unix socket of the host cannot be reached from inside a virtual machine"
    } else if kind.is_fifo() {
        "a named pipe of the host cannot be reached from inside a virtual machine"
    } else if kind.is_block_device() {
        "block devices of the host cannot be passed to a virtual machine yet"
    } else if kind.is_char_device() {
        "character devices of the host cannot be passed to a virtual machine"
    } else {
        return Ok(());
    };
    Err(SandboxError::new(
        ErrorKind::Unimplemented,
        format!("{}: {obstacle}", describe(bind)),
    ))
}

fn describe(bind: &BindMount) -> String {
    format!(
        "bind mount of {} at {}",
        bind.source.display(),
        bind.destination.display()
    )
}
