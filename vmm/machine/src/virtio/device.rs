//! What a virtio device is, for those who write one.
//!
//! ```text
//!              activate(queues)                stop()
//!   Device ───────────────────────▶ Running ────────────▶ Device + queue positions
//!     ▲  the driver sets DRIVER_OK     │                     │
//!     │                                │ Err(DeviceFault)    │
//!     │                                ▼                     │
//!     │                       DEVICE_NEEDS_RESET             │
//!     └──────────────── the driver resets the device ◀───────┘
//! ```
//!
//! Before activation a device has an identity and no queues; after it, queues and no registers.
//! `stop` is the one way out, behind reset, pause, unplug and the end of the machine.

use std::os::fd::RawFd;
use std::sync::Arc;

use super::interrupt::QueueInterrupt;
use super::queue::{DeviceQueue, QueueError};
use crate::memory::GuestRam;

/// What the transport asks before activation, and the way into [`Running`].
pub(crate) trait Device: Send {
    /// Kind and name.
    fn kind(&self) -> DeviceKind;
    /// Largest size of each queue, each a power of two of at most 32768 (virtio 1.3 §2.7).
    fn queue_sizes(&self) -> &[u16];
    /// Device features on offer, bits 0 to 23 and 50 to 63 (virtio 1.3 §2.2). The transport adds
    /// VERSION_1, INDIRECT_DESC and EVENT_IDX.
    fn features(&self) -> u64;
    /// The device configuration space; the transport does all offsets and lengths.
    fn config(&self) -> Vec<u8>;
    /// Starts the device: the driver has set DRIVER_OK.
    ///
    /// # Errors
    /// Fails with the device itself when it cannot start; it is then as after a reset.
    fn activate(self: Box<Self>, activation: Activation) -> ActivateResult;
}

/// What [`Device::activate`] gives.
pub(crate) type ActivateResult = Result<Box<dyn Running>, (Box<dyn Device>, DeviceFault)>;

/// What a device receives at activation.
pub(crate) struct Activation {
    /// Features the driver accepted, a subset of those on offer.
    pub(crate) features: u64,
    /// Guest memory, through which the queues are read.
    pub(crate) memory: Arc<GuestRam>,
    /// The queues that the driver enabled, in order; `None` for one it left alone.
    pub(crate) queues: Vec<Option<DeviceQueue>>,
    /// The configuration change interrupt.
    #[allow(
        dead_code,
        reason = "the devices so far never change their configuration"
    )]
    pub(crate) config_interrupt: QueueInterrupt,
}

/// A device at work. All calls come from the io thread.
pub(crate) trait Running: Send {
    /// Descriptors to wait for besides the queue notifications, with a token of the device's own
    /// choice each. Asked again after every call of [`Running::on_ready`] and [`Running::on_queue`]
    /// that returns [`Interest::Changed`].
    fn watches(&self) -> Vec<Watch>;
    /// The driver notified queue `index`.
    ///
    /// # Errors
    /// A fault stops the device until the driver resets it.
    fn on_queue(&mut self, index: usize) -> Result<Interest, DeviceFault>;
    /// A watched descriptor is ready (level-triggered).
    ///
    /// # Errors
    /// A fault stops the device until the driver resets it.
    fn on_ready(&mut self, token: u32) -> Result<Interest, DeviceFault>;
    /// Drains every request in flight, then gives back the device and the positions of its queues.
    fn stop(self: Box<Self>) -> (Box<dyn Device>, Vec<QueuePosition>);
    /// Descriptor chains completed so far.
    fn requests(&self) -> u64;
    /// Whether the io thread waits for the queue notifications. A device whose queues are served
    /// by another process hands the notification descriptors on and answers `false`.
    fn serves_queues(&self) -> bool {
        true
    }
}

/// Whether the set of watched descriptors changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    /// As before.
    Same,
    /// [`Running::watches`] has a different answer now.
    Changed,
}

/// A descriptor to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Watch {
    /// The descriptor; it stays open while it is watched.
    pub(crate) fd: RawFd,
    /// Handed back to [`Running::on_ready`].
    pub(crate) token: u32,
    /// Wait until it can be read.
    pub(crate) readable: bool,
    /// Wait until it can be written.
    pub(crate) writable: bool,
}

/// Where a stopped queue stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueuePosition {
    /// Next index of the available ring to read.
    pub(crate) next_avail: u16,
    /// Next index of the used ring to write.
    pub(crate) next_used: u16,
}

/// Kinds of devices, with the numbers of virtio 1.3 §5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceKind {
    /// Entropy device, §5.4.
    Rng,
    /// Socket device, §5.10.
    Vsock,
    /// File system device, §5.11.
    FileSystem,
}

impl DeviceKind {
    /// The virtio device id.
    pub(crate) fn id(self) -> u16 {
        match self {
            Self::Rng => 4,
            Self::Vsock => 19,
            Self::FileSystem => 26,
        }
    }

    /// The name used in events and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rng => "rng",
            Self::Vsock => "vsock",
            Self::FileSystem => "fs",
        }
    }

    /// PCI class code: base class, subclass, programming interface.
    pub(crate) fn pci_class(self) -> [u8; 3] {
        match self {
            Self::Rng => [0xff, 0x00, 0x00],
            Self::Vsock => [0x07, 0x80, 0x00],
            Self::FileSystem => [0x01, 0x80, 0x00],
        }
    }
}

/// The driver broke the rules, or the host side of the device failed. The device stops and waits
/// for a reset (DEVICE_NEEDS_RESET, virtio 1.3 §2.1.1); nothing else is hurt.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceFault {
    /// The ring or a chain is malformed.
    #[error("queue {index}: {source}")]
    Queue {
        /// Which queue.
        index: usize,
        /// What was wrong.
        source: QueueError,
    },
    /// The driver left out a queue that the device needs.
    #[error("queue {0} was not enabled")]
    QueueMissing(usize),
    /// The content of a request makes no sense.
    #[allow(dead_code, reason = "the devices so far answer such requests instead")]
    #[error("malformed request: {0}")]
    Request(&'static str),
    /// The host side of the device failed.
    #[error("{what}: {source}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// What failed.
        source: std::io::Error,
    },
}
