use std::cell::RefCell;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use caisson_protocol::MAX_DISK_PARTS;
use caisson_protocol::agent::{AddDiskRequest, DiskNumber, DiskPart};

use super::{add, find, number, remove_below, take_apart};
use crate::error::AgentError;
use crate::partition;

fn part(offset: u64, bytes: u64) -> DiskPart {
    DiskPart {
        offset,
        bytes,
        ..Default::default()
    }
}

fn numbered(major: u32, minor: u32) -> DiskNumber {
    DiskNumber {
        major,
        minor,
        ..Default::default()
    }
}

/// What sysfs shows of a disk in slot 5.
fn plug(pci: &Path, name: &str, number: &str) {
    let disk = pci.join(format!("devices/0000:00:05.0/virtio3/block/{name}"));
    fs::create_dir_all(&disk).unwrap();
    fs::write(disk.join("dev"), number).unwrap();
}

#[test]
fn a_disk_is_found_by_its_slot() {
    let pci = tempfile::tempdir().unwrap();
    plug(pci.path(), "vdc", "254:32\n");
    let found = find(pci.path(), 5).unwrap();
    assert_eq!(number(&found).unwrap(), numbered(254, 32));
    assert!(!pci.path().join("rescan").exists(), "it was there already");
}

#[test]
fn the_bus_is_searched_for_a_disk_that_is_missing_and_then_its_slot_is_named() {
    let pci = tempfile::tempdir().unwrap();
    let error = find(pci.path(), 5).unwrap_err();
    assert!(
        matches!(error, AgentError::FailedPrecondition(_)),
        "{error}"
    );
    assert!(error.to_string().contains("slot 5"), "{error}");
    assert_eq!(fs::read_to_string(pci.path().join("rescan")).unwrap(), "1");
}

#[test]
fn a_number_that_is_none_is_an_error() {
    let pci = tempfile::tempdir().unwrap();
    plug(pci.path(), "vda", "253\n");
    let error = number(&find(pci.path(), 5).unwrap()).unwrap_err();
    assert!(error.to_string().contains("253"), "{error}");
}

#[test]
fn a_disk_is_written_to_and_let_go_of() {
    let (pci, nodes) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    plug(pci.path(), "vda", "254:0\n");
    let released = || fs::read_to_string(pci.path().join("devices/0000:00:05.0/remove"));
    // Without its node it cannot be written to; it is let go of all the same.
    let error = remove_below(pci.path(), nodes.path(), 5).unwrap_err();
    assert!(error.to_string().contains("write what is left"), "{error}");
    assert_eq!(released().unwrap(), "1");
    fs::write(nodes.path().join("vda"), "").unwrap();
    remove_below(pci.path(), nodes.path(), 5).unwrap();
    // Nothing is there, and nothing is done.
    remove_below(pci.path(), nodes.path(), 6).unwrap();
    assert!(!pci.path().join("devices/0000:00:06.0").exists());
}

#[test]
fn the_parts_of_a_disk_are_told_to_the_kernel_and_found() {
    let (pci, nodes) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    plug(pci.path(), "vdb", "254:16\n");
    let disk = find(pci.path(), 5).unwrap();
    let told = RefCell::new(Vec::new());
    let add = |_: &File, count: u8, start, length| {
        told.borrow_mut().push((count, start, length));
        let directory = disk.join(format!("vdb{count}"));
        fs::create_dir(&directory)?;
        fs::write(directory.join("dev"), format!("259:{count}\n"))
    };
    let parts = [part(0, 512), part(4096, 8192), part(16384, 512)];
    // Without its node nothing is told.
    take_apart(&disk, nodes.path(), &parts, add).unwrap_err();
    assert!(told.borrow().is_empty());
    fs::write(nodes.path().join("vdb"), "").unwrap();
    let found = take_apart(&disk, nodes.path(), &parts, add).unwrap();
    assert_eq!(
        found,
        [numbered(259, 1), numbered(259, 2), numbered(259, 3)]
    );
    assert_eq!(
        told.into_inner(),
        [(1, 0, 512), (2, 4096, 8192), (3, 16384, 512)]
    );

    let refuse = |_: &File, _, _, _| Err(io::ErrorKind::InvalidInput.into());
    let error = take_apart(&disk, nodes.path(), &parts, refuse).unwrap_err();
    assert!(error.to_string().contains("part 1 of a disk"), "{error}");
}

#[test]
fn more_parts_than_there_can_be_are_refused() {
    let request = AddDiskRequest {
        slot: 5,
        parts: vec![part(0, 512); MAX_DISK_PARTS + 1],
        ..Default::default()
    };
    let error = add(&request).unwrap_err();
    assert!(matches!(error, AgentError::InvalidArgument(_)), "{error}");
}

#[test]
fn what_is_no_disk_has_no_parts() {
    let file = tempfile::tempfile().unwrap();
    let error = partition::add(&file, 1, 0, 512).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    let error = partition::add(&file, 1, 1 << 63, 512).unwrap_err();
    assert_eq!(error.raw_os_error(), None);
}
