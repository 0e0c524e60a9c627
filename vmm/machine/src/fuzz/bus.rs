//! The PCI bus with devices on it, whose driver reads and writes whatever it likes: configuration
//! space, BARs, registers in any order, rings with anything in them. Meanwhile functions come and
//! go, and the machine is paused.
//!
//! The devices run on a real io thread. Whatever was done to one, a reset and an orderly start make
//! it work again.

mod host;

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use caisson_control::ExitReason;

use self::host::Host;
use super::driver::{Ring, clear, memory};
use super::{Random, run};
use crate::devices::rng::Rng;
use crate::devices::vsock::{Vsock, VsockConnector};
use crate::events::{EventReceiver, EventSender};
use crate::io_thread::IoThread;
use crate::memory::GuestRam;
use crate::pci::pvpanic::Pvpanic;
use crate::pci::root::{ADDRESS_PORT, DATA_PORT, PciRoot};
use crate::pci::test_function::TestFunction;
use crate::virtio::device::Device;
use crate::virtio::pci::{Environment, Transport, VirtioFunction};
use crate::virtio::queue::QueueSettings;

/// Registers of the common configuration (virtio 1.3 §4.1.4.3).
const DRIVER_FEATURE_SELECT: u64 = 8;
const DRIVER_FEATURE: u64 = 12;
const CONFIG_VECTOR: u64 = 16;
const STATUS: u64 = 20;
const QUEUE_SELECT: u64 = 22;
const QUEUE_SIZE: u64 = 24;
const QUEUE_VECTOR: u64 = 26;
const QUEUE_ENABLE: u64 = 28;
const QUEUE_DESC: u64 = 32;
/// Offsets in the BAR.
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const MSIX_TABLE: u64 = 0x4000;
const BAR_LENGTH: u64 = 0x8000;
const DRIVER_OK: u8 = 15;
const NEEDS_RESET: u8 = 64;

const STEPS: u64 = 300;
/// Slots that hold devices at some time.
const SLOTS: u64 = 6;

/// Every other slot has a socket device, the rest entropy devices.
fn has_socket_device(slot: u8) -> bool {
    slot.is_multiple_of(2)
}

#[test]
fn pci() {
    let memory = memory();
    run("pci", 40, |random| {
        clear(&memory);
        let mut machine = Machine::new(&memory);
        for _ in 0..STEPS {
            random.step();
            machine.act(random);
            machine.check();
        }
        machine.root.resume();
        machine.tidy();
        for slot in 2..SLOTS as u8 {
            machine.works(random, slot);
        }
        machine.root.shut_down();
        machine.check();
        machine.host.assert_nothing_is_connected();
    });
}

/// The bus and all around it.
struct Machine {
    root: PciRoot,
    environment: Environment,
    io: Arc<IoThread>,
    host: Arc<Host>,
    receiver: EventReceiver,
    sender: EventSender,
    vsock: Option<VsockConnector>,
    /// The rings of the last driver of each slot.
    rings: Vec<Vec<Ring>>,
}

impl Machine {
    fn new(memory: &Arc<GuestRam>) -> Self {
        let (sender, receiver) = crate::events::channel().unwrap();
        let io = Arc::new(IoThread::new(sender.clone()));
        let host = Arc::new(Host::default());
        let environment = Environment {
            memory: Arc::clone(memory),
            runner: Arc::clone(&io) as _,
            doorbells: Arc::clone(&host) as _,
            events: sender.clone(),
        };
        let mut machine = Self {
            root: PciRoot::new(),
            environment,
            io,
            host,
            receiver,
            sender: sender.clone(),
            vsock: None,
            rings: (0..SLOTS).map(|_| Vec::new()).collect(),
        };
        machine.root.put(0, Box::new(TestFunction::new()));
        let pvpanic = Pvpanic::new(PciRoot::first_bar(1), sender);
        machine.root.put(1, Box::new(pvpanic));
        for slot in 2..SLOTS as u8 {
            machine.plug(slot);
        }
        machine
    }

    /// Puts a device into `slot`.
    fn plug(&mut self, slot: u8) {
        let device: Box<dyn Device> = if has_socket_device(slot) {
            let events = Arc::new(self.sender.clone());
            let (vsock, connector) = Vsock::new(3, events).unwrap();
            self.vsock = Some(connector);
            Box::new(vsock)
        } else {
            Box::new(Rng::new())
        };
        let transport = Transport::new(device, slot.into(), self.environment.clone());
        let function = VirtioFunction::new(
            transport,
            PciRoot::first_bar(slot),
            u32::from(slot) * 32,
            Arc::clone(&self.host) as _,
        );
        let before = self.root.put(slot, Box::new(function.unwrap()));
        assert!(before.is_none());
    }

    fn unplug(&mut self, slot: u8) {
        self.root.take(slot).unwrap().shut_down();
        self.io.forget(slot.into());
        self.rings[usize::from(slot)].clear();
    }

    fn act(&mut self, random: &mut Random) {
        let slot = random.below(SLOTS) as u8;
        let device = 2 + random.below(SLOTS - 2) as u8;
        match random.below(20) {
            0 | 1 => self.touch_ports(random),
            2 | 3 => self.touch_config(random, slot),
            4..=6 => self.touch_bar(random, slot),
            7 => self.touch_memory(random),
            8 | 9 => self.start(random, device, 12),
            10..=13 => self.use_queue(random, device),
            14 => self.set_status(device, random.pick(&[0, 0, 1, 3, 11, 15, 128, 255])),
            15 => self.root.pause(),
            16 => self.root.resume(),
            17 if random.one_in(4) => {
                self.unplug(device);
                self.plug(device);
            }
            18 => self.connect(random),
            _ => drop(self.io.statistics()),
        }
    }

    /// Any access to the configuration ports.
    fn touch_ports(&mut self, random: &mut Random) {
        let port = ADDRESS_PORT + random.below(8) as u16;
        let mut data = vec![0; random.pick(&[1, 2, 4, 4, 4, 3, 8, 64, 0])];
        for byte in &mut data {
            *byte = random.next() as u8;
        }
        if random.one_in(2) {
            self.root.port_write(port, &data);
        } else {
            self.root.port_read(port, &mut data);
        }
    }

    /// An access to the configuration space of a function.
    fn touch_config(&mut self, random: &mut Random, slot: u8) {
        let register = match random.below(4) {
            0 => 0x04,
            1 => 0x10,
            // Where the capabilities are: the window into the BAR, and MSI-X.
            2 => 0x40 + random.below(0x70) as u8,
            _ => random.next() as u8,
        };
        self.select(slot, register);
        let byte = random.below(4) as u16;
        let length = random.pick(&[1, 2, 4]);
        let mut data = random.number().to_le_bytes()[..length].to_vec();
        if random.one_in(3) {
            self.root.port_read(DATA_PORT + byte, &mut data);
        } else {
            self.root.port_write(DATA_PORT + byte, &data);
        }
    }

    /// An access to the BAR of a function, wherever that is at the moment.
    fn touch_bar(&mut self, random: &mut Random, slot: u8) {
        let page = random.pick(&[0, 0, 0, ISR, DEVICE, NOTIFY, MSIX_TABLE, 0x5000, 0x6000]);
        let within = match random.below(4) {
            0 => random.below(0x1000),
            1 => 0x1000 - random.below(9),
            _ => 2 * random.below(32),
        };
        let length = random.pick(&[1, 2, 4, 8, 4, 3, 5, 16]);
        let mut data = random.number().to_le_bytes().to_vec();
        data.resize(length, 0);
        let address = self.bar(slot) + page + within;
        if random.one_in(3) {
            self.root.memory_read(address, &mut data);
        } else {
            self.write(address, &data);
        }
    }

    fn touch_memory(&mut self, random: &mut Random) {
        let mut data = vec![0xff; random.pick(&[1, 2, 4, 8])];
        let address = random.number();
        self.root.memory_read(address, &mut data);
        self.write(address, &data);
    }

    /// What a driver does to start a device. One in `malice` writes is another one; none if it
    /// is 0.
    fn start(&mut self, random: &mut Random, slot: u8, malice: u64) {
        let mut writes: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut put = |at: u64, bytes: &[u8]| writes.push((at, bytes.to_vec()));
        let queues: &[u16] = if has_socket_device(slot) {
            &[128, 128, 8]
        } else {
            &[64]
        };
        let vectors = queues.len() as u64 + 1;
        for status in [0, 1, 3] {
            put(STATUS, &[status]);
        }
        let event_idx = random.one_in(2);
        put(DRIVER_FEATURE_SELECT, &0u32.to_le_bytes());
        put(DRIVER_FEATURE, &(u32::from(event_idx) << 29).to_le_bytes());
        put(DRIVER_FEATURE_SELECT, &1u32.to_le_bytes());
        put(DRIVER_FEATURE, &1u32.to_le_bytes());
        put(STATUS, &[11]);
        for vector in 0..vectors {
            let entry = MSIX_TABLE + 16 * vector;
            put(entry, &0xfee0_0000u32.to_le_bytes());
            put(entry + 8, &(random.below(3) as u32).to_le_bytes());
            put(entry + 12, &[0; 4]);
        }
        put(CONFIG_VECTOR, &0u16.to_le_bytes());
        let mut rings = Vec::new();
        for (index, size) in queues.iter().enumerate() {
            let number = usize::from(slot) * 4 + index;
            let ring = Ring::new(random, &self.environment.memory, number, *size, event_idx);
            let QueueSettings {
                size,
                desc,
                driver,
                device,
                ..
            } = ring.settings;
            put(QUEUE_SELECT, &(index as u16).to_le_bytes());
            put(QUEUE_SIZE, &size.to_le_bytes());
            put(QUEUE_VECTOR, &(index as u16 + 1).to_le_bytes());
            for (at, address) in (QUEUE_DESC..).step_by(8).zip([desc, driver, device]) {
                put(at, &address.to_le_bytes());
            }
            put(QUEUE_ENABLE, &1u16.to_le_bytes());
            rings.push(ring);
        }
        put(STATUS, &[DRIVER_OK]);

        if malice == 0 || !random.one_in(malice) {
            self.write_config(slot, 0x10, &PciRoot::first_bar(slot).to_le_bytes());
            self.write_config(slot, 0x04, &[6, 0]);
        }
        let bar = self.bar(slot);
        for (at, mut bytes) in writes {
            if malice > 0 && random.one_in(malice) {
                match random.below(4) {
                    0 => continue,
                    1 => bytes = random.number().to_le_bytes()[..bytes.len()].to_vec(),
                    2 => self.touch_bar(random, slot),
                    _ => self.set_status(slot, random.below(16) as u8),
                }
            }
            self.write(bar + at, &bytes);
        }
        self.rings[usize::from(slot)] = rings;
    }

    fn use_queue(&mut self, random: &mut Random, slot: u8) {
        let rings = &mut self.rings[usize::from(slot)];
        if rings.is_empty() {
            return;
        }
        let index = random.index(rings.len());
        let ring = &mut rings[index];
        if random.one_in(10) {
            ring.mess(random);
        } else {
            let request = match (has_socket_device(slot), index) {
                (true, 1) => crate::devices::vsock::fuzz::packet(random),
                _ => Vec::new(),
            };
            ring.offer(random, &request, 20);
        }
        self.notify(slot, index);
    }

    fn notify(&mut self, slot: u8, index: usize) {
        let address = self.bar(slot) + NOTIFY + 4 * index as u64;
        self.write(address, &(index as u16).to_le_bytes());
    }

    fn connect(&self, random: &mut Random) {
        if let Some(vsock) = &self.vsock {
            let (_, theirs) = UnixStream::pair().unwrap();
            vsock.connect(1, random.below(4) as u32, theirs);
        }
    }

    /// Puts the BARs back to where they do not cover each other, and resets the devices.
    fn tidy(&mut self) {
        for slot in 1..SLOTS as u8 {
            self.write_config(slot, 0x04, &[0, 0]);
            self.write_config(slot, 0x10, &PciRoot::first_bar(slot).to_le_bytes());
        }
        for slot in 2..SLOTS as u8 {
            self.write_config(slot, 0x04, &[6, 0]);
            self.set_status(slot, 0);
        }
    }

    /// A reset and an orderly start make a device work, whatever was done to it before.
    fn works(&mut self, random: &mut Random, slot: u8) {
        self.start(random, slot, 0);
        let bar = self.bar(slot);
        let mut status = [0];
        self.root.memory_read(bar + STATUS, &mut status);
        assert_eq!(status, [DRIVER_OK], "slot {slot}");
        if has_socket_device(slot) {
            return;
        }
        let ring = &mut self.rings[usize::from(slot)][0];
        while !ring.offer(random, &[], 0) {}
        self.notify(slot, 0);
        // Whatever was asked for before a stop is done by it.
        self.root.pause();
        let ring = &mut self.rings[usize::from(slot)][0];
        assert_eq!(ring.reap(), 1, "slot {slot} does not answer");
        self.root.resume();
        self.root.memory_read(bar + STATUS, &mut status);
        assert_eq!(status[0] & NEEDS_RESET, 0, "slot {slot}");
    }

    /// The machine goes on, unless its kernel says that it panicked.
    fn check(&self) {
        match self.receiver.exit_reason() {
            None | Some(ExitReason::Panic) => {}
            Some(reason) => panic!("{reason:?}"),
        }
        drop(self.receiver.take());
    }

    fn set_status(&mut self, slot: u8, status: u8) {
        let address = self.bar(slot) + STATUS;
        self.write(address, &[status]);
    }

    /// A write that a doorbell takes does not come to the bus.
    fn write(&mut self, address: u64, data: &[u8]) {
        if !self.host.ring(address) {
            self.root.memory_write(address, data);
        }
    }

    /// Where the BAR of a function is, on or off.
    fn bar(&mut self, slot: u8) -> u64 {
        self.select(slot, 0x10);
        let mut bar = [0; 4];
        self.root.port_read(DATA_PORT, &mut bar);
        u64::from(u32::from_le_bytes(bar)) & !(BAR_LENGTH - 1)
    }

    fn select(&mut self, slot: u8, register: u8) {
        let address = 1 << 31 | u32::from(slot) << 11 | u32::from(register & !3);
        self.root.port_write(ADDRESS_PORT, &address.to_le_bytes());
    }

    fn write_config(&mut self, slot: u8, register: u8, data: &[u8]) {
        self.select(slot, register);
        let byte = u16::from(register & 3);
        self.root.port_write(DATA_PORT + byte, data);
    }
}
