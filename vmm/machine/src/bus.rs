//! Where the accesses of the vCPUs go: the few I/O ports there are, and the PCI bus.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::events::EventSender;
use crate::pci::root::{ADDRESS_PORT, PciRoot};
use crate::serial::{self, SerialPort};

/// The guest writes here when it starts the agent.
const PHASE_PORT: u16 = 0x3f0;
/// Index and data of the CMOS memory. There is none, but a kernel that asks for the time waits
/// until bit 7 of register 10 is clear, which an empty bus would never show.
const CMOS_PORTS: std::ops::RangeInclusive<u16> = 0x70..=0x71;
/// Ports of the PCI configuration mechanism.
const PCI_PORTS: std::ops::Range<u16> = ADDRESS_PORT..ADDRESS_PORT + 8;

/// All devices that are reached by port or by address. Shared by the vCPUs; each device has its
/// own lock, and none is held while another is taken.
pub(crate) struct Bus {
    pci: Mutex<PciRoot>,
    serial: Mutex<SerialPort>,
    events: EventSender,
}

impl Bus {
    /// Puts the devices on the bus.
    pub(crate) fn new(pci: PciRoot, serial: SerialPort, events: EventSender) -> Self {
        Self {
            pci: Mutex::new(pci),
            serial: Mutex::new(serial),
            events,
        }
    }

    /// The PCI bus.
    pub(crate) fn pci(&self) -> MutexGuard<'_, PciRoot> {
        // A vCPU that panicked in a device does not make the others' accesses invalid.
        self.pci.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A read of `data.len()` bytes from `port`. String instructions come as one long access,
    /// which only means something to ports of one byte.
    pub(crate) fn port_read(&self, port: u16, data: &mut [u8]) {
        match port {
            serial::FIRST_PORT..=serial::LAST_PORT => {
                let mut serial = self.serial();
                for byte in data {
                    *byte = serial.read(port);
                }
            }
            _ if PCI_PORTS.contains(&port) => self.pci().port_read(port, data),
            _ if CMOS_PORTS.contains(&port) => data.fill(0),
            _ => data.fill(0xff),
        }
    }

    /// A write to `port`.
    pub(crate) fn port_write(&self, port: u16, data: &[u8]) {
        match port {
            serial::FIRST_PORT..=serial::LAST_PORT => {
                let mut serial = self.serial();
                for byte in data {
                    serial.write(port, *byte);
                }
            }
            PHASE_PORT => {
                self.events.agent_started();
                self.pci().reveal();
            }
            _ if PCI_PORTS.contains(&port) => self.pci().port_write(port, data),
            _ => {}
        }
    }

    /// A read of memory that is not RAM.
    pub(crate) fn memory_read(&self, address: u64, data: &mut [u8]) {
        self.pci().memory_read(address, data);
    }

    /// A write to memory that is not RAM.
    pub(crate) fn memory_write(&self, address: u64, data: &[u8]) {
        self.pci().memory_write(address, data);
    }

    fn serial(&self) -> MutexGuard<'_, SerialPort> {
        self.serial.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "bus_test.rs"]
mod tests;
