//! virtio: the device model and its transport over PCI (virtio 1.3).

pub(crate) mod chain;
pub(crate) mod device;
pub(crate) mod interrupt;
pub(crate) mod pci;
pub(crate) mod queue;
