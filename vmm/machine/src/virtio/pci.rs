//! virtio over PCI (virtio 1.3 §4.1), the modern interface with MSI-X and nothing else.
//!
//! ```text
//!   BAR 0   0x0000  common configuration   transport
//!           0x1000  ISR status             transport
//!           0x2000  device configuration   transport
//!           0x3000  notifications          doorbells while the device runs, else ignored
//!           0x4000  MSI-X table            msix
//!           0x5000  MSI-X pending bits     msix
//! ```

mod function;
mod life;
mod queue_config;
mod transport;

pub(crate) use function::VirtioFunction;
pub(crate) use transport::{Environment, Transport};
