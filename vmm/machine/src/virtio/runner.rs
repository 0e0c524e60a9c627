//! The boundary between the transport, which has the registers, and the thread that runs devices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use vmm_sys_util::eventfd::EventFd;

use super::device::{Activation, Device, Stopped};
use super::interrupt::QueueInterrupt;

/// ISR status bit: the configuration, or the device status, changed (virtio 1.3 §4.1.4.5).
const ISR_CONFIG: u8 = 1 << 1;

/// Runs activated devices, each in a numbered place.
pub(crate) trait DeviceRunner: Send + Sync {
    /// Takes a device over and activates it.
    fn start(&self, job: Job);
    /// Stops the device in `place` and gives it back; `None` if none is there. One that stopped
    /// because of a fault comes without the positions of its queues.
    fn stop(&self, place: usize) -> Option<Stopped>;
}

/// A device to be run.
pub(crate) struct Job {
    /// Where it runs; free at the moment.
    pub(crate) place: usize,
    /// The device.
    pub(crate) device: Box<dyn Device>,
    /// What it needs.
    pub(crate) activation: Activation,
}

/// Turns writes of the guest to an address into signals of an event descriptor.
pub(crate) trait Doorbells: Send + Sync {
    /// From now on a write to `address` signals `kick` without an exit to us.
    fn attach(&self, address: u64, kick: &EventFd);
    /// Undoes `attach`.
    fn detach(&self, address: u64, kick: &EventFd);
}

/// The part of a device's registers that changes while it runs.
#[derive(Debug, Default)]
pub(crate) struct DeviceFlags {
    needs_reset: AtomicBool,
    isr: AtomicU8,
}

impl DeviceFlags {
    /// Whether the device stopped because of a fault.
    pub(crate) fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    /// Reads the ISR status, which clears it.
    pub(crate) fn take_isr(&self) -> u8 {
        self.isr.swap(0, Ordering::AcqRel)
    }

    /// The device is lost; its driver shall leave it alone.
    pub(crate) fn break_for_good(&self) {
        self.needs_reset.store(true, Ordering::Release);
    }

    /// As after a reset.
    pub(crate) fn clear(&self) {
        self.needs_reset.store(false, Ordering::Release);
        self.isr.store(0, Ordering::Release);
    }
}

/// The way from a device to its driver, beside the queues.
#[derive(Debug, Clone)]
pub(crate) struct DriverLine {
    /// The registers to set.
    pub(crate) flags: Arc<DeviceFlags>,
    /// The configuration change interrupt.
    pub(crate) interrupt: QueueInterrupt,
}

impl DriverLine {
    /// The device stopped and waits for a reset: sets DEVICE_NEEDS_RESET and interrupts the driver
    /// (virtio 1.3 §2.1.2).
    pub(crate) fn fault(&self) {
        self.flags.needs_reset.store(true, Ordering::Release);
        self.config_changed();
    }

    /// The configuration changed: sets the bit in the ISR status and interrupts the driver
    /// (virtio 1.3 §4.1.4.5).
    pub(crate) fn config_changed(&self) {
        self.flags.isr.fetch_or(ISR_CONFIG, Ordering::AcqRel);
        // A driver that cannot be interrupted still finds the bit in the status.
        let _ = self.interrupt.signal();
    }
}
