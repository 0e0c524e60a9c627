#[path = "memory_test/model.rs"]
mod model;

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::{BLOCK, HotplugMemory, HotplugSlots, Memory};
use crate::memory::{Backing, GuestRam};
use crate::virtio::config::SharedConfig;
use crate::virtio::device::{Activation, Device, DeviceFault, Running, Stopped};
use crate::virtio::mock_driver::{MockDriver, activation};
use crate::virtio::queue::QueueError;

/// Where the region begins, behind the hole of a small guest.
const START: u64 = 4 << 30;
const SLOT: u64 = 128 << 20;
/// Two slots.
const REGION: u64 = 2 * SLOT;
const REQUEST: u64 = 0x10_0000;
const RESPONSE: u64 = 0x10_1000;

const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;

/// Answers, with the state of the blocks behind.
const ACK: (u16, u16) = (0, 0);
const NACK: (u16, u16) = (1, 0);
const BUSY: (u16, u16) = (2, 0);
const ERROR: (u16, u16) = (3, 0);
const UNPLUGGED: (u16, u16) = (0, 1);
const MIXED: (u16, u16) = (0, 2);

/// KVM, as far as the device knows it.
#[derive(Default)]
struct Slots {
    present: Mutex<BTreeSet<u32>>,
    /// A slot for which there are no resources.
    refused: Mutex<Option<u32>>,
}

impl HotplugSlots for Slots {
    fn insert(&self, index: u32) -> io::Result<()> {
        if *self.refused.lock().unwrap() == Some(index) {
            return Err(io::Error::from(io::ErrorKind::OutOfMemory));
        }
        let new = self.present.lock().unwrap().insert(index);
        assert!(new, "slot {index} was there already");
        Ok(())
    }

    fn remove(&self, index: u32) {
        let was_there = self.present.lock().unwrap().remove(&index);
        assert!(was_there, "slot {index} was not there");
    }
}

/// A device at work, its driver and its host.
struct Bench {
    driver: MockDriver,
    device: Box<dyn Running>,
    config: SharedConfig,
    host: HotplugMemory,
    slots: Arc<Slots>,
}

impl Bench {
    fn new(backing: Backing) -> Self {
        let memory = GuestRam::with_hotplug(16, REGION >> 20, backing).unwrap();
        let driver = MockDriver::new(&Arc::new(memory), 0x1000, 16);
        let slots = Arc::new(Slots::default());
        let (device, host) = Memory::new(&driver.memory, Arc::clone(&slots) as _)
            .unwrap()
            .unwrap();
        let config = device.config();
        let device = start(Box::new(device), activation_of(&driver));
        Self {
            driver,
            device,
            config,
            host,
            slots,
        }
    }

    /// A device whose guest shall have `mib` MiB.
    fn asked_for(mib: u64) -> Self {
        let bench = Self::new(Backing::Private);
        bench.host.set_requested(mib << 20);
        bench
    }

    /// Sends a request for `count` blocks from `address` on; returns the answer.
    fn ask(&mut self, kind: u16, address: u64, count: u16) -> (u16, u16) {
        let mut request = [0xaa; 24];
        request[..2].copy_from_slice(&kind.to_le_bytes());
        request[8..16].copy_from_slice(&address.to_le_bytes());
        request[16..18].copy_from_slice(&count.to_le_bytes());
        self.driver.write(REQUEST, &request);
        self.driver.write(RESPONSE, &[0xee; 11]);
        let head = self
            .driver
            .add(&[(REQUEST, 24, false), (RESPONSE, 10, true)]);
        self.device.on_queue(0).unwrap();
        assert_eq!(self.driver.take_used(), Some((head, 10)));
        let answer: [u8; 11] = self.driver.read(RESPONSE);
        assert_eq!(answer[2..8], [0; 6]);
        assert_eq!(answer[10], 0xee);
        let word = |at| u16::from_le_bytes([answer[at], answer[at + 1]]);
        (word(0), word(8))
    }

    /// The same with the block's number instead of its address.
    fn ask_block(&mut self, kind: u16, block: u64, count: u16) -> (u16, u16) {
        self.ask(kind, START + block * BLOCK, count)
    }

    fn config_field(&self, offset: usize) -> u64 {
        let mut bytes = [0; 8];
        self.config.read(offset, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Usable, plugged and requested size in blocks.
    fn sizes(&self) -> (u64, u64, u64) {
        let [usable, plugged, requested] = [32, 40, 48].map(|offset| self.config_field(offset));
        assert_eq!(self.host.plugged(), plugged);
        (usable / BLOCK, plugged / BLOCK, requested / BLOCK)
    }

    fn slots(&self) -> Vec<u32> {
        self.slots.present.lock().unwrap().iter().copied().collect()
    }

    fn byte(&self, address: u64) -> u8 {
        self.driver.read::<1>(address)[0]
    }
}

fn activation_of(driver: &MockDriver) -> Activation {
    activation(2, &driver.memory, vec![Some(driver.queue(0).unwrap())])
}

fn start(device: Box<dyn Device>, activation: Activation) -> Box<dyn Running> {
    device
        .activate(activation)
        .map_err(|(_, fault)| fault)
        .unwrap()
}

#[test]
fn without_a_region_there_is_no_device() {
    let memory = GuestRam::new(16, Backing::Private).unwrap();
    let device = Memory::new(&memory, Arc::new(Slots::default())).unwrap();
    assert!(device.is_none());
}

#[test]
fn the_configuration_describes_the_region() {
    let bench = Bench::new(Backing::Private);
    assert_eq!(bench.config.length(), 56);
    let fields = [0, 8, 16, 24].map(|offset| bench.config_field(offset));
    assert_eq!(fields, [BLOCK, 0, START, REGION]);
    assert_eq!(bench.sizes(), (0, 0, 0));
    assert_eq!(bench.host.most(), REGION);
}

#[test]
fn what_the_host_asks_for_is_shown_and_the_driver_is_told() {
    let mut bench = Bench::new(Backing::Private);
    let mut activation = activation_of(&bench.driver);
    let line = activation.driver.clone();
    activation.queues = vec![Some(bench.driver.queue(0).unwrap())];
    bench.device = start(bench.device.stop().device, activation);
    bench.host.set_requested(3 << 20);
    assert_eq!(bench.sizes(), (64, 0, 2), "whole blocks, whole slots");
    let watch = bench.device.watches()[0];
    assert!(watch.readable);
    bench.device.on_ready(watch.token).unwrap();
    assert_eq!(line.interrupt.event_fd().read().unwrap(), 1);
    assert_eq!(line.flags.take_isr(), 2);

    bench.host.set_requested(SLOT + 1);
    assert_eq!(bench.sizes(), (128, 0, 65));
    bench.host.set_requested(u64::MAX);
    assert_eq!(bench.sizes(), (128, 0, 128));
    bench.host.set_requested(0);
    assert_eq!(
        bench.sizes(),
        (128, 0, 0),
        "the usable region does not shrink"
    );
}

#[test]
fn a_large_guest_can_use_whole_blocks_of_its_kernel() {
    let memory = GuestRam::with_hotplug(64 << 10, 5 << 10, Backing::Private).unwrap();
    let slots = Arc::new(Slots::default());
    let (device, host) = Memory::new(&memory, slots).unwrap().unwrap();
    let usable = |mib: u64| {
        host.set_requested(mib << 20);
        let mut bytes = [0; 8];
        device.config().read(32, &mut bytes);
        u64::from_le_bytes(bytes) >> 20
    };
    assert_eq!(usable(1), 2 << 10);
    assert_eq!(usable((2 << 10) + 2), 4 << 10);
    assert_eq!(usable(5 << 10), 5 << 10, "no more than there is");
}

#[test]
fn blocks_are_plugged_up_to_what_was_asked_for() {
    let mut bench = Bench::asked_for(10);
    assert_eq!(bench.ask_block(PLUG, 0, 3), ACK);
    assert_eq!(bench.sizes(), (64, 3, 5));
    assert_eq!(bench.ask_block(PLUG, 10, 3), NACK);
    assert_eq!(bench.sizes(), (64, 3, 5));
    assert_eq!(bench.ask_block(PLUG, 10, 2), ACK);
    assert_eq!(bench.ask_block(PLUG, 20, 1), NACK);
    assert_eq!(bench.sizes(), (64, 5, 5));
    bench.host.set_requested(0);
    assert_eq!(bench.ask_block(PLUG, 20, 1), NACK, "more than that already");
    assert_eq!(bench.device.counters().requests, 5);
}

#[test]
fn malformed_requests_are_errors_and_change_nothing() {
    let mut bench = Bench::asked_for(200);
    assert_eq!(bench.ask_block(PLUG, 4, 4), ACK);
    bench.host.set_requested(64 << 20);
    let usable = 2 * SLOT;
    for kind in [PLUG, UNPLUG, STATE] {
        for (address, count) in [
            (START, 0),
            (START + 4 * BLOCK, 0),
            (START + 1, 1),
            (START + BLOCK / 2, 1),
            (START - BLOCK, 1),
            (0, 1),
            (REQUEST, 1),
            (START + usable, 1),
            (START + usable - BLOCK, 2),
            (START, u16::MAX),
            (u64::MAX, 1),
            (u64::MAX - BLOCK + 1, 1),
        ] {
            assert_eq!(
                bench.ask(kind, address, count),
                ERROR,
                "{kind} {address:#x}"
            );
        }
    }
    for kind in [4, 255, u16::MAX] {
        assert_eq!(bench.ask_block(kind, 0, 1), ERROR, "no such request");
    }
    assert_eq!(bench.ask_block(STATE, 4, 4), ACK);
    assert_eq!(bench.sizes(), (128, 4, 32));
    assert_eq!(bench.slots(), [0]);
}

#[test]
fn nothing_outside_the_usable_region_is_plugged() {
    let mut bench = Bench::asked_for(100);
    assert_eq!(bench.ask_block(PLUG, 64, 1), ERROR);
    assert_eq!(bench.ask_block(PLUG, 63, 2), ERROR);
    assert_eq!(bench.ask_block(PLUG, 63, 1), ACK);
}

#[test]
fn blocks_must_be_in_the_state_that_a_request_is_for() {
    let mut bench = Bench::asked_for(64);
    bench.ask_block(PLUG, 8, 8);
    for (first, count) in [(8, 8), (15, 2), (7, 2), (8, 1), (0, 20)] {
        assert_eq!(bench.ask_block(PLUG, first, count), ERROR, "{first}");
    }
    for (first, count) in [(0, 1), (7, 2), (15, 2), (0, 64)] {
        assert_eq!(bench.ask_block(UNPLUG, first, count), ERROR, "{first}");
    }
    assert_eq!(bench.sizes().1, 8);
    for (first, count, state) in [
        (8, 8, ACK),
        (0, 8, UNPLUGGED),
        (16, 48, UNPLUGGED),
        (7, 2, MIXED),
        (0, 64, MIXED),
    ] {
        assert_eq!(bench.ask_block(STATE, first, count), state, "{first}");
    }
}

#[test]
fn the_guest_gets_a_slot_with_its_first_block_and_loses_it_with_its_last() {
    let mut bench = Bench::asked_for(256);
    assert_eq!(bench.ask_block(PLUG, 63, 2), ACK);
    assert_eq!(bench.slots(), [0, 1]);
    assert_eq!(bench.ask_block(PLUG, 70, 1), ACK);
    assert_eq!(bench.ask_block(UNPLUG, 63, 2), ACK);
    assert_eq!(bench.slots(), [1]);
    assert_eq!(bench.ask_block(UNPLUG, 70, 1), ACK);
    assert_eq!(bench.slots(), [0; 0]);
}

#[test]
fn a_slot_that_the_host_cannot_give_makes_the_driver_come_again() {
    let mut bench = Bench::asked_for(256);
    *bench.slots.refused.lock().unwrap() = Some(1);
    assert_eq!(bench.ask_block(PLUG, 63, 2), BUSY);
    assert_eq!(bench.slots(), [0; 0], "the first half is undone");
    assert_eq!(bench.sizes().1, 0);
    assert_eq!(bench.ask_block(STATE, 63, 2), UNPLUGGED);
    *bench.slots.refused.lock().unwrap() = None;
    assert_eq!(bench.ask_block(PLUG, 63, 2), ACK);
    assert_eq!(bench.slots(), [0, 1]);
}

/// Bytes of the memory file that take up memory of the host.
fn in_file(memory: &GuestRam) -> u64 {
    let region = memory.iter().next().unwrap();
    let file = region.file_offset().unwrap().file();
    std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap()) * 512
}

#[test]
fn unplugged_blocks_go_back_to_the_host_and_their_neighbours_stay() {
    for backing in [Backing::Private, Backing::Shared] {
        let shared = matches!(backing, Backing::Shared);
        let mut bench = Bench::new(backing);
        bench.host.set_requested(8 << 20);
        bench.ask_block(PLUG, 0, 4);
        let bytes = vec![7; 4 * BLOCK as usize];
        bench.driver.write(START, &bytes);
        let memory = Arc::clone(&bench.driver.memory);
        let before = shared.then(|| in_file(&memory));
        assert_eq!(bench.ask_block(UNPLUG, 1, 2), ACK);
        if let Some(before) = before {
            assert_eq!(before - in_file(&memory), 2 * BLOCK);
        }
        for (block, value) in [(0, 7), (1, 0), (2, 0), (3, 7)] {
            let start = START + block * BLOCK;
            assert_eq!(bench.byte(start), value);
            assert_eq!(bench.byte(start + BLOCK - 1), value);
        }
    }
}

#[test]
fn unplugging_all_takes_everything_back_and_lets_the_usable_region_shrink() {
    let mut bench = Bench::asked_for(256);
    bench.ask_block(PLUG, 5, 70);
    bench.ask_block(PLUG, 100, 1);
    bench.driver.write(START + 100 * BLOCK, &[7]);
    // Not plugged: another device wrote there for a driver that keeps to nothing.
    bench.driver.write(START + 2 * BLOCK, &[7]);
    bench.host.set_requested(2 << 20);
    assert_eq!(bench.ask(UNPLUG_ALL, 1, 0), ACK, "the rest does not matter");
    assert_eq!(bench.sizes(), (64, 0, 1));
    assert_eq!(bench.slots(), [0; 0]);
    assert_eq!(bench.byte(START + 100 * BLOCK), 0);
    assert_eq!(bench.byte(START + 2 * BLOCK), 0);
    assert_eq!(
        bench.ask(UNPLUG_ALL, 0, 0),
        ACK,
        "also when there is nothing"
    );
    assert_eq!(bench.ask_block(STATE, 0, 64), UNPLUGGED);
}

#[test]
fn plugged_memory_outlives_stop_and_reset() {
    let mut bench = Bench::asked_for(64);
    bench.ask_block(PLUG, 3, 5);
    bench.driver.write(START + 3 * BLOCK, &[7]);
    let Stopped {
        mut device,
        positions,
    } = bench.device.stop();
    device.reset();
    let mut queue = bench.driver.queue(0).unwrap();
    queue.set_position(positions[0]);
    let again = activation(2, &bench.driver.memory, vec![Some(queue)]);
    bench.device = start(device, again);
    assert_eq!(bench.sizes(), (64, 5, 32));
    assert_eq!(bench.slots(), [0]);
    assert_eq!(bench.ask_block(STATE, 3, 5), ACK);
    assert_eq!(bench.byte(START + 3 * BLOCK), 7);
    assert_eq!(bench.device.counters().requests, 2);
}

#[test]
fn what_the_host_asks_for_while_nobody_listens_is_told_later() {
    let mut bench = Bench::new(Backing::Private);
    let device = bench.device.stop().device;
    bench.host.set_requested(2 << 20);
    bench.device = start(device, activation_of(&bench.driver));
    // The descriptor it watches is still signalled.
    assert_eq!(bench.host.0.wake.read().unwrap(), 1);
}

#[test]
fn requests_that_are_too_short_stop_the_device() {
    for buffers in [
        [(REQUEST, 23, false), (RESPONSE, 10, true)],
        [(REQUEST, 0, false), (RESPONSE, 10, true)],
        [(REQUEST, 24, false), (RESPONSE, 9, true)],
        [(REQUEST, 12, false), (REQUEST, 12, false)],
        [(REQUEST, 24, true), (RESPONSE, 10, true)],
    ] {
        let mut bench = Bench::asked_for(64);
        let mut request = [0; 24];
        request[8..16].copy_from_slice(&START.to_le_bytes());
        request[16] = 1;
        bench.driver.write(REQUEST, &request);
        bench.driver.add(&buffers);
        assert!(matches!(
            bench.device.on_queue(0),
            Err(DeviceFault::Queue {
                index: 0,
                source: QueueError::TooShort { .. }
            })
        ));
        assert_eq!(bench.sizes().1, 0, "nothing is done that is not answered");
    }
}

#[test]
fn a_malformed_chain_stops_the_device_and_a_reset_starts_it_again() {
    let mut bench = Bench::asked_for(64);
    bench.ask_block(PLUG, 0, 1);
    bench.driver.add(&[(u64::MAX - 8, 24, false)]);
    assert!(bench.device.on_queue(0).is_err());
    let mut device = bench.device.stop().device;
    device.reset();
    bench.driver = MockDriver::new(&bench.driver.memory, 0x4000, 16);
    bench.device = start(device, activation_of(&bench.driver));
    assert_eq!(bench.ask_block(STATE, 0, 1), ACK);
}

#[test]
fn a_driver_without_the_queue_cannot_start_it() {
    let bench = Bench::new(Backing::Private);
    let device = bench.device.stop().device;
    let without = activation(2, &bench.driver.memory, vec![None]);
    assert!(matches!(
        device.activate(without),
        Err((_, DeviceFault::QueueMissing(0)))
    ));
}

#[test]
fn a_queue_in_memory_that_is_unplugged_hurts_only_its_driver() {
    let mut bench = Bench::asked_for(64);
    bench.ask_block(PLUG, 0, 2);
    let memory = Arc::clone(&bench.driver.memory);
    memory.write_obj(7u8, GuestAddress(REQUEST + 64)).unwrap();
    let device = bench.device.stop().device;
    bench.driver = MockDriver::new(&memory, START, 16);
    bench.device = start(device, activation_of(&bench.driver));
    let mut request = [0; 24];
    request[0] = 1;
    request[8..16].copy_from_slice(&START.to_le_bytes());
    request[16] = 1;
    bench.driver.write(REQUEST, &request);
    bench
        .driver
        .add(&[(REQUEST, 24, false), (RESPONSE, 10, true)]);
    // The ring is gone when the answer is put on it. Whether that is a fault is of no matter.
    let _ = bench.device.on_queue(0);
    assert_eq!(bench.sizes().1, 1);
    assert_eq!(
        memory.read_obj::<u8>(GuestAddress(REQUEST + 64)).unwrap(),
        7
    );
    let device = bench.device.stop().device;
    bench.driver = MockDriver::new(&memory, 0x1000, 16);
    bench.device = start(device, activation_of(&bench.driver));
    assert_eq!(bench.ask_block(STATE, 0, 2), MIXED);
}
