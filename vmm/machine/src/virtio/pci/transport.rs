//! The registers of a virtio device: features, status, queues (virtio 1.3 §2.1, §3.1, §4.1.4).
//!
//! What the registers bring about is in [`Life`].

use std::sync::Arc;

use super::life::{Chosen, Life, Surroundings};
use super::queue_config::{Address, QueueConfig};
use crate::events::EventSender;
use crate::memory::GuestRam;
use crate::pci::msix::Msix;
use crate::virtio::config::SharedConfig;
use crate::virtio::device::{Device, DeviceKind};
use crate::virtio::runner::{DeviceRunner, Doorbells};

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

/// The registers of one device.
pub(crate) struct Transport {
    life: Life,
    features: u64,
    config: SharedConfig,
    status: u8,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    config_vector: u16,
    queue_select: u16,
}

impl Transport {
    /// Makes the registers of `device`, which will run in `place`.
    pub(crate) fn new(device: Box<dyn Device>, place: usize, environment: Environment) -> Self {
        let features =
            device.features() | FEATURE_VERSION_1 | FEATURE_INDIRECT_DESC | FEATURE_EVENT_IDX;
        let config = device.config();
        Self {
            life: Life::new(device, place, environment),
            features,
            config,
            status: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            queue_select: 0,
        }
    }

    /// Kind of the device.
    pub(super) fn kind(&self) -> DeviceKind {
        self.life.kind()
    }

    /// How often the driver set the device up so that it could not run.
    pub(super) fn refusals(&self) -> u64 {
        self.life.refusals()
    }

    /// Number of queues.
    pub(super) fn queue_count(&self) -> usize {
        self.life.queue_count()
    }

    /// Number of MSI-X vectors: one for the configuration, and one for each queue or for all.
    pub(crate) fn vectors(&self) -> u16 {
        if self.kind().shares_interrupt() {
            return 2;
        }
        u16::try_from(self.queue_count() + 1).unwrap_or(u16::MAX)
    }

    /// Bytes of device configuration.
    pub(super) fn config_length(&self) -> usize {
        self.config.length()
    }

    /// Reads the ISR status.
    pub(super) fn take_isr(&self) -> u8 {
        self.life.flags().take_isr()
    }

    /// Reads the device configuration; what lies behind its end reads as zero.
    pub(super) fn read_config(&self, offset: usize, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    /// Writes the device configuration, as far as the device lets the driver.
    pub(super) fn write_config(&self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
    }

    /// Reads the common configuration, at any offset and of any length.
    pub(super) fn read_common(&self, offset: usize, data: &mut [u8]) {
        let queue = self.life.view(self.queue_select.into());
        let mut image = Vec::with_capacity(COMMON_LENGTH);
        image.extend(self.device_feature_select.to_le_bytes());
        image.extend(word_of(self.features, self.device_feature_select).to_le_bytes());
        image.extend(self.driver_feature_select.to_le_bytes());
        image.extend(word_of(self.driver_features, self.driver_feature_select).to_le_bytes());
        image.extend(self.config_vector.to_le_bytes());
        image.extend(u16::try_from(self.queue_count()).unwrap_or(0).to_le_bytes());
        image.push(self.status());
        image.push(self.config.generation());
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
        self.life.notify(index);
    }

    /// Stops the device and puts all registers back to their first values.
    pub(super) fn reset(&mut self) {
        self.life.reset();
        self.status = 0;
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.driver_features = 0;
        self.config_vector = NO_VECTOR;
        self.queue_select = 0;
    }

    /// Stops the device where it is, until [`Transport::resume`].
    pub(super) fn pause(&mut self) {
        self.life.pause();
    }

    /// Lets the device go on after [`Transport::pause`].
    pub(super) fn resume(&mut self, msix: &Msix) {
        self.life.resume(self.chosen(), msix);
    }

    fn status(&self) -> u8 {
        if self.life.flags().needs_reset() {
            self.status | STATUS_NEEDS_RESET
        } else {
            self.status
        }
    }

    /// Changes the selected queue, if there still are registers to change.
    fn with_queue(&mut self, change: impl FnOnce(&mut QueueConfig)) {
        if let Some(queue) = self.life.queue_config(self.queue_select.into()) {
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
        if self.life.is_in_setup() {
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
            self.life.activate(self.chosen(), surroundings);
        }
    }

    fn features_acceptable(&self) -> bool {
        self.driver_features & !self.features == 0 && self.driver_features & FEATURE_VERSION_1 != 0
    }

    /// What the driver chose, beside the queues.
    fn chosen(&self) -> Chosen {
        Chosen {
            features: self.driver_features,
            event_idx: self.driver_features & FEATURE_EVENT_IDX != 0,
            config_vector: self.config_vector,
        }
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
