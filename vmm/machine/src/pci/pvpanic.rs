//! pvpanic: one byte of memory by which the guest's kernel says that it panicked (QEMU
//! docs/specs/pvpanic).

use caisson_control::ExitReason;

use super::Function;
use super::config_space::{ConfigSpace, Identity};
use crate::events::EventSender;

/// Length of the BAR. One byte is used; a page keeps it apart from other functions.
pub(crate) const BAR_LENGTH: u32 = 4096;

/// The kernel panicked.
const PANICKED: u8 = 1;

/// The device.
pub(crate) struct Pvpanic {
    config: ConfigSpace,
    events: EventSender,
}

impl Pvpanic {
    /// Makes the device with its BAR at `bar`.
    pub(crate) fn new(bar: u32, events: EventSender) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x1b36,
            device: 0x0011,
            revision: 1,
            class: [0x08, 0x80, 0x00],
            subsystem: (0x1af4, 0x1100),
        });
        config.add_bar(bar, BAR_LENGTH);
        Self { config, events }
    }
}

impl Function for Pvpanic {
    fn config_read(&mut self, offset: u8, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u8, data: &[u8]) {
        self.config.write(offset, data);
    }

    fn bar(&self) -> Option<(u64, u64)> {
        self.config.decoded_bar()
    }

    fn bar_read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        // The events we understand. The driver sends no others.
        if let (0, Some(byte)) = (offset, data.first_mut()) {
            *byte = PANICKED;
        }
    }

    fn bar_write(&mut self, offset: u64, data: &[u8]) {
        if offset == 0 && data.first().is_some_and(|events| events & PANICKED != 0) {
            self.events.exit(ExitReason::Panic);
        }
    }
}

#[cfg(test)]
#[path = "pvpanic_test.rs"]
mod tests;
