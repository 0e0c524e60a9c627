use super::{Extent, Geometry, Request, Status, extent, kind, parse};
use crate::virtio::mock_driver::{MockDriver, guest_ram};

/// 100 blocks of 4 KiB.
const GEOMETRY: Geometry = Geometry {
    bytes: 409_600,
    block_size: 4096,
    read_only: false,
};

#[test]
fn only_whole_blocks_can_be_asked_for() {
    let whole = Extent {
        offset: 4096,
        length: 8192,
    };
    assert_eq!(extent(8, 8192, GEOMETRY), Ok(whole));
    for (sector, length) in [(8, 512), (1, 4096), (7, 4608), (8, 4095)] {
        assert_eq!(extent(sector, length, GEOMETRY), Err(Status::IoError));
    }
}

#[test]
fn the_last_block_is_the_last() {
    assert!(extent(792, 4096, GEOMETRY).is_ok());
    assert!(extent(800, 0, GEOMETRY).is_ok());
    for (sector, length) in [
        (792, 8192),
        (800, 4096),
        (808, 0),
        (u64::MAX, 4096),
        (u64::MAX / 512, 4096),
        (u64::MAX / 512 - 7, u64::MAX),
        (0, u64::MAX),
    ] {
        let result = extent(sector, length, GEOMETRY);
        assert_eq!(result, Err(Status::IoError), "{sector} {length}");
    }
}

#[test]
fn a_header_is_copied_once() {
    let mut driver = MockDriver::new(&guest_ram(), 0x1000, 8);
    driver.write(0x8000, &kind::IN.to_le_bytes());
    driver.write(0x8008, &8u64.to_le_bytes());
    driver.add(&[(0x8000, 16, false), (0x9000, 4097, true)]);
    let chain = driver.queue(0).unwrap().pop().unwrap().unwrap();
    let request = parse(&chain, GEOMETRY).unwrap();
    // What the driver writes later changes nothing.
    driver.write(0x8008, &u64::MAX.to_le_bytes());
    let wanted = Extent {
        offset: 4096,
        length: 4096,
    };
    assert_eq!(request, Request::Read(wanted));
    assert_eq!(request.cost(), 4096);
}
