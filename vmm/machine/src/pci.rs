//! The PCI bus: one bus, functions with one memory BAR each, message-signalled interrupts only.
//!
//! Configuration space is reached through the ports 0xCF8 and 0xCFC (PCI Local Bus 3.0 §3.2.2.3.2).
//! BARs are assigned before the guest starts, as a firmware would; the guest may move them. There is no
//! function for the host bridge, which has no registers here: the kernel's command line says that the
//! ports are there, so it need not find one to believe it (`pci=conf1`), and 93 accesses are saved.

pub(crate) mod config_space;
pub(crate) mod msix;
pub(crate) mod posted;
pub(crate) mod pvpanic;
pub(crate) mod root;
#[cfg(test)]
pub(crate) mod test_function;

use crate::virtio::device::DeviceKind;

/// A function on the bus. The bus calls it with accesses that the guest made, of any content.
pub(crate) trait Function: Send {
    /// Reads the configuration space. `offset + data.len()` is at most 256 and the access does not
    /// cross a multiple of four.
    fn config_read(&mut self, offset: u8, data: &mut [u8]);
    /// Writes the configuration space, with the same bounds.
    fn config_write(&mut self, offset: u8, data: &[u8]);
    /// Where the BAR is decoded, if it is: start and length.
    fn bar(&self) -> Option<(u64, u64)>;
    /// Reads inside the BAR. `offset + data.len()` is at most the length of the BAR.
    fn bar_read(&mut self, offset: u64, data: &mut [u8]);
    /// Writes inside the BAR, with the same bounds.
    fn bar_write(&mut self, offset: u64, data: &[u8]);
    /// The virtio device behind it, if there is one.
    fn device(&self) -> Option<DeviceKind> {
        None
    }
    /// How often that device was set up so that it could not run.
    fn refusals(&self) -> u64 {
        0
    }
    /// Whatever the function runs stops where it is. No accesses come until [`Function::resume`].
    fn pause(&mut self) {}
    /// Whatever the function runs goes on.
    fn resume(&mut self) {}
    /// Prepares for the end of the machine, or to be taken off the bus: whatever the function runs
    /// is stopped and drained, and nothing of it stays connected.
    fn shut_down(&mut self) {}
}
