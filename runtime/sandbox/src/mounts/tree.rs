//! Mounts as descriptors.
//!
//! A mount tree is made detached (`open_tree`, `fsmount`), given its attributes, and only then
//! attached: attributes set later would not reach the copies that propagation has made by then,
//! and no path is resolved between check and use. Linux 5.12 or newer.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};
use rustix::thread::UnshareFlags;

/// How a mount takes part in propagation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// As it is.
    Keep,
    /// Not at all.
    Private,
    /// It receives what appears in the mounts it was cloned from.
    Slave,
    /// It gives and receives.
    Shared,
}

/// What to change about the mounts of a tree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes {
    /// Flags to set.
    pub(crate) set: MountAttrFlags,
    /// Flags to clear first.
    pub(crate) clear: MountAttrFlags,
    /// Propagation to give.
    pub(crate) propagation: Propagation,
}

impl Attributes {
    /// Changes nothing.
    pub(crate) const NONE: Self = Self {
        set: MountAttrFlags::empty(),
        clear: MountAttrFlags::empty(),
        propagation: Propagation::Keep,
    };
}

/// A mount tree that is attached nowhere; dropped, it is gone.
#[derive(Debug)]
pub(crate) struct DetachedTree(OwnedFd);

impl DetachedTree {
    /// Clones the mount at `path`, with `recursive` those below it too. Follows symlinks: `path`
    /// is from the trusted side. Also works for a single file.
    pub(crate) fn clone_of(path: &Path, recursive: bool) -> io::Result<Self> {
        Ok(Self(rustix::mount::open_tree(
            CWD,
            path,
            clone_flags(recursive),
        )?))
    }

    /// Clones the mount that `place` is open on.
    pub(crate) fn clone_of_open(place: impl AsFd, recursive: bool) -> io::Result<Self> {
        let flags = clone_flags(recursive) | OpenTreeFlags::AT_EMPTY_PATH;
        Ok(Self(rustix::mount::open_tree(place, c"", flags)?))
    }

    /// Makes an empty tmpfs of at most `size` bytes (as tmpfs(5) writes it), mode 0755.
    pub(crate) fn tmpfs(size: &CStr) -> io::Result<Self> {
        let context = rustix::mount::fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(&context, c"source", c"caisson")?;
        rustix::mount::fsconfig_set_string(&context, c"mode", c"0755")?;
        rustix::mount::fsconfig_set_string(&context, c"size", size)?;
        rustix::mount::fsconfig_create(&context)?;
        let flags = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let tree = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
        Ok(Self(tree))
    }

    /// Changes the attributes of the top mount, with `recursive` of all mounts of the tree.
    pub(crate) fn change(&self, attributes: Attributes, recursive: bool) -> io::Result<()> {
        let propagation = match attributes.propagation {
            Propagation::Keep => 0,
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Slave => libc::MS_SLAVE,
            Propagation::Shared => libc::MS_SHARED,
        };
        // SAFETY: mount_attr consists of integers, for which all-zero bytes are a value.
        let mut change: libc::mount_attr = unsafe { std::mem::zeroed() };
        change.attr_set = u64::from(attributes.set.bits());
        change.attr_clr = u64::from(attributes.clear.bits());
        change.propagation = propagation;
        let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
        // SAFETY: the path is a C string and the structure is as long as its size says; both
        // outlive the call, which keeps neither.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                flags,
                &raw const change,
                size_of::<libc::mount_attr>(),
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Whether its root is a directory.
    pub(crate) fn is_directory(&self) -> io::Result<bool> {
        let status = rustix::fs::fstat(&self.0)?;
        Ok(FileType::from_raw_mode(status.st_mode).is_dir())
    }

    /// Attaches the tree on the place that `target` is open on.
    pub(crate) fn attach_on(self, target: BorrowedFd<'_>) -> io::Result<()> {
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        Ok(rustix::mount::move_mount(&self.0, c"", target, c"", flags)?)
    }

    /// Attaches the tree at `name` in `directory`; follows no symlink.
    pub(crate) fn attach(self, directory: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        Ok(rustix::mount::move_mount(
            &self.0, c"", directory, name, flags,
        )?)
    }
}

/// Opens `path` as a path, as [`DetachedTree::clone_of`] finds it: symlinks are followed, and an
/// automount at its end is made.
pub(crate) fn open_source(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::mount::open_tree(
        CWD,
        path,
        OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?)
}

fn clone_flags(recursive: bool) -> OpenTreeFlags {
    let base = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        base | OpenTreeFlags::AT_RECURSIVE
    } else {
        base
    }
}

/// Mounts a file system on the directory that `target` is open on, by mount(2): fsconfig(2) takes
/// no more than 255 bytes of a value, too few for the layers of an overlay. With `base` the paths
/// in `data` may be relative to it.
pub(crate) fn mount_on(
    target: BorrowedFd<'_>,
    kind: &str,
    source: &str,
    flags: MountFlags,
    data: &str,
    base: Option<&Path>,
) -> io::Result<()> {
    let target = format!("/proc/self/fd/{}", target.as_raw_fd());
    let data = CString::new(data)?;
    let mount = || rustix::mount::mount(source, target.as_str(), kind, flags, data.as_c_str());
    let Some(base) = base else {
        return Ok(mount()?);
    };
    // The working directory belongs to all threads but one that asks for its own.
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("mount".into())
            .spawn_scoped(scope, || {
                // SAFETY: only the working directory, root and umask become the thread's own;
                // the table of descriptors stays shared.
                unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }?;
                rustix::process::chdir(base)?;
                Ok(mount()?)
            })?
            .join()
            .map_err(|_| io::Error::other("the mounting thread panicked"))?
    })
}

/// Unmounts what is mounted at `name` in `directory`, once, with everything below it, at once for
/// new users and as soon as the last one is gone for the others. Follows no symlink.
pub(crate) fn unmount_at(directory: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
    Ok(rustix::mount::unmount(
        path,
        UnmountFlags::DETACH | UnmountFlags::NOFOLLOW,
    )?)
}

/// Unmounts what is mounted at `path`; see [`unmount_at`].
pub(crate) fn unmount(path: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(
        path,
        UnmountFlags::DETACH | UnmountFlags::NOFOLLOW,
    )?)
}

/// Opens a directory below `root` as a place to mount or unlink in; symlinks and `..` stay inside.
pub(crate) fn open_in_root(root: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { "." } else { path };
    Ok(rustix::fs::openat2(
        root,
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?)
}

/// Opens the directory `name` in `directory`; fails for a symlink.
pub(crate) fn open_directory(directory: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat2(
        directory,
        name,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )?)
}

/// Gives the calling process a mount namespace of its own in which mounts of the host still
/// appear (`rslave`), but whose own mounts the host does not see. They vanish with the process.
/// Call it first thing in `main`, before there is a second thread.
///
/// # Errors
/// Fails without `CAP_SYS_ADMIN`.
pub fn enter_mount_namespace() -> io::Result<()> {
    // SAFETY: the table of descriptors stays shared; threads that already run stay behind in the
    // old namespace, which is safe if not what the caller wants.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    Ok(rustix::mount::mount_change(
        c"/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )?)
}
