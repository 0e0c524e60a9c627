use super::{DeviceNumber, DiskKey, MAX_DISK_PARTS, MOST, NewDisk, Order, Plugged};
use crate::disks::DiskSource;

/// What tells a file of the tests apart.
fn key(inode: u64) -> DiskKey {
    DiskKey::File { device: 1, inode }
}

fn device(minor: u32) -> DeviceNumber {
    DeviceNumber { major: 254, minor }
}

fn order(source: DiskSource, writable: bool) -> Order {
    Order {
        source,
        writable,
        what: "a layer".to_owned(),
    }
}

/// Files, each to be read.
fn orders(count: usize) -> (Vec<tempfile::NamedTempFile>, Vec<Order>) {
    let files: Vec<_> = (0..count)
        .map(|_| tempfile::NamedTempFile::new().unwrap())
        .collect();
    let orders = files
        .iter()
        .map(|file| order(DiskSource::at(file.path()).unwrap(), false))
        .collect();
    (files, orders)
}

fn disk(slot: u8, keys: impl IntoIterator<Item = DiskKey>) -> NewDisk {
    NewDisk {
        slot,
        writable: false,
        places: keys.into_iter().zip((0..).map(device)).collect(),
        locks: Vec::new(),
    }
}

fn found(plugged: &mut Plugged, key: DiskKey) -> Option<u32> {
    plugged.take(key, false).map(|place| place.unwrap().minor)
}

#[test]
fn a_disk_goes_when_nothing_of_it_is_used() {
    let mut plugged = Plugged::default();
    plugged.add(disk(16, [key(1), key(2), key(3)]));
    plugged.add(disk(17, [key(4)]));
    assert_eq!(found(&mut plugged, key(1)), Some(0));
    assert_eq!(found(&mut plugged, key(3)), Some(2));
    assert_eq!(found(&mut plugged, key(1)), Some(0));
    assert_eq!(found(&mut plugged, key(9)), None);
    assert!(plugged.release(key(9)).is_none());
    assert!(plugged.release(key(1)).is_none());
    assert!(plugged.release(key(1)).is_none());
    // What nobody has had is there as long as the others are.
    assert_eq!(found(&mut plugged, key(2)), Some(1));
    assert!(plugged.release(key(3)).is_none());
    let (slot, locks) = plugged.release(key(2)).unwrap();
    assert_eq!((slot, locks.len()), (16, 0));
    for gone in 1..=3 {
        assert_eq!(found(&mut plugged, key(gone)), None);
    }
    assert_eq!(found(&mut plugged, key(4)), Some(0));
}

#[test]
fn what_is_there_to_read_only_is_not_written() {
    let mut plugged = Plugged::default();
    plugged.add(disk(16, [key(1)]));
    let error = plugged.take(key(1), true).unwrap().unwrap_err();
    assert!(error.to_string().contains("to read only"), "{error}");
    plugged.add(NewDisk {
        writable: true,
        ..disk(17, [key(2)])
    });
    assert!(plugged.take(key(2), true).unwrap().is_ok());
    assert!(plugged.take(key(2), false).unwrap().is_ok());
}

#[test]
fn a_pod_has_so_many_disks() {
    let mut plugged = Plugged::default();
    for slot in 0..MOST {
        plugged.check_room().unwrap();
        plugged.add(disk(slot as u8, [key(slot as u64)]));
    }
    let error = plugged.check_room().unwrap_err();
    assert_eq!(error.to_string(), "a pod can have 16 disks, and has them");
}

#[test]
fn files_to_be_read_are_put_together() {
    let (_files, mut all) = orders(4);
    all.push(order(all[1].source.clone(), false));
    let keys = |together: Vec<&Order>| -> Vec<DiskKey> {
        together.iter().map(|order| order.source.key()).collect()
    };
    let of = |index: usize| all[index].source.key();
    let mut plugged = Plugged::default();
    assert_eq!(
        keys(plugged.together(&all, &all)),
        [of(0), of(1), of(2), of(3)]
    );
    assert_eq!(
        keys(plugged.together(&all[2..], &all)),
        [of(2), of(3), of(1)]
    );
    // Not what is there, and not before it is asked for.
    plugged.add(disk(16, [of(2)]));
    assert_eq!(keys(plugged.together(&all, &all)), [of(0), of(1), of(3)]);
}

#[test]
fn what_is_written_and_what_is_a_device_is_a_disk_alone() {
    let (_files, mut all) = orders(3);
    let number = device(5);
    all[0].writable = true;
    all.insert(1, order(DiskSource::Device(number), false));
    // One that somebody writes to, and somebody else would only read.
    all.push(order(all[0].source.clone(), false));
    let count = |from: usize| Plugged::default().together(&all[from..], &all).len();
    assert_eq!([0, 1, 2, 3, 4].map(count), [1, 1, 2, 1, 1]);
    assert!(Plugged::default().together(&[], &all).is_empty());
}

#[test]
fn a_disk_is_of_so_many_files() {
    let (_files, all) = orders(MAX_DISK_PARTS + 2);
    let plugged = Plugged::default();
    assert_eq!(plugged.together(&all, &all).len(), MAX_DISK_PARTS);
    let rest = &all[MAX_DISK_PARTS..];
    assert_eq!(plugged.together(rest, &all).len(), 2);
}
