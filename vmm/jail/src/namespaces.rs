//! Namespaces of its own, and another root directory.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
};
use rustix::thread::UnshareFlags;

use crate::{JailError, step};

/// Goes into new, empty namespaces: mounts (a copy of those there are, which receives what appears
/// in them and tells nothing back), network, System V IPC, host name, and cgroups.
///
/// # Errors
/// Fails without the privilege for that.
pub fn leave_namespaces() -> Result<(), JailError> {
    let namespaces = UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP
        | UnshareFlags::FS;
    // SAFETY: the table of descriptors is not unshared, and there is only one thread.
    let unshared = unsafe { rustix::thread::unshare_unsafe(namespaces) };
    step("make namespaces of its own", unshared)?;
    let receive_only = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    step(
        "keep its mounts to itself",
        rustix::mount::mount_change("/", receive_only),
    )
}

/// Mounts a file system for [`pivot_into`] that has nothing in it, and takes nothing.
///
/// # Errors
/// Fails outside a mount namespace of its own, or on a kernel before 5.2.
pub fn empty_root() -> Result<OwnedFd, JailError> {
    let make = || {
        let tmpfs = rustix::mount::fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(&tmpfs, c"source", c"nothing")?;
        rustix::mount::fsconfig_set_string(&tmpfs, c"mode", c"0555")?;
        // Its root is the one inode.
        rustix::mount::fsconfig_set_string(&tmpfs, c"nr_inodes", c"1")?;
        rustix::mount::fsconfig_set_string(&tmpfs, c"nr_blocks", c"1")?;
        rustix::mount::fsconfig_create(&tmpfs)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let root = rustix::mount::fsmount(&tmpfs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        // pivot_root wants a mount that is attached; where does not matter.
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(root.as_fd(), c"", CWD, c"/", flags)?;
        Ok(root)
    };
    step("mount an empty directory", make())
}

/// Makes `root`, the top of a mount, the root directory, and takes away every mount that is not
/// below it.
///
/// # Errors
/// Fails outside a mount namespace of its own.
pub fn pivot_into(root: BorrowedFd<'_>) -> Result<(), JailError> {
    step("enter the new root", rustix::process::fchdir(root))?;
    // With the same directory for both, the old root ends up mounted on top of the new one, from
    // where it is taken away at once (pivot_root(2)).
    step("change its root", rustix::process::pivot_root(".", "."))?;
    step(
        "unmount everything else",
        rustix::mount::unmount(".", UnmountFlags::DETACH),
    )?;
    step("enter its root", rustix::process::chdir("/"))
}
