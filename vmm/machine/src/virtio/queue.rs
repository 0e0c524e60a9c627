//! A split virtqueue as the device sees it (virtio 1.3 §2.7), after activation.
//!
//! A device that answers each request at once calls [`DeviceQueue::serve`]; one that holds chains
//! back uses `pop`, `complete`, `rest` and `signal_used`, of which `serve` is made.
//!
//! The driver is hostile: every index, address and length is checked before it is used, and what is
//! wrong ends in a [`QueueError`] that says so in numbers.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::chain::{Chain, DescriptorTable};
use super::device::{DeviceFault, QueuePosition};
use super::interrupt::QueueInterrupt;
use crate::memory::GuestRam;

/// Largest queue a driver may choose (virtio 1.3 §2.7).
pub(crate) const MAX_QUEUE_SIZE: u16 = 32768;

/// What the driver chose for a queue, as it stood in the registers of the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueSettings {
    /// Number of descriptors, a power of two of at most [`MAX_QUEUE_SIZE`].
    pub(crate) size: u16,
    /// Guest address of the descriptor table.
    pub(crate) desc: u64,
    /// Guest address of the driver area, the available ring.
    pub(crate) driver: u64,
    /// Guest address of the device area, the used ring.
    pub(crate) device: u64,
    /// Whether VIRTIO_F_EVENT_IDX was negotiated.
    pub(crate) event_idx: bool,
}

/// One of the three areas of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Area {
    /// The descriptor table, aligned to 16.
    Descriptors,
    /// The available ring, aligned to 2.
    Available,
    /// The used ring, aligned to 4.
    Used,
}

impl std::fmt::Display for Area {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Descriptors => "descriptor table",
            Self::Available => "available ring",
            Self::Used => "used ring",
        })
    }
}

/// What the driver did wrong with a queue.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueueError {
    /// The size is zero, not a power of two or too large.
    #[error("queue size {0} is not a power of two from 1 to {MAX_QUEUE_SIZE}")]
    Size(u16),
    /// An area starts where it may not (virtio 1.3 §2.7).
    #[error("{area} at {address:#x} is not aligned to {alignment} bytes")]
    Alignment {
        /// Which area.
        area: Area,
        /// Where it starts.
        address: u64,
        /// The alignment it must have.
        alignment: u64,
    },
    /// An area does not lie in guest memory as a whole.
    #[error("{area} at {address:#x} with {length} bytes is outside guest memory")]
    AreaOutsideMemory {
        /// Which area.
        area: Area,
        /// Where it starts.
        address: u64,
        /// Its length in bytes.
        length: usize,
    },
    /// More chains were made available than the queue has descriptors.
    #[error("available index {available} is more than {size} ahead of {next}")]
    AvailableIndex {
        /// The index the driver wrote.
        available: u16,
        /// The next index the device would read.
        next: u16,
        /// The queue size.
        size: u16,
    },
    /// A ring access failed.
    #[error("ring access: {0}")]
    Ring(#[from] virtio_queue::Error),
    /// The head of a chain is not a descriptor of the queue.
    #[error("head {head} is outside a queue of {size}")]
    Head {
        /// The index of the head.
        head: u16,
        /// The queue size.
        size: u16,
    },
    /// The head of a chain was made available again before the chain was completed.
    #[error("head {0} is already in flight")]
    HeadInFlight(u16),
    /// A chain was completed or put back that is not in flight.
    #[error("head {0} is not in flight")]
    HeadNotInFlight(u16),
    /// A descriptor links to one that does not exist.
    #[error("descriptor {index} links to {next} in a table of {size}")]
    Next {
        /// The descriptor with the link.
        index: u16,
        /// Where it links to.
        next: u16,
        /// The number of descriptors in the table.
        size: u16,
    },
    /// A chain has more descriptors than the limit: it is a loop, or too long to serve.
    #[error("chain from head {head} has more than {limit} descriptors")]
    ChainTooLong {
        /// The index of the head.
        head: u16,
        /// The limit.
        limit: usize,
    },
    /// The buffers of a chain are longer than 2³² − 1 bytes together (virtio 1.3 §2.7.5.2).
    #[error("chain from head {head} is longer than 4 GiB")]
    ChainBytes {
        /// The index of the head.
        head: u16,
    },
    /// A descriptor cannot be read because its table is not in guest memory.
    #[error("descriptor {index} of the table at {table:#x} is outside guest memory")]
    DescriptorOutsideMemory {
        /// Guest address of the table.
        table: u64,
        /// The index of the descriptor.
        index: u16,
    },
    /// A buffer does not lie in guest memory as a whole.
    #[error("buffer at {address:#x} with {length} bytes is outside guest memory")]
    BufferOutsideMemory {
        /// Where it starts.
        address: u64,
        /// Its length in bytes.
        length: u32,
    },
    /// A buffer for the device to read follows one for it to write (virtio 1.3 §2.7.4.2).
    #[error("descriptor {index} is readable after a writable one")]
    ReadableAfterWritable {
        /// The index of the descriptor.
        index: u16,
    },
    /// An indirect table holds an indirect descriptor (virtio 1.3 §2.7.5.3.1).
    #[error("descriptor {index} of an indirect table is itself indirect")]
    IndirectInIndirect {
        /// The index of the descriptor in the indirect table.
        index: u16,
    },
    /// An indirect descriptor has a link (virtio 1.3 §2.7.5.3.1).
    #[error("descriptor {index} is both indirect and linked")]
    IndirectWithNext {
        /// The index of the descriptor.
        index: u16,
    },
    /// The length of an indirect table is zero, no multiple of 16 or too large.
    #[error("indirect table of {length} bytes")]
    IndirectLength {
        /// The length in bytes.
        length: u32,
    },
    /// A part of a request is shorter than what must be in it.
    #[error("{needed} bytes wanted where {left} are left in the chain")]
    TooShort {
        /// Bytes wanted.
        needed: usize,
        /// Bytes left.
        left: usize,
    },
    /// The interrupt could not be raised.
    #[error("interrupt: {0}")]
    Interrupt(std::io::Error),
}

impl QueueError {
    /// The fault of a device whose queue `index` has this error.
    pub(crate) fn on(self, index: usize) -> DeviceFault {
        DeviceFault::Queue {
            index,
            source: self,
        }
    }
}

/// A queue in the hands of its device. Its registers no longer exist for the driver.
pub(crate) struct DeviceQueue {
    index: usize,
    queue: Queue,
    memory: Arc<GuestMemoryMmap>,
    table: DescriptorTable,
    in_flight: InFlight,
    /// The used index when the driver was last interrupted, or could have been.
    signalled: u16,
    /// Whether a chain was popped since the queue was last found empty.
    busy: bool,
    requests: u64,
    kick: Arc<EventFd>,
    interrupt: QueueInterrupt,
}

impl DeviceQueue {
    /// Takes over queue `index` with what the driver chose, notified through `kick`.
    ///
    /// # Errors
    /// Fails when the size or an address breaks virtio 1.3 §2.7 or leaves guest memory.
    pub(crate) fn new(
        index: usize,
        settings: QueueSettings,
        memory: &GuestRam,
        kick: Arc<EventFd>,
        interrupt: QueueInterrupt,
    ) -> Result<Self, QueueError> {
        let memory = Arc::new(GuestMemoryMmap::clone(memory));
        let QueueSettings { size, .. } = settings;
        if !size.is_power_of_two() || size > MAX_QUEUE_SIZE {
            return Err(QueueError::Size(size));
        }
        let entries = usize::from(size);
        // Lengths with the event index fields at the end of the rings, which the ring code touches
        // whenever it was negotiated and which virtio 1.3 §2.7 counts in any case.
        check_area(&memory, Area::Descriptors, settings.desc, 16, 16 * entries)?;
        check_area(
            &memory,
            Area::Available,
            settings.driver,
            2,
            6 + 2 * entries,
        )?;
        check_area(&memory, Area::Used, settings.device, 4, 6 + 8 * entries)?;

        let mut queue = Queue::new(size)?;
        queue.try_set_size(size)?;
        queue.try_set_desc_table_address(GuestAddress(settings.desc))?;
        queue.try_set_avail_ring_address(GuestAddress(settings.driver))?;
        queue.try_set_used_ring_address(GuestAddress(settings.device))?;
        queue.set_event_idx(settings.event_idx);
        queue.set_ready(true);
        Ok(Self {
            index,
            queue,
            memory,
            table: DescriptorTable {
                address: settings.desc,
                size,
            },
            in_flight: InFlight::new(size),
            signalled: 0,
            busy: false,
            requests: 0,
            kick,
            interrupt,
        })
    }

    /// Hands every available chain to `handle`, which returns the number of bytes it wrote, and
    /// interrupts the driver once at the end.
    ///
    /// A driver that makes chains available as fast as they are served would keep the io thread
    /// here for ever, so after one ring's worth the queue notifies itself and returns. When the
    /// queue is empty it rests, see [`DeviceQueue::rest`].
    ///
    /// # Errors
    /// Fails when the ring or a chain is malformed, or `handle` fails.
    pub(crate) fn serve<E: From<QueueError>>(
        &mut self,
        mut handle: impl FnMut(&Chain) -> Result<u32, E>,
    ) -> Result<(), E> {
        let mut budget = self.queue.size();
        self.disable_notification()?;
        loop {
            while budget > 0
                && let Some(chain) = self.pop()?
            {
                let written = handle(&chain)?;
                self.complete(chain, written)?;
                budget -= 1;
            }
            if budget == 0 {
                self.notify_itself();
                break;
            }
            if !self.rest()? {
                break;
            }
        }
        Ok(self.signal_used()?)
    }

    /// Takes the next chain, or `None` when the driver has made no other available.
    ///
    /// # Errors
    /// Fails when the ring or the chain is malformed; the queue is of no use after that.
    pub(crate) fn pop(&mut self) -> Result<Option<Chain>, QueueError> {
        let next = self.queue.next_avail();
        let size = self.queue.size();
        let memory = Arc::clone(&self.memory);
        let mut available = match self.queue.iter(&*memory) {
            Ok(available) => available,
            Err(virtio_queue::Error::InvalidAvailRingIndex) => {
                let available = self
                    .queue
                    .avail_idx(&*memory, Ordering::Relaxed)
                    .map_or(0, |index| index.0);
                return Err(QueueError::AvailableIndex {
                    available,
                    next,
                    size,
                });
            }
            Err(other) => return Err(other.into()),
        };
        let Some(head) = available.next().map(|chain| chain.head_index()) else {
            return Ok(None);
        };
        if head >= size {
            return Err(QueueError::Head { head, size });
        }
        if !self.in_flight.insert(head) {
            return Err(QueueError::HeadInFlight(head));
        }
        self.busy = true;
        Chain::walk(memory, self.table, head).map(Some)
    }

    /// Gives the most recently popped chain back, so that the next [`DeviceQueue::pop`] finds it
    /// again. Several are given back in the reverse order of their popping.
    ///
    /// # Errors
    /// Fails when the chain is not in flight.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the device must not touch a chain that is no longer its own"
    )]
    pub(crate) fn put_back(&mut self, chain: Chain) -> Result<(), QueueError> {
        self.in_flight.remove(chain.head())?;
        self.queue.go_to_previous_position();
        Ok(())
    }

    /// Puts a chain on the used ring. `written` is the number of bytes written to its writable
    /// part; more than fits there is cut to what fits, because the driver relies on it.
    ///
    /// # Errors
    /// Fails when the chain is not in flight or the ring cannot be written.
    pub(crate) fn complete(&mut self, chain: Chain, written: u32) -> Result<(), QueueError> {
        self.complete_together([(chain, written)])
    }

    /// Puts several chains on the used ring, so that the driver sees either none of them or all:
    /// a packet that spans buffers must not be there in part (virtio 1.3 §5.1.6.4).
    ///
    /// # Errors
    /// As [`DeviceQueue::complete`].
    pub(crate) fn complete_together(
        &mut self,
        chains: impl IntoIterator<Item = (Chain, u32)>,
    ) -> Result<(), QueueError> {
        let mut next = self.queue.next_used();
        for (chain, written) in chains {
            self.in_flight.remove(chain.head())?;
            let written = written.min(chain.writable_len());
            let slot = u64::from(next % self.queue.size());
            let element = (u64::from(written) << 32 | u64::from(chain.head())).to_le_bytes();
            let address = GuestAddress(self.queue.used_ring() + 4 + 8 * slot);
            let result = self.memory.write_slice(&element, address);
            result.map_err(virtio_queue::Error::GuestMemory)?;
            next = next.wrapping_add(1);
            self.requests = self.requests.saturating_add(1);
        }
        self.queue.set_next_used(next);
        let index = GuestAddress(self.queue.used_ring() + 2);
        let result = self.memory.store(next.to_le(), index, Ordering::Release);
        Ok(result.map_err(virtio_queue::Error::GuestMemory)?)
    }

    /// Interrupts the driver if chains were completed since the last call and it wants to know.
    ///
    /// # Errors
    /// Fails when the ring cannot be read or the interrupt cannot be raised.
    pub(crate) fn signal_used(&mut self) -> Result<(), QueueError> {
        let now = self.queue.next_used();
        let before = std::mem::replace(&mut self.signalled, now);
        if now != before && self.driver_wants_interrupt(before, now)? {
            self.interrupt.signal().map_err(QueueError::Interrupt)?;
        }
        Ok(())
    }

    /// Whether the driver asked to be told that the used index went from `before` to `now`: always
    /// without event indices, and with them when it passed the one that the driver named (virtio
    /// 1.3 §2.7.7.2).
    fn driver_wants_interrupt(&self, before: u16, now: u16) -> Result<bool, QueueError> {
        if !self.queue.event_idx_enabled() {
            return Ok(true);
        }
        // The driver writes its index and then looks at ours; we do it the other way round.
        fence(Ordering::SeqCst);
        let address = self.queue.avail_ring() + 4 + 2 * u64::from(self.queue.size());
        let event = self.memory.load(GuestAddress(address), Ordering::Relaxed);
        let event = u16::from_le(event.map_err(virtio_queue::Error::GuestMemory)?);
        let passed = now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before);
        Ok(passed)
    }

    /// Tells the driver that it need not notify, because the device is at work on the queue.
    ///
    /// # Errors
    /// Fails when the ring cannot be written.
    pub(crate) fn disable_notification(&mut self) -> Result<(), QueueError> {
        Ok(self.queue.disable_notification(&*self.memory)?)
    }

    /// Tells the driver to notify again; `true` when chains were made available meanwhile, which
    /// the device must serve now because no notification may come for them.
    ///
    /// # Errors
    /// Fails when the ring cannot be accessed.
    pub(crate) fn enable_notification(&mut self) -> Result<bool, QueueError> {
        Ok(self.queue.enable_notification(&*self.memory)?)
    }

    /// What a device does about notifications when [`DeviceQueue::pop`] found nothing; `true` when
    /// there is something after all, which it must serve now.
    ///
    /// A driver that has just sent something is likely to send more, and each notification is an
    /// exit of its vCPU. So the first time after a chain was popped, notifications stay off and the
    /// queue notifies itself: the io thread turns to the other devices and then looks once more.
    /// Only when there was nothing twice in a row the driver is asked to notify. Asking and looking
    /// again closes the race in which it makes a chain available just before it learns of that.
    ///
    /// # Errors
    /// Fails when the ring cannot be accessed.
    pub(crate) fn rest(&mut self) -> Result<bool, QueueError> {
        if std::mem::take(&mut self.busy) {
            self.notify_itself();
            return Ok(false);
        }
        self.enable_notification()
    }

    /// Has the io thread come back to the queue in its next turn, as if the driver had notified it.
    pub(crate) fn notify_itself(&self) {
        // Only fails when the counter is full, and then the queue is notified anyway.
        let _ = self.kick.write(1);
    }

    /// Index of the queue in its device.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// What the driver chose.
    pub(crate) fn settings(&self) -> QueueSettings {
        QueueSettings {
            size: self.queue.size(),
            desc: self.queue.desc_table(),
            driver: self.queue.avail_ring(),
            device: self.queue.used_ring(),
            event_idx: self.queue.event_idx_enabled(),
        }
    }

    /// Where the queue stands. Chains in flight count as taken: complete them before.
    pub(crate) fn position(&self) -> QueuePosition {
        QueuePosition {
            index: self.index,
            next_avail: self.queue.next_avail(),
            next_used: self.queue.next_used(),
        }
    }

    /// Goes on from where a stopped queue stood.
    pub(crate) fn set_position(&mut self, position: QueuePosition) {
        self.queue.set_next_avail(position.next_avail);
        self.queue.set_next_used(position.next_used);
        self.signalled = position.next_used;
    }

    /// The descriptor that becomes readable when the driver notifies the queue.
    pub(crate) fn kick(&self) -> &Arc<EventFd> {
        &self.kick
    }

    /// The interrupt of the queue.
    pub(crate) fn interrupt(&self) -> &QueueInterrupt {
        &self.interrupt
    }

    /// Chains completed so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests
    }
}

/// Checks that an area of a queue is aligned and lies within one region of guest memory.
fn check_area(
    memory: &GuestMemoryMmap,
    area: Area,
    address: u64,
    alignment: u64,
    length: usize,
) -> Result<(), QueueError> {
    if !address.is_multiple_of(alignment) {
        return Err(QueueError::Alignment {
            area,
            address,
            alignment,
        });
    }
    // No driver puts a ring at address 0, and the ring code takes it for "not set".
    if address == 0 || memory.get_slice(GuestAddress(address), length).is_err() {
        return Err(QueueError::AreaOutsideMemory {
            area,
            address,
            length,
        });
    }
    Ok(())
}

/// Which heads are between `pop` and `complete`: one bit for each descriptor.
struct InFlight(Vec<u64>);

impl InFlight {
    fn new(size: u16) -> Self {
        Self(vec![0; usize::from(size).div_ceil(64)])
    }

    /// Marks `head`; false when it was marked already.
    fn insert(&mut self, head: u16) -> bool {
        let bit = 1 << (head % 64);
        match self.0.get_mut(usize::from(head / 64)) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                true
            }
            _ => false,
        }
    }

    fn remove(&mut self, head: u16) -> Result<(), QueueError> {
        let bit = 1 << (head % 64);
        match self.0.get_mut(usize::from(head / 64)) {
            Some(word) if *word & bit != 0 => {
                *word &= !bit;
                Ok(())
            }
            _ => Err(QueueError::HeadNotInFlight(head)),
        }
    }
}

#[cfg(test)]
#[path = "queue_test.rs"]
mod tests;
