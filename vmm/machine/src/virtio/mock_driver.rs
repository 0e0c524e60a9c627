//! The driver's side of a queue, for tests: builds any chain, also wrong ones.

use std::collections::HashMap;
use std::sync::Arc;

use virtio_bindings::bindings::virtio_ring::{
    VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::Activation;
use super::interrupt::QueueInterrupt;
use super::queue::{DeviceQueue, QueueError, QueueSettings};
use super::runner::DriverLine;
use crate::memory::{Backing, GuestRam};

/// Descriptor flags.
pub(crate) const NEXT: u16 = VRING_DESC_F_NEXT as u16;
/// The device writes.
pub(crate) const WRITE: u16 = VRING_DESC_F_WRITE as u16;
/// The buffer is a table.
pub(crate) const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;

/// 16 MiB of guest memory.
pub(crate) fn guest_ram() -> Arc<GuestRam> {
    Arc::new(GuestRam::new(16, Backing::Private).unwrap())
}

/// A way to a driver that nobody looks at.
pub(crate) fn driver_line() -> DriverLine {
    DriverLine {
        flags: Arc::default(),
        interrupt: QueueInterrupt::new().unwrap(),
    }
}

/// What a device receives whose driver accepted `features`.
pub(crate) fn activation(
    features: u64,
    memory: &Arc<GuestRam>,
    queues: Vec<Option<DeviceQueue>>,
) -> Activation {
    Activation {
        features,
        memory: Arc::clone(memory),
        queues,
        driver: driver_line(),
    }
}

/// A buffer of a chain: address, length, whether the device writes it.
pub(crate) type Buffer = (u64, u32, bool);

/// The driver of one queue.
pub(crate) struct MockDriver {
    pub(crate) memory: Arc<GuestRam>,
    pub(crate) settings: QueueSettings,
    pub(crate) kick: Arc<EventFd>,
    pub(crate) interrupt: QueueInterrupt,
    next_available: u16,
    next_used: u16,
    free: Vec<u16>,
    chains: HashMap<u16, Vec<u16>>,
}

impl MockDriver {
    /// A queue of `size` whose three areas follow each other from `base` on.
    pub(crate) fn new(memory: &Arc<GuestRam>, base: u64, size: u16) -> Self {
        let desc = base;
        let driver = desc + 16 * u64::from(size);
        let device = (driver + 6 + 2 * u64::from(size)).next_multiple_of(4);
        Self {
            memory: Arc::clone(memory),
            settings: QueueSettings {
                size,
                desc,
                driver,
                device,
                event_idx: true,
            },
            kick: Arc::new(EventFd::new(EFD_NONBLOCK).unwrap()),
            interrupt: QueueInterrupt::new().unwrap(),
            next_available: 0,
            next_used: 0,
            free: (0..size).rev().collect(),
            chains: HashMap::new(),
        }
    }

    /// What the device gets.
    pub(crate) fn queue(&self, index: usize) -> Result<DeviceQueue, QueueError> {
        DeviceQueue::new(
            index,
            self.settings,
            &self.memory,
            Arc::clone(&self.kick),
            self.interrupt.clone(),
        )
    }

    /// Writes one descriptor of the table at `table`.
    pub(crate) fn write_descriptor_at(&self, table: u64, index: u16, d: (u64, u32, u16, u16)) {
        let at = table + 16 * u64::from(index);
        self.write(at, &d.0.to_le_bytes());
        self.write(at + 8, &d.1.to_le_bytes());
        self.write(at + 12, &d.2.to_le_bytes());
        self.write(at + 14, &d.3.to_le_bytes());
    }

    /// Writes one descriptor of the queue's own table: address, length, flags, next.
    pub(crate) fn write_descriptor(&self, index: u16, descriptor: (u64, u32, u16, u16)) {
        self.write_descriptor_at(self.settings.desc, index, descriptor);
    }

    /// Makes whatever is at `head` available.
    pub(crate) fn make_available(&mut self, head: u16) {
        let slot = u64::from(self.next_available % self.settings.size);
        self.write(self.settings.driver + 4 + 2 * slot, &head.to_le_bytes());
        self.next_available = self.next_available.wrapping_add(1);
        self.write_available_index(self.next_available);
    }

    /// Writes the index of the available ring.
    pub(crate) fn write_available_index(&mut self, index: u16) {
        self.next_available = index;
        let address = GuestAddress(self.settings.driver + 2);
        self.memory
            .store(index.to_le(), address, std::sync::atomic::Ordering::Release)
            .unwrap();
    }

    /// Adds a chain of these buffers, or gives up when descriptors are missing.
    pub(crate) fn try_add(&mut self, buffers: &[Buffer]) -> Option<u16> {
        if self.free.len() < buffers.len() {
            return None;
        }
        let indices: Vec<u16> = buffers.iter().map(|_| self.free.pop().unwrap()).collect();
        for (position, (address, length, writable)) in buffers.iter().enumerate() {
            let next = indices.get(position + 1);
            let flags = if *writable { WRITE } else { 0 } | if next.is_some() { NEXT } else { 0 };
            self.write_descriptor(
                indices[position],
                (*address, *length, flags, next.copied().unwrap_or(0)),
            );
        }
        let head = indices[0];
        self.chains.insert(head, indices);
        self.make_available(head);
        Some(head)
    }

    /// Adds a chain of these buffers.
    pub(crate) fn add(&mut self, buffers: &[Buffer]) -> u16 {
        self.try_add(buffers).unwrap()
    }

    /// Takes the next entry of the used ring: head and bytes written.
    pub(crate) fn take_used(&mut self) -> Option<(u16, u32)> {
        let index: u16 = self
            .memory
            .load(
                GuestAddress(self.settings.device + 2),
                std::sync::atomic::Ordering::Acquire,
            )
            .unwrap();
        if u16::from_le(index) == self.next_used {
            return None;
        }
        let slot = u64::from(self.next_used % self.settings.size);
        let entry: [u8; 8] = self.read(self.settings.device + 4 + 8 * slot);
        self.next_used = self.next_used.wrapping_add(1);
        let head = u32::from_le_bytes(entry[..4].try_into().unwrap());
        let written = u32::from_le_bytes(entry[4..].try_into().unwrap());
        let head = u16::try_from(head).unwrap();
        self.free
            .extend(self.chains.remove(&head).unwrap_or_default());
        Some((head, written))
    }

    /// How often the driver was interrupted since the last call.
    pub(crate) fn interrupts(&self) -> u64 {
        self.interrupt.event_fd().read().unwrap_or(0)
    }

    /// Asks to be interrupted only when the used index passes `index`.
    pub(crate) fn write_used_event(&self, index: u16) {
        let at = self.settings.driver + 4 + 2 * u64::from(self.settings.size);
        self.write(at, &index.to_le_bytes());
    }

    /// The available index at which the device wants the next notification.
    pub(crate) fn available_event(&self) -> u16 {
        let at = self.settings.device + 4 + 8 * u64::from(self.settings.size);
        u16::from_le_bytes(self.read(at))
    }

    /// Writes guest memory.
    pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .unwrap();
    }

    /// Reads guest memory.
    pub(crate) fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }
}
