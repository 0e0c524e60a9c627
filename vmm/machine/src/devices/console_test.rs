use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use super::{BLOCK, MAX_REQUEST, RECEIVE, TRANSMIT, VirtioConsole};
use crate::console::{Console, Tail};
use crate::virtio::device::{Activation, Device, DeviceFault, Running, Stopped};
use crate::virtio::mock_driver::{MockDriver, activation, guest_ram};

const DATA: u64 = 0x40_0000;

struct Bench {
    receive: MockDriver,
    transmit: MockDriver,
    device: Box<dyn Running>,
    output: File,
    tail: Tail,
}

impl Bench {
    fn new() -> Self {
        let memory = guest_ram();
        let (output, write) = std::io::pipe().unwrap();
        let write = File::from(OwnedFd::from(write));
        let tail = Tail::default();
        let console = Console::new(Some(write), tail.clone()).unwrap();
        let receive = MockDriver::new(&memory, 0x1000, 16);
        let transmit = MockDriver::new(&memory, 0x2000, 16);
        let activation = activation_of(&receive, &transmit);
        let device = start(Box::new(VirtioConsole::new(console)), activation);
        Self {
            receive,
            transmit,
            device,
            output: OwnedFd::from(output).into(),
            tail,
        }
    }

    /// What comes out when the device is gone.
    fn output(self) -> Vec<u8> {
        drop(self.device);
        let mut bytes = Vec::new();
        let mut output = self.output;
        output.read_to_end(&mut bytes).unwrap();
        bytes
    }
}

fn activation_of(receive: &MockDriver, transmit: &MockDriver) -> Activation {
    let queues = vec![
        Some(receive.queue(RECEIVE).unwrap()),
        Some(transmit.queue(TRANSMIT).unwrap()),
    ];
    activation(0, &receive.memory, queues)
}

fn start(device: Box<dyn Device>, activation: Activation) -> Box<dyn Running> {
    device
        .activate(activation)
        .map_err(|(_, fault)| fault)
        .unwrap()
}

#[test]
fn what_the_guest_writes_comes_out_in_order() {
    let mut bench = Bench::new();
    bench.transmit.write(DATA, b"first second third");
    let one = bench
        .transmit
        .add(&[(DATA, 6, false), (DATA + 6, 0, false), (DATA + 6, 7, false)]);
    let two = bench.transmit.add(&[(DATA + 13, 5, false)]);
    bench.device.on_queue(TRANSMIT).unwrap();
    assert_eq!(bench.transmit.take_used(), Some((one, 0)));
    assert_eq!(bench.transmit.take_used(), Some((two, 0)));
    assert_eq!(bench.tail.text(), "first second third");
    let counters = bench.device.counters();
    assert_eq!((counters.requests, counters.bytes_from_guest), (2, 18));
    assert_eq!(bench.output(), b"first second third");
}

#[test]
fn more_than_a_block_is_written_whole() {
    let mut bench = Bench::new();
    let bytes: Vec<u8> = (0..3 * BLOCK + 5).map(|byte| (byte % 251) as u8).collect();
    bench.transmit.write(DATA, &bytes);
    bench
        .transmit
        .add(&[(DATA, u32::try_from(bytes.len()).unwrap(), false)]);
    bench.device.on_queue(TRANSMIT).unwrap();
    assert_eq!(bench.output(), bytes);
}

#[test]
fn a_long_write_is_cut_and_a_reader_that_does_not_read_blocks_nobody() {
    let mut bench = Bench::new();
    for _ in 0..8 {
        let head = bench.transmit.add(&[(DATA, 8 << 20, false)]);
        bench.device.on_queue(TRANSMIT).unwrap();
        assert_eq!(bench.transmit.take_used(), Some((head, 0)));
    }
    let taken = bench.device.counters().bytes_from_guest;
    assert_eq!(taken, 8 * MAX_REQUEST as u64);
    let output = bench.output();
    assert!(!output.is_empty() && output.len() < 8 * MAX_REQUEST);
}

#[test]
fn there_is_no_input() {
    let mut bench = Bench::new();
    bench.receive.add(&[(DATA, 64, true)]);
    bench.device.on_queue(RECEIVE).unwrap();
    bench.device.on_ready(0).unwrap();
    assert_eq!(bench.receive.take_used(), None);
    // What is for the device to write is not written out either.
    bench.transmit.add(&[(DATA, 64, true)]);
    bench.device.on_queue(TRANSMIT).unwrap();
    assert!(bench.transmit.take_used().is_some());
    assert_eq!(bench.output(), b"");
}

#[test]
fn a_malformed_chain_stops_the_device() {
    let mut bench = Bench::new();
    bench.transmit.add(&[(u64::MAX - 3, 8, false)]);
    assert!(matches!(
        bench.device.on_queue(TRANSMIT),
        Err(DeviceFault::Queue {
            index: TRANSMIT,
            ..
        })
    ));
}

#[test]
fn it_goes_on_after_a_stop() {
    let mut bench = Bench::new();
    bench.transmit.write(DATA, b"before after");
    bench.transmit.add(&[(DATA, 6, false)]);
    bench.device.on_queue(TRANSMIT).unwrap();
    let Stopped { device, positions } = bench.device.stop();
    let mut activation = activation_of(&bench.receive, &bench.transmit);
    for (queue, position) in activation.queues.iter_mut().zip(positions) {
        queue.as_mut().unwrap().set_position(position);
    }
    bench.device = start(device, activation);
    bench.transmit.add(&[(DATA + 6, 6, false)]);
    bench.device.on_queue(TRANSMIT).unwrap();
    assert_eq!(bench.device.counters().requests, 2);
    assert_eq!(bench.output(), b"before after");
}

#[test]
fn a_driver_must_have_both_queues() {
    let bench = Bench::new();
    let mut device = bench.device.stop().device;
    for missing in [RECEIVE, TRANSMIT] {
        let mut activation = activation_of(&bench.receive, &bench.transmit);
        activation.queues[missing] = None;
        device = match device.activate(activation) {
            Err((device, DeviceFault::QueueMissing(index))) if index == missing => device,
            _ => panic!("queue {missing} is needed"),
        };
    }
}
