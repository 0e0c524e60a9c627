//! The registers of a virtio device: features, status, queues (virtio 1.3 §2.1, §3.1, §4.1.4).
//!
//! ```text
//!   Setup ──── DRIVER_OK ────▶ Active ─────┐
//!     ▲  │ a queue that cannot be          │ status 0: the runner stops the device
//!     │  └──────────▶ Broken ──┐           │ and gives it back
//!     └──────────── status 0 ──┴───────────┘
//! ```

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::queue_config::{Address, QueueConfig, QueueView};
use crate::events::EventSender;
use crate::memory::GuestRam;
use crate::pci::msix::Msix;
use crate::virtio::device::{Activation, Device, DeviceFault, DeviceKind};
use crate::virtio::interrupt::QueueInterrupt;
use crate::virtio::queue::DeviceQueue;
use crate::virtio::runner::{DeviceFlags, DeviceRunner, Doorbells, FaultLine, Job};

/// No MSI-X vector (virtio 1.3 §4.1.5.1.2).
pub(super) const NO_VECTOR: u16 = 0xffff;
/// Distance in bytes between the notification addresses of neighbouring queues.
pub(super) const NOTIFY_MULTIPLIER: u32 = 4;
/// Length of the common configuration without the fields of features that we do not offer.
pub(super) const COMMON_LENGTH: usize = 56;

/// Feature bits of the transport (virtio 1.3 §6).
const FEATURE_INDIRECT_DESC: u64 = 1 << 28;
const FEATURE_EVENT_IDX: u64 = 1 << 29;
const FEATURE_VERSION_1: u64 = 1 << 32;

/// Device status bits (virtio 1.3 §2.1).
const STATUS_ACKNOWLEDGE: u8 = 1;
const STATUS_DRIVER: u8 = 2;
const STATUS_DRIVER_OK: u8 = 4;
const STATUS_FEATURES_OK: u8 = 8;
const STATUS_NEEDS_RESET: u8 = 64;
const STATUS_FAILED: u8 = 128;

/// What a transport works with.
#[derive(Clone)]
pub(crate) struct Environment {
    /// Guest memory, where the queues are.
    pub(crate) memory: Arc<GuestRam>,
    /// Who runs the device.
    pub(crate) runner: Arc<dyn DeviceRunner>,
    /// Who turns notifications into signals.
    pub(crate) doorbells: Arc<dyn Doorbells>,
    /// Who hears of faults.
    pub(crate) events: EventSender,
}

/// What an access needs to know about the function around the transport.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    /// The vectors.
    pub(super) msix: &'a Msix,
    /// Guest address of the notification area at the moment.
    pub(super) notify: u64,
}

/// The registers of one device.
pub(crate) struct Transport {
    environment: Environment,
    /// Where the device runs.
    place: usize,
    kind: DeviceKind,
    features: u64,
    config: Vec<u8>,
    generation: u8,
    flags: Arc<DeviceFlags>,
    status: u8,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    config_vector: u16,
    queue_select: u16,
    stage: Stage,
}

/// Where the device is.
enum Stage {
    /// Here; the driver sets it up.
    Setup {
        device: Box<dyn Device>,
        queues: Vec<QueueConfig>,
    },
    /// With the runner.
    Active {
        queues: Vec<QueueView>,
        doorbells: Vec<Doorbell>,
    },
    /// Here, because it could not be activated.
    Broken {
        device: Box<dyn Device>,
        queues: Vec<QueueView>,
    },
    /// Nowhere: between two stages, or the runner has lost it.
    Gone,
}

/// The notification address of a running queue.
struct Doorbell {
    index: usize,
    address: u64,
    kick: Arc<EventFd>,
}

impl Transport {
    /// Makes the registers of `device`, which will run in `place`.
    pub(crate) fn new(device: Box<dyn Device>, place: usize, environment: Environment) -> Self {
        let features =
            device.features() | FEATURE_VERSION_1 | FEATURE_INDIRECT_DESC | FEATURE_EVENT_IDX;
        Self {
            environment,
            place,
            kind: device.kind(),
            features,
            config: device.config(),
            generation: 0,
            flags: Arc::new(DeviceFlags::default()),
            status: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            queue_select: 0,
            stage: Stage::setup(device),
        }
    }

    /// Kind of the device.
    pub(super) fn kind(&self) -> DeviceKind {
        self.kind
    }

    /// Number of queues.
    pub(super) fn queue_count(&self) -> usize {
        match &self.stage {
            Stage::Setup { queues, .. } => queues.len(),
            Stage::Active { queues, .. } | Stage::Broken { queues, .. } => queues.len(),
            Stage::Gone => 0,
        }
    }

    /// Number of MSI-X vectors: one for each queue and one for the configuration.
    pub(crate) fn vectors(&self) -> u16 {
        u16::try_from(self.queue_count() + 1).unwrap_or(u16::MAX)
    }

    /// Bytes of device configuration.
    pub(super) fn config_length(&self) -> usize {
        self.config.len()
    }

    /// Reads the ISR status.
    pub(super) fn take_isr(&self) -> u8 {
        self.flags.take_isr()
    }

    /// Reads the device configuration; what lies behind its end reads as zero.
    pub(super) fn read_config(&self, offset: usize, data: &mut [u8]) {
        copy_from(&self.config, offset, data);
    }

    /// Reads the common configuration, at any offset and of any length.
    pub(super) fn read_common(&self, offset: usize, data: &mut [u8]) {
        let queue = self.selected_view();
        let mut image = Vec::with_capacity(COMMON_LENGTH);
        image.extend(self.device_feature_select.to_le_bytes());
        image.extend(word_of(self.features, self.device_feature_select).to_le_bytes());
        image.extend(self.driver_feature_select.to_le_bytes());
        image.extend(word_of(self.driver_features, self.driver_feature_select).to_le_bytes());
        image.extend(self.config_vector.to_le_bytes());
        image.extend(u16::try_from(self.queue_count()).unwrap_or(0).to_le_bytes());
        image.push(self.status());
        image.push(self.generation);
        image.extend(self.queue_select.to_le_bytes());
        // A queue that does not exist has size 0 (virtio 1.3 §4.1.4.3.1).
        image.extend(queue.map_or(0, |queue| queue.size).to_le_bytes());
        image.extend(queue.map_or(NO_VECTOR, |queue| queue.vector).to_le_bytes());
        image.extend(u16::from(queue.is_some_and(|queue| queue.enabled)).to_le_bytes());
        // The notification offset, in units of NOTIFY_MULTIPLIER: the index of the queue.
        image.extend(self.queue_select.to_le_bytes());
        image.extend(queue.map_or(0, |queue| queue.desc).to_le_bytes());
        image.extend(queue.map_or(0, |queue| queue.driver).to_le_bytes());
        image.extend(queue.map_or(0, |queue| queue.device).to_le_bytes());
        copy_from(&image, offset, data);
    }

    /// Writes the common configuration. Fields are written whole, 64-bit ones also by halves
    /// (virtio 1.3 §4.1.3.1); anything else is ignored.
    pub(super) fn write_common(
        &mut self,
        offset: usize,
        data: &[u8],
        surroundings: Surroundings<'_>,
    ) {
        let mut bytes = [0; 8];
        let Some(low) = bytes.get_mut(..data.len()) else {
            return;
        };
        low.copy_from_slice(data);
        let value = u64::from_le_bytes(bytes);
        let [value8, ..] = bytes;
        let value16 = (value & 0xffff) as u16;
        let value32 = (value & 0xffff_ffff) as u32;
        match (offset, data.len()) {
            (0, 4) => self.device_feature_select = value32,
            (8, 4) => self.driver_feature_select = value32,
            (12, 4) => self.write_driver_features(value32),
            (16, 2) => self.write_config_vector(existing(value16, surroundings.msix)),
            (20, 1) => self.write_status(value8, surroundings),
            (22, 2) => self.queue_select = value16,
            (24, 2) => self.with_queue(|queue| queue.set_size(value16)),
            (26, 2) => {
                let vector = existing(value16, surroundings.msix);
                self.with_queue(|queue| queue.set_vector(vector));
            }
            (28, 2) if value16 == 1 => self.with_queue(QueueConfig::enable),
            (32 | 36 | 40 | 44 | 48 | 52, 4) | (32 | 40 | 48, 8) => {
                let which = match offset {
                    32..40 => Address::Desc,
                    40..48 => Address::Driver,
                    _ => Address::Device,
                };
                let (mask, bits) = match (data.len(), offset % 8) {
                    (4, 0) => (0xffff_ffff, value),
                    (4, _) => (0xffff_ffff << 32, value << 32),
                    _ => (u64::MAX, value),
                };
                self.with_queue(|queue| queue.set_address(which, mask, bits));
            }
            _ => {}
        }
    }

    /// The driver notified queue `index` by a write that reached us instead of a doorbell. Before
    /// activation that means nothing.
    pub(super) fn notify(&self, index: usize) {
        if let Stage::Active { doorbells, .. } = &self.stage
            && let Some(doorbell) = doorbells.iter().find(|doorbell| doorbell.index == index)
        {
            // Fails only when the counter is full, and then the queue is notified anyway.
            let _ = doorbell.kick.write(1);
        }
    }

    /// Stops the device and puts all registers back to their first values.
    pub(super) fn reset(&mut self) {
        let device = match std::mem::replace(&mut self.stage, Stage::Gone) {
            Stage::Setup { device, .. } | Stage::Broken { device, .. } => Some(device),
            Stage::Active { doorbells, .. } => {
                for doorbell in &doorbells {
                    self.environment
                        .doorbells
                        .detach(doorbell.address, &doorbell.kick);
                }
                self.environment.runner.stop(self.place)
            }
            Stage::Gone => None,
        };
        self.flags.clear();
        self.status = 0;
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.driver_features = 0;
        self.config_vector = NO_VECTOR;
        self.queue_select = 0;
        match device {
            Some(device) => {
                let config = device.config();
                if config != self.config {
                    self.config = config;
                    self.generation = self.generation.wrapping_add(1);
                }
                self.stage = Stage::setup(device);
            }
            None => self.flags.break_for_good(),
        }
    }

    fn status(&self) -> u8 {
        if self.flags.needs_reset() {
            self.status | STATUS_NEEDS_RESET
        } else {
            self.status
        }
    }

    fn selected_view(&self) -> Option<QueueView> {
        let index = usize::from(self.queue_select);
        match &self.stage {
            Stage::Setup { queues, .. } => queues.get(index).map(QueueConfig::view),
            Stage::Active { queues, .. } | Stage::Broken { queues, .. } => {
                queues.get(index).copied()
            }
            Stage::Gone => None,
        }
    }

    /// Changes the selected queue, if there still are registers to change.
    fn with_queue(&mut self, change: impl FnOnce(&mut QueueConfig)) {
        if let Stage::Setup { queues, .. } = &mut self.stage
            && let Some(queue) = queues.get_mut(usize::from(self.queue_select))
        {
            change(queue);
        }
    }

    fn write_driver_features(&mut self, bits: u32) {
        if self.status & STATUS_FEATURES_OK != 0 {
            return;
        }
        let shift = match self.driver_feature_select {
            0 => 0,
            1 => 32,
            _ => return,
        };
        let mask = 0xffff_ffff << shift;
        self.driver_features = (self.driver_features & !mask) | u64::from(bits) << shift;
    }

    fn write_config_vector(&mut self, vector: u16) {
        // The running device holds the interrupt that the vector stood for at activation.
        if matches!(self.stage, Stage::Setup { .. }) {
            self.config_vector = vector;
        }
    }

    /// Status writes: zero resets, bits are added in the order of virtio 1.3 §3.1.1, and none is
    /// taken away (§2.1.1).
    fn write_status(&mut self, value: u8, surroundings: Surroundings<'_>) {
        if value == 0 {
            self.reset();
            return;
        }
        let value = value & !STATUS_NEEDS_RESET;
        if value & self.status != self.status {
            return;
        }
        let mut added = value & !self.status;
        if self.status & STATUS_DRIVER_OK != 0 {
            // Nothing is left to add but giving up.
            added &= STATUS_FAILED;
        }
        self.status |= added & (STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FAILED);
        let known = STATUS_ACKNOWLEDGE | STATUS_DRIVER;
        if added & STATUS_FEATURES_OK != 0
            && self.status & known == known
            && self.features_acceptable()
        {
            self.status |= STATUS_FEATURES_OK;
        }
        if added & STATUS_DRIVER_OK != 0 && self.status & STATUS_FEATURES_OK != 0 {
            self.status |= STATUS_DRIVER_OK;
            self.activate(surroundings);
        }
    }

    fn features_acceptable(&self) -> bool {
        self.driver_features & !self.features == 0 && self.driver_features & FEATURE_VERSION_1 != 0
    }

    /// Consumes the queue registers and hands the device to its runner.
    fn activate(&mut self, surroundings: Surroundings<'_>) {
        let Stage::Setup { device, queues } = std::mem::replace(&mut self.stage, Stage::Gone)
        else {
            return;
        };
        let views: Vec<QueueView> = queues.iter().map(QueueConfig::view).collect();
        let interrupts = interrupt_of(surroundings.msix, self.config_vector)
            .map_err(no_descriptors)
            .and_then(|config| Ok((config, self.activate_queues(queues, surroundings.msix)?)));
        let (config_interrupt, queues) = match interrupts {
            Ok(both) => both,
            Err(fault) => {
                self.environment
                    .events
                    .device_fault(self.kind.name(), fault.to_string());
                self.stage = Stage::Broken {
                    device,
                    queues: views,
                };
                if let Ok(interrupt) = interrupt_of(surroundings.msix, self.config_vector) {
                    self.fault_line(interrupt).raise();
                }
                return;
            }
        };
        let doorbells: Vec<Doorbell> = queues
            .iter()
            .flatten()
            .map(|queue| Doorbell {
                index: queue.index(),
                address: surroundings.notify + queue.index() as u64 * u64::from(NOTIFY_MULTIPLIER),
                kick: Arc::clone(queue.kick()),
            })
            .collect();
        for doorbell in &doorbells {
            self.environment
                .doorbells
                .attach(doorbell.address, &doorbell.kick);
        }
        self.stage = Stage::Active {
            queues: views,
            doorbells,
        };
        self.environment.runner.start(Job {
            place: self.place,
            device,
            fault_line: self.fault_line(config_interrupt.clone()),
            activation: Activation {
                features: self.driver_features,
                memory: Arc::clone(&self.environment.memory),
                queues,
                config_interrupt,
            },
        });
    }

    fn activate_queues(
        &self,
        queues: Vec<QueueConfig>,
        msix: &Msix,
    ) -> Result<Vec<Option<DeviceQueue>>, DeviceFault> {
        let event_idx = self.driver_features & FEATURE_EVENT_IDX != 0;
        queues
            .into_iter()
            .enumerate()
            .map(|(index, queue)| {
                let interrupt = interrupt_of(msix, queue.view().vector).map_err(no_descriptors)?;
                queue
                    .activate(index, event_idx, &self.environment.memory, interrupt)
                    .map_err(|error| error.on(index))
            })
            .collect()
    }

    fn fault_line(&self, interrupt: QueueInterrupt) -> FaultLine {
        FaultLine {
            flags: Arc::clone(&self.flags),
            interrupt,
        }
    }
}

impl Stage {
    fn setup(device: Box<dyn Device>) -> Self {
        let queues = device
            .queue_sizes()
            .iter()
            .map(|size| QueueConfig::new(*size))
            .collect();
        Self::Setup { device, queues }
    }
}

/// The vector if it exists, [`NO_VECTOR`] otherwise: that is how a device says that it cannot map
/// a vector (virtio 1.3 §4.1.5.1.2.2).
fn existing(vector: u16, msix: &Msix) -> u16 {
    match msix.interrupt(vector) {
        Some(_) => vector,
        None => NO_VECTOR,
    }
}

/// The interrupt behind a vector; for [`NO_VECTOR`] one that reaches nobody.
fn interrupt_of(msix: &Msix, vector: u16) -> std::io::Result<QueueInterrupt> {
    msix.interrupt(vector).map_or_else(QueueInterrupt::new, Ok)
}

fn no_descriptors(source: std::io::Error) -> DeviceFault {
    DeviceFault::Host {
        what: "making an interrupt",
        source,
    }
}

/// The 32-bit word `select` of a feature set.
fn word_of(features: u64, select: u32) -> u32 {
    match select {
        0 => (features & 0xffff_ffff) as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

/// Copies `data.len()` bytes from `offset` on, zeros behind the end.
fn copy_from(bytes: &[u8], offset: usize, data: &mut [u8]) {
    data.fill(0);
    for (byte, value) in data.iter_mut().zip(bytes.iter().skip(offset)) {
        *byte = *value;
    }
}

#[cfg(test)]
#[path = "transport_test.rs"]
mod tests;
