//! The mounts of the outer machine.

use std::ffi::CStr;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::mount::{self, MountFlags, UnmountFlags};

use crate::devices;

const NOSUID_NODEV_NOEXEC: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// Where the second disk is mounted while its directories are bound to their places.
const SECOND_DISK: &str = "/mnt";

/// mount(2) with an error that says what and where.
pub(crate) fn attach(
    source: &str,
    target: &str,
    kind: &str,
    flags: MountFlags,
    data: &CStr,
) -> Result<()> {
    mount::mount(source, target, kind, flags, data)
        .with_context(|| format!("mounting {kind} on {target}"))
}

/// /proc, /sys and /dev, still in the initramfs.
pub(crate) fn kernel_file_systems() -> Result<()> {
    attach("proc", "/proc", "proc", NOSUID_NODEV_NOEXEC, c"")?;
    attach("sysfs", "/sys", "sysfs", NOSUID_NODEV_NOEXEC, c"")?;
    attach(
        "devtmpfs",
        "/dev",
        "devtmpfs",
        MountFlags::NOSUID,
        c"mode=755",
    )
}

/// Mounts the first persistent-memory disk and makes it the root.
pub(crate) fn switch_to_root_disk() -> Result<()> {
    devices::load_modules("disk")?;
    devices::wait_for(Path::new("/dev/pmem0"))?;
    attach("/dev/pmem0", "/root", "ext4", MountFlags::NOATIME, c"")?;
    for directory in ["/proc", "/sys", "/dev"] {
        mount::mount_move(directory, format!("/root{directory}"))
            .with_context(|| format!("moving {directory}"))?;
    }
    // The initramfs stays under the new root for ever: give its memory back first.
    fs::remove_dir_all("/modules").context("removing /modules")?;
    rustix::process::chdir("/root").context("entering the root disk")?;
    mount::mount_move(".", "/").context("moving the root disk to /")?;
    rustix::process::chroot(".").context("chroot")?;
    rustix::process::chdir("/").context("entering the new root")
}

/// What an init system mounts, and the settings containers and pod networks need.
pub(crate) fn machine_file_systems() -> Result<()> {
    let private = MountFlags::NOSUID | MountFlags::NODEV;
    attach("tmpfs", "/run", "tmpfs", private, c"mode=755")?;
    attach("tmpfs", "/tmp", "tmpfs", private, c"mode=1777")?;
    for directory in ["/dev/pts", "/dev/shm", "/dev/mqueue", "/run/lock"] {
        fs::create_dir_all(directory).with_context(|| format!("creating {directory}"))?;
    }
    attach(
        "devpts",
        "/dev/pts",
        "devpts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        c"mode=620,gid=5,ptmxmode=666",
    )?;
    attach("tmpfs", "/dev/shm", "tmpfs", private, c"mode=1777")?;
    attach("mqueue", "/dev/mqueue", "mqueue", NOSUID_NODEV_NOEXEC, c"")?;
    attach(
        "cgroup2",
        "/sys/fs/cgroup",
        "cgroup2",
        NOSUID_NODEV_NOEXEC,
        c"",
    )?;
    attach(
        "debugfs",
        "/sys/kernel/debug",
        "debugfs",
        NOSUID_NODEV_NOEXEC,
        c"",
    )?;
    attach(
        "tracefs",
        "/sys/kernel/tracing",
        "tracefs",
        NOSUID_NODEV_NOEXEC,
        c"",
    )?;
    for (name, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, name).with_context(|| format!("linking {name}"))?;
    }
    enable_controllers()?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("ip_forward")?;
    // CNI plugins and `mount --make-rshared` users expect what systemd sets.
    mount::mount_change(
        "/",
        mount::MountPropagationFlags::SHARED | mount::MountPropagationFlags::REC,
    )
    .context("making / shared")?;
    rustix::system::sethostname(b"testbed").context("setting the host name")
}

fn enable_controllers() -> Result<()> {
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")?;
    for controller in controllers.split_ascii_whitespace() {
        fs::write(
            "/sys/fs/cgroup/cgroup.subtree_control",
            format!("+{controller}"),
        )
        .with_context(|| format!("enabling the {controller} controller"))?;
    }
    Ok(())
}

/// Puts the directories of the second disk, which mirror the root's, into their places.
///
/// They are writable: what is written lands in this machine's private copy of the disk.
pub(crate) fn installed_files() -> Result<()> {
    devices::wait_for(Path::new("/dev/pmem1"))?;
    attach("/dev/pmem1", SECOND_DISK, "ext4", MountFlags::NOATIME, c"")?;
    for directory in caisson_testbed::INSTALLED_DIRECTORIES {
        let source = Path::new(SECOND_DISK).join(directory.trim_start_matches('/'));
        if source.is_dir() {
            mount::mount_bind(&source, *directory)
                .with_context(|| format!("binding {directory}"))?;
        }
    }
    // The bind mounts keep the disk; its own place in the tree would only confuse.
    mount::unmount(SECOND_DISK, UnmountFlags::DETACH).context("unmounting the second disk")
}

/// Mounts the host's shared directory on /share.
pub(crate) fn share() -> Result<()> {
    // cache=mmap: files may be mapped writable, everything else is written through at once.
    attach(
        "share",
        "/share",
        "9p",
        MountFlags::NOSUID,
        c"trans=virtio,version=9p2000.L,msize=512000,cache=mmap",
    )
}

/// Everything written to /share reaches the host.
pub(crate) fn flush_share() -> Result<()> {
    let share = File::open("/share").context("opening /share")?;
    rustix::fs::syncfs(&share).context("writing /share back")
}
