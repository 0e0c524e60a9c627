//! How a device interrupts its driver.

use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// The interrupt of one queue, or that of configuration changes.
///
/// An event descriptor that stands for an MSI-X vector. While the vector is unmasked, KVM listens
/// to the descriptor and injects the message without our help; while it is masked nobody listens,
/// and a signal stays pending in the descriptor until the vector is unmasked. A queue to which the
/// driver assigned no vector has a descriptor to which nobody ever listens.
#[derive(Debug, Clone)]
pub(crate) struct QueueInterrupt(Arc<EventFd>);

impl QueueInterrupt {
    /// Makes an interrupt to which nobody listens yet.
    ///
    /// # Errors
    /// Fails when the process has no descriptors left.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(EventFd::new(EFD_NONBLOCK)?)))
    }

    /// Interrupts the driver, now or when it unmasks the vector.
    ///
    /// # Errors
    /// Fails when the descriptor cannot be written, which nothing the guest does can bring about.
    pub(crate) fn signal(&self) -> io::Result<()> {
        match self.0.write(1) {
            // The counter is full: a signal is pending anyway.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            result => result,
        }
    }

    /// Whether a signal waits. Only to be asked while nobody listens to the descriptor.
    pub(crate) fn is_pending(&self) -> bool {
        match self.0.read() {
            Ok(signals) => {
                // Looking takes the signals away; they are put back, and one that came meanwhile
                // adds to them.
                let _ = self.0.write(signals);
                true
            }
            Err(_) => false,
        }
    }

    /// The descriptor, for those who signal from another process.
    pub(crate) fn event_fd(&self) -> &EventFd {
        &self.0
    }
}
