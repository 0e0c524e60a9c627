//! Devices that a container is to have elsewhere than below /dev, where the library makes none.
//!
//! As on a host without virtual machines, they may be at any path. The container's root file system
//! is one of the host, where a node with a number of the guest would mean another device: so the
//! node is made in the guest's memory, and mounted where it is wanted.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount, MountBuilder, Spec};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

/// Where the library makes devices.
const DEVICES: &str = "/dev";
/// Their directory in the bundle, with which they go.
const PLACE: &str = "devices";
/// The permissions of a device of which nothing is said, as runc has them.
const ANYBODY: u32 = 0o666;

/// Makes mounts of the devices of `spec` that are not below /dev. Their nodes are in `bundle`.
///
/// # Errors
/// When a node cannot be made.
pub fn place(bundle: &Path, spec: &mut Spec) -> io::Result<()> {
    let Some(linux) = spec.linux_mut() else {
        return Ok(());
    };
    let devices = linux.devices().clone().unwrap_or_default();
    let (usual, placed): (Vec<_>, Vec<_>) = devices
        .into_iter()
        .partition(|device| device.path().starts_with(DEVICES));
    if placed.is_empty() {
        return Ok(());
    }
    linux.set_devices(Some(usual));
    let directory = bundle.join(PLACE);
    fs::create_dir(&directory)?;
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for (number, device) in placed.iter().enumerate() {
        let node = directory.join(number.to_string());
        make(&node, device)?;
        mounts.push(mount(node, device.path().clone())?);
    }
    spec.set_mounts(Some(mounts));
    Ok(())
}

fn make(node: &Path, device: &LinuxDevice) -> io::Result<()> {
    let number = || {
        let part = |part: i64| u32::try_from(part).map_err(|_| io::ErrorKind::InvalidInput);
        Ok::<_, io::Error>(makedev(part(device.major())?, part(device.minor())?))
    };
    let (kind, number) = match device.typ() {
        LinuxDeviceType::P => (FileType::Fifo, 0),
        LinuxDeviceType::B => (FileType::BlockDevice, number()?),
        _ => (FileType::CharacterDevice, number()?),
    };
    mknodat(CWD, node, kind, Mode::empty(), number)?;
    let owner = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    chown(node, Some(owner.0), Some(owner.1))?;
    // Not when it is made, where the agent's umask counts.
    let mode = device.file_mode().unwrap_or(ANYBODY) & 0o7777;
    fs::set_permissions(node, Permissions::from_mode(mode))
}

fn mount(node: PathBuf, path: PathBuf) -> io::Result<Mount> {
    let mount = MountBuilder::default()
        .source(node)
        .destination(path)
        .typ("bind")
        // What is in the guest's memory is mounted without devices.
        .options(vec!["bind".to_owned(), "rdev".to_owned()])
        .build();
    mount.map_err(io::Error::other)
}
