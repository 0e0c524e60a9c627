//! virtio: the device model and its transport over PCI (virtio 1.3).

pub(crate) mod chain;
pub(crate) mod config;
pub(crate) mod device;
pub(crate) mod interrupt;
pub(crate) mod iovec;
#[cfg(test)]
pub(crate) mod mock_driver;
pub(crate) mod pci;
pub(crate) mod queue;
pub(crate) mod runner;
