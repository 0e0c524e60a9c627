//! Root file systems, from what containerd's task Create request says or from where one is
//! already mounted.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::mount::{MountAttrFlags, MountFlags};

use super::options::MountOptions;
use super::overlay::{self, MAX_DATA};
use super::tree::{self, Attributes, DetachedTree, Propagation};
use crate::{ErrorKind, RootMount, SandboxError};

/// Assembles `mounts`, in order, on the empty directory `name` of `staging`, and takes the result
/// from there. Leaves nothing mounted in `staging`.
///
/// # Errors
/// [`ErrorKind::Unimplemented`] for types other than overlay and bind;
/// [`ErrorKind::InvalidArgument`] when a mount is not possible.
pub(super) fn assemble(
    mounts: &[RootMount],
    staging: BorrowedFd<'_>,
    name: &str,
) -> Result<DetachedTree, SandboxError> {
    let mut mounted = Staged {
        staging,
        name,
        count: 0,
    };
    for mount in mounts {
        let target = mounted.open(&mount.target).map_err(|error| {
            invalid(
                mount,
                format!("no directory \"{}\" to mount on: {error}", mount.target),
            )
        })?;
        let at_top = mount.target.trim_matches('/').is_empty();
        match mount.kind.as_str() {
            "bind" => bind(mount, target.as_fd())?,
            "overlay" => overlay(mount, target.as_fd())?,
            _ => return Err(unsupported(mount)),
        }
        if at_top {
            mounted.count += 1;
        }
    }
    let top = mounted.open("").map_err(|error| failed(&error))?;
    let tree = DetachedTree::clone_of_open(top, true).map_err(|error| failed(&error))?;
    harden(&tree)?;
    Ok(tree)
}

/// Takes the root file system from where docker or CRI-O have mounted it.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] if there is none.
pub(super) fn already_at(path: &Path) -> Result<DetachedTree, SandboxError> {
    let not_usable = |error: io::Error| {
        SandboxError::new(
            ErrorKind::InvalidArgument,
            format!("root file system {}: {error}", path.display()),
        )
    };
    let tree = DetachedTree::clone_of(path, true).map_err(not_usable)?;
    if !tree.is_directory().map_err(not_usable)? {
        return Err(not_usable(io::ErrorKind::NotADirectory.into()));
    }
    harden(&tree)?;
    Ok(tree)
}

/// Nothing on the host opens a device or runs a program through these mounts, and what the host
/// mounts later does not appear in them.
fn harden(tree: &DetachedTree) -> Result<(), SandboxError> {
    let attributes = Attributes {
        set: MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID,
        propagation: Propagation::Private,
        ..Attributes::NONE
    };
    tree.change(attributes, true)
        .map_err(|error| failed(&error))
}

fn bind(mount: &RootMount, target: BorrowedFd<'_>) -> Result<(), SandboxError> {
    let options = MountOptions::parse(&mount.options);
    let not_possible = |error: io::Error| invalid(mount, error.to_string());
    let tree = DetachedTree::clone_of(Path::new(&mount.source), options.recursive)
        .map_err(not_possible)?;
    if !tree.is_directory().map_err(not_possible)? {
        return Err(not_possible(io::ErrorKind::NotADirectory.into()));
    }
    let (set, clear) = options.attributes();
    let attributes = Attributes {
        set,
        clear,
        propagation: Propagation::Private,
    };
    tree.change(attributes, options.recursive)
        .map_err(not_possible)?;
    tree.attach_on(target).map_err(not_possible)
}

fn overlay(mount: &RootMount, target: BorrowedFd<'_>) -> Result<(), SandboxError> {
    let options = MountOptions::parse(&mount.options);
    let Some(fitted) = overlay::fit(&options.data) else {
        let length: usize = options.data.iter().map(|option| option.len() + 1).sum();
        return Err(invalid(
            mount,
            format!(
                "its options have {length} bytes and the kernel takes {MAX_DATA}: \
                 the image has too many layers, flatten it"
            ),
        ));
    };
    // overlayfs knows its lower and upper directories from the options alone.
    tree::mount_on(
        target,
        &mount.kind,
        &mount.source,
        options.flags | MountFlags::NODEV,
        &fitted.data,
        fitted.base.as_deref(),
    )
    .map_err(|error| {
        invalid(
            mount,
            format!(
                "{error} (options: {}; the kernel's log may say more)",
                mount.options.join(",")
            ),
        )
    })
}

/// A directory on which mounts pile up, cleared when this is dropped.
struct Staged<'a> {
    staging: BorrowedFd<'a>,
    name: &'a str,
    count: usize,
}

impl Staged<'_> {
    /// Opens a directory of what is mounted so far.
    fn open(&self, target: &str) -> io::Result<OwnedFd> {
        let top = tree::open_directory(self.staging, self.name)?;
        tree::open_in_root(top, target.trim_matches('/'))
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        // Each takes what is mounted below it along.
        for _ in 0..self.count {
            if let Err(error) = tree::unmount_at(self.staging, self.name) {
                tracing::warn!("root file system of {}: {error}", self.name);
            }
        }
    }
}

fn unsupported(mount: &RootMount) -> SandboxError {
    SandboxError::new(
        ErrorKind::Unimplemented,
        format!(
            "root file system of type {:?} is not supported yet: use a snapshotter that gives \
             overlay or bind mounts, such as overlayfs or native",
            mount.kind
        ),
    )
}

fn invalid(mount: &RootMount, problem: impl AsRef<str>) -> SandboxError {
    SandboxError::new(
        ErrorKind::InvalidArgument,
        format!(
            "root file system: {} mount of {}: {}",
            mount.kind,
            mount.source,
            problem.as_ref()
        ),
    )
}

fn failed(error: &io::Error) -> SandboxError {
    SandboxError::new(ErrorKind::Internal, format!("root file system: {error}"))
}
