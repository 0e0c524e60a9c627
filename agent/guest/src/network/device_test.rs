use std::fs;
use std::path::Path;

use caisson_protocol::agent::Interface;

use super::find_all_below;
use crate::error::AgentError;

/// What sysfs shows of an interface in a slot.
fn plug(pci: &Path, slot: &str, name: &str, index: u32, flags: &str) {
    let interface = pci.join(format!("devices/0000:00:{slot}.0/virtio{index}/net/{name}"));
    fs::create_dir_all(&interface).unwrap();
    fs::write(interface.join("ifindex"), format!("{index}\n")).unwrap();
    fs::write(interface.join("flags"), format!("{flags}\n")).unwrap();
}

fn in_slot(slot: u32) -> Interface {
    Interface {
        slot,
        name: "net1".to_owned(),
        ..Default::default()
    }
}

#[test]
fn a_device_is_found_by_its_slot() {
    let pci = tempfile::tempdir().unwrap();
    plug(pci.path(), "04", "eth0", 2, "0x1002");
    plug(pci.path(), "1f", "eth1", 3, "0x1003");
    let interfaces = [in_slot(31), in_slot(4)];
    let found = find_all_below(pci.path(), &interfaces).unwrap();
    let [(first, _), (second, _)] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(
        (first.index, first.name.as_str(), first.is_up),
        (3, "eth1", true)
    );
    assert_eq!(
        (second.index, second.name.as_str(), second.is_up),
        (2, "eth0", false)
    );
}

#[test]
fn the_bus_is_searched_for_what_is_missing_and_then_its_slot_is_named() {
    let pci = tempfile::tempdir().unwrap();
    fs::create_dir_all(pci.path().join("devices/0000:00:05.0/virtio1")).unwrap();
    let error = find_all_below(pci.path(), &[in_slot(5)]).unwrap_err();
    assert!(
        matches!(error, AgentError::FailedPrecondition(_)),
        "{error}"
    );
    assert!(error.to_string().contains("slot 5"), "{error}");
    assert_eq!(fs::read_to_string(pci.path().join("rescan")).unwrap(), "1");
}
