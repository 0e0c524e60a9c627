//! The registers of a queue before activation (virtio 1.3 §4.1.4.3).
//!
//! Activation consumes them: what is left for the driver to look at afterwards is a
//! [`QueueView`], which has no setters.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::transport::NO_VECTOR;
use crate::memory::GuestRam;
use crate::virtio::interrupt::QueueInterrupt;
use crate::virtio::queue::{DeviceQueue, QueueError, QueueSettings};

/// What the registers of a queue show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueueView {
    /// Number of descriptors.
    pub(super) size: u16,
    /// MSI-X vector, or [`NO_VECTOR`].
    pub(super) vector: u16,
    /// Whether the driver enabled the queue.
    pub(super) enabled: bool,
    /// Guest address of the descriptor table.
    pub(super) desc: u64,
    /// Guest address of the driver area.
    pub(super) driver: u64,
    /// Guest address of the device area.
    pub(super) device: u64,
}

impl QueueView {
    /// What the device needs to know of it.
    pub(super) fn settings(&self, event_idx: bool) -> QueueSettings {
        QueueSettings {
            size: self.size,
            desc: self.desc,
            driver: self.driver,
            device: self.device,
            event_idx,
        }
    }
}

/// One of the three addresses of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Address {
    /// Descriptor table.
    Desc,
    /// Driver area.
    Driver,
    /// Device area.
    Device,
}

/// The registers of a queue that the driver is still setting up. Once the queue is enabled, they
/// keep their values: the driver must set everything else first (virtio 1.3 §4.1.4.3.2).
#[derive(Debug)]
pub(super) struct QueueConfig {
    view: QueueView,
    max_size: u16,
}

impl QueueConfig {
    /// The registers after a reset.
    pub(super) fn new(max_size: u16) -> Self {
        Self {
            view: QueueView {
                size: max_size,
                vector: NO_VECTOR,
                enabled: false,
                desc: 0,
                driver: 0,
                device: 0,
            },
            max_size,
        }
    }

    /// What the registers show.
    pub(super) fn view(&self) -> QueueView {
        self.view
    }

    /// Sets the size. One above the largest keeps the old value, which the driver can read back;
    /// one that is not a power of two is found at activation.
    pub(super) fn set_size(&mut self, size: u16) {
        if !self.view.enabled && size <= self.max_size {
            self.view.size = size;
        }
    }

    /// Sets the vector, which is known to exist or is [`NO_VECTOR`].
    pub(super) fn set_vector(&mut self, vector: u16) {
        if !self.view.enabled {
            self.view.vector = vector;
        }
    }

    /// Enables the queue. There is no way back but a reset.
    pub(super) fn enable(&mut self) {
        self.view.enabled = true;
    }

    /// Sets bits of an address: those of `mask` take the value of `bits`.
    pub(super) fn set_address(&mut self, which: Address, mask: u64, bits: u64) {
        if self.view.enabled {
            return;
        }
        let address = match which {
            Address::Desc => &mut self.view.desc,
            Address::Driver => &mut self.view.driver,
            Address::Device => &mut self.view.device,
        };
        *address = (*address & !mask) | (bits & mask);
    }

    /// Turns the registers into the queue they describe; `None` if the driver left it alone.
    ///
    /// # Errors
    /// Fails when the driver chose a size or an address that cannot be.
    pub(super) fn activate(
        self,
        index: usize,
        event_idx: bool,
        memory: &GuestRam,
        interrupt: QueueInterrupt,
    ) -> Result<Option<DeviceQueue>, QueueError> {
        let view = self.view;
        if !view.enabled {
            return Ok(None);
        }
        let settings = view.settings(event_idx);
        let kick =
            EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK).map_err(QueueError::Interrupt)?;
        DeviceQueue::new(index, settings, memory, Arc::new(kick), interrupt).map(Some)
    }
}
