use std::fs;
use std::path::Path;

use super::{Number, add_below, remove_below};
use crate::error::AgentError;

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
    let found = add_below(pci.path(), 5).unwrap();
    assert_eq!(
        found,
        Number {
            major: 254,
            minor: 32
        }
    );
    assert!(!pci.path().join("rescan").exists(), "it was there already");
}

#[test]
fn the_bus_is_searched_for_a_disk_that_is_missing_and_then_its_slot_is_named() {
    let pci = tempfile::tempdir().unwrap();
    let error = add_below(pci.path(), 5).unwrap_err();
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
    let error = add_below(pci.path(), 5).unwrap_err();
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
