//! A function whose device runs, on a real io thread.

use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use super::super::{BAR_LENGTH, COMMON, NOTIFY, VirtioFunction};
use super::{BAR, Router};
use crate::devices::rng::Rng;
use crate::io_thread::IoThread;
use crate::pci::Function;
use crate::virtio::mock_driver::{MockDriver, guest_ram};
use crate::virtio::pci::transport::{Environment, Transport};
use crate::virtio::runner::Doorbells;

const RINGS: u64 = 0x1000;
const DATA: u64 = 0x10_0000;
const DRIVER_OK: u8 = 15;

/// The addresses of the doorbells.
#[derive(Default)]
struct Bells(Mutex<Vec<u64>>);

impl Doorbells for Bells {
    fn attach(&self, address: u64, _: &EventFd) {
        self.0.lock().unwrap().push(address);
    }
    fn detach(&self, address: u64, _: &EventFd) {
        self.0.lock().unwrap().retain(|other| *other != address);
    }
}

/// An entropy device and its driver.
struct Machine {
    function: VirtioFunction,
    driver: MockDriver,
    bells: Arc<Bells>,
}

impl Machine {
    fn new() -> Self {
        let memory = guest_ram();
        let (events, _) = crate::events::channel().unwrap();
        let bells = Arc::new(Bells::default());
        let environment = Environment {
            memory: Arc::clone(&memory),
            runner: Arc::new(IoThread::new(events.clone())),
            doorbells: Arc::clone(&bells) as _,
            events,
        };
        let transport = Transport::new(Box::new(Rng::new()), 0, environment);
        let router = Arc::new(Router::default());
        let mut function = VirtioFunction::new(transport, BAR, 30, router).unwrap();
        function.config_write(4, &[2, 0]);
        Self {
            function,
            driver: MockDriver::new(&memory, RINGS, 8),
            bells,
        }
    }

    fn write(&mut self, register: u64, data: &[u8]) {
        let offset = u64::from(COMMON) + register;
        self.function.bar_write(offset, data);
    }

    fn status(&mut self) -> u8 {
        let mut status = [0];
        self.function.bar_read(20, &mut status);
        status[0]
    }

    /// What a driver does to start the device on rings that are as new.
    fn start(&mut self) {
        let memory = Arc::clone(&self.driver.memory);
        self.driver = MockDriver::new(&memory, RINGS, 8);
        self.driver.write(RINGS, &[0; 0x200]);
        let settings = self.driver.settings;
        for status in [1, 3] {
            self.write(20, &[status]);
        }
        // VERSION_1 and EVENT_IDX.
        for (select, features) in [(1u32, 1u32), (0, 1 << 29)] {
            self.write(8, &select.to_le_bytes());
            self.write(12, &features.to_le_bytes());
        }
        self.write(20, &[11]);
        self.write(24, &settings.size.to_le_bytes());
        self.write(32, &settings.desc.to_le_bytes());
        self.write(40, &settings.driver.to_le_bytes());
        self.write(48, &settings.device.to_le_bytes());
        self.write(28, &[1, 0]);
        self.write(20, &[DRIVER_OK]);
        assert_eq!(self.status(), DRIVER_OK);
    }

    fn notify(&mut self) {
        self.function.bar_write(NOTIFY.into(), &[0, 0]);
    }

    /// Waits until the device has done what it was notified of, which a pause does.
    fn settle(&mut self) {
        self.function.pause();
        self.function.resume();
    }
}

#[test]
fn a_reset_in_mid_request_leaves_nothing_that_could_write_later() {
    let mut machine = Machine::new();
    for _ in 0..100 {
        machine.start();
        for index in 0..8 {
            machine.driver.add(&[(DATA + index * 0x1000, 0x1000, true)]);
        }
        machine.notify();
        machine.write(20, &[0]);
        assert_eq!(machine.status(), 0);

        // From here on the memory is the guest's own.
        for index in 0..8 {
            machine.driver.write(DATA + index * 0x1000, &[0; 0x1000]);
        }
        machine.start();
        machine.notify();
        machine.settle();
        for index in 0..8 {
            let buffer: [u8; 0x1000] = machine.driver.read(DATA + index * 0x1000);
            assert_eq!(buffer, [0; 0x1000]);
        }
        machine.write(20, &[0]);
    }
}

#[test]
fn a_faulty_device_is_reset_and_works_again() {
    let mut machine = Machine::new();
    for _ in 0..100 {
        machine.start();
        machine.driver.make_available(99);
        machine.notify();
        machine.settle();
        assert_eq!(machine.status(), DRIVER_OK | 64);
        machine.notify();
        machine.write(20, &[0]);
        assert_eq!(machine.status(), 0);

        machine.start();
        let head = machine.driver.add(&[(DATA, 16, true)]);
        machine.notify();
        machine.settle();
        assert_eq!(machine.driver.take_used(), Some((head, 16)));
        machine.write(20, &[0]);
    }
}

#[test]
fn a_bar_that_moves_takes_the_notifications_along() {
    let mut machine = Machine::new();
    machine.start();
    let first = u64::from(BAR + NOTIFY);
    assert_eq!(*machine.bells.0.lock().unwrap(), [first]);

    let elsewhere = 0xd000_0000u32;
    machine
        .function
        .config_write(0x10, &elsewhere.to_le_bytes());
    let bar = (elsewhere.into(), BAR_LENGTH.into());
    assert_eq!(machine.function.bar(), Some(bar));
    let head = machine.driver.add(&[(DATA, 16, true)]);
    machine.notify();
    machine.settle();
    assert_eq!(machine.driver.take_used(), Some((head, 16)));

    // What was attached at the old place is detached there.
    machine.write(20, &[0]);
    assert!(machine.bells.0.lock().unwrap().is_empty());
    machine.start();
    let moved = u64::from(elsewhere + NOTIFY);
    assert_eq!(*machine.bells.0.lock().unwrap(), [moved]);
}

#[test]
fn a_device_whose_bar_is_switched_off_goes_on() {
    let mut machine = Machine::new();
    machine.start();
    machine.function.config_write(4, &[0, 0]);
    assert_eq!(machine.function.bar(), None);
    machine.function.config_write(4, &[2, 0]);
    let head = machine.driver.add(&[(DATA, 16, true)]);
    machine.notify();
    machine.settle();
    assert_eq!(machine.driver.take_used(), Some((head, 16)));
    machine.function.shut_down();
    assert!(machine.bells.0.lock().unwrap().is_empty());
}
