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
//! `stop` is the one way out, behind reset, pause, unplug and the end of the machine. What a device
//! knows survives a stop, so that it can be activated again where it was after a pause; `reset`
//! makes it forget.

use std::os::fd::RawFd;
use std::sync::Arc;

use super::config::SharedConfig;
use super::queue::{DeviceQueue, QueueError};
use super::runner::DriverLine;
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
    /// The device configuration space, always the same one; the transport does all offsets and
    /// lengths.
    fn config(&self) -> SharedConfig;
    /// Starts the device: the driver has set DRIVER_OK, or the machine goes on after a pause, in
    /// which case the queues stand where [`Running::stop`] left them.
    ///
    /// # Errors
    /// Fails with the device itself when it cannot start.
    fn activate(self: Box<Self>, activation: Activation) -> ActivateResult;
    /// The driver reset the device, or the machine ends: whatever an earlier driver did is
    /// forgotten.
    fn reset(&mut self) {}
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
    /// How the device tells its driver that its configuration changed.
    pub(crate) driver: DriverLine,
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
    /// Completes every request in flight or puts it back, then gives back the device and the
    /// positions of its queues.
    fn stop(self: Box<Self>) -> Stopped;
    /// What it did so far, earlier activations included.
    fn counters(&self) -> Counters;
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

/// A device after its stop.
pub(crate) struct Stopped {
    /// The device.
    pub(crate) device: Box<dyn Device>,
    /// Where its queues stood.
    pub(crate) positions: Vec<QueuePosition>,
}

/// What a device did since the machine started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Descriptor chains completed.
    pub(crate) requests: u64,
    /// Bytes of data taken from the guest.
    pub(crate) bytes_from_guest: u64,
    /// Bytes of data given to the guest.
    pub(crate) bytes_to_guest: u64,
    /// Times it paused because of a rate limit.
    pub(crate) throttled: u64,
    /// Packets it lost.
    pub(crate) dropped: u64,
}

impl Counters {
    /// These and the requests that `queues` completed since their activation.
    pub(crate) fn with_requests_of<'a>(
        self,
        queues: impl IntoIterator<Item = &'a DeviceQueue>,
    ) -> Self {
        let completed = queues.into_iter().map(DeviceQueue::requests);
        Self {
            requests: completed.fold(self.requests, u64::saturating_add),
            ..self
        }
    }
}

/// Where a stopped queue stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueuePosition {
    /// Which queue of its device.
    pub(crate) index: usize,
    /// Next index of the available ring to read.
    pub(crate) next_avail: u16,
    /// Next index of the used ring to write.
    pub(crate) next_used: u16,
}

/// Kinds of devices, with the numbers of virtio 1.3 §5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceKind {
    /// Network device, §5.1.
    Net,
    /// Block device, §5.2.
    Block,
    /// Console device, §5.3.
    Console,
    /// Entropy device, §5.4.
    Rng,
    /// Traditional memory balloon device, §5.5.
    Balloon,
    /// Memory device, §5.15.
    Memory,
    /// Socket device, §5.10.
    Vsock,
    /// File system device, §5.11.
    FileSystem,
}

impl DeviceKind {
    /// The virtio device id.
    pub(crate) fn id(self) -> u16 {
        match self {
            Self::Net => 1,
            Self::Block => 2,
            Self::Console => 3,
            Self::Rng => 4,
            Self::Balloon => 5,
            Self::Memory => 24,
            Self::Vsock => 19,
            Self::FileSystem => 26,
        }
    }

    /// The name used in events and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Block => "block",
            Self::Console => "console",
            Self::Rng => "rng",
            Self::Balloon => "balloon",
            Self::Memory => "memory",
            Self::Vsock => "vsock",
            Self::FileSystem => "fs",
        }
    }

    /// Whether all queues have one interrupt. Setting one up takes the guest some twenty exits, so
    /// only those have more whose queues may be served by different vCPUs.
    pub(crate) fn shares_interrupt(self) -> bool {
        match self {
            Self::Net | Self::Block => false,
            Self::Console
            | Self::Rng
            | Self::Balloon
            | Self::Memory
            | Self::Vsock
            | Self::FileSystem => true,
        }
    }

    /// PCI class code: base class, subclass, programming interface.
    pub(crate) fn pci_class(self) -> [u8; 3] {
        match self {
            Self::Net => [0x02, 0x00, 0x00],
            Self::Block | Self::FileSystem => [0x01, 0x80, 0x00],
            Self::Console | Self::Vsock => [0x07, 0x80, 0x00],
            Self::Rng | Self::Balloon | Self::Memory => [0xff, 0x00, 0x00],
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
