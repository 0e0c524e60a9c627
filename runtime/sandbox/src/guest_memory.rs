//! The file that becomes the guest's RAM.
//!
//! The file server maps the guest's memory, so it must be a file. For a memfd the host decides by
//! one setting (`/sys/kernel/mm/transparent_hugepage/shmem_enabled`, off almost everywhere)
//! whether huge pages may back it; for a tmpfs its mount options do. With pages of 4 KiB instead of
//! 2 MiB the guest takes thousands of faults more to boot: 96 instead of 49 million instructions
//! to its agent, host and guest together.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

/// An empty file without a name on a tmpfs of its own that may use huge pages, with room for
/// `memory_mib`, or `None` where the kernel cannot make one: then the VMM makes do with a memfd.
pub(crate) fn file(memory_mib: u32) -> Option<OwnedFd> {
    make(memory_mib).ok()
}

fn make(memory_mib: u32) -> Result<OwnedFd, Errno> {
    let tmpfs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // As many pages as asked for with madvise, and room for exactly this guest.
    fsconfig_set_string(&tmpfs, "huge", "advise")?;
    fsconfig_set_string(&tmpfs, "size", format!("{memory_mib}m"))?;
    fsconfig_set_string(&tmpfs, "mode", "0700")?;
    fsconfig_create(&tmpfs)?;
    // Never attached anywhere: it has no place in any namespace and goes with its file.
    let mount = fsmount(
        &tmpfs,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )?;
    rustix::fs::openat(
        &mount,
        ".",
        OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    )
}

#[cfg(test)]
#[path = "guest_memory_test.rs"]
mod tests;
