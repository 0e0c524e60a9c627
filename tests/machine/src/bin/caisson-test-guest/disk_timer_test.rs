#![allow(clippy::unwrap_used)]

use caisson_machine_tests::DiskWork;

use super::{places, time};

const MIB: u64 = 1 << 20;

#[test]
fn threads_write_all_of_the_range_and_nothing_beyond() {
    let disk = tempfile::NamedTempFile::new_in(".").unwrap();
    disk.as_file().set_len(4 * MIB).unwrap();
    let path = disk.path().to_str().unwrap();
    let took = time(path, DiskWork::Write, 4, 2 * MIB).unwrap();
    assert!(took.nanoseconds > 0);
    let content = std::fs::read(path).unwrap();
    let (written, rest) = content.split_at(2 << 20);
    assert!(written.iter().all(|byte| *byte == 0x5a));
    assert!(rest.iter().all(|byte| *byte == 0));
}

#[test]
fn a_disk_that_is_too_small_is_an_error() {
    let disk = tempfile::NamedTempFile::new_in(".").unwrap();
    disk.as_file().set_len(MIB).unwrap();
    let path = disk.path().to_str().unwrap();
    assert!(time(path, DiskWork::Read, 1, MIB).is_ok());
    assert!(time(path, DiskWork::Read, 1, 2 * MIB).is_err());
    assert!(time("/no/such/disk", DiskWork::Read, 1, MIB).is_err());
}

#[test]
fn random_places_lie_on_the_disk_and_differ_between_workers() {
    let disk = tempfile::NamedTempFile::new_in(".").unwrap();
    disk.as_file().set_len(MIB).unwrap();
    let path = disk.path().to_str().unwrap();
    let of = |worker| places(DiskWork::ReadRandomly, path, worker, 100).unwrap();
    assert_eq!(of(0).len(), 100);
    assert!(of(0).iter().all(|place| place % 4096 == 0 && *place < MIB));
    assert_ne!(of(0), of(1));
}
