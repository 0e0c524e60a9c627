use super::{MAX_REQUEST, Rng};
use crate::virtio::device::{Device, DeviceFault, Running, Stopped};
use crate::virtio::mock_driver::{MockDriver, activation, guest_ram};

const DATA: u64 = 0x10_0000;

fn activate(driver: &MockDriver) -> Box<dyn Running> {
    let queues = vec![Some(driver.queue(0).unwrap())];
    let activation = activation(0, &driver.memory, queues);
    Box::new(Rng::new())
        .activate(activation)
        .map_err(|(_, fault)| fault)
        .unwrap()
}

#[test]
fn every_buffer_is_filled() {
    let mut driver = MockDriver::new(&guest_ram(), 0x1000, 8);
    let mut rng = activate(&driver);
    let head = driver.add(&[(DATA, 33, true), (DATA + 0x1000, 5000, true)]);
    rng.on_queue(0).unwrap();
    assert_eq!(driver.take_used(), Some((head, 5033)));
    assert_ne!(driver.read::<33>(DATA), [0; 33]);
    assert_ne!(driver.read::<32>(DATA + 0x1000 + 4968), [0; 32]);
    // Nothing beside the buffers is touched.
    assert_eq!(driver.read::<16>(DATA + 33), [0; 16]);
    assert_eq!(driver.interrupts(), 1);
    assert_eq!(rng.counters().requests, 1);
}

#[test]
fn two_requests_get_different_bytes() {
    let mut driver = MockDriver::new(&guest_ram(), 0x1000, 8);
    let mut rng = activate(&driver);
    driver.add(&[(DATA, 32, true)]);
    driver.add(&[(DATA + 0x100, 32, true)]);
    rng.on_queue(0).unwrap();
    assert_ne!(driver.read::<32>(DATA), driver.read::<32>(DATA + 0x100));
}

#[test]
fn a_large_request_is_cut() {
    let mut driver = MockDriver::new(&guest_ram(), 0x1000, 8);
    let mut rng = activate(&driver);
    let head = driver.add(&[(DATA, 1 << 20, true)]);
    rng.on_queue(0).unwrap();
    let limit = u32::try_from(MAX_REQUEST).unwrap();
    assert_eq!(driver.take_used(), Some((head, limit)));
    assert_eq!(driver.read::<64>(DATA + u64::from(limit)), [0; 64]);
}

#[test]
fn a_request_without_room_is_completed_empty() {
    let mut driver = MockDriver::new(&guest_ram(), 0x1000, 8);
    let mut rng = activate(&driver);
    let head = driver.add(&[(DATA, 16, false)]);
    rng.on_queue(0).unwrap();
    assert_eq!(driver.take_used(), Some((head, 0)));
}

#[test]
fn a_malformed_chain_stops_the_device() {
    let mut driver = MockDriver::new(&guest_ram(), 0x1000, 8);
    let mut rng = activate(&driver);
    driver.add(&[(u64::MAX, 16, true)]);
    assert!(matches!(
        rng.on_queue(0),
        Err(DeviceFault::Queue { index: 0, .. })
    ));
}

#[test]
fn it_goes_on_after_a_stop() {
    let mut driver = MockDriver::new(&guest_ram(), 0x1000, 8);
    let mut rng = activate(&driver);
    driver.add(&[(DATA, 16, true)]);
    rng.on_queue(0).unwrap();
    driver.take_used().unwrap();
    let Stopped { device, positions } = rng.stop();

    let mut queue = driver.queue(0).unwrap();
    queue.set_position(positions[0]);
    let activation = activation(0, &driver.memory, vec![Some(queue)]);
    let mut rng = device
        .activate(activation)
        .map_err(|(_, fault)| fault)
        .unwrap();
    let head = driver.add(&[(DATA, 16, true)]);
    rng.on_queue(0).unwrap();
    assert_eq!(driver.take_used(), Some((head, 16)));
    let counters = rng.counters();
    assert_eq!((counters.requests, counters.bytes_to_guest), (2, 32));
}
