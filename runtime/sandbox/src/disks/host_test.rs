use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;

use rustix::fs::{FileType, OFlags};

use super::{HostDisk, HostDiskError};
use crate::disks::DeviceNumber;
use crate::disks::loop_device::LoopDevice;

fn number(device: &LoopDevice) -> DeviceNumber {
    let (major, minor) = device.number;
    DeviceNumber { major, minor }
}

#[test]
fn a_device_that_is_not_there_or_holds_nothing_is_refused() {
    let absent = DeviceNumber::new(4095, 1_048_575).unwrap();
    let error = HostDisk::open(absent, false).unwrap_err();
    assert!(matches!(error, HostDiskError::Absent), "{error}");

    let devices = fs::read_dir("/sys/dev/block").into_iter().flatten();
    let empty = devices.flatten().find_map(|device| {
        let size = fs::read_to_string(device.path().join("size")).ok()?;
        let name = device.file_name().into_string().ok()?;
        let (major, minor) = name.split_once(':')?;
        // Not a loop device: another test may be about to use it.
        let unused = size.trim() == "0" && major != "7";
        unused.then(|| DeviceNumber::new(major.parse().unwrap(), minor.parse().unwrap()))?
    });
    let Some(empty) = empty else {
        eprintln!("skipped in part: this machine has no empty block device");
        return;
    };
    let error = HostDisk::open(empty, false).unwrap_err();
    assert!(matches!(error, HostDiskError::Empty), "{empty}: {error}");
}

#[test]
fn a_device_is_opened_by_its_number_and_to_read_only_if_it_may_not_be_written() {
    let Some(device) = LoopDevice::new(false) else {
        return;
    };
    for writable in [false, true] {
        let disk = HostDisk::open(number(&device), writable).unwrap();
        assert_eq!(disk.read_only, !writable, "{}", device.name);
        let status = rustix::fs::fstat(&disk.file).unwrap();
        assert_eq!(
            FileType::from_raw_mode(status.st_mode),
            FileType::BlockDevice
        );
        let (major, minor) = device.number;
        assert_eq!(status.st_rdev, rustix::fs::makedev(major, minor));
        let flags = rustix::fs::fcntl_getfl(&disk.file).unwrap();
        let way = if writable {
            OFlags::RDWR
        } else {
            OFlags::RDONLY
        };
        assert_eq!(flags & OFlags::RWMODE, way);
        assert!(flags.contains(OFlags::DIRECT));
    }
    // It is that device: what is in its file is what is read.
    device.file.as_file().write_all_at(b"hello", 0).unwrap();
    device.file.as_file().sync_all().unwrap();
    let disk = HostDisk::open(number(&device), false).unwrap();
    let flags = rustix::fs::fcntl_getfl(&disk.file).unwrap();
    rustix::fs::fcntl_setfl(&disk.file, flags - OFlags::DIRECT).unwrap();
    let mut text = [0; 5];
    fs::File::from(disk.file).read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello");
}

#[test]
fn a_device_that_cannot_be_written_is_a_disk_to_read_only() {
    let Some(device) = LoopDevice::new(true) else {
        return;
    };
    let disk = HostDisk::open(number(&device), true).unwrap();
    assert!(disk.read_only);
}
