use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use super::super::life::Surroundings;
use super::{Environment, NO_VECTOR, Transport};
use crate::events::{EventReceiver, Happening};
use crate::memory::{Backing, GuestRam};
use crate::pci::msix::{Message, MessageRouter, Msix};
use crate::virtio::config::SharedConfig;
use crate::virtio::device::{
    ActivateResult, Activation, Counters, Device, DeviceKind, Interest, QueuePosition, Running,
    Stopped, Watch,
};
use crate::virtio::runner::{DeviceRunner, Doorbells, DriverLine, Job};

#[path = "transport_test/frozen.rs"]
mod frozen;
#[path = "transport_test/pausing.rs"]
mod pausing;

/// Two queues, the second of them larger. The configuration changes with each stop.
struct TestDevice {
    kind: DeviceKind,
    config: SharedConfig,
}

impl Device for TestDevice {
    fn kind(&self) -> DeviceKind {
        self.kind
    }
    fn queue_sizes(&self) -> &[u16] {
        &[64, 256]
    }
    fn features(&self) -> u64 {
        1 << 5
    }
    fn config(&self) -> SharedConfig {
        self.config.clone()
    }
    fn activate(self: Box<Self>, _: Activation) -> ActivateResult {
        Ok(Box::new(RunningTestDevice(*self)))
    }
}

struct RunningTestDevice(TestDevice);

impl Running for RunningTestDevice {
    fn watches(&self) -> Vec<Watch> {
        Vec::new()
    }
    fn on_queue(&mut self, _: usize) -> Result<Interest, crate::virtio::device::DeviceFault> {
        Ok(Interest::Same)
    }
    fn on_ready(&mut self, _: u32) -> Result<Interest, crate::virtio::device::DeviceFault> {
        Ok(Interest::Same)
    }
    fn stop(self: Box<Self>) -> Stopped {
        self.0.config.set(2, &[9]);
        let position = |index| QueuePosition {
            index,
            next_avail: 5,
            next_used: 5,
        };
        Stopped {
            device: Box::new(self.0),
            positions: vec![position(0), position(1)],
        }
    }
    fn counters(&self) -> Counters {
        Counters::default()
    }
}

/// Runs nothing, but keeps the job until it is stopped.
#[derive(Default)]
struct Runner(Mutex<Option<Job>>);

impl DeviceRunner for Runner {
    fn start(&self, job: Job) {
        assert!(self.0.lock().unwrap().replace(job).is_none());
    }
    fn stop(&self, place: usize) -> Option<Stopped> {
        let job = self.0.lock().unwrap().take()?;
        assert_eq!(job.place, place);
        let Ok(running) = job.device.activate(job.activation) else {
            panic!("the device always starts");
        };
        Some(running.stop())
    }
}

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

struct NoRouter;

impl MessageRouter for NoRouter {
    fn connect(&self, _: u32, _: &EventFd, _: Message) {}
    fn disconnect(&self, _: u32, _: &EventFd) {}
}

/// The driver's side of the registers.
struct Driver {
    transport: Transport,
    msix: Msix,
    runner: Arc<Runner>,
    bells: Arc<Bells>,
    events: EventReceiver,
}

const DEVICE_FEATURE_SELECT: usize = 0;
const DEVICE_FEATURE: usize = 4;
const DRIVER_FEATURE_SELECT: usize = 8;
const DRIVER_FEATURE: usize = 12;
const CONFIG_VECTOR: usize = 16;
const NUM_QUEUES: usize = 18;
const STATUS: usize = 20;
const GENERATION: usize = 21;
const QUEUE_SELECT: usize = 22;
const QUEUE_SIZE: usize = 24;
const QUEUE_VECTOR: usize = 26;
const QUEUE_ENABLE: usize = 28;
const QUEUE_NOTIFY_OFF: usize = 30;
const QUEUE_DESC: usize = 32;
const QUEUE_DRIVER: usize = 40;
const QUEUE_DEVICE: usize = 48;

const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 64;
const FAILED: u8 = 128;
const NOTIFY: u64 = 0xc000_3000;

impl Driver {
    fn new() -> Self {
        Self::of(DeviceKind::Net)
    }

    fn of(kind: DeviceKind) -> Self {
        let runner = Arc::new(Runner::default());
        let bells = Arc::new(Bells::default());
        let (sender, events) = crate::events::channel().unwrap();
        let environment = Environment {
            memory: Arc::new(GuestRam::new(64, Backing::Private).unwrap()),
            runner: Arc::clone(&runner) as _,
            doorbells: Arc::clone(&bells) as _,
            events: sender,
        };
        let device = Box::new(TestDevice {
            kind,
            config: SharedConfig::new(vec![1, 2, 3]),
        });
        let transport = Transport::new(device, 4, environment);
        let msix = Msix::new(transport.vectors(), 24, Arc::new(NoRouter));
        Self {
            transport,
            msix: msix.unwrap(),
            runner,
            bells,
            events,
        }
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        let surroundings = Surroundings {
            msix: &self.msix,
            notify: NOTIFY,
        };
        self.transport.write_common(offset, data, surroundings);
    }

    fn write16(&mut self, offset: usize, value: u16) {
        self.write(offset, &value.to_le_bytes());
    }

    fn write32(&mut self, offset: usize, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }

    fn read<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut data = [0xee; N];
        self.transport.read_common(offset, &mut data);
        data
    }

    fn read16(&self, offset: usize) -> u16 {
        u16::from_le_bytes(self.read(offset))
    }

    fn read32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.read(offset))
    }

    fn status(&self) -> u8 {
        let [status] = self.read(STATUS);
        status
    }

    fn set_status(&mut self, status: u8) {
        self.write(STATUS, &[status]);
    }

    fn accept(&mut self, features: u64) {
        for (select, shift) in [(0, 0), (1, 32)] {
            self.write32(DRIVER_FEATURE_SELECT, select);
            self.write32(DRIVER_FEATURE, (features >> shift) as u32);
        }
    }

    fn negotiate(&mut self) {
        self.set_status(ACKNOWLEDGE);
        self.set_status(ACKNOWLEDGE | DRIVER);
        self.accept(1 << 32 | 1 << 5);
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        assert_eq!(self.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK);
    }

    /// Sets queue 0 up at addresses that fit, and enables it.
    fn enable_queue(&mut self) {
        self.write16(QUEUE_SELECT, 0);
        self.write16(QUEUE_SIZE, 32);
        self.write16(QUEUE_VECTOR, 1);
        self.write(QUEUE_DESC, &0x10_0000u64.to_le_bytes());
        self.write32(QUEUE_DRIVER, 0x11_0000);
        self.write32(QUEUE_DRIVER + 4, 0);
        self.write32(QUEUE_DEVICE, 0x12_0000);
        self.write16(QUEUE_ENABLE, 1);
    }

    fn activate(&mut self) {
        self.negotiate();
        self.enable_queue();
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    fn running(&self) -> bool {
        self.runner.0.lock().unwrap().is_some()
    }

    /// The running device's way to its driver.
    fn line(&self) -> DriverLine {
        let job = self.runner.0.lock().unwrap();
        job.as_ref().unwrap().activation.driver.clone()
    }

    fn fault(&self) -> Option<String> {
        match self.events.take().pop_front()? {
            Happening::DeviceFault { message, .. } => Some(message),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_registers_describe_the_device() {
    let mut driver = Driver::new();
    assert_eq!(driver.read16(NUM_QUEUES), 2);
    driver.write32(DEVICE_FEATURE_SELECT, 0);
    assert_eq!(driver.read32(DEVICE_FEATURE), 1 << 5 | 1 << 28 | 1 << 29);
    driver.write32(DEVICE_FEATURE_SELECT, 1);
    assert_eq!(driver.read32(DEVICE_FEATURE), 1, "VERSION_1");
    driver.write32(DEVICE_FEATURE_SELECT, 2);
    assert_eq!(driver.read32(DEVICE_FEATURE), 0);
    for (queue, size) in [(0, 64), (1, 256), (2, 0), (u16::MAX, 0)] {
        driver.write16(QUEUE_SELECT, queue);
        assert_eq!(driver.read16(QUEUE_SIZE), size);
        assert_eq!(driver.read16(QUEUE_ENABLE), 0);
        assert_eq!(driver.read16(QUEUE_NOTIFY_OFF), queue);
    }
}

#[test]
fn reads_of_any_size_and_place_agree_with_one_another() {
    let mut driver = Driver::new();
    driver.activate();
    let whole: [u8; 56] = driver.read(0);
    for offset in 0..64 {
        for length in 0..=16 {
            let mut data = vec![0xee; length];
            driver.transport.read_common(offset, &mut data);
            let expected: Vec<u8> = (offset..offset + length)
                .map(|at| whole.get(at).copied().unwrap_or(0))
                .collect();
            assert_eq!(data, expected, "{length} bytes at {offset}");
        }
    }
}

/// Status before, status written, status after (virtio 1.3 §2.1, §3.1.1).
#[test]
fn the_status_goes_only_where_the_specification_lets_it() {
    const A: u8 = ACKNOWLEDGE;
    const D: u8 = DRIVER;
    const F: u8 = FEATURES_OK;
    const O: u8 = DRIVER_OK;
    let table: [(&[u8], u8, u8); 14] = [
        (&[], A, A),
        (&[], A | D, A | D),
        (&[], O, 0),
        (&[], F, 0),
        (&[], A | D | O, A | D),
        (&[A], D, A),
        (&[A], A | D, A | D),
        (&[A, A | D], A | D | F, A | D | F),
        (&[A, A | D], A | D | F | O, A | D | F | O),
        (&[A, A | D, A | D | F], A | D, A | D | F),
        (&[A, A | D, A | D | F], A | D | F | O, A | D | F | O),
        (&[A], A | NEEDS_RESET, A),
        (&[A], A | FAILED, A | FAILED),
        (&[A, A | D, A | D | F], 0, 0),
    ];
    for (before, written, after) in table {
        let mut driver = Driver::new();
        driver.accept(1 << 32);
        for status in before {
            driver.set_status(*status);
        }
        driver.set_status(written);
        assert_eq!(driver.status(), after, "{before:?}, then {written}");
    }
}

#[test]
fn features_that_cannot_be_are_not_ok() {
    for features in [0, 1 << 5, 1 << 32 | 1 << 6, 1 << 33 | 1 << 32, u64::MAX] {
        let mut driver = Driver::new();
        driver.set_status(ACKNOWLEDGE | DRIVER);
        driver.accept(features);
        driver.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER, "{features:#x}");
    }
}

#[test]
fn accepted_features_are_final() {
    let mut driver = Driver::new();
    driver.negotiate();
    driver.accept(0);
    driver.write32(DRIVER_FEATURE_SELECT, 0);
    assert_eq!(driver.read32(DRIVER_FEATURE), 1 << 5);
}

#[test]
fn activation_hands_over_what_the_driver_chose() {
    let mut driver = Driver::new();
    driver.activate();
    assert!(driver.running());
    let job = driver.runner.0.lock().unwrap().take().unwrap();
    assert_eq!(job.place, 4);
    assert_eq!(job.activation.features, 1 << 32 | 1 << 5);
    let [Some(queue), None] = &job.activation.queues[..] else {
        panic!("only queue 0 was enabled");
    };
    let settings = queue.settings();
    assert_eq!(
        (
            settings.size,
            settings.desc,
            settings.driver,
            settings.device
        ),
        (32, 0x10_0000, 0x11_0000, 0x12_0000)
    );
    assert!(!settings.event_idx);
    assert_eq!(*driver.bells.0.lock().unwrap(), [NOTIFY]);
}

#[test]
fn queue_registers_are_frozen_after_activation() {
    let mut driver = Driver::new();
    driver.activate();
    let before: [u8; 32] = driver.read(QUEUE_SIZE);
    for queue in 0..3 {
        driver.write16(QUEUE_SELECT, queue);
        driver.write16(QUEUE_SIZE, 1);
        driver.write16(QUEUE_VECTOR, 2);
        driver.write16(QUEUE_ENABLE, 1);
        driver.write16(CONFIG_VECTOR, 2);
        for offset in (QUEUE_DESC..56).step_by(4) {
            driver.write32(offset, 0xffff_ffff);
        }
    }
    driver.write16(QUEUE_SELECT, 0);
    assert_eq!(driver.read::<32>(QUEUE_SIZE), before);
    assert_eq!(driver.read16(CONFIG_VECTOR), NO_VECTOR);
    driver.write16(QUEUE_SELECT, 1);
    assert_eq!(driver.read16(QUEUE_ENABLE), 0, "enabled too late");
}

#[test]
fn an_enabled_queue_is_frozen_before_activation_too() {
    let mut driver = Driver::new();
    driver.negotiate();
    driver.enable_queue();
    driver.write16(QUEUE_SIZE, 16);
    driver.write32(QUEUE_DESC, 0);
    driver.write16(QUEUE_ENABLE, 0);
    assert_eq!(driver.read16(QUEUE_SIZE), 32);
    assert_eq!(driver.read32(QUEUE_DESC), 0x10_0000);
    assert_eq!(driver.read16(QUEUE_ENABLE), 1);
}

#[test]
fn sizes_above_the_largest_are_not_taken() {
    let mut driver = Driver::new();
    for size in [65, 128, 32768, u16::MAX] {
        driver.write16(QUEUE_SIZE, size);
        assert_eq!(driver.read16(QUEUE_SIZE), 64, "{size}");
    }
    driver.write16(QUEUE_SIZE, 8);
    assert_eq!(driver.read16(QUEUE_SIZE), 8);
}

#[test]
fn queues_that_cannot_be_break_the_device_until_it_is_reset() {
    type Change = fn(&mut Driver);
    let wrong: [(&str, Change); 8] = [
        ("size 0", |driver| driver.write16(QUEUE_SIZE, 0)),
        ("size 33", |driver| driver.write16(QUEUE_SIZE, 33)),
        ("unaligned table", |driver| {
            driver.write32(QUEUE_DESC, 0x10_0008);
        }),
        ("unaligned driver area", |driver| {
            driver.write32(QUEUE_DRIVER, 0x11_0001);
        }),
        ("unaligned device area", |driver| {
            driver.write32(QUEUE_DEVICE, 0x12_0002);
        }),
        ("table outside memory", |driver| {
            driver.write32(QUEUE_DESC, 64 << 20);
        }),
        ("table across the end", |driver| {
            driver.write32(QUEUE_DESC, (64 << 20) - 16);
        }),
        ("table at the end of all addresses", |driver| {
            driver.write(QUEUE_DESC, &(u64::MAX - 15).to_le_bytes());
        }),
    ];
    for (what, change) in wrong {
        let mut driver = Driver::new();
        driver.negotiate();
        driver.write16(QUEUE_SELECT, 0);
        driver.write16(QUEUE_SIZE, 32);
        driver.write32(QUEUE_DESC, 0x10_0000);
        driver.write32(QUEUE_DRIVER, 0x11_0000);
        driver.write32(QUEUE_DEVICE, 0x12_0000);
        change(&mut driver);
        driver.write16(QUEUE_ENABLE, 1);
        driver.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        assert_ne!(driver.status() & NEEDS_RESET, 0, "{what}");
        assert!(!driver.running(), "{what}");
        assert!(
            driver
                .fault()
                .is_some_and(|fault| fault.contains("queue 0"))
        );
        assert_eq!(driver.transport.take_isr(), 2, "{what}");
        assert_eq!(driver.transport.refusals(), 1, "{what}");

        driver.set_status(0);
        assert_eq!(driver.status(), 0, "{what}");
        driver.activate();
        assert!(driver.running(), "{what}");
        assert_eq!(driver.status() & NEEDS_RESET, 0, "{what}");
        assert_eq!(driver.transport.refusals(), 1, "{what}");
    }
}

#[test]
fn a_reset_stops_the_device_and_clears_every_register() {
    let mut driver = Driver::new();
    let fresh: [u8; 56] = driver.read(0);
    driver.write32(DEVICE_FEATURE_SELECT, 1);
    driver.activate();
    driver.set_status(0);
    assert!(!driver.running());
    assert!(driver.bells.0.lock().unwrap().is_empty());
    let mut after: [u8; 56] = driver.read(0);
    assert_eq!(after[GENERATION], 1, "the configuration changed");
    after[GENERATION] = 0;
    assert_eq!(after, fresh);
    driver.activate();
    assert!(driver.running());
}

#[test]
fn the_device_configuration_is_read_within_its_bounds() {
    let driver = Driver::new();
    let mut data = [0xee; 5];
    driver.transport.read_config(1, &mut data);
    assert_eq!(data, [2, 3, 0, 0, 0]);
    driver.transport.read_config(4095, &mut data);
    assert_eq!(data, [0; 5]);
}

#[test]
fn a_notification_reaches_only_a_running_queue() {
    let mut driver = Driver::new();
    driver.transport.notify(0);
    driver.negotiate();
    driver.enable_queue();
    driver.transport.notify(0);
    driver.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    let count = |driver: &Driver| {
        let job = driver.runner.0.lock().unwrap();
        let queue = job.as_ref().unwrap().activation.queues[0].as_ref();
        queue.unwrap().kick().read().unwrap_or(0)
    };
    assert_eq!(count(&driver), 0, "what came too early is forgotten");
    driver.transport.notify(0);
    driver.transport.notify(1);
    driver.transport.notify(1000);
    assert_eq!(count(&driver), 1);
}

#[test]
fn vectors_that_do_not_exist_read_back_as_none() {
    let mut driver = Driver::new();
    for (vector, found) in [(0, 0), (2, 2), (3, NO_VECTOR), (0xfffe, NO_VECTOR)] {
        driver.write16(CONFIG_VECTOR, vector);
        assert_eq!(driver.read16(CONFIG_VECTOR), found);
        driver.write16(QUEUE_VECTOR, vector);
        assert_eq!(driver.read16(QUEUE_VECTOR), found);
    }
}

#[test]
fn only_disks_and_networks_have_an_interrupt_for_each_queue() {
    for (kind, vectors) in [
        (DeviceKind::Net, 3),
        (DeviceKind::Block, 3),
        (DeviceKind::Vsock, 2),
        (DeviceKind::FileSystem, 2),
        (DeviceKind::Balloon, 2),
    ] {
        assert_eq!(Driver::of(kind).transport.vectors(), vectors, "{kind:?}");
    }
}

#[test]
fn a_running_device_signals_the_vector_of_its_queue() {
    let mut driver = Driver::new();
    driver.activate();
    let job = driver.runner.0.lock().unwrap().take().unwrap();
    let queue = job.activation.queues[0].as_ref().unwrap();
    queue.interrupt().signal().unwrap();
    let pending = |vector| driver.msix.interrupt(vector).unwrap().is_pending();
    assert_eq!([pending(0), pending(1), pending(2)], [false, true, false]);
}

#[test]
fn a_fault_while_running_shows_in_status_and_isr() {
    let mut driver = Driver::new();
    driver.write16(CONFIG_VECTOR, 2);
    driver.activate();
    driver.line().fault();
    assert_ne!(driver.status() & NEEDS_RESET, 0);
    assert!(driver.msix.interrupt(2).unwrap().is_pending());
    assert_eq!(driver.transport.take_isr(), 2);
    assert_eq!(driver.transport.take_isr(), 0, "reading clears it");
    driver.set_status(0);
    assert_eq!(driver.status(), 0);
}

#[test]
fn a_device_that_is_lost_never_works_again() {
    let mut driver = Driver::new();
    driver.activate();
    driver.runner.0.lock().unwrap().take();
    driver.set_status(0);
    assert_eq!(driver.status(), NEEDS_RESET);
    assert_eq!(driver.read16(NUM_QUEUES), 0);
    driver.activate_blindly();
    assert!(!driver.running());
}

impl Driver {
    fn activate_blindly(&mut self) {
        for status in [1, 3, 11, 15] {
            self.accept(1 << 32);
            self.set_status(status);
        }
    }
}
