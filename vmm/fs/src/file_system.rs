//! The file system with its settings. They are the same for every pod.

use std::fs::File;
use std::io;
use std::time::Duration;

use virtiofsd::passthrough::{
    CachePolicy, Config, InodeFileHandlesMode, NegotiationMode, PassthroughFs,
};

use crate::private_roots::PrivateRoots;

/// How long the guest may believe names and attributes without asking again, where
/// [`PrivateRoots`] does not say otherwise. Files below the directory also change on the host (config
/// maps, volumes shared by pods), and a second is what other runtimes and their users have got used to.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Descriptors the program needs for itself, of the number that it may open. Only a few dozen
/// really: sockets, eventfds, one for each region of guest memory.
pub(crate) const RESERVED: u64 = 128;

/// Opens the root directory as a file system; `open_files` is how many files may be open.
///
/// # Errors
/// Fails when the directory or `own_descriptors` cannot be used.
pub(crate) fn open(own_descriptors: File, open_files: u64) -> io::Result<PrivateRoots> {
    let guest_fd_limit = open_files.checked_sub(RESERVED).ok_or_else(|| {
        io::Error::other(format!(
            "only {open_files} files may be open, more than {RESERVED} are needed; raise the \
             limit of open files (RLIMIT_NOFILE)"
        ))
    })?;
    let served = PassthroughFs::new(Config {
        entry_timeout: TIMEOUT,
        attr_timeout: TIMEOUT,
        // Close-to-open consistency: what another pod or the host wrote is seen at the next open.
        cache_policy: CachePolicy::Auto,
        // The guest would hold back what others should see.
        writeback: false,
        root_dir: "/".into(),
        proc_sfd_rawfd: Some(own_descriptors),
        // File capabilities and overlay mounts inside the guest need them.
        xattr: true,
        posix_acl: NegotiationMode::Auto,
        security_label: NegotiationMode::Never,
        // Each root file system is a mount of its own below the directory, and inode numbers
        // repeat among them. The guest gives each its own st_dev.
        announce_submounts: true,
        // Handles would save descriptors, but opening one takes CAP_DAC_READ_SEARCH, with which
        // every file of the host's file system can be opened, inside the directory or not.
        inode_file_handles: InodeFileHandlesMode::Never,
        readdirplus: true,
        // A database that asks for O_DIRECT has its reasons.
        allow_direct_io: true,
        // Set-user-id bits and file capabilities go when another user writes to the file.
        killpriv_v2: true,
        guest_fd_limit,
        ..Config::default()
    })?;
    Ok(PrivateRoots::new(served))
}
