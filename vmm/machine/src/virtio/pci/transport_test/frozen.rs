//! What a driver writes when it may not.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    ACKNOWLEDGE, DRIVER, DRIVER_OK, Driver, FAILED, FEATURES_OK, QUEUE_ENABLE, QUEUE_SELECT, STATUS,
};

/// Registers that choose what others show: offset and width.
const SELECTORS: [(usize, usize); 3] = [(0, 4), (8, 4), (QUEUE_SELECT, 2)];

#[test]
fn nothing_but_the_status_and_the_selectors_can_be_written_after_driver_ok() {
    let mut driver = Driver::new();
    driver.activate();
    let before: [u8; 56] = driver.read(0);
    for offset in 0..64 {
        for width in [1, 2, 4, 8] {
            if (offset, width) == (STATUS, 1) || SELECTORS.contains(&(offset, width)) {
                continue;
            }
            for value in [0x00, 0x01, 0xff] {
                driver.write(offset, &vec![value; width]);
                assert_eq!(driver.read::<56>(0), before, "{offset} {width} {value}");
            }
        }
    }
    assert!(driver.running());
}

#[test]
fn a_write_of_an_odd_length_changes_nothing_at_any_time() {
    for active in [false, true] {
        let mut driver = Driver::new();
        if active {
            driver.activate();
        }
        let before: [u8; 56] = driver.read(0);
        for offset in 0..64 {
            for length in [0, 3, 5, 6, 7, 9, 16, 4096] {
                driver.write(offset, &vec![0xff; length]);
            }
        }
        assert_eq!(driver.read::<56>(0), before);
    }
}

#[test]
fn a_status_after_driver_ok_stops_nothing_unless_it_is_zero() {
    let mut driver = Driver::new();
    driver.activate();
    let running = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
    for status in 1..=u8::MAX {
        driver.set_status(status);
        assert!(driver.running(), "{status}");
    }
    assert_eq!(driver.status(), running | FAILED);
    driver.set_status(0);
    assert!(!driver.running());
}

#[test]
fn a_notification_before_driver_ok_means_nothing_whatever_the_status() {
    for steps in 0..4 {
        let mut driver = Driver::new();
        let statuses = [ACKNOWLEDGE, DRIVER, FEATURES_OK];
        let mut status = 0;
        for bit in statuses.into_iter().take(steps) {
            driver.accept(1 << 32);
            status |= bit;
            driver.set_status(status);
        }
        driver.enable_queue();
        for queue in 0..4 {
            driver.transport.notify(queue);
        }
        assert!(!driver.running());
        driver.set_status(0);
        driver.activate();
        let job = driver.runner.0.lock().unwrap();
        let queue = job.as_ref().unwrap().activation.queues[0].as_ref();
        assert!(queue.unwrap().kick().read().is_err(), "{steps} steps");
    }
}

#[test]
fn a_queue_that_does_not_exist_has_no_registers() {
    let mut driver = Driver::new();
    driver.negotiate();
    for queue in [2, 3, 0x7fff, u16::MAX] {
        driver.write16(QUEUE_SELECT, queue);
        let before: [u8; 56] = driver.read(0);
        driver.write16(QUEUE_ENABLE, 1);
        for offset in (24..56).step_by(2) {
            for width in [2, 4, 8] {
                driver.write(offset, &vec![0x40; width]);
            }
        }
        assert_eq!(driver.read::<56>(0), before, "{queue}");
    }
    driver.activate();
    assert!(driver.running());
}

/// Whatever a driver writes where, nothing breaks and a reset always helps.
#[test]
fn random_writes_leave_a_device_that_can_be_reset() {
    let mut driver = Driver::new();
    let seed = AtomicU64::new(0x9e37_79b9_7f4a_7c15);
    let next = || {
        let mut value = seed.load(Ordering::Relaxed);
        value ^= value << 13;
        value ^= value >> 7;
        value ^= value << 17;
        seed.store(value, Ordering::Relaxed);
        value
    };
    for _ in 0..20_000 {
        let length = [1, 2, 4, 8, 3, 16][(next() % 6) as usize];
        let offset = (next() % 64) as usize;
        let value = if next() % 2 == 0 { next() } else { next() % 16 };
        let mut data = value.to_le_bytes().to_vec();
        data.resize(length, 0);
        driver.write(offset, &data);
        driver.transport.notify((next() % 4) as usize);
        drop(driver.events.take());
    }
    driver.set_status(0);
    driver.activate();
    assert!(driver.running());
}
