//! From the tap to the driver (virtio 1.3 §5.1.6.3): one receive queue.
//!
//! ```text
//!             no buffers: wait for the driver's notification
//!   Open ◀──────────────────────────────────────────────────▶ Starved
//!    ▲ │
//!    │ └── the limit is reached: wait for the timer ─────────▶ Throttled ──▶ Open
//!    └──── the interface is gone ────────────────────────────▶ Lost
//! ```
//!
//! The tap is waited for in `Open` alone: a full tap and a driver without buffers, or a reached
//! limit, must not make the io thread spin, and whatever is waited for leads back to `Open`.

use std::collections::VecDeque;
use std::io;

use vm_memory::VolatileSlice;

use super::direction::Direction;
use super::tap::Link;
use super::{HEADER_SIZE, MAX_PACKET, PACKETS_PER_CALL};
use crate::virtio::chain::Chain;
use crate::virtio::device::QueuePosition;
use crate::virtio::iovec::{self, MAX_SLICES};
use crate::virtio::queue::{DeviceQueue, QueueError};

/// Where `num_buffers` is in the header (virtio 1.3 §5.1.6).
const NUM_BUFFERS: usize = 10;

/// One receive queue.
pub(super) struct Receiver {
    queue: DeviceQueue,
    /// Whether a packet may span buffers (VIRTIO_NET_F_MRG_RXBUF).
    mergeable: bool,
    state: State,
    /// The driver's next buffers, in order.
    buffers: VecDeque<Chain>,
    /// Bytes of `buffers`.
    room: usize,
    /// Takes what the buffers do not.
    overflow: Vec<u8>,
    /// A packet for which there were not enough buffers.
    waiting: Option<Waiting>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Starved,
    Throttled,
    Lost,
}

struct Waiting {
    packet: Vec<u8>,
    /// Whether it was tried again already.
    tried: bool,
}

/// What became of a packet.
enum Outcome {
    /// The driver has it; this many bytes without the header.
    Delivered(usize),
    /// It is lost.
    Dropped,
    /// It waits for more buffers.
    Waits,
    /// There was none.
    Nothing,
    /// There will be none.
    Lost,
}

impl Receiver {
    /// Takes a queue over.
    pub(super) fn new(queue: DeviceQueue, mergeable: bool) -> Self {
        Self {
            queue,
            mergeable,
            state: State::Open,
            buffers: VecDeque::new(),
            room: 0,
            overflow: vec![0; MAX_PACKET + 1],
            waiting: None,
        }
    }

    /// Whether to wait for packets.
    pub(super) fn wants_packets(&self) -> bool {
        self.state == State::Open
    }

    /// Whether it waits for the timer of its limit.
    pub(super) fn is_throttled(&self) -> bool {
        self.state == State::Throttled
    }

    /// Whether the interface is gone.
    pub(super) fn is_lost(&self) -> bool {
        self.state == State::Lost
    }

    /// The driver notified the queue. That matters only if there was no room.
    pub(super) fn on_notification(
        &mut self,
        link: &dyn Link,
        direction: &mut Direction,
    ) -> Result<(), QueueError> {
        if self.state == State::Starved || self.waiting.is_some() {
            return self.run(link, direction);
        }
        Ok(())
    }

    /// Hands packets to the driver, as many as there are and may be handed on in one call.
    pub(super) fn run(
        &mut self,
        link: &dyn Link,
        direction: &mut Direction,
    ) -> Result<(), QueueError> {
        if self.state != State::Lost {
            self.queue.disable_notification()?;
            self.state = self.hand_on(link, direction)?;
            self.queue.signal_used()?;
        }
        Ok(())
    }

    fn hand_on(&mut self, link: &dyn Link, direction: &mut Direction) -> Result<State, QueueError> {
        for _ in 0..PACKETS_PER_CALL {
            if !direction.may_pass() {
                return Ok(State::Throttled);
            }
            let outcome = if !self.collect()? {
                Outcome::Waits
            } else if let Some(waiting) = self.waiting.take() {
                self.deliver(waiting)?
            } else {
                self.read(link)?
            };
            match outcome {
                Outcome::Delivered(bytes) => direction.passed(bytes),
                Outcome::Dropped => direction.dropped(),
                // Buffers that came before notifications were on again are looked at now.
                Outcome::Waits if self.queue.enable_notification()? => {}
                Outcome::Waits => return Ok(State::Starved),
                Outcome::Nothing => return Ok(State::Open),
                Outcome::Lost => return Ok(State::Lost),
            }
        }
        // The tap is still ready if it has more; nobody else would ask for a packet that waits.
        if self.waiting.is_some() {
            self.queue.notify_itself();
        }
        Ok(State::Open)
    }

    /// Takes buffers of the driver until the largest packet has room, or there are no more; false
    /// if there are none at all. A packet is not read before, because it cannot be given back.
    fn collect(&mut self) -> Result<bool, QueueError> {
        while (self.buffers.is_empty() || self.mergeable && self.room < MAX_PACKET)
            && let Some(chain) = self.queue.pop()?
        {
            let left = chain.writer().left();
            // The header lies in the first buffer (virtio 1.3 §5.1.6.3.1). This also keeps the
            // number of buffers of a packet below 2¹⁶.
            if left < HEADER_SIZE {
                return Err(QueueError::TooShort {
                    needed: HEADER_SIZE,
                    left,
                });
            }
            self.room = self.room.saturating_add(left);
            self.buffers.push_back(chain);
        }
        Ok(!self.buffers.is_empty())
    }

    /// Reads a packet into the buffers.
    fn read(&mut self, link: &dyn Link) -> Result<Outcome, QueueError> {
        let (mut slices, mut room) = (Vec::with_capacity(self.buffers.len() + 1), 0);
        for chain in &self.buffers {
            let mut writer = chain.writer();
            let part = writer.left().min(MAX_PACKET.saturating_sub(room));
            room = room.saturating_add(part);
            writer.append(part, &mut slices)?;
        }
        slices.truncate(MAX_SLICES - 1);
        let room: usize = slices.iter().map(VolatileSlice::len).sum();
        // The tap cuts what does not fit. With room behind the buffers nothing is cut, and what
        // did not fit is known.
        slices.push(VolatileSlice::from(self.overflow.as_mut_slice()));

        let length = match iovec::read(link.fd(), &slices) {
            // A tap has no end; what stands for it in the tests does.
            Ok(0) => return Ok(Outcome::Lost),
            Ok(length) => length,
            Err(error) => return Ok(failure(&error)),
        };
        if (HEADER_SIZE..=room).contains(&length) {
            return self.complete(length);
        }
        if !self.mergeable || !(HEADER_SIZE..=MAX_PACKET).contains(&length) {
            return Ok(Outcome::Dropped);
        }
        let mut packet = vec![0; length];
        let mut rest = packet.as_mut_slice();
        for slice in &slices {
            let (now, later) = rest.split_at_mut(slice.len().min(rest.len()));
            slice.copy_to(now);
            rest = later;
        }
        drop(slices);
        self.waiting = Some(Waiting {
            packet,
            tried: false,
        });
        Ok(Outcome::Waits)
    }

    /// Copies a packet that waited into the buffers. If they are too few a second time, it is lost:
    /// the next ones must not wait behind it for ever.
    fn deliver(&mut self, waiting: Waiting) -> Result<Outcome, QueueError> {
        let Waiting { packet, tried } = waiting;
        if packet.len() > self.room {
            if tried {
                return Ok(Outcome::Dropped);
            }
            self.waiting = Some(Waiting {
                packet,
                tried: true,
            });
            return Ok(Outcome::Waits);
        }
        let mut rest = packet.as_slice();
        for chain in &self.buffers {
            let mut writer = chain.writer();
            let (now, later) = rest.split_at(writer.left().min(rest.len()));
            writer.write_all(now)?;
            rest = later;
        }
        self.complete(packet.len())
    }

    /// Gives the driver the buffers in which `length` bytes of a packet are.
    fn complete(&mut self, length: usize) -> Result<Outcome, QueueError> {
        let mut left = length;
        let mut used: Vec<(Chain, u32)> = Vec::new();
        while left > 0
            && let Some(chain) = self.buffers.pop_front()
        {
            let room = chain.writer().left();
            let part = left.min(room);
            left -= part;
            self.room = self.room.saturating_sub(room);
            used.push((chain, u32::try_from(part).unwrap_or(u32::MAX)));
        }
        let count = u16::try_from(used.len()).unwrap_or(u16::MAX);
        if let Some((first, _)) = used.first() {
            let mut writer = first.writer();
            writer.skip(NUM_BUFFERS)?;
            writer.write_all(&count.to_le_bytes())?;
        }
        self.queue.complete_together(used)?;
        Ok(Outcome::Delivered(length - HEADER_SIZE))
    }

    /// Chains completed.
    pub(super) fn requests(&self) -> u64 {
        self.queue.requests()
    }

    /// Gives unused buffers back; returns where the queue stands. A packet that waits is lost, as
    /// if the network had lost it, and counted.
    pub(super) fn stop(mut self, direction: &mut Direction) -> QueuePosition {
        if self.waiting.is_some() {
            direction.dropped();
        }
        for chain in self.buffers.into_iter().rev() {
            // They are in flight, so this cannot fail.
            let _ = self.queue.put_back(chain);
        }
        self.queue.position()
    }
}

/// What a failed read means.
fn failure(error: &io::Error) -> Outcome {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => Outcome::Nothing,
        // The packet is gone; the next one may fare better.
        Some(libc::EFAULT | libc::EINVAL | libc::ENOMEM | libc::ENOBUFS) => Outcome::Dropped,
        // EBADFD: the interface was deleted. It stays ready for ever, so nobody may wait for it.
        _ => Outcome::Lost,
    }
}
