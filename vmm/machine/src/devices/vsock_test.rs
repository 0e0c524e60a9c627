use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use rustix::event::{PollFd, PollFlags, Timespec};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use super::credit::{NARROW_WINDOW, PACKET, WINDOW};
use super::packet::{HEADER_SIZE, Header, STREAM, op, shutdown};
use super::table::{FIRST_LOCAL_PORT, MAX_CONNECTIONS, WIDE_CONNECTIONS};
use super::{EVENT, QUEUE_SIZES, RECEIVE, TRANSMIT, Vsock, VsockConnector, VsockEvents};
use crate::virtio::device::{Device, DeviceFault, Running, Stopped, Watch};
use crate::virtio::mock_driver::{MockDriver, activation, guest_ram};

#[path = "vsock_test/closing.rs"]
mod closing;
#[path = "vsock_test/hostile.rs"]
mod hostile;
#[path = "vsock_test/opening.rs"]
mod opening;
#[path = "vsock_test/streaming.rs"]
mod streaming;

const CID: u64 = 7;
/// Receive buffers of the guest: 3.5 KiB each, as those of Linux about are.
const BUFFERS: u64 = 0x40_0000;
const BUFFER: u32 = 3584;
/// Where the guest puts packets to send.
const PACKETS: u64 = 0x80_0000;
/// What the guest grants the host, as Linux does by default.
const GUEST_WINDOW: u32 = 256 * 1024;

#[derive(Default)]
struct Recorded {
    connected: Mutex<Vec<(u32, UnixStream)>>,
    finished: Mutex<Vec<(u64, bool)>>,
}

impl VsockEvents for Recorded {
    fn guest_connected(&self, port: u32, stream: UnixStream) {
        self.connected.lock().unwrap().push((port, stream));
    }

    fn connect_finished(&self, request: u64, accepted: bool) {
        self.finished.lock().unwrap().push((request, accepted));
    }
}

/// The guest's end of a connection: its ports and what it has taken and granted.
#[derive(Debug, Clone, Copy)]
struct Peer {
    guest: u32,
    host: u32,
    window: u32,
    taken: u32,
}

impl Peer {
    fn new(guest: u32, host: u32) -> Self {
        Self {
            guest,
            host,
            window: GUEST_WINDOW,
            taken: 0,
        }
    }

    fn header(&self, op: u16) -> Header {
        Header {
            src_cid: U64::new(CID),
            dst_cid: U64::new(2),
            src_port: U32::new(self.guest),
            dst_port: U32::new(self.host),
            len: U32::ZERO,
            kind: U16::new(STREAM),
            op: U16::new(op),
            flags: U32::ZERO,
            buf_alloc: U32::new(self.window),
            fwd_cnt: U32::new(self.taken),
        }
    }
}

/// Driver, io thread and host in one.
struct Bench {
    drivers: [MockDriver; 3],
    device: Option<Box<dyn Running>>,
    connector: VsockConnector,
    events: Arc<Recorded>,
    /// Give a receive buffer back as soon as it is read.
    refill: bool,
}

impl Bench {
    /// A device at work, with all receive buffers in place.
    fn new() -> Self {
        let mut bench = Self::without_buffers();
        bench.add_buffers(QUEUE_SIZES[RECEIVE]);
        bench
    }

    fn without_buffers() -> Self {
        let memory = guest_ram();
        let drivers = [0x1000, 0x8000, 0x10000]
            .map(|base| base as u64)
            .into_iter()
            .zip(QUEUE_SIZES)
            .map(|(base, size)| MockDriver::new(&memory, base, size))
            .collect::<Vec<_>>();
        let drivers: [MockDriver; 3] = drivers.try_into().unwrap_or_else(|_| unreachable!());
        let events = Arc::new(Recorded::default());
        let (device, connector) = Vsock::new(CID as u32, Arc::clone(&events) as _).unwrap();
        let mut bench = Self {
            drivers,
            device: None,
            connector,
            events,
            refill: true,
        };
        bench.activate(Box::new(device));
        bench
    }

    fn activate(&mut self, device: Box<dyn Device>) {
        let queues = self
            .drivers
            .iter()
            .enumerate()
            .map(|(index, driver)| Some(driver.queue(index).unwrap()))
            .collect();
        let activation = activation(device.features(), &self.drivers[0].memory, queues);
        let running = device.activate(activation).map_err(|(_, fault)| fault);
        self.device = Some(running.unwrap());
    }

    fn device(&mut self) -> &mut Box<dyn Running> {
        self.device.as_mut().unwrap()
    }

    fn add_buffers(&mut self, count: u16) {
        for index in 0..u64::from(count) {
            let address = BUFFERS + index * u64::from(BUFFER);
            self.drivers[RECEIVE].add(&[(address, BUFFER, true)]);
        }
    }

    /// Does what the io thread does until there is nothing left to do. A device that asks to be
    /// woken for what it does not do anything about fails the test.
    fn run(&mut self) {
        for _ in 0..20_000 {
            let now = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let watches = self.device().watches();
            let mut fds: Vec<_> = watches
                .iter()
                .map(|watch| {
                    let mut flags = PollFlags::empty();
                    flags.set(PollFlags::IN, watch.readable);
                    flags.set(PollFlags::OUT, watch.writable);
                    PollFd::from_borrowed_fd(borrow(watch), flags)
                })
                .collect();
            rustix::event::poll(&mut fds, Some(&now)).unwrap();
            let ready: Vec<u32> = watches
                .iter()
                .zip(&fds)
                .filter(|(_, fd)| !fd.revents().is_empty())
                .map(|(watch, _)| watch.token)
                .collect();
            let mut idle = ready.is_empty();
            for token in ready {
                self.device().on_ready(token).unwrap();
            }
            for index in [RECEIVE, TRANSMIT, EVENT] {
                if self.drivers[index].kick.read().is_ok() {
                    self.device().on_queue(index).unwrap();
                    idle = false;
                }
            }
            if idle {
                return;
            }
        }
        panic!("the device spins");
    }

    /// The next packet to the guest, if any.
    fn take(&mut self) -> Option<(Header, Vec<u8>)> {
        let (head, written) = self.drivers[RECEIVE].take_used()?;
        // Buffers were added in order, so the head tells the address.
        let descriptor: [u8; 8] =
            self.drivers[RECEIVE].read(self.drivers[RECEIVE].settings.desc + 16 * u64::from(head));
        let address = u64::from_le_bytes(descriptor);
        let bytes: [u8; BUFFER as usize] = self.drivers[RECEIVE].read(address);
        let bytes = &bytes[..written as usize];
        let header = Header::read_from_bytes(&bytes[..HEADER_SIZE]).unwrap();
        assert_eq!(header.len.get() as usize, bytes.len() - HEADER_SIZE);
        if self.refill {
            self.drivers[RECEIVE].add(&[(address, BUFFER, true)]);
            self.device().on_queue(RECEIVE).unwrap();
        }
        Some((header, bytes[HEADER_SIZE..].to_vec()))
    }

    /// The next packet to the guest, which must be for `peer` and of this kind.
    fn expect(&mut self, peer: &Peer, op: u16) -> Header {
        let (header, _) = self.take().expect("a packet");
        assert_eq!(header.op, op, "{header:?}");
        assert_eq!((header.src_cid.get(), header.dst_cid.get()), (2, CID));
        assert_eq!(header.src_port, peer.host);
        assert_eq!(header.dst_port, peer.guest);
        header
    }

    /// The guest sends a packet.
    fn try_send(&mut self, header: Header, data: &[u8]) -> Result<(), DeviceFault> {
        let driver = &mut self.drivers[TRANSMIT];
        driver.write(PACKETS, header.as_bytes());
        driver.write(PACKETS + 0x1000, data);
        let mut chain = vec![(PACKETS, HEADER_SIZE as u32, false)];
        if !data.is_empty() {
            chain.push((PACKETS + 0x1000, data.len() as u32, false));
        }
        driver.add(&chain);
        self.device().on_queue(TRANSMIT)?;
        self.drivers[TRANSMIT]
            .take_used()
            .expect("a packet is taken");
        Ok(())
    }

    fn send(&mut self, header: Header) {
        self.try_send(header, &[]).unwrap();
    }

    fn send_op(&mut self, peer: &Peer, op: u16) {
        self.send(peer.header(op));
    }

    fn send_data(&mut self, peer: &Peer, data: &[u8]) {
        let mut header = peer.header(op::RW);
        header.len.set(data.len() as u32);
        self.try_send(header, data).unwrap();
    }

    fn send_shutdown(&mut self, peer: &Peer, flags: u32) {
        let mut header = peer.header(op::SHUTDOWN);
        header.flags.set(flags);
        self.send(header);
    }

    /// Takes packets for `peer` until there are none; gives the data and the other packets.
    fn drain(&mut self, peer: &mut Peer) -> (Vec<u8>, Vec<Header>) {
        let (mut data, mut others) = (Vec::new(), Vec::new());
        loop {
            self.run();
            let Some((header, bytes)) = self.take() else {
                return (data, others);
            };
            assert_eq!(header.dst_port, peer.guest);
            if header.op == op::RW {
                peer.taken = peer.taken.wrapping_add(bytes.len() as u32);
                data.extend(bytes);
            } else {
                others.push(header);
            }
        }
    }

    /// The host opens a connection, and the guest accepts it.
    fn connect(&mut self) -> (Peer, UnixStream) {
        let (host, stream) = UnixStream::pair().unwrap();
        self.connector.connect(1, 1024, stream);
        self.run();
        let (header, _) = self.take().unwrap();
        let peer = Peer::new(1024, header.src_port.get());
        self.send_op(&peer, op::RESPONSE);
        assert_eq!(self.finished().pop(), Some((1, true)));
        (peer, host)
    }

    /// The guest opens a connection.
    fn accept(&mut self, guest: u32, port: u32) -> (Peer, UnixStream) {
        let peer = Peer::new(guest, port);
        self.send_op(&peer, op::REQUEST);
        let (seen, host) = self.events.connected.lock().unwrap().pop().unwrap();
        assert_eq!(seen, port);
        self.expect(&peer, op::RESPONSE);
        (peer, host)
    }

    fn finished(&self) -> Vec<(u64, bool)> {
        std::mem::take(&mut self.events.finished.lock().unwrap())
    }
}

fn borrow(watch: &Watch) -> std::os::fd::BorrowedFd<'static> {
    #[allow(unsafe_code)]
    // SAFETY: the device keeps a watched descriptor open, and does not run before the poll is over.
    unsafe {
        std::os::fd::BorrowedFd::borrow_raw(watch.fd)
    }
}

/// Bytes that repeat only after more than 64 KiB, so that nothing can change places unseen.
fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|index| (index % 65_521 % 251) as u8)
        .collect()
}

fn flags(header: &Header) -> u32 {
    header.flags.get()
}
