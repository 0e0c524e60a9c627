use super::{Area, QueueError};
use crate::memory::HOLE_START;
use crate::virtio::chain::MAX_CHAIN;
use crate::virtio::device::QueuePosition;
use crate::virtio::mock_driver::{INDIRECT, MockDriver, NEXT, WRITE, guest_ram};

#[path = "queue_test/gap.rs"]
mod gap;
#[path = "queue_test/notifications.rs"]
mod notifications;

/// Where the queue is, and where buffers are.
const BASE: u64 = 0x1000;
const DATA: u64 = 0x10_0000;
/// One byte behind the memory of `guest_ram`.
const END: u64 = 16 << 20;

fn driver(size: u16) -> MockDriver {
    MockDriver::new(&guest_ram(), BASE, size)
}

/// Makes the descriptors available from index 0 on, and pops them.
fn pop_error(descriptors: &[(u64, u32, u16, u16)]) -> QueueError {
    let mut driver = driver(8);
    for (index, descriptor) in descriptors.iter().enumerate() {
        driver.write_descriptor(u16::try_from(index).unwrap(), *descriptor);
    }
    driver.make_available(0);
    driver.queue(0).unwrap().pop().unwrap_err()
}

/// As [`pop_error`], with the descriptors in an indirect table of this length in bytes.
fn pop_indirect_error(length: u32, descriptors: &[(u64, u32, u16, u16)]) -> QueueError {
    let table = DATA + 0x8000;
    let mut driver = driver(8);
    for (index, descriptor) in descriptors.iter().enumerate() {
        driver.write_descriptor_at(table, u16::try_from(index).unwrap(), *descriptor);
    }
    driver.write_descriptor(0, (table, length, INDIRECT, 0));
    driver.make_available(0);
    driver.queue(0).unwrap().pop().unwrap_err()
}

#[test]
fn a_chain_is_read_and_written_in_order_across_its_buffers() {
    let mut driver = driver(8);
    driver.write(DATA, b"abc");
    driver.write(DATA + 0x100, b"defg");
    let head = driver.add(&[
        (DATA, 3, false),
        (DATA + 0x50, 0, false),
        (DATA + 0x100, 4, false),
        (DATA + 0x200, 2, true),
        (DATA + 0x300, 5, true),
    ]);
    let mut queue = driver.queue(0).unwrap();

    let chain = queue.pop().unwrap().unwrap();
    assert_eq!(
        (chain.head(), chain.reader().left(), chain.writable_len()),
        (head, 7, 7)
    );
    let mut reader = chain.reader();
    assert_eq!(reader.read_object::<[u8; 5]>().unwrap(), *b"abcde");
    assert_eq!(reader.left(), 2);
    assert!(matches!(
        reader.read_object::<[u8; 3]>(),
        Err(QueueError::TooShort { needed: 3, left: 2 })
    ));
    assert_eq!(reader.slices(2).unwrap().len(), 1);
    let mut writer = chain.writer();
    writer.write_all(b"1234567").unwrap();
    assert!(writer.write_all(b"8").is_err());
    queue.complete(chain, 7).unwrap();
    queue.signal_used().unwrap();

    assert_eq!(driver.take_used(), Some((head, 7)));
    assert_eq!(driver.read(DATA + 0x200), *b"12");
    assert_eq!(driver.read(DATA + 0x300), *b"34567");
    assert_eq!(driver.interrupts(), 1);
    assert!(queue.pop().unwrap().is_none());
}

#[test]
fn an_indirect_table_may_end_a_chain() {
    let mut driver = driver(8);
    let table = DATA + 0x8000;
    driver.write(DATA, b"direct");
    driver.write(DATA + 0x10, b"table");
    driver.write_descriptor(2, (DATA, 6, NEXT, 5));
    driver.write_descriptor(5, (table, 32, INDIRECT, 0));
    driver.write_descriptor_at(table, 0, (DATA + 0x10, 5, NEXT, 1));
    driver.write_descriptor_at(table, 1, (DATA + 0x20, 9, WRITE, 0));
    driver.make_available(2);
    let mut queue = driver.queue(0).unwrap();
    let chain = queue.pop().unwrap().unwrap();
    assert_eq!(
        chain.reader().read_object::<[u8; 11]>().unwrap(),
        *b"directtable"
    );
    assert_eq!(chain.writable_len(), 9);
}

#[test]
fn an_indirect_chain_may_be_longer_than_the_queue() {
    let mut driver = driver(4);
    let table = DATA + 0x8000;
    for index in 0..100 {
        let flags = if index == 99 { WRITE } else { WRITE | NEXT };
        driver.write_descriptor_at(table, index, (DATA, 16, flags, index + 1));
    }
    driver.write_descriptor(0, (table, 1600, INDIRECT, 0));
    driver.make_available(0);
    let chain = driver.queue(0).unwrap().pop().unwrap().unwrap();
    assert_eq!(chain.writable_len(), 1600);
}

#[test]
fn the_rings_wrap_around() {
    let mut driver = driver(4);
    let mut queue = driver.queue(0).unwrap();
    let start = QueuePosition {
        index: 0,
        next_avail: 0,
        next_used: 0,
    };
    assert_eq!(queue.position(), start);
    for round in 0..70_000u32 {
        let head = driver.add(&[(DATA, 4, true)]);
        let chain = queue.pop().unwrap().unwrap();
        queue.complete(chain, round % 5).unwrap();
        assert_eq!(driver.take_used(), Some((head, round % 5)));
    }
    assert_eq!(queue.requests(), 70_000);
    let position = QueuePosition {
        index: 0,
        next_avail: (70_000u32 % 65_536) as u16,
        next_used: (70_000u32 % 65_536) as u16,
    };
    assert_eq!(queue.position(), position);

    // Another device takes over where this one stood.
    let head = driver.add(&[(DATA, 4, true)]);
    let mut successor = driver.queue(0).unwrap();
    successor.set_position(position);
    let chain = successor.pop().unwrap().unwrap();
    successor.complete(chain, 1).unwrap();
    assert_eq!(driver.take_used(), Some((head, 1)));
}

#[test]
fn what_is_reported_as_written_never_exceeds_the_buffers() {
    let mut driver = driver(4);
    let head = driver.add(&[(DATA, 4, true)]);
    let mut queue = driver.queue(0).unwrap();
    let chain = queue.pop().unwrap().unwrap();
    queue.complete(chain, 5).unwrap();
    assert_eq!(driver.take_used(), Some((head, 4)));
}

#[test]
fn sizes_and_addresses_are_checked_before_the_queue_exists() {
    for size in [0, 3, 32769] {
        let mut driver = driver(8);
        driver.settings.size = size;
        assert!(matches!(driver.queue(0), Err(QueueError::Size(wrong)) if wrong == size));
    }
    for (area, alignment) in [
        (Area::Descriptors, 16),
        (Area::Available, 2),
        (Area::Used, 4),
    ] {
        let mut unaligned = driver(8);
        let mut outside = driver(8);
        let mut zero = driver(8);
        let mut overflow = driver(8);
        let length = match area {
            Area::Descriptors => 128,
            Area::Available => 22,
            Area::Used => 70,
        };
        // The first address at which the area does not fit any more.
        let too_high = (END - length).next_multiple_of(alignment);
        let too_high = if too_high == END - length {
            too_high + alignment
        } else {
            too_high
        };
        for (driver, address) in [
            (&mut unaligned, BASE + alignment / 2),
            (&mut outside, too_high),
            (&mut zero, 0),
            (&mut overflow, u64::MAX - 15),
        ] {
            match area {
                Area::Descriptors => driver.settings.desc = address,
                Area::Available => driver.settings.driver = address,
                Area::Used => driver.settings.device = address,
            }
        }
        assert!(matches!(
            unaligned.queue(0),
            Err(QueueError::Alignment { area: wrong, .. }) if wrong == area
        ));
        for driver in [outside, zero, overflow] {
            assert!(matches!(
                driver.queue(0),
                Err(QueueError::AreaOutsideMemory { area: wrong, .. }) if wrong == area
            ));
        }
    }
}

#[test]
fn the_used_ring_may_end_where_memory_ends() {
    let mut driver = driver(8);
    // 4 + 8 × 8 + 2 bytes, aligned to 4: two bytes stay free.
    driver.settings.device = END - 72;
    let head = driver.add(&[(DATA, 4, true)]);
    let mut queue = driver.queue(0).unwrap();
    let chain = queue.pop().unwrap().unwrap();
    queue.complete(chain, 1).unwrap();
    assert!(!queue.enable_notification().unwrap());
    assert_eq!(driver.take_used(), Some((head, 1)));
}

#[test]
fn an_available_index_too_far_ahead_is_an_error() {
    let mut driver = driver(8);
    driver.write_available_index(9);
    let mut queue = driver.queue(0).unwrap();
    for _ in 0..2 {
        assert!(matches!(
            queue.pop(),
            Err(QueueError::AvailableIndex {
                available: 9,
                next: 0,
                size: 8
            })
        ));
    }
    // Going back is the same as going far ahead.
    driver.write_available_index(1);
    assert!(queue.pop().unwrap().is_some());
    driver.write_available_index(0);
    assert!(matches!(
        queue.pop(),
        Err(QueueError::AvailableIndex { .. })
    ));
}

#[test]
fn a_head_outside_the_table_is_an_error() {
    let mut driver = driver(8);
    driver.make_available(8);
    assert!(matches!(
        driver.queue(0).unwrap().pop(),
        Err(QueueError::Head { head: 8, size: 8 })
    ));
}

#[test]
fn a_head_in_flight_cannot_be_made_available_again() {
    let mut driver = driver(8);
    let head = driver.add(&[(DATA, 4, true)]);
    driver.make_available(head);
    let mut queue = driver.queue(0).unwrap();
    let chain = queue.pop().unwrap().unwrap();
    assert!(matches!(queue.pop(), Err(QueueError::HeadInFlight(wrong)) if wrong == head));
    // Once it is completed it may come again.
    queue.complete(chain, 0).unwrap();
    driver.make_available(head);
    assert!(queue.pop().unwrap().is_some());
}

#[test]
fn a_chain_that_is_put_back_comes_again() {
    let mut driver = driver(8);
    let first = driver.add(&[(DATA, 1, true)]);
    let second = driver.add(&[(DATA, 2, true)]);
    let mut queue = driver.queue(0).unwrap();
    let chains = [queue.pop().unwrap().unwrap(), queue.pop().unwrap().unwrap()];
    for chain in chains.into_iter().rev() {
        queue.put_back(chain).unwrap();
    }
    assert_eq!(queue.pop().unwrap().unwrap().head(), first);
    assert_eq!(queue.pop().unwrap().unwrap().head(), second);
}

#[test]
fn loops_are_found() {
    // To itself, and around two.
    assert!(matches!(
        pop_error(&[(DATA, 1, NEXT, 0)]),
        QueueError::ChainTooLong { head: 0, limit: 8 }
    ));
    assert!(matches!(
        pop_error(&[(DATA, 1, NEXT, 1), (DATA, 1, NEXT, 0)]),
        QueueError::ChainTooLong { head: 0, limit: 8 }
    ));
    assert!(matches!(
        pop_indirect_error(16, &[(DATA, 1, NEXT, 0)]),
        QueueError::ChainTooLong {
            head: 0,
            limit: MAX_CHAIN
        }
    ));
}

#[test]
fn links_out_of_the_table_are_errors() {
    assert!(matches!(
        pop_error(&[(DATA, 1, NEXT, 8)]),
        QueueError::Next {
            index: 0,
            next: 8,
            size: 8
        }
    ));
    assert!(matches!(
        pop_indirect_error(32, &[(DATA, 1, NEXT, 2)]),
        QueueError::Next {
            index: 0,
            next: 2,
            size: 2
        }
    ));
}

#[test]
fn buffers_outside_memory_are_errors() {
    for (address, length) in [
        (END, 0),
        (END, 1),
        (END - 1, 2),
        (u64::MAX, 1),
        (u64::MAX, u32::MAX),
        (HOLE_START, 1),
    ] {
        for flags in [0, WRITE] {
            assert!(matches!(
                pop_error(&[(address, length, flags, 0)]),
                QueueError::BufferOutsideMemory { address: a, length: l }
                    if a == address && l == length
            ));
        }
    }
}

#[test]
fn a_chain_of_more_than_4_gib_is_an_error() {
    // All over the same 16 MiB, as only a hostile driver does. 257 of them, in an indirect table.
    let table = DATA + 0x8000;
    let length = u32::try_from(END).unwrap();
    let mut driver = driver(8);
    for index in 0..257 {
        driver.write_descriptor_at(table, index, (0, length, NEXT, index + 1));
    }
    driver.write_descriptor(0, (table, 257 * 16, INDIRECT, 0));
    driver.make_available(0);
    assert!(matches!(
        driver.queue(0).unwrap().pop(),
        Err(QueueError::ChainBytes { head: 0 })
    ));
}

#[test]
fn a_readable_buffer_after_a_writable_one_is_an_error() {
    assert!(matches!(
        pop_error(&[(DATA, 1, WRITE | NEXT, 1), (DATA, 1, 0, 0)]),
        QueueError::ReadableAfterWritable { index: 1 }
    ));
}

#[test]
fn indirect_tables_are_checked() {
    assert!(matches!(
        pop_indirect_error(16, &[(DATA, 16, INDIRECT, 0)]),
        QueueError::IndirectInIndirect { index: 0 }
    ));
    for length in [0, 8, 17, 65_536 * 16, u32::MAX] {
        assert!(matches!(
            pop_indirect_error(length, &[]),
            QueueError::IndirectLength { length: wrong } if wrong == length
        ));
    }
    assert!(matches!(
        pop_error(&[(DATA, 16, INDIRECT | NEXT, 1)]),
        QueueError::IndirectWithNext { index: 0 }
    ));
    assert!(matches!(
        pop_error(&[(END - 8, 16, INDIRECT, 0)]),
        QueueError::DescriptorOutsideMemory { index: 0, .. }
    ));
    assert!(matches!(
        pop_error(&[(u64::MAX - 7, 32, INDIRECT, 0)]),
        QueueError::DescriptorOutsideMemory { .. }
    ));
}

#[test]
fn the_walk_sees_one_state_of_the_descriptors() {
    let mut driver = driver(8);
    driver.write(DATA, b"good");
    let head = driver.add(&[(DATA, 4, false)]);
    let chain = driver.queue(0).unwrap().pop().unwrap().unwrap();
    // The driver points the descriptor elsewhere after the check.
    driver.write_descriptor(head, (u64::MAX, u32::MAX, WRITE, 0));
    assert_eq!(chain.reader().read_object::<[u8; 4]>().unwrap(), *b"good");
    assert_eq!(chain.writable_len(), 0);
}

#[test]
fn chains_completed_together_are_seen_together() {
    let mut driver = driver(4);
    let mut queue = driver.queue(0).unwrap();
    // Twice and a half round the ring.
    for round in 0..5u16 {
        let heads = [0, 1].map(|_| driver.add(&[(DATA, 16, true)]));
        let chains = heads.map(|_| queue.pop().unwrap().unwrap());
        let index = |driver: &MockDriver| {
            let bytes = driver.read(driver.settings.device + 2);
            u16::from_le_bytes(bytes)
        };
        let chains = chains.into_iter().zip([16, 7]);
        let chains = chains.inspect(|_| assert_eq!(index(&driver), 2 * round));
        queue.complete_together(chains).unwrap();
        assert_eq!(driver.take_used(), Some((heads[0], 16)));
        assert_eq!(driver.take_used(), Some((heads[1], 7)));
        assert_eq!(driver.take_used(), None);
    }
    assert_eq!(queue.requests(), 10);
}

#[test]
fn an_index_within_chains_completed_together_interrupts() {
    for (wanted, interrupts) in [(0, 1), (1, 1), (2, 1), (3, 0), (0xffff, 0)] {
        let mut driver = driver(8);
        let mut queue = driver.queue(0).unwrap();
        driver.write_used_event(wanted);
        let chains = [0, 1, 2].map(|_| {
            driver.add(&[(DATA, 16, true)]);
            (queue.pop().unwrap().unwrap(), 1)
        });
        queue.complete_together(chains).unwrap();
        queue.signal_used().unwrap();
        assert_eq!(driver.interrupts(), interrupts, "{wanted}");
    }
}

#[test]
fn a_chain_of_nothing_is_completed_with_nothing() {
    let mut driver = driver(8);
    let head = driver.add(&[(DATA, 0, false), (DATA, 0, true)]);
    let mut queue = driver.queue(0).unwrap();
    let chain = queue.pop().unwrap().unwrap();
    assert!(chain.reader().read_object::<u8>().is_err());
    assert!(chain.writer().write_all(&[1]).is_err());
    assert!(chain.writer().slices(0).unwrap().is_empty());
    queue.complete(chain, 1).unwrap();
    assert_eq!(driver.take_used(), Some((head, 0)));
}

#[test]
fn a_ring_that_the_device_itself_overwrites_is_an_error_at_most() {
    let mut driver = driver(8);
    let rings = driver.settings;
    // The buffer is the ring from which the next chain will be taken, and where this is put.
    driver.add(&[(rings.driver, 22, true), (rings.device, 70, true)]);
    let mut queue = driver.queue(0).unwrap();
    let chain = queue.pop().unwrap().unwrap();
    chain.writer().write_all(&[0xff; 92]).unwrap();
    queue.complete(chain, 92).unwrap();
    queue.signal_used().unwrap();
    assert!(matches!(
        queue.pop(),
        Err(QueueError::AvailableIndex {
            available: 0xffff,
            ..
        })
    ));
}

#[test]
fn a_chain_of_another_queue_cannot_be_completed() {
    let mut driver = driver(8);
    driver.add(&[(DATA, 1, true)]);
    let mut queue = driver.queue(0).unwrap();
    let mut other = driver.queue(0).unwrap();
    let chain = queue.pop().unwrap().unwrap();
    assert!(matches!(
        other.complete(chain, 1),
        Err(QueueError::HeadNotInFlight(0))
    ));
    assert_eq!(driver.take_used(), None);
}
