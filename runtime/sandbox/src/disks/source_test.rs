use std::fs;
use std::os::unix::fs::symlink;

use rustix::fs::OFlags;

use super::{DiskKey, DiskSource};
use crate::disks::DeviceNumber;
use crate::disks::host::HostDiskError;
use crate::disks::loop_device::LoopDevice;

#[test]
fn a_file_is_opened_as_it_is_wanted_and_locked_until_it_is_let_go_of() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    fs::write(&path, vec![0; 4096]).unwrap();
    let link = directory.path().join("link");
    symlink(&path, &link).unwrap();
    let source = DiskSource::at(&path).unwrap();
    assert_eq!(source.key(), DiskSource::at(&link).unwrap().key());
    assert!(source.key().serial().len() <= 20);

    let writer = source.open(true).unwrap();
    assert!(!writer.read_only && !writer.direct);
    let flags = rustix::fs::fcntl_getfl(&writer.file).unwrap();
    assert_eq!(flags & OFlags::RWMODE, OFlags::RDWR);
    for writable in [true, false] {
        let error = DiskSource::at(&path).unwrap().open(writable).unwrap_err();
        assert!(matches!(error, HostDiskError::InUse), "{error}");
    }
    // The VMM's descriptor may live a moment longer.
    let file = writer.file;
    drop(writer.lock);
    let readers = [source.open(false).unwrap(), source.open(false).unwrap()];
    for reader in &readers {
        let flags = rustix::fs::fcntl_getfl(&reader.file).unwrap();
        assert_eq!(flags & OFlags::RWMODE, OFlags::RDONLY);
        assert!(reader.read_only);
    }
    let error = source.open(true).unwrap_err();
    assert!(matches!(error, HostDiskError::InUse), "{error}");
    drop((readers, file));
    source.open(true).unwrap();
}

#[test]
fn what_is_looked_up_stays_what_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let content = |letter: &str| letter.repeat(512);
    fs::write(&path, content("1")).unwrap();
    let source = DiskSource::at(&path).unwrap();
    fs::rename(&path, directory.path().join("moved")).unwrap();
    fs::write(&path, content("2")).unwrap();
    let disk = source.open(false).unwrap();
    assert_eq!(
        std::io::read_to_string(fs::File::from(disk.file)).unwrap(),
        content("1")
    );
}

#[test]
fn only_files_and_block_devices_are_disks() {
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("absent");
    let error = DiskSource::at(&absent).unwrap_err();
    assert!(matches!(error, HostDiskError::Missing(_)), "{error}");
    for path in [directory.path(), "/dev/null".as_ref()] {
        let error = DiskSource::at(path).unwrap_err();
        assert!(matches!(error, HostDiskError::Kind), "{error}");
    }
}

#[test]
fn a_device_at_a_path_is_the_one_of_its_number() {
    let (Some(device), Some(fixed)) = (LoopDevice::new(false), LoopDevice::new(true)) else {
        return;
    };
    let at =
        |device: &LoopDevice| DiskSource::at(format!("/dev/{}", device.name).as_ref()).unwrap();
    let (major, minor) = device.number;
    let source = at(&device);
    assert_eq!(source.key(), DiskKey::Device(DeviceNumber { major, minor }));
    let disk = source.open(true).unwrap();
    assert_eq!(device.file.as_file().metadata().unwrap().len(), 1 << 20);
    assert!(disk.direct && !disk.read_only);
    let flags = rustix::fs::fcntl_getfl(&disk.file).unwrap();
    assert!(flags.contains(OFlags::DIRECT));
    assert!(matches!(at(&device).open(false), Err(HostDiskError::InUse)));
    drop(disk);
    assert!(at(&device).open(false).unwrap().read_only);

    let error = at(&fixed).open(true).unwrap_err();
    assert!(
        matches!(error, HostDiskError::Refused("writing", _)),
        "{error}"
    );
    at(&fixed).open(false).unwrap();
}

#[test]
fn a_file_that_is_not_in_sectors_is_refused_with_its_size() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let source = DiskSource::at(file.path()).unwrap();
    for bytes in [0, 1, 511, 4097] {
        file.as_file().set_len(bytes).unwrap();
        let error = source.open(false).unwrap_err();
        assert!(
            matches!(error, HostDiskError::Size(size) if size == bytes),
            "{error}"
        );
    }
    file.as_file().set_len(1024).unwrap();
    assert_eq!(source.open(false).unwrap().bytes, 1024);
}
