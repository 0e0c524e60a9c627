//! Which options of mounts the guest gets.
//!
//! They come from the configuration of containerd's snapshotters. What names a file or a device of
//! the host is not for the guest, and what is not known here is refused: an option that silently does
//! nothing is worse than none.

use rustix::mount::MountFlags;

use super::{Form, Kind};
use crate::mounts::MountOptions;
use crate::{ErrorKind, SandboxError};

/// The options of a file system on disks.
#[derive(Debug)]
pub(crate) struct DiskOptions {
    /// Of mount(2).
    pub(crate) flags: MountFlags,
    /// For the file system.
    pub(crate) options: Vec<String>,
    /// Further devices, paths of the host.
    pub(crate) devices: Vec<String>,
}

/// Options of ext4 (Documentation/admin-guide/ext4.rst), without their values.
const EXT4: &[&str] = &[
    "acl",
    "auto_da_alloc",
    "barrier",
    "commit",
    "data",
    "delalloc",
    "discard",
    "errors",
    "grpid",
    "inode_readahead_blks",
    "journal_checksum",
    "lazytime",
    "max_batch_time",
    "min_batch_time",
    "noacl",
    "noauto_da_alloc",
    "nobarrier",
    "nodelalloc",
    "nodiscard",
    "nogrpid",
    "noload",
    "norecovery",
    "nouser_xattr",
    "stripe",
    "user_xattr",
];
/// Options of EROFS (Documentation/filesystems/erofs.rst).
const EROFS: &[&str] = &[
    "acl",
    "cache_strategy",
    "noacl",
    "nouser_xattr",
    "user_xattr",
];
/// Options of overlayfs (Documentation/filesystems/overlayfs.rst).
const OVERLAY: &[&str] = &[
    "index",
    "metacopy",
    "nfs_export",
    "redirect_dir",
    "userxattr",
    "uuid",
    "volatile",
    "xino",
];
/// containerd hands over where the checksums of a layer are.
const VERITY: &str = "X-containerd.dmverity";
/// A panic of the guest's kernel ends the pod.
const PANIC: &str = "errors=panic";

impl DiskOptions {
    /// Sorts the options of a file system on disks.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for one that is not known; [`ErrorKind::Unimplemented`] for
    /// checksums.
    pub(crate) fn of(form: &Form<'_>) -> Result<Self, SandboxError> {
        let known = match form.kind {
            Kind::Erofs => EROFS,
            _ => EXT4,
        };
        let parsed = MountOptions::parse(&form.mount.options);
        let mut sorted = Self {
            flags: parsed.flags,
            options: Vec::new(),
            devices: Vec::new(),
        };
        let mut is_file = false;
        for option in parsed.data {
            let (name, value) = split(&option);
            match name {
                // A disk of the guest is the file itself: the host needs no device for it.
                "loop" if value.is_none() => is_file = true,
                "device" if form.kind == Kind::Erofs => {
                    sorted.devices.push(value.unwrap_or_default().to_owned());
                }
                VERITY => {
                    let problem = "its checksums (dm-verity) are not supported in the guest: set \
                                   dmverity_mode = \"off\" for the erofs snapshotter";
                    return Err(form.error(ErrorKind::Unimplemented, problem));
                }
                _ if known.contains(&name) && is_plain(&option) && option != PANIC => {
                    sorted.options.push(option);
                }
                _ => return Err(unknown(form, &option)),
            }
        }
        // What the container deletes is to be free on the host, too.
        let says = ["discard", "nodiscard"];
        let writable = form.kind == Kind::Ext4 && !sorted.flags.contains(MountFlags::RDONLY);
        if is_file
            && writable
            && !sorted
                .options
                .iter()
                .any(|option| says.contains(&option.as_str()))
        {
            sorted.options.push("discard".to_owned());
        }
        Ok(sorted)
    }
}

/// An option of an overlay, if it is known and names no place.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`].
pub(super) fn of_overlay(form: &Form<'_>, option: &str) -> Result<String, SandboxError> {
    let (name, _) = split(option);
    if OVERLAY.contains(&name) && is_plain(option) {
        return Ok(option.to_owned());
    }
    if ["uidmap", "gidmap"].contains(&name) {
        let problem = "its owners are to be mapped, which needs user namespaces: the guest has none, \
                       run the pod without them (hostUsers: true)";
        return Err(form.error(ErrorKind::Unimplemented, problem));
    }
    Err(unknown(form, option))
}

/// The error for an option that is not known.
pub(super) fn unknown(form: &Form<'_>, option: &str) -> SandboxError {
    let problem = format!(
        "the option {option:?} is not known: remove it from the configuration of the snapshotter"
    );
    form.error(ErrorKind::InvalidArgument, &problem)
}

fn split(option: &str) -> (&str, Option<&str>) {
    match option.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (option, None),
    }
}

/// Whether it is one option, whatever the file system makes of it.
fn is_plain(option: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "=_-.".contains(letter);
    option.chars().all(plain)
}
