//! A machine that pauses takes its devices apart and puts them together again.

use super::{
    ACKNOWLEDGE, CONFIG_VECTOR, DRIVER, DRIVER_OK, Driver, FEATURES_OK, NEEDS_RESET, NOTIFY,
    QUEUE_DESC, QUEUE_SIZE,
};
use crate::virtio::device::QueuePosition;

impl Driver {
    fn pause(&mut self) {
        self.transport.pause();
    }

    fn resume(&mut self) {
        self.transport.resume(&self.msix);
    }
}

const AT_WORK: u8 = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;

#[test]
fn a_device_goes_on_where_it_stood() {
    let mut driver = Driver::new();
    driver.activate();
    driver.pause();
    assert!(!driver.running());
    driver.resume();
    let job = driver.runner.0.lock().unwrap().take().unwrap();
    assert_eq!(job.activation.features, 1 << 32 | 1 << 5);
    let queue = job.activation.queues[0].as_ref().unwrap();
    let position = QueuePosition {
        index: 0,
        next_avail: 5,
        next_used: 5,
    };
    assert_eq!(queue.position(), position);
    assert_eq!(queue.settings().size, 32);
    assert!(job.activation.queues[1].is_none(), "never enabled");
    // What was notified during the pause is not forgotten.
    assert_eq!(queue.kick().read().unwrap(), 1);
    // It signals the vector that the driver chose.
    queue.interrupt().signal().unwrap();
    assert!(driver.msix.interrupt(1).unwrap().is_pending());
}

#[test]
fn the_driver_does_not_notice_a_pause() {
    let mut driver = Driver::new();
    driver.activate();
    let before: [u8; 56] = driver.read(0);
    let bells = driver.bells.0.lock().unwrap().clone();
    assert_eq!(bells, [NOTIFY]);
    for _ in 0..3 {
        driver.pause();
        driver.pause();
        driver.resume();
        driver.resume();
    }
    let mut after: [u8; 56] = driver.read(0);
    after[super::GENERATION] = before[super::GENERATION];
    assert_eq!(after, before);
    assert_eq!(*driver.bells.0.lock().unwrap(), bells);
    assert!(driver.running());
}

#[test]
fn a_device_that_is_being_set_up_is_not_touched() {
    let mut driver = Driver::new();
    driver.negotiate();
    driver.enable_queue();
    driver.pause();
    driver.resume();
    assert_eq!(driver.read16(QUEUE_SIZE), 32);
    driver.set_status(AT_WORK);
    assert!(driver.running());
}

#[test]
fn a_device_that_had_stopped_because_of_a_fault_still_waits_for_its_reset() {
    let mut driver = Driver::new();
    driver.activate();
    driver.line().fault();
    driver.pause();
    driver.resume();
    assert!(!driver.running());
    assert_eq!(driver.status(), AT_WORK | NEEDS_RESET);
    driver.set_status(0);
    driver.activate();
    assert!(driver.running());
}

#[test]
fn a_device_can_be_reset_in_a_pause() {
    let mut driver = Driver::new();
    driver.activate();
    driver.pause();
    driver.transport.reset();
    assert!(driver.bells.0.lock().unwrap().is_empty());
    driver.resume();
    assert!(!driver.running());
    assert_eq!(driver.status(), 0);
    driver.activate();
    assert!(driver.running());
}

#[test]
fn registers_do_not_exist_for_a_paused_device() {
    let mut driver = Driver::new();
    driver.write16(CONFIG_VECTOR, 2);
    driver.activate();
    driver.pause();
    driver.write(QUEUE_DESC, &0u64.to_le_bytes());
    driver.write16(QUEUE_SIZE, 64);
    driver.write16(CONFIG_VECTOR, 1);
    driver.resume();
    let settings = driver
        .runner
        .0
        .lock()
        .unwrap()
        .as_ref()
        .unwrap()
        .activation
        .queues[0]
        .as_ref()
        .unwrap()
        .settings();
    assert_eq!((settings.desc, settings.size), (0x10_0000, 32));
    driver.line().config_changed();
    assert!(driver.msix.interrupt(2).unwrap().is_pending());
}

#[test]
fn a_device_that_is_lost_stays_lost() {
    let mut driver = Driver::new();
    driver.activate();
    driver.runner.0.lock().unwrap().take();
    driver.pause();
    driver.resume();
    assert_ne!(driver.status() & NEEDS_RESET, 0);
    assert!(!driver.running());
}
