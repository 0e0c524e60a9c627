//! EROFS on the host: layers that containerd made of an image. No guest writes to them.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::mount::MountFlags;

use super::loop_device::LoopDevice;
use super::tree;
use crate::roots::{DiskOptions, Form};
use crate::{ErrorKind, SandboxError};

/// Mounts one on the directory that `target` is open on.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for what is no such file system.
pub(super) fn mount(form: &Form<'_>, target: BorrowedFd<'_>) -> Result<(), SandboxError> {
    let DiskOptions {
        flags,
        options,
        devices,
    } = DiskOptions::of(form)?;
    let flags = flags | MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
    let mount = |source: &str, devices: &[String]| {
        let mut data = options.clone();
        data.extend(devices.iter().map(|path| format!("device={path}")));
        tree::mount_on(
            target,
            form.kind.name(),
            source,
            flags,
            &data.join(","),
            None,
        )
    };
    // A kernel older than 6.12 wants block devices.
    let mounted = match mount(&form.mount.source, &devices) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTBLK) => {
            let sources = [&form.mount.source].into_iter().chain(&devices);
            with_block_devices(sources, |source, devices| mount(source, devices))
        }
        mounted => mounted,
    };
    mounted.map_err(|error| {
        let problem = match error.raw_os_error() {
            Some(libc::ENODEV) => "the host's kernel has no EROFS: modprobe erofs".to_owned(),
            _ => error.to_string(),
        };
        form.error(ErrorKind::InvalidArgument, &problem)
    })
}

/// Mounts block devices that are these files, the first with the others.
fn with_block_devices<'a>(
    sources: impl Iterator<Item = &'a String>,
    mount: impl FnOnce(&str, &[String]) -> io::Result<()>,
) -> io::Result<()> {
    let devices: io::Result<Vec<LoopDevice>> = sources
        .map(|path| LoopDevice::of(Path::new(path)))
        .collect();
    // Kept until the mount keeps them.
    let devices = devices?;
    let mut paths = devices
        .iter()
        .map(|device| device.path().display().to_string());
    let first = paths.next().unwrap_or_default();
    mount(&first, &paths.collect::<Vec<_>>())
}
