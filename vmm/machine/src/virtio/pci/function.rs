//! The PCI function around a virtio device: capabilities, BAR and vectors (virtio 1.3 §4.1.4).

use std::io;
use std::sync::Arc;

use super::life::Surroundings;
use super::transport::{COMMON_LENGTH, NOTIFY_MULTIPLIER, Transport};
use crate::pci::Function;
use crate::pci::config_space::{ConfigSpace, Identity};
use crate::pci::msix::{self, MessageRouter, Msix};
use crate::virtio::device::DeviceKind;

/// Length of BAR 0. See the module above for what is where.
const BAR_LENGTH: u32 = 0x8000;

const COMMON: u32 = 0x0000;
const ISR: u32 = 0x1000;
const DEVICE: u32 = 0x2000;
const NOTIFY: u32 = 0x3000;
const MSIX_TABLE: u32 = 0x4000;
const MSIX_PENDING: u32 = 0x5000;
const PAGE: u64 = 0x1000;

/// Capability id of vendor specific structures.
const VENDOR_SPECIFIC: u8 = 0x09;
/// Vendor id of virtio devices, and what is added to the virtio device id (virtio 1.3 §4.1.2.1).
const VENDOR: u16 = 0x1af4;
const DEVICE_BASE: u16 = 0x1040;

/// Kinds of virtio structures (virtio 1.3 §4.1.4).
const COMMON_CFG: u8 = 1;
const NOTIFY_CFG: u8 = 2;
const ISR_CFG: u8 = 3;
const DEVICE_CFG: u8 = 4;
const PCI_CFG: u8 = 5;

/// Offsets in a virtio capability.
const CAP_BAR: u8 = 4;
const CAP_OFFSET: u8 = 8;
const CAP_LENGTH: u8 = 12;
const CAP_DATA: u8 = 16;

/// A virtio device as a PCI function.
pub(crate) struct VirtioFunction {
    config: ConfigSpace,
    transport: Transport,
    msix: Msix,
    /// Where the capability is whose data register reaches into the BAR.
    window: u8,
    /// Where the MSI-X capability is.
    msix_capability: u8,
}

impl VirtioFunction {
    /// Makes the function with its BAR at `bar` and its vectors from `first_gsi` on, as many as
    /// [`Transport::vectors`] says.
    ///
    /// # Errors
    /// Fails when the process has no descriptors left.
    pub(crate) fn new(
        transport: Transport,
        bar: u32,
        first_gsi: u32,
        router: Arc<dyn MessageRouter>,
    ) -> io::Result<Self> {
        let kind = transport.kind();
        let mut config = ConfigSpace::new(Identity {
            vendor: VENDOR,
            device: DEVICE_BASE + kind.id(),
            revision: 1,
            class: kind.pci_class(),
            // At least 0x40, which keeps drivers of the old interface away.
            subsystem: (VENDOR, 0x40),
        });
        config.add_bar(bar, BAR_LENGTH);
        let msix = Msix::new(transport.vectors(), first_gsi, router)?;
        // The first of the list: drivers look for it more often than for any other, and every
        // step of a search is an exit.
        let msix_capability = config.add_capability(
            msix::CAPABILITY_ID,
            &msix.capability(MSIX_TABLE, MSIX_PENDING),
        );
        config.allow(msix_capability + 2, &msix::CONTROL_WRITABLE.to_le_bytes());

        let notify_length = transport.queue_count() as u32 * NOTIFY_MULTIPLIER;
        let device_length = transport.config_length() as u32;
        add_structure(&mut config, COMMON_CFG, COMMON, COMMON_LENGTH as u32, &[]);
        add_structure(&mut config, ISR_CFG, ISR, 1, &[]);
        if device_length > 0 {
            add_structure(&mut config, DEVICE_CFG, DEVICE, device_length, &[]);
        }
        let multiplier = NOTIFY_MULTIPLIER.to_le_bytes();
        add_structure(&mut config, NOTIFY_CFG, NOTIFY, notify_length, &multiplier);
        let window = add_structure(&mut config, PCI_CFG, 0, 0, &[0; 4]);
        config.allow(window + CAP_BAR, &[0xff]);
        config.allow(window + CAP_OFFSET, &[0xff; 12]);
        Ok(Self {
            config,
            transport,
            msix,
            window,
            msix_capability,
        })
    }

    /// The access that the window of the PCI_CFG capability asks for: offset and length.
    fn window_access(&self) -> Option<(u64, usize)> {
        let offset = self.config.u32(self.window + CAP_OFFSET);
        let length = self.config.u32(self.window + CAP_LENGTH);
        let fits = self.config.u8(self.window + CAP_BAR) == 0
            && matches!(length, 1 | 2 | 4)
            && offset.is_multiple_of(length)
            && offset
                .checked_add(length)
                .is_some_and(|end| end <= BAR_LENGTH);
        fits.then_some((offset.into(), length as usize))
    }

    /// Whether an access of `length` bytes at `offset` of the configuration space begins in the
    /// data register of the window.
    fn in_window(&self, offset: u8) -> bool {
        let data = self.window + CAP_DATA;
        (data..data + 4).contains(&offset)
    }
}

impl Function for VirtioFunction {
    fn config_read(&mut self, offset: u8, data: &mut [u8]) {
        if self.in_window(offset)
            && let Some((address, length)) = self.window_access()
        {
            let mut bytes = [0; 4];
            if let Some(bytes) = bytes.get_mut(..length) {
                self.bar_read(address, bytes);
            }
            self.config.put(self.window + CAP_DATA, &bytes);
        }
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u8, data: &[u8]) {
        self.config.write(offset, data);
        if self.in_window(offset)
            && let Some((address, length)) = self.window_access()
        {
            let bytes = self.config.u32(self.window + CAP_DATA).to_le_bytes();
            if let Some(bytes) = bytes.get(..length) {
                self.bar_write(address, bytes);
            }
        }
        if offset & !3 == self.msix_capability {
            self.msix
                .set_control(self.config.u16(self.msix_capability + 2));
        }
    }

    fn bar(&self) -> Option<(u64, u64)> {
        self.config.decoded_bar()
    }

    fn bar_read(&mut self, offset: u64, data: &mut [u8]) {
        let (page, within) = split(offset);
        match page {
            COMMON => self.transport.read_common(within, data),
            ISR => {
                data.fill(0);
                if let (0, Some(byte)) = (within, data.first_mut()) {
                    *byte = self.transport.take_isr();
                }
            }
            DEVICE => self.transport.read_config(within, data),
            MSIX_TABLE => self.msix.read_table(within, data),
            MSIX_PENDING => self.msix.read_pending(within, data),
            _ => data.fill(0),
        }
    }

    fn bar_write(&mut self, offset: u64, data: &[u8]) {
        let (page, within) = split(offset);
        match page {
            COMMON => {
                let bar = self.config.decoded_bar().map_or(0, |(start, _)| start);
                let surroundings = Surroundings {
                    msix: &self.msix,
                    notify: bar + u64::from(NOTIFY),
                };
                self.transport.write_common(within, data, surroundings);
            }
            DEVICE => self.transport.write_config(within, data),
            NOTIFY => self.transport.notify(within / NOTIFY_MULTIPLIER as usize),
            MSIX_TABLE => self.msix.write_table(within, data),
            _ => {}
        }
    }

    fn device(&self) -> Option<DeviceKind> {
        Some(self.transport.kind())
    }

    fn refusals(&self) -> u64 {
        self.transport.refusals()
    }

    fn pause(&mut self) {
        self.transport.pause();
    }

    fn resume(&mut self) {
        self.transport.resume(&self.msix);
    }

    fn shut_down(&mut self) {
        self.transport.reset();
        self.msix.set_control(0);
    }
}

/// The page of the BAR that an offset is in, and the offset in that page.
fn split(offset: u64) -> (u32, usize) {
    let within = offset % PAGE;
    let page = u32::try_from(offset - within).unwrap_or(u32::MAX);
    (page, usize::try_from(within).unwrap_or(0))
}

/// Adds a virtio structure capability (virtio 1.3 §4.1.4); returns its offset.
fn add_structure(config: &mut ConfigSpace, kind: u8, offset: u32, length: u32, extra: &[u8]) -> u8 {
    let size = 16 + extra.len() as u8;
    let mut body = vec![size, kind, 0, 0, 0, 0];
    body.extend(offset.to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend(extra);
    config.add_capability(VENDOR_SPECIFIC, &body)
}

#[cfg(test)]
#[path = "function_test.rs"]
mod tests;
