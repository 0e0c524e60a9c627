//! Rings, tables and buffers at the hole in guest memory between 3 and 4 GiB.

use std::sync::Arc;

use super::super::QueueError;
use crate::memory::{Backing, GuestRam, HIGH_RAM_START, HOLE_START};
use crate::virtio::mock_driver::{INDIRECT, MockDriver, NEXT, WRITE};

/// A driver of 8 descriptors, in memory on both sides of the hole.
fn driver() -> MockDriver {
    let mib = (HOLE_START >> 20) + 2;
    let memory = Arc::new(GuestRam::new(mib, Backing::Private).unwrap());
    MockDriver::new(&memory, 0x1000, 8)
}

fn pop_error(driver: &mut MockDriver, descriptor: (u64, u32, u16, u16)) -> QueueError {
    driver.write_descriptor(0, descriptor);
    driver.make_available(0);
    driver.queue(0).unwrap().pop().unwrap_err()
}

#[test]
fn a_chain_may_have_buffers_on_both_sides() {
    let mut driver = driver();
    driver.write(HOLE_START - 3, b"abc");
    driver.write(HIGH_RAM_START, b"def");
    driver.add(&[(HOLE_START - 3, 3, false), (HIGH_RAM_START, 3, false)]);
    let chain = driver.queue(0).unwrap().pop().unwrap().unwrap();
    let text: [u8; 6] = chain.reader().read_object().unwrap();
    assert_eq!(text, *b"abcdef");
}

#[test]
fn a_buffer_does_not_reach_across() {
    let whole_hole = u32::try_from(HIGH_RAM_START - HOLE_START).unwrap();
    for (address, length) in [
        (HOLE_START - 1, 2),
        (HOLE_START - 1, whole_hole + 2),
        (HOLE_START, whole_hole),
        (HIGH_RAM_START - 1, 1),
        (HIGH_RAM_START - 1, 2),
    ] {
        for flags in [0, WRITE] {
            assert!(matches!(
                pop_error(&mut driver(), (address, length, flags, 0)),
                QueueError::BufferOutsideMemory { address: a, length: l }
                    if a == address && l == length
            ));
        }
    }
}

#[test]
fn an_indirect_table_does_not_reach_across() {
    let mut driver = driver();
    let table = HOLE_START - 16;
    driver.write_descriptor_at(table, 0, (0x10_0000, 1, NEXT, 1));
    assert!(matches!(
        pop_error(&mut driver, (table, 32, INDIRECT, 0)),
        QueueError::DescriptorOutsideMemory { index: 1, table: t } if t == table
    ));
}

#[test]
fn a_ring_does_not_reach_across() {
    type Put = fn(&mut MockDriver, u64);
    let areas: [(u64, Put); 3] = [
        (128, |driver, at| driver.settings.desc = at),
        (22, |driver, at| driver.settings.driver = at),
        (70, |driver, at| driver.settings.device = at),
    ];
    for (length, put) in areas {
        // The last aligned place in front of the hole, and the next one.
        let fits = (HOLE_START - length) & !15;
        let mut driver = driver();
        put(&mut driver, fits);
        assert!(driver.queue(0).is_ok(), "{:x?}", driver.settings);
        put(&mut driver, fits + 16);
        assert!(matches!(
            driver.queue(0),
            Err(QueueError::AreaOutsideMemory { address, .. }) if address == fits + 16
        ));
    }
}
