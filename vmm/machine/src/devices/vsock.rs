//! Socket device (virtio 1.3 §5.10), stream sockets only.
//!
//! The host's end of every connection is one end of a socketpair: nothing listens on the host, and
//! the device opens nothing. The host connects to the guest by handing in a socket
//! ([`VsockConnector::connect`]); when the guest connects to the host, the device makes a pair and
//! gives one end away ([`VsockEvents::guest_connected`]).
//!
//! ```text
//!   guest ── transmit queue ──▶ Table::on_packet ──▶ Connection ──▶ socket (or its backlog)
//!   guest ◀── receive queue ─── fill_receive_queue ◀── Connection ◀── socket
//! ```
//!
//! Data goes between guest memory and the sockets without a copy, as long as a socket takes what
//! the guest sends; what it does not take waits in a backlog that the credit granted to the guest
//! bounds.

mod connection;
mod credit;
mod packet;
mod socket;
mod table;

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use self::packet::{HEADER_SIZE, op};
use self::table::{MAX_CONNECTIONS, Table, Token, Work};
use crate::virtio::chain::Chain;
use crate::virtio::config::SharedConfig;
use crate::virtio::device::{
    ActivateResult, Activation, Counters, Device, DeviceFault, DeviceKind, Interest, QueuePosition,
    Running, Stopped, Watch,
};
use crate::virtio::queue::{DeviceQueue, QueueError};

/// Queue indices (virtio 1.3 §5.10.2).
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const EVENT: usize = 2;

/// Linux fills the receive queue with buffers of 4 KiB each: 128 of them cost the guest 512 KiB and
/// hold what a socket of the host holds at most. It keeps 8 buffers in the event queue.
const QUEUE_SIZES: [u16; 3] = [128, 128, 8];

/// `VIRTIO_VSOCK_F_STREAM`.
const FEATURE_STREAM: u64 = 1 << 0;

/// The token of the descriptor by which [`VsockConnector`] wakes the io thread.
const CONNECTOR: Token = 0;

/// What the device tells the host. Called on the io thread: must not block.
pub(crate) trait VsockEvents: Send + Sync {
    /// The guest connected to `port` of the host; `stream` is the host's end. Closing it ends the
    /// connection.
    fn guest_connected(&self, port: u32, stream: UnixStream);
    /// The guest answered the [`VsockConnector::connect`] with this number, or never will.
    fn connect_finished(&self, request: u64, accepted: bool);
}

/// Opens connections to the guest, from any thread.
#[derive(Clone)]
pub(crate) struct VsockConnector(Arc<Requests>);

/// Connections that the host asks for, on their way to the io thread.
struct Requests {
    waiting: Mutex<VecDeque<Request>>,
    wake: EventFd,
    events: Arc<dyn VsockEvents>,
}

struct Request {
    id: u64,
    port: u32,
    stream: UnixStream,
}

impl Requests {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Request>> {
        // A panic elsewhere does not make a queue of requests wrong.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> VecDeque<Request> {
        let _ = self.wake.read();
        std::mem::take(&mut *self.waiting())
    }
}

impl VsockConnector {
    /// Connects `stream`, the host's end, to `port` of the guest. The answer comes by
    /// [`VsockEvents::connect_finished`] with `request`: at once, on this thread, when too many
    /// are waiting; otherwise from the io thread. Until the guest's driver has started the device,
    /// requests wait for it.
    pub(crate) fn connect(&self, request: u64, port: u32, stream: UnixStream) {
        let mut waiting = self.0.waiting();
        if waiting.len() >= MAX_CONNECTIONS {
            drop(waiting);
            self.0.events.connect_finished(request, false);
            return;
        }
        waiting.push_back(Request {
            id: request,
            port,
            stream,
        });
        drop(waiting);
        // Only fails when the counter is full, and then the io thread is woken anyway.
        let _ = self.0.wake.write(1);
    }
}

/// The socket device before activation.
pub(crate) struct Vsock {
    guest_cid: u64,
    config: SharedConfig,
    requests: Arc<Requests>,
    /// The connections, which outlive a pause but not a reset.
    table: Table,
    /// What earlier activations did.
    counters: Counters,
}

impl Vsock {
    /// Makes the device for a guest with this context id, 3 or more, and the way to connect to it.
    ///
    /// # Errors
    /// Fails when the process has no descriptors left.
    pub(crate) fn new(
        guest_cid: u32,
        events: Arc<dyn VsockEvents>,
    ) -> io::Result<(Self, VsockConnector)> {
        let requests = Arc::new(Requests {
            waiting: Mutex::default(),
            wake: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            events,
        });
        let guest_cid = u64::from(guest_cid);
        let device = Self {
            guest_cid,
            config: SharedConfig::new(guest_cid.to_le_bytes().to_vec()),
            requests: Arc::clone(&requests),
            table: Table::new(guest_cid, Arc::clone(&requests.events)),
            counters: Counters::default(),
        };
        Ok((device, VsockConnector(requests)))
    }
}

impl Device for Vsock {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Vsock
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        FEATURE_STREAM
    }

    fn config(&self) -> SharedConfig {
        self.config.clone()
    }

    fn activate(self: Box<Self>, activation: Activation) -> ActivateResult {
        let mut queues = activation.queues.into_iter();
        let mut next = || queues.next().flatten();
        let (receive, transmit, event) = (next(), next(), next());
        let Some(receive) = receive else {
            return Err((self, DeviceFault::QueueMissing(RECEIVE)));
        };
        let Some(transmit) = transmit else {
            return Err((self, DeviceFault::QueueMissing(TRANSMIT)));
        };
        // Its only event tells of a transport reset after migration or restore. Until there is
        // one, the guest's buffers stay where they are.
        let Some(event) = event else {
            return Err((self, DeviceFault::QueueMissing(EVENT)));
        };
        Ok(Box::new(RunningVsock {
            device: *self,
            receive,
            buffers: VecDeque::new(),
            transmit,
            event,
        }))
    }

    fn reset(&mut self) {
        let empty = Table::new(self.guest_cid, Arc::clone(&self.requests.events));
        std::mem::replace(&mut self.table, empty).end_all();
    }
}

/// The socket device at work.
struct RunningVsock {
    device: Vsock,
    receive: DeviceQueue,
    /// The guest's next receive buffers, in order: those that were offered to a socket and not
    /// needed. Taking them again each time would cost more than a small packet.
    buffers: VecDeque<Chain>,
    transmit: DeviceQueue,
    event: DeviceQueue,
}

impl RunningVsock {
    fn take_transmit_queue(&mut self) -> Result<(), DeviceFault> {
        let table = &mut self.device.table;
        let taken = &mut self.device.counters.bytes_from_guest;
        self.transmit
            .serve(|chain| {
                *taken = taken.saturating_add(table.on_packet(chain)?);
                Ok(0)
            })
            .map_err(|error: QueueError| error.on(TRANSMIT))
    }

    /// Sends what there is to send, as far as the guest has buffers for it.
    fn fill_receive_queue(&mut self) -> Result<Interest, DeviceFault> {
        self.try_fill_receive_queue()
            .map_err(|error| error.on(RECEIVE))?;
        Ok(if self.device.table.take_watches_changed() {
            Interest::Changed
        } else {
            Interest::Same
        })
    }

    fn try_fill_receive_queue(&mut self) -> Result<(), QueueError> {
        self.receive.disable_notification()?;
        // As for the transmit queue: a guest that gives buffers as fast as they are filled must not
        // keep the io thread here.
        for _ in 0..self.receive.settings().size {
            let Some(work) = self.device.table.work() else {
                return self.receive.signal_used();
            };
            // Buffers that come while there is nothing to send need no notification; they matter
            // only once one is missing.
            while !self.send(work)? {
                if !self.receive.enable_notification()? {
                    return self.receive.signal_used();
                }
            }
        }
        self.receive.notify_itself();
        self.receive.signal_used()
    }

    /// The guest's next receive buffer, if it has one.
    fn next_buffer(&mut self) -> Result<Option<Chain>, QueueError> {
        match self.buffers.pop_front() {
            Some(chain) => Ok(Some(chain)),
            None => self.receive.pop(),
        }
    }

    /// Does one piece of work; false when the guest has no buffer for it.
    fn send(&mut self, work: Work) -> Result<bool, QueueError> {
        let header = match work {
            Work::Data(token, room) => return self.send_data(token, room),
            Work::Reset(header) => header,
            Work::Control(token, op, flags) => {
                let Some(chain) = self.next_buffer()? else {
                    return Ok(false);
                };
                if let Some(connection) = self.device.table.get_mut(token) {
                    let header = connection.header(self.device.guest_cid, op, flags, 0);
                    chain.writer().write_object(&header)?;
                }
                self.device.table.served(token);
                self.receive.complete(chain, HEADER_SIZE as u32)?;
                return Ok(true);
            }
        };
        let Some(chain) = self.next_buffer()? else {
            return Ok(false);
        };
        chain.writer().write_object(&header)?;
        self.receive.complete(chain, HEADER_SIZE as u32)?;
        self.device.table.reset_sent();
        Ok(true)
    }

    /// Reads at most `room` bytes from the host into as many buffers of the guest as make sense.
    fn send_data(&mut self, token: Token, room: u32) -> Result<bool, QueueError> {
        let Some(connection) = self.device.table.get_mut(token) else {
            return Ok(true);
        };
        let batch = connection.batch();
        while self.buffers.len() < batch
            && let Some(chain) = self.receive.pop()?
        {
            self.buffers.push_back(chain);
        }
        if self.buffers.is_empty() {
            return Ok(false);
        }
        let mut left = usize::try_from(room).unwrap_or(usize::MAX);
        let mut slices = Vec::with_capacity(batch);
        for chain in self.buffers.iter().take(batch) {
            let mut writer = chain.writer();
            writer.skip(HEADER_SIZE)?;
            if writer.left() == 0 {
                return Err(QueueError::TooShort {
                    needed: HEADER_SIZE + 1,
                    left: HEADER_SIZE,
                });
            }
            let part = writer.left().min(left);
            writer.append(part, &mut slices)?;
            left -= part;
        }
        let mut received = connection.read(&slices);
        drop(slices);

        while received > 0
            && let Some(chain) = self.buffers.pop_front()
        {
            let room = chain.writer().left().saturating_sub(HEADER_SIZE);
            let len = room.min(received);
            received -= len;
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            let header = connection.header(self.device.guest_cid, op::RW, 0, len);
            chain.writer().write_object(&header)?;
            self.receive
                .complete(chain, len.saturating_add(HEADER_SIZE as u32))?;
            let given = &mut self.device.counters.bytes_to_guest;
            *given = given.saturating_add(len.into());
        }
        self.device.table.served(token);
        Ok(true)
    }

    /// Takes the guest's last words and gives unused buffers back; returns where the queues stand.
    fn finish(&mut self) -> [QueuePosition; 3] {
        // What it sent before it was stopped still goes to the host. A fault no longer matters.
        let _ = self.take_transmit_queue();
        for chain in std::mem::take(&mut self.buffers).into_iter().rev() {
            // They are in flight, so this cannot fail.
            let _ = self.receive.put_back(chain);
        }
        [&self.receive, &self.transmit, &self.event].map(DeviceQueue::position)
    }

    fn take_requests(&mut self) {
        for request in self.device.requests.take() {
            self.device
                .table
                .connect(request.id, request.port, request.stream);
        }
    }
}

impl Running for RunningVsock {
    fn watches(&self) -> Vec<Watch> {
        let connector = Watch {
            fd: self.device.requests.wake.as_raw_fd(),
            token: CONNECTOR,
            readable: true,
            writable: false,
        };
        std::iter::once(connector)
            .chain(self.device.table.watches())
            .collect()
    }

    fn on_queue(&mut self, index: usize) -> Result<Interest, DeviceFault> {
        if index == TRANSMIT {
            self.take_transmit_queue()?;
        }
        self.fill_receive_queue()
    }

    fn on_ready(&mut self, token: u32) -> Result<Interest, DeviceFault> {
        if token == CONNECTOR {
            self.take_requests();
        } else {
            self.device.table.on_ready(token);
        }
        self.fill_receive_queue()
    }

    fn stop(mut self: Box<Self>) -> Stopped {
        let positions = self.finish().to_vec();
        self.device.counters = self.counters();
        Stopped {
            device: Box::new(self.device),
            positions,
        }
    }

    fn counters(&self) -> Counters {
        let queues = [&self.receive, &self.transmit];
        self.device.counters.with_requests_of(queues)
    }
}

#[cfg(test)]
#[path = "vsock_test.rs"]
mod tests;

#[cfg(test)]
#[path = "../fuzz/vsock.rs"]
pub(crate) mod fuzz;
