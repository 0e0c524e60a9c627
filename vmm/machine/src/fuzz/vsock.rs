//! The packets of the socket device: a guest and a host that open, close, flood and stall
//! connections on a few ports, so that they meet.
//!
//! A guest with receive buffers at all times sees every packet at once, so that a model of each
//! connection tells whether the device kept to the credit it was given and lost or mixed up no
//! byte. A guest without shows that nothing grows without bound while it waits.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use super::credit::WINDOW;
use super::packet::{HEADER_SIZE, HOST_CID, Header, STREAM, op};
use super::table::{MAX_CONNECTIONS, MAX_RESETS};
use super::{
    CONNECTOR, EVENT, QUEUE_SIZES, RECEIVE, RunningVsock, TRANSMIT, Vsock, VsockConnector,
    VsockEvents,
};
use crate::fuzz::{Random, ready, run};
use crate::memory::GuestRam;
use crate::virtio::device::{DeviceFault, Interest, QueuePosition, Running};
use crate::virtio::mock_driver::{MockDriver, guest_ram};

const CID: u64 = 3;
/// Where the rings are, and the buffers for packets in both directions.
const RINGS: [u64; 3] = [0x1000, 0x8000, 0x1_0000];
const BUFFERS: u64 = 0x40_0000;
const BUFFER: u32 = 3584;
const PACKETS: u64 = 0x80_0000;
const STEPS: u64 = 250;
/// Calls after which a device that has nothing new to do must be idle.
const CALLS: usize = 20_000;

/// Any packet, but one that a device might take.
pub(crate) fn packet(random: &mut Random) -> Vec<u8> {
    let length = random.pick(&[0, 1, 100, 5000]);
    let data = random.bytes(length);
    let mut packet = header(random, length as u32).as_bytes().to_vec();
    packet.extend(data);
    packet
}

fn header(random: &mut Random, length: u32) -> Header {
    let mut header = Peer::default().header(ports(random), random.below(9) as u16);
    header.flags.set(random.below(5) as u32);
    header.buf_alloc.set(random.number() as u32);
    header.fwd_cnt.set(random.number() as u32);
    header.len.set(length);
    match random.below(40) {
        0 => header.dst_cid.set(random.number()),
        1 => header.src_cid.set(random.number()),
        2 => header.kind.set(random.number() as u16),
        3 => header.len.set(random.number() as u32),
        4 => header.op.set(random.number() as u16),
        5 => header.src_port.set(random.number() as u32),
        6 => header.dst_port.set(random.number() as u32),
        _ => {}
    }
    header
}

/// Ports of the guest and of the host.
type Ports = (u32, u32);

fn ports(random: &mut Random) -> Ports {
    (random.below(4) as u32, 1024 + random.below(3) as u32)
}

/// The byte at `position` of every stream, so that none can take another's place unseen.
fn pattern(position: u64) -> u8 {
    (position ^ position >> 8 ^ position >> 16) as u8
}

fn stretch(position: u64, length: usize) -> Vec<u8> {
    (position..).take(length).map(pattern).collect()
}

/// A connection as the guest sees it.
#[derive(Debug, Default)]
struct Peer {
    /// What it last told of its buffer.
    window: u32,
    taken: u32,
    /// Bytes that came from the host.
    received: u64,
    /// The host's end.
    host: u64,
}

impl Peer {
    fn header(&self, (guest, host): Ports, op: u16) -> Header {
        Header {
            src_cid: U64::new(CID),
            dst_cid: U64::new(HOST_CID),
            src_port: U32::new(guest),
            dst_port: U32::new(host),
            len: U32::ZERO,
            kind: U16::new(STREAM),
            op: U16::new(op),
            flags: U32::ZERO,
            buf_alloc: U32::new(self.window),
            fwd_cnt: U32::new(self.taken),
        }
    }
}

/// The host's end of a connection.
struct Host {
    stream: UnixStream,
    written: u64,
    read: u64,
    /// Most bytes that can have come from the guest.
    sent: u64,
    /// Whether nothing else can have come from it.
    certain: bool,
}

impl Host {
    fn new(stream: UnixStream) -> Self {
        stream.set_nonblocking(true).unwrap();
        Self {
            stream,
            written: 0,
            read: 0,
            sent: 0,
            certain: true,
        }
    }

    fn write(&mut self, random: &mut Random) {
        let length = random.pick(&[1, 100, 5000, 100_000]);
        if let Ok(count) = self.stream.write(&stretch(self.written, length)) {
            self.written += count as u64;
        }
    }

    fn read(&mut self, random: &mut Random) {
        let mut data = vec![0; random.pick(&[1, 100, 5000, 300_000])];
        if let Ok(count) = self.stream.read(&mut data)
            && self.certain
        {
            assert_eq!(data[..count], stretch(self.read, count), "other bytes");
            self.read += count as u64;
            assert!(self.read <= self.sent, "more than was sent");
        }
    }
}

#[derive(Default)]
struct Connected(Mutex<Vec<UnixStream>>);

impl VsockEvents for Connected {
    fn guest_connected(&self, _: u32, stream: UnixStream) {
        self.0.lock().unwrap().push(stream);
    }
    fn connect_finished(&self, _: u64, _: bool) {}
}

/// Guest, io thread and host in one.
struct Bench {
    memory: Arc<GuestRam>,
    drivers: [MockDriver; 3],
    /// `None` only while it changes hands.
    device: Option<RunningVsock>,
    connector: VsockConnector,
    events: Arc<Connected>,
    /// Whether the guest always has buffers for what comes.
    buffers: bool,
    peers: BTreeMap<Ports, Peer>,
    hosts: BTreeMap<u64, Host>,
    next_host: u64,
}

#[test]
fn packets() {
    let memory = guest_ram();
    run("packets", 8, |random| {
        let mut bench = Bench::new(random, &memory);
        for _ in 0..STEPS {
            random.step();
            bench.act(random);
            bench.check();
        }
        bench.settle();
        bench.reset();
        bench.settle();
        let held = bench.device().device.table.held();
        assert_eq!(held.connections, 0, "a reset ends all connections");
    });
}

impl Bench {
    fn new(random: &mut Random, memory: &Arc<GuestRam>) -> Self {
        let events = Arc::new(Connected::default());
        let (device, connector) = Vsock::new(CID as u32, Arc::clone(&events) as _).unwrap();
        let mut bench = Self {
            memory: Arc::clone(memory),
            drivers: drivers(memory),
            device: None,
            connector,
            events,
            buffers: random.one_in(2),
            peers: BTreeMap::new(),
            hosts: BTreeMap::new(),
            next_host: 0,
        };
        bench.activate(device, None);
        bench.add_buffers();
        bench
    }

    fn activate(&mut self, device: Vsock, positions: Option<[QueuePosition; 3]>) {
        let queue = |index: usize| {
            let mut queue = self.drivers[index].queue(index).unwrap();
            if let Some(positions) = positions {
                queue.set_position(positions[index]);
            }
            queue
        };
        self.device = Some(RunningVsock {
            device,
            receive: queue(RECEIVE),
            buffers: VecDeque::new(),
            transmit: queue(TRANSMIT),
            event: queue(EVENT),
        });
    }

    fn device(&mut self) -> &mut RunningVsock {
        self.device.as_mut().unwrap()
    }

    /// As [`Running::stop`], which would hide what kind of device it is.
    fn stop(&mut self) -> (Vsock, [QueuePosition; 3]) {
        let mut device = self.device.take().unwrap();
        let positions = device.finish();
        (device.device, positions)
    }

    fn pause(&mut self) {
        let (device, positions) = self.stop();
        self.activate(device, Some(positions));
        for driver in &self.drivers {
            driver.kick.write(1).unwrap();
        }
    }

    fn reset(&mut self) {
        let (mut device, _) = self.stop();
        crate::virtio::device::Device::reset(&mut device);
        self.peers.clear();
        self.drivers = drivers(&self.memory);
        self.activate(device, None);
        self.add_buffers();
    }

    fn add_buffers(&mut self) {
        for index in 0..u64::from(QUEUE_SIZES[RECEIVE]) {
            let buffer = (BUFFERS + index * u64::from(BUFFER), BUFFER, true);
            if self.buffers {
                self.drivers[RECEIVE].add(&[buffer]);
            }
        }
    }

    fn act(&mut self, random: &mut Random) {
        let ports = match self.peers.keys().nth(random.index(self.peers.len().max(1))) {
            Some(known) if !random.one_in(4) => *known,
            _ => ports(random),
        };
        match random.below(16) {
            0 | 1 => self.send(random, ports, op::REQUEST, 0),
            2..=5 => {
                let length = random.pick(&[0, 1, 4000, 65_536]);
                self.send(random, ports, op::RW, length);
            }
            6 => self.send(random, ports, op::SHUTDOWN, 0),
            7 => {
                let operation = random.pick(&[op::CREDIT_UPDATE, op::CREDIT_REQUEST, op::RESPONSE]);
                self.send(random, ports, operation, 0);
            }
            8 if random.one_in(4) => self.send(random, ports, op::RST, 0),
            9 if random.one_in(4) => {
                // Whatever it is, nothing can be expected of the connections from here on.
                self.peers.clear();
                self.hosts
                    .values_mut()
                    .for_each(|host| host.certain = false);
                let packet = packet(random);
                self.transmit(&packet);
                self.events.0.lock().unwrap().clear();
            }
            10 => self.connect(random),
            11 if random.one_in(8) => self.pause(),
            12 if random.one_in(30) => self.reset(),
            13 => self.settle(),
            14 if !self.buffers => {
                let length = random.pick(&[HEADER_SIZE as u32 + 1, 100, BUFFER]);
                self.drivers[RECEIVE].try_add(&[(BUFFERS, length, true)]);
                self.call(|device| device.on_queue(RECEIVE));
            }
            _ => self.act_on_host(random),
        }
    }

    fn act_on_host(&mut self, random: &mut Random) {
        let count = self.hosts.len();
        let which = random.index(count.max(1));
        let Some((id, host)) = self.hosts.iter_mut().nth(which) else {
            return;
        };
        match random.below(16) {
            0..=5 => host.write(random),
            6..=11 => host.read(random),
            12 => drop(host.stream.shutdown(Shutdown::Write)),
            13 => drop(host.stream.shutdown(Shutdown::Read)),
            14 if count > 8 => {
                let id = *id;
                self.hosts.remove(&id);
            }
            _ => {}
        }
    }

    /// The host connects to the guest.
    fn connect(&mut self, random: &mut Random) {
        if self.hosts.len() > 24 {
            return;
        }
        // So that its packet comes at once and not after those of others.
        self.settle();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let id = self.add_host(ours);
        self.connector.connect(id, random.below(4) as u32, theirs);
        self.call(|device| device.on_ready(CONNECTOR));
    }

    fn add_host(&mut self, stream: UnixStream) -> u64 {
        self.next_host += 1;
        self.hosts.insert(self.next_host, Host::new(stream));
        self.next_host
    }

    /// The guest sends a packet, mostly an honest one.
    fn send(&mut self, random: &mut Random, ports: Ports, operation: u16, length: u32) {
        let mut stranger = Peer::default();
        let peer = self.peers.get_mut(&ports).unwrap_or(&mut stranger);
        peer.window = random.pick(&[0, 1, 4096, 0x4_0000, 0x4_0000]);
        peer.taken = match random.below(20) {
            0 => random.number() as u32,
            _ => peer.received as u32,
        };
        let mut header = peer.header(ports, operation);
        header.len.set(length);
        header.flags.set(random.below(4) as u32);
        let window = (peer.window, peer.taken);
        let mut packet = header.as_bytes().to_vec();
        if let Some(host) = self.hosts.get_mut(&peer.host) {
            packet.extend(stretch(host.sent, length as usize));
            host.sent += u64::from(length);
        } else {
            packet.extend(vec![0; length as usize]);
        }
        let stranger = !self.peers.contains_key(&ports);
        if stranger && operation == op::REQUEST {
            let peer = Peer {
                window: window.0,
                taken: window.1,
                ..Peer::default()
            };
            self.peers.insert(ports, peer);
        }
        if operation == op::RST {
            self.forget(ports);
        }
        self.transmit(&packet);
        let connected = std::mem::take(&mut *self.events.0.lock().unwrap());
        for stream in connected {
            let id = self.add_host(stream);
            if let Some(peer) = self.peers.get_mut(&ports) {
                peer.host = id;
            }
        }
    }

    fn forget(&mut self, ports: Ports) {
        self.peers.remove(&ports);
    }

    fn transmit(&mut self, packet: &[u8]) {
        self.drivers[TRANSMIT].write(PACKETS, packet);
        while self.drivers[TRANSMIT].take_used().is_some() {}
        self.drivers[TRANSMIT].add(&[(PACKETS, packet.len() as u32, false)]);
        self.call(|device| device.on_queue(TRANSMIT));
    }

    /// Calls the device and looks at all it sent; after a fault its driver resets it.
    fn call(&mut self, call: impl FnOnce(&mut RunningVsock) -> Result<Interest, DeviceFault>) {
        let result = call(self.device());
        while let Some((head, written)) = self.drivers[RECEIVE].take_used() {
            if !self.buffers {
                continue;
            }
            let descriptor = self.drivers[RECEIVE].settings.desc + 16 * u64::from(head);
            let address = u64::from_le_bytes(self.drivers[RECEIVE].read(descriptor));
            let bytes: [u8; BUFFER as usize] = self.drivers[RECEIVE].read(address);
            self.drivers[RECEIVE].add(&[(address, BUFFER, true)]);
            self.on_packet(&bytes[..written as usize]);
        }
        if result.is_err() {
            self.reset();
        }
    }

    fn on_packet(&mut self, bytes: &[u8]) {
        let (header, data) = Header::read_from_prefix(bytes).unwrap();
        let ports = (header.dst_port.get(), header.src_port.get());
        assert_eq!(data.len(), header.len.get() as usize);
        match header.op.get() {
            op::RST if header.kind == STREAM => self.forget(ports),
            op::REQUEST => {
                let host = self.next_host;
                let peer = Peer {
                    host,
                    ..Peer::default()
                };
                assert!(self.peers.insert(ports, peer).is_none(), "in use");
            }
            op::RW => {
                let Some(peer) = self.peers.get_mut(&ports) else {
                    return;
                };
                let expected = stretch(peer.received, data.len());
                assert_eq!(data, expected, "other bytes than the host's");
                peer.received += data.len() as u64;
                let under_way = (peer.received as u32).wrapping_sub(peer.taken);
                assert!(
                    under_way <= peer.window,
                    "more than the guest granted: {peer:?} {header:?}"
                );
            }
            _ => {}
        }
    }

    /// Does what the io thread does until there is nothing left to do.
    fn settle(&mut self) {
        for _ in 0..CALLS {
            let tokens = ready(&self.device().watches());
            let mut idle = tokens.is_empty();
            for token in tokens {
                self.call(|device| device.on_ready(token));
            }
            for index in [RECEIVE, TRANSMIT, EVENT] {
                if self.drivers[index].kick.read().is_ok() {
                    idle = false;
                    self.call(|device| device.on_queue(index));
                }
            }
            if idle {
                return;
            }
        }
        panic!("the device spins");
    }

    /// Nothing grows beyond its bound.
    fn check(&mut self) {
        let held = self.device().device.table.held();
        assert!(held.connections <= MAX_CONNECTIONS, "{held:?}");
        assert!(held.largest_backlog <= WINDOW as usize, "{held:?}");
        assert!(held.resets <= MAX_RESETS, "{held:?}");
        assert!(held.ready <= held.connections, "{held:?}");
    }
}

/// Drivers of the three queues, on empty rings.
fn drivers(memory: &Arc<GuestRam>) -> [MockDriver; 3] {
    [RECEIVE, TRANSMIT, EVENT].map(|index| {
        let driver = MockDriver::new(memory, RINGS[index], QUEUE_SIZES[index]);
        driver.write(RINGS[index], &[0; 0x2000]);
        driver
    })
}
