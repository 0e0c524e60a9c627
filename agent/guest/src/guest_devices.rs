//! The devices of the guest, for privileged containers: on a host without virtual machines they
//! would get those of the host.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType};

/// Where they are.
const ROOT: &str = "/dev";
/// What a container has of its own there.
const OWN: [&str; 5] = ["console", "mqueue", "ptmx", "pts", "shm"];
/// More than a guest has; it keeps a wrong turn from becoming a long one.
const MOST: usize = 1024;

/// Adds the devices of the guest to those that the container is to have.
pub fn add(linux: &mut Linux) {
    let mut devices = linux.devices().clone().unwrap_or_default();
    for device in below(Path::new(ROOT)) {
        if !devices.iter().any(|known| known.path() == device.path()) {
            devices.push(device);
        }
    }
    linux.set_devices(Some(devices));
}

fn below(root: &Path) -> Vec<LinuxDevice> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let own = directory == root && OWN.iter().any(|own| entry.file_name() == *own);
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if own || found.len() >= MOST {
                continue;
            }
            if metadata.is_dir() {
                directories.push(entry.path());
            } else if let Some(device) = device(entry.path(), &metadata) {
                found.push(device);
            }
        }
    }
    found
}

fn device(path: PathBuf, metadata: &fs::Metadata) -> Option<LinuxDevice> {
    let kind = metadata.file_type();
    let typ = if kind.is_char_device() {
        LinuxDeviceType::C
    } else if kind.is_block_device() {
        LinuxDeviceType::B
    } else {
        return None;
    };
    let number = metadata.rdev();
    LinuxDeviceBuilder::default()
        .path(path)
        .typ(typ)
        .major(i64::from(rustix::fs::major(number)))
        .minor(i64::from(rustix::fs::minor(number)))
        .file_mode(metadata.permissions().mode() & 0o7777)
        .uid(metadata.uid())
        .gid(metadata.gid())
        .build()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_privileged_container_gets_the_devices_there_are_and_keeps_its_own() {
        let mut linux = Linux::default();
        let own = LinuxDeviceBuilder::default()
            .path("/dev/null")
            .typ(LinuxDeviceType::C)
            .major(1)
            .minor(3)
            .file_mode(0o600_u32)
            .build()
            .unwrap();
        linux.set_devices(Some(vec![own.clone()]));
        add(&mut linux);
        let devices = linux.devices().clone().unwrap();
        let of = |path: &'static str| {
            devices
                .iter()
                .filter(move |one| one.path() == Path::new(path))
        };
        assert_eq!(of("/dev/null").collect::<Vec<_>>(), [&own]);
        let zero = of("/dev/zero").next().unwrap();
        assert_eq!((zero.major(), zero.minor()), (1, 5));
        assert_eq!(of("/dev/ptmx").count(), 0);
        assert!(
            !devices
                .iter()
                .any(|device| device.path().starts_with("/dev/pts"))
        );
    }
}
