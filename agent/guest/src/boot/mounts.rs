//! The guest's file systems.
//!
//! An initramfs lives in the kernel's first mount, which cannot be exchanged by `pivot_root(2)`, so
//! no container could leave it. Hence the first thing is a tmpfs over it. The agent's own program
//! stays where it is and is reached through `/proc/self/exe`.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use caisson_protocol::{SHARED_PATH, SHARED_TAG};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_move, mount_remount, unmount};

/// A file system to mount.
struct FileSystem {
    kind: &'static str,
    at: &'static str,
    flags: MountFlags,
    /// Options, the best first; the next ones are for kernels that do not know the one before.
    data: &'static [&'static CStr],
    /// The kernel option that provides it.
    option: &'static str,
}

const NO_PROGRAMS: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// What is needed to look at the kernel and to say hello.
const FIRST: [FileSystem; 4] = [
    FileSystem {
        kind: "proc",
        at: "/proc",
        flags: NO_PROGRAMS,
        data: &[c""],
        option: "CONFIG_PROC_FS",
    },
    FileSystem {
        kind: "sysfs",
        at: "/sys",
        flags: NO_PROGRAMS,
        data: &[c""],
        option: "CONFIG_SYSFS",
    },
    FileSystem {
        kind: "devtmpfs",
        at: "/dev",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        data: &[c"mode=755"],
        option: "CONFIG_DEVTMPFS",
    },
    FileSystem {
        kind: "cgroup2",
        at: "/sys/fs/cgroup",
        flags: NO_PROGRAMS,
        // nsdelegate: a cgroup namespace may not be left by moving processes. favordynmods (since
        // 6.0): moving a process into a group does not wait for a grace period of RCU. Measured at
        // 250 Hz, that wait is 10.7 ms for every container and every exec, without it 0.9 ms.
        data: &[c"nsdelegate,favordynmods", c"nsdelegate"],
        option: "CONFIG_CGROUPS",
    },
];

/// What only processes of the guest's own namespaces need, after the hello.
const LATER: [FileSystem; 3] = [
    FileSystem {
        kind: "devpts",
        at: "/dev/pts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        data: &[c"gid=5,mode=620,ptmxmode=666"],
        option: "CONFIG_UNIX98_PTYS",
    },
    FileSystem {
        kind: "tmpfs",
        at: "/dev/shm",
        flags: NO_PROGRAMS,
        data: &[c"mode=1777"],
        option: "CONFIG_TMPFS",
    },
    FileSystem {
        kind: "mqueue",
        at: "/dev/mqueue",
        flags: NO_PROGRAMS,
        data: &[c""],
        option: "CONFIG_POSIX_MQUEUE",
    },
];

/// Moves the root away from the initramfs. Containers can be made in the new root.
///
/// # Errors
/// What the kernel answers; without tmpfs there is no guest.
pub fn leave_initramfs() -> io::Result<()> {
    const NEW: &str = "/new-root";
    create_directory(Path::new(NEW), 0o755)?;
    mount("tmpfs", NEW, "tmpfs", MountFlags::NODEV, c"mode=755")?;
    rustix::process::chdir(NEW)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")?;
    // tmpfs on /run, the usual place for state, is this tmpfs.
    create_directory(Path::new("/run"), 0o755)
}

/// Mounts what is needed first. Answers with the options of the kernel that are missing.
///
/// # Errors
/// When a mount fails for any other reason.
pub fn mount_first() -> io::Result<Vec<&'static str>> {
    mount_all(&FIRST)
}

/// Mounts the rest. Answers as [`mount_first`].
///
/// # Errors
/// As [`mount_first`].
pub fn mount_later() -> io::Result<Vec<&'static str>> {
    mount_all(&LATER)
}

fn mount_all(file_systems: &[FileSystem]) -> io::Result<Vec<&'static str>> {
    let mut missing = Vec::new();
    for file_system in file_systems {
        let result = file_system.mount();
        match result {
            Ok(()) => {}
            // The kernel does not know this kind, or has not made its place in another.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENODEV | libc::ENOENT | libc::EPERM)
                ) =>
            {
                missing.push(file_system.option);
            }
            Err(error) => {
                let FileSystem { kind, at, .. } = file_system;
                return Err(io::Error::new(
                    error.kind(),
                    format!("cannot mount {kind} on {at}: {error}"),
                ));
            }
        }
    }
    Ok(missing)
}

impl FileSystem {
    fn mount(&self) -> io::Result<()> {
        create_directory(Path::new(self.at), 0o755)?;
        let mut result = Ok(());
        for data in self.data {
            result = mount(self.kind, self.at, self.kind, self.flags, *data);
            if result != Err(Errno::INVAL) {
                break;
            }
        }
        match result {
            // Mounted by the kernel already.
            Err(Errno::BUSY) => Ok(()),
            result => Ok(result?),
        }
    }
}

/// Mounts the directory the host shares with the pod.
///
/// # Errors
/// What the kernel answers; a machine without the device is `EINVAL`.
pub fn mount_shared() -> io::Result<()> {
    fs::create_dir_all(SHARED_PATH)?;
    Ok(mount(
        SHARED_TAG,
        SHARED_PATH,
        "virtiofs",
        MountFlags::NODEV,
        None,
    )?)
}

/// Says how many bytes the shared memory of the pod may hold.
///
/// # Errors
/// What the kernel answers, for example when it already holds more.
pub fn limit_shared_memory(size: u64) -> io::Result<()> {
    let data = std::ffi::CString::new(format!("size={size}"))?;
    Ok(mount_remount("/dev/shm", NO_PROGRAMS, data.as_c_str())?)
}

/// Unmounts that directory, so that the host's file server sees an orderly end.
pub fn unmount_shared() {
    // It may never have been mounted.
    let _ = unmount(SHARED_PATH, UnmountFlags::DETACH);
}

fn create_directory(path: &Path, mode: u32) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(mode)),
    }
}
