use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};

use caisson_control::{Limits, NetConfig};
use rustix::net::sockopt::set_socket_send_buffer_size;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::features::{self, CTRL_VQ, LargeUdp, MQ, MRG_RXBUF, STATUS};
use super::tap::Link;
use super::{CONTROL_QUEUE_SIZE, HEADER_SIZE, Net, NetError, QUEUE_SIZE};
use crate::memory::GuestRam;
use crate::virtio::device::{
    Activation, Counters, Device, DeviceFault, Interest, QueuePosition, Running, Stopped,
};
use crate::virtio::mock_driver::{MockDriver, driver_line, guest_ram};
use crate::virtio::runner::DriverLine;

#[path = "net_test/commands.rs"]
mod commands;
#[path = "net_test/identity.rs"]
mod identity;
#[path = "net_test/limits.rs"]
mod limits;
#[path = "net_test/real_tap.rs"]
mod real_tap;
#[path = "net_test/receiving.rs"]
mod receiving;
#[path = "net_test/shapes.rs"]
mod shapes;
#[path = "net_test/stopping.rs"]
mod stopping;
#[path = "net_test/transmitting.rs"]
mod transmitting;

/// Where the guest has its queues, its receive buffers, its packets and its commands.
const QUEUES: u64 = 0x1000;
const BUFFERS: u64 = 0x20_0000;
const PACKETS: u64 = 0x80_0000;
const COMMANDS: u64 = 0xf0_0000;

/// What was asked of a tap beside packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Offloads(u32),
    Attached(usize, bool),
}

/// One end of a pair of sockets that keep packets apart, as a tap does.
struct FakeTap {
    pair: usize,
    socket: UnixDatagram,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Link for FakeTap {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn set_offloads(&self, offloads: u32) -> io::Result<()> {
        self.asked.lock().unwrap().push(Asked::Offloads(offloads));
        Ok(())
    }

    fn set_attached(&self, attached: bool) -> io::Result<()> {
        let asked = Asked::Attached(self.pair, attached);
        self.asked.lock().unwrap().push(asked);
        Ok(())
    }
}

fn config(queue_pairs: u8) -> NetConfig {
    NetConfig {
        mac: [2, 0, 0, 0, 0, 7],
        mtu: None,
        queue_pairs,
        receive: Limits::default(),
        transmit: Limits::default(),
    }
}

/// A tap that holds a few packets only.
fn narrow(rig: &Rig) {
    // The smallest there is; each packet counts with about 800 bytes of the kernel's.
    set_socket_send_buffer_size(&rig.taps[0], 1).unwrap();
    set_socket_send_buffer_size(&rig.hosts[0], 1).unwrap();
}

/// Fake taps, one for each queue pair, and both ends of what is behind them.
struct Cables {
    links: Vec<Box<dyn Link>>,
    hosts: Vec<UnixDatagram>,
    taps: Vec<UnixDatagram>,
}

impl Cables {
    fn new(queue_pairs: u8, asked: &Arc<Mutex<Vec<Asked>>>) -> Self {
        let mut cables = Self {
            links: Vec::new(),
            hosts: Vec::new(),
            taps: Vec::new(),
        };
        for pair in 0..usize::from(queue_pairs) {
            let (socket, host) = UnixDatagram::pair().unwrap();
            for socket in [&socket, &host] {
                socket.set_nonblocking(true).unwrap();
                // Two packets of the largest kind; a few hundred of the smallest.
                set_socket_send_buffer_size(socket, 1 << 17).unwrap();
            }
            cables.taps.push(socket.try_clone().unwrap());
            cables.links.push(Box::new(FakeTap {
                pair,
                socket,
                asked: Arc::clone(asked),
            }));
            cables.hosts.push(host);
        }
        cables
    }
}

/// A device with these limits both ways, and the host's ends of its cables.
pub(crate) fn between_sockets(queue_pairs: u8, limits: Limits) -> (Net, Vec<UnixDatagram>) {
    let config = NetConfig {
        receive: limits,
        transmit: limits,
        ..config(queue_pairs)
    };
    let cables = Cables::new(queue_pairs, &Arc::default());
    let device = Net::with_links(&config, cables.links, LargeUdp::Segments);
    (device.unwrap(), cables.hosts)
}

/// A guest, its network device and the host's ends of the cables.
struct Rig {
    receive: Vec<MockDriver>,
    transmit: Vec<MockDriver>,
    control: MockDriver,
    device: Option<Box<dyn Running>>,
    memory: Arc<GuestRam>,
    features: u64,
    line: DriverLine,
    hosts: Vec<UnixDatagram>,
    /// The device's ends.
    taps: Vec<UnixDatagram>,
    asked: Arc<Mutex<Vec<Asked>>>,
    next_buffer: u64,
    next_packet: u64,
}

impl Rig {
    /// One queue pair, no limits, features as given.
    fn new(features: u64) -> Self {
        Self::with(&config(1), features)
    }

    fn with(config: &NetConfig, features: u64) -> Self {
        let asked = Arc::new(Mutex::default());
        let Cables { links, hosts, taps } = Cables::new(config.queue_pairs, &asked);
        let device = Net::with_links(config, links, LargeUdp::Segments).unwrap();
        let mut rig = Self::around(device, features, hosts.len());
        (rig.hosts, rig.taps, rig.asked) = (hosts, taps, asked);
        rig
    }

    /// A guest for a device that is there already.
    fn around(device: Net, features: u64, pairs: usize) -> Self {
        assert_eq!(features & !device.features(), 0);

        let memory = guest_ram();
        let mut base = QUEUES;
        let mut queue = |size| {
            base += 0x3000;
            MockDriver::new(&memory, base, size)
        };
        let (mut receive, mut transmit) = (Vec::new(), Vec::new());
        for _ in 0..pairs {
            receive.push(queue(QUEUE_SIZE));
            transmit.push(queue(QUEUE_SIZE));
        }
        let control = queue(CONTROL_QUEUE_SIZE);
        let mut rig = Self {
            receive,
            transmit,
            control,
            device: None,
            memory,
            features,
            line: driver_line(),
            hosts: Vec::new(),
            taps: Vec::new(),
            asked: Arc::default(),
            next_buffer: BUFFERS,
            next_packet: PACKETS,
        };
        rig.start(Box::new(device), &[]);
        rig
    }

    /// Activates the device with queues that stand at `positions`.
    fn start(&mut self, device: Box<dyn Device>, positions: &[QueuePosition]) {
        let pairs = self.receive.iter().zip(&self.transmit);
        let drivers = pairs.flat_map(|(receive, transmit)| [receive, transmit]);
        let queues = drivers.chain([&self.control]).enumerate();
        let queues = queues.map(|(index, driver)| {
            let mut queue = driver.queue(index).unwrap();
            if let Some(position) = positions.iter().find(|position| position.index == index) {
                queue.set_position(*position);
            }
            Some(queue)
        });
        let activation = Activation {
            features: self.features,
            memory: Arc::clone(&self.memory),
            queues: queues.collect(),
            driver: self.line.clone(),
        };
        let device = device.activate(activation).map_err(|(_, fault)| fault);
        self.device = Some(device.unwrap());
    }

    fn device(&mut self) -> &mut dyn Running {
        &mut **self.device.as_mut().unwrap()
    }

    fn stop(&mut self) -> Stopped {
        self.device.take().unwrap().stop()
    }

    fn counters(&self) -> Counters {
        self.device.as_ref().unwrap().counters()
    }

    /// Gives a chain of buffers of these lengths to receive queue `pair`; returns head and address
    /// of the first.
    fn offer(&mut self, pair: usize, lengths: &[u32]) -> (u16, u64) {
        let first = self.next_buffer;
        let mut buffers = Vec::new();
        for length in lengths {
            buffers.push((self.next_buffer, *length, true));
            // A gap shows what is written beside a buffer.
            self.next_buffer += u64::from(*length) + 16;
        }
        (self.receive[pair].add(&buffers), first)
    }

    /// Puts a packet into transmit queue `pair`.
    fn send(&mut self, pair: usize, packet: &[u8]) -> u16 {
        let at = self.next_packet;
        self.next_packet += packet.len() as u64;
        self.transmit[pair].write(at, packet);
        self.transmit[pair].add(&[(at, packet.len() as u32, false)])
    }

    fn notify_receive(&mut self, pair: usize) -> Result<Interest, DeviceFault> {
        self.device().on_queue(2 * pair)
    }

    fn notify_transmit(&mut self, pair: usize) -> Result<Interest, DeviceFault> {
        self.device().on_queue(2 * pair + 1)
    }

    /// Serves whatever is ready, as the io thread does, until nothing is; waits for the first
    /// event if `wait`. Returns the number of calls of the device.
    fn serve(&mut self, wait: bool) -> usize {
        let mut calls = 0;
        loop {
            let timeout = if wait && calls == 0 { -1 } else { 0 };
            let ready = self.ready(timeout);
            if ready.is_empty() {
                return calls;
            }
            for token in ready {
                calls += 1;
                assert!(calls < 1000, "the io thread spins");
                match token.checked_sub(QUEUE_TOKENS) {
                    Some(index) => {
                        self.kick(index as usize).read().unwrap();
                        self.device().on_queue(index as usize).unwrap();
                    }
                    None => {
                        self.device().on_ready(token).unwrap();
                    }
                }
            }
        }
    }

    /// Serves whatever is ready.
    fn settle(&mut self) -> usize {
        self.serve(false)
    }

    fn kick(&self, index: usize) -> &vmm_sys_util::eventfd::EventFd {
        let pair = index / 2;
        match self.receive.get(pair) {
            Some(receive) if index.is_multiple_of(2) => &receive.kick,
            Some(_) => &self.transmit[pair].kick,
            None => &self.control.kick,
        }
    }

    fn ready(&mut self, timeout: i32) -> Vec<u32> {
        let epoll = Epoll::new().unwrap();
        let add = |fd, set, token: u32| {
            let event = EpollEvent::new(set, token.into());
            epoll.ctl(ControlOperation::Add, fd, event).unwrap();
        };
        for watch in self.device().watches() {
            let mut set = EventSet::empty();
            set.set(EventSet::IN, watch.readable);
            set.set(EventSet::OUT, watch.writable);
            add(watch.fd, set, watch.token);
        }
        for index in 0..=2 * self.receive.len() {
            let token = QUEUE_TOKENS + index as u32;
            add(self.kick(index).as_raw_fd(), EventSet::IN, token);
        }
        let mut events = [EpollEvent::default(); 32];
        let count = epoll.wait(timeout, &mut events).unwrap();
        let events = events.iter().take(count);
        events.map(|event| event.data() as u32).collect()
    }

    /// Whether the tap of `pair` is waited for: to be read, to be written.
    fn watched(&mut self, pair: u32) -> (bool, bool) {
        let watches = self.device().watches();
        let tap = watches.iter().find(|watch| watch.token == pair);
        tap.map_or((false, false), |watch| (watch.readable, watch.writable))
    }

    /// What the host received on `pair`.
    fn received(&self, pair: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 1 << 17];
        match self.hosts[pair].recv(&mut bytes) {
            Ok(length) => {
                bytes.truncate(length);
                Some(bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Reads guest memory.
    fn memory(&self, address: u64, length: usize) -> Vec<u8> {
        use vm_memory::{Bytes, GuestAddress};
        let mut bytes = vec![0; length];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }
}

/// Tokens of the queues in [`Rig::ready`]; behind those of the device.
const QUEUE_TOKENS: u32 = 0x1000;

/// A packet with its header, `length` bytes in all, recognizable by `seed`.
fn packet(length: usize, seed: u8) -> Vec<u8> {
    let byte = |position: usize| (position as u8).wrapping_mul(13).wrapping_add(seed);
    let mut packet = vec![0; HEADER_SIZE];
    packet.extend((HEADER_SIZE..length).map(byte));
    packet.truncate(length);
    packet
}
