//! How the program locks itself in before it looks at the first byte from the guest.
//!
//! It serves requests of a guest that is taken for hostile, as root, because files belong to
//! anybody. So the directory it serves becomes its root directory, there is no other mount in its
//! namespace, it has no network, and of root's capabilities it keeps those without which files
//! could not be given to their owners.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use caisson_jail::{JailError, step};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};
use rustix::thread::CapabilitySet;

/// What is kept of root's capabilities:
/// owners and groups of files (CHOWN, FOWNER, FSETID), access to files of any owner
/// (DAC_OVERRIDE), acting with the ids of the process in the guest when it makes a file (SETUID,
/// SETGID), device nodes in images (MKNOD), and file capabilities (SETFCAP).
///
/// DAC_READ_SEARCH is not among them: with it, files are opened by handle, also those outside the
/// directory. That is why inodes are kept as descriptors, see [`crate::file_system`].
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP);

/// The same by the names that libcap-ng knows.
const KEPT_NAMES: [&str; 8] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "SETUID",
    "SETGID",
    "MKNOD",
    "SETFCAP",
];

/// The number of FSETID, as libcap-ng wants it.
const FSETID: capng::Capability = CapabilitySet::FSETID.bits().trailing_zeros();

/// Makes `directory` the root of a mount namespace of its own, in which nothing else is mounted,
/// and leaves the network. Mounts that appear below the directory outside appear inside as well.
///
/// Returns the directory of the program's own descriptors, `/proc/self/fd`, out of which no path
/// leads: through it the file system opens an inode of which it holds an `O_PATH` descriptor.
pub(crate) fn enter(directory: OwnedFd) -> Result<File, JailError> {
    // The new namespace has its own copy of every mount. The kernel moves the working directory to
    // the copy, which is how we get at the directory in there without knowing its name.
    step("enter the directory", rustix::process::fchdir(&directory))?;
    drop(directory);
    caisson_jail::leave_namespaces()?;
    let own_descriptors = own_descriptors()?;

    // pivot_root wants a mount point. A clone put over the directory is one, and receives new
    // mounts as the original does.
    let clone = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let root = step(
        "clone the directory's mounts",
        rustix::mount::open_tree(CWD, ".", clone),
    )?;
    step(
        "mount the directory",
        rustix::mount::move_mount(
            root.as_fd(),
            "",
            CWD,
            ".",
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        ),
    )?;
    caisson_jail::pivot_into(root.as_fd())?;
    Ok(own_descriptors)
}

/// `/proc/self/fd` as a mount of its own, so that not even `..` leads out of it.
fn own_descriptors() -> Result<File, JailError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    step(
        "open /proc/self/fd",
        rustix::mount::open_tree(CWD, "/proc/self/fd", flags),
    )
    .map(File::from)
}

/// Gives up every privilege but [`KEPT`], for good.
pub(crate) fn drop_privileges() -> Result<(), JailError> {
    // A file's mode is what the guest says, not what is left of it.
    rustix::process::umask(rustix::fs::Mode::empty());
    caisson_jail::keep_capabilities(KEPT)
}

/// Sees to it that libcap-ng's record of our capabilities is right before a request is served.
///
/// With that library the file system takes FSETID off and on, so that the kernel removes
/// set-user-id bits when somebody else writes to a file; if the record lacks it, nothing happens,
/// silently. And the record does go wrong: at first it would be made from files in /proc, where
/// they can no longer be read, and each time a file is made for another user it is taken while
/// there are no other capabilities, and stays like that. It belongs to the calling thread.
pub(crate) fn refresh_record() -> Result<(), JailError> {
    if capng::have_capability(capng::Type::EFFECTIVE, FSETID) {
        return Ok(());
    }
    capng::clear(capng::Set::BOTH);
    let sets = capng::Type::PERMITTED | capng::Type::EFFECTIVE;
    let kept = KEPT_NAMES.to_vec();
    let recorded = capng::updatev(capng::Action::ADD, sets, kept).map_err(|_| Errno::INVAL);
    step("record its capabilities", recorded)
}
