//! MSI-X: interrupts as writes of a message to an address (PCI Local Bus 3.0 §6.8.2).
//!
//! Each vector is a [`QueueInterrupt`]. KVM is connected to its descriptor exactly while the vector
//! can fire: MSI-X enabled, function and vector unmasked. Otherwise signals wait in the descriptor,
//! where the pending bit is read from, and KVM looks at it when it is connected.

use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::virtio::interrupt::QueueInterrupt;

/// Capability id of MSI-X.
pub(crate) const CAPABILITY_ID: u8 = 0x11;
/// Bits of the message control register that the guest may write: enable and function mask.
pub(crate) const CONTROL_WRITABLE: u16 = CONTROL_ENABLE | CONTROL_FUNCTION_MASK;
/// Bytes of one entry of the table.
pub(crate) const ENTRY_SIZE: usize = 16;

const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_FUNCTION_MASK: u16 = 1 << 14;
/// Bit of an entry's control word that masks the vector; set after a reset.
const VECTOR_MASKED: u32 = 1;

/// What is written where to interrupt the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message {
    /// Address, which names the target CPU.
    pub(crate) address: u64,
    /// Data, which holds the vector number.
    pub(crate) data: u32,
}

/// Delivers messages to the guest.
pub(crate) trait MessageRouter: Send + Sync {
    /// From now on a signal of `event` delivers `message`; one that is pending does so at once.
    fn connect(&self, gsi: u32, event: &EventFd, message: Message);
    /// From now on signals of `event` stay pending.
    fn disconnect(&self, gsi: u32, event: &EventFd);
}

/// The vectors of one function.
pub(crate) struct Msix {
    vectors: Vec<Vector>,
    control: u16,
    router: Arc<dyn MessageRouter>,
}

struct Vector {
    /// The entry as the guest sees it: address, data, control.
    entry: [u8; ENTRY_SIZE],
    interrupt: QueueInterrupt,
    gsi: u32,
    connected: Option<Message>,
}

impl Msix {
    /// Makes `count` vectors, all masked, on the interrupt numbers from `first_gsi` on.
    ///
    /// # Errors
    /// Fails when the process has no descriptors left.
    pub(crate) fn new(
        count: u16,
        first_gsi: u32,
        router: Arc<dyn MessageRouter>,
    ) -> io::Result<Self> {
        let vectors = (0..u32::from(count))
            .map(|number| {
                let mut entry = [0; ENTRY_SIZE];
                if let Some(control) = entry.last_chunk_mut() {
                    *control = VECTOR_MASKED.to_le_bytes();
                }
                Ok(Vector {
                    entry,
                    interrupt: QueueInterrupt::new()?,
                    gsi: first_gsi + number,
                    connected: None,
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            vectors,
            control: 0,
            router,
        })
    }

    /// The body of the capability, for a table and a pending bit array at these offsets of BAR 0.
    pub(crate) fn capability(&self, table: u32, pending: u32) -> [u8; 10] {
        let [t0, t1, t2, t3] = table.to_le_bytes();
        let [p0, p1, p2, p3] = pending.to_le_bytes();
        // The table size is encoded as one less.
        let last = u16::try_from(self.vectors.len().saturating_sub(1)).unwrap_or(0);
        let [c0, c1] = last.to_le_bytes();
        [c0, c1, t0, t1, t2, t3, p0, p1, p2, p3]
    }

    /// The interrupt of `vector`, or `None` if there is no such vector.
    pub(crate) fn interrupt(&self, vector: u16) -> Option<QueueInterrupt> {
        self.vectors
            .get(usize::from(vector))
            .map(|vector| vector.interrupt.clone())
    }

    /// Takes over the message control register.
    pub(crate) fn set_control(&mut self, control: u16) {
        let before = self.control;
        self.control = control & CONTROL_WRITABLE;
        if self.control != before {
            for number in 0..self.vectors.len() {
                self.refresh(number);
            }
        }
    }

    /// Reads the table; what is not there reads as zero.
    pub(crate) fn read_table(&self, offset: usize, data: &mut [u8]) {
        for (position, byte) in (offset..).zip(data) {
            *byte = self
                .vectors
                .get(position / ENTRY_SIZE)
                .and_then(|vector| vector.entry.get(position % ENTRY_SIZE))
                .copied()
                .unwrap_or(0);
        }
    }

    /// Writes the table.
    pub(crate) fn write_table(&mut self, offset: usize, data: &[u8]) {
        for (position, value) in (offset..).zip(data) {
            if let Some(byte) = self
                .vectors
                .get_mut(position / ENTRY_SIZE)
                .and_then(|vector| vector.entry.get_mut(position % ENTRY_SIZE))
            {
                *byte = *value;
            }
        }
        let last = offset.saturating_add(data.len().saturating_sub(1));
        for number in offset / ENTRY_SIZE..=last / ENTRY_SIZE {
            self.refresh(number);
        }
    }

    /// Reads the pending bit array.
    pub(crate) fn read_pending(&self, offset: usize, data: &mut [u8]) {
        for (position, byte) in (offset..).zip(data) {
            *byte = (0..8)
                .filter(|bit| {
                    self.vectors
                        .get(position * 8 + bit)
                        .is_some_and(Vector::pending)
                })
                .fold(0, |bits, bit| bits | 1 << bit);
        }
    }

    /// Connects or disconnects a vector as its masks and its message say now.
    fn refresh(&mut self, number: usize) {
        let open = self.control & CONTROL_WRITABLE == CONTROL_ENABLE;
        let Some(vector) = self.vectors.get_mut(number) else {
            return;
        };
        let wanted = (open && !vector.masked()).then(|| vector.message());
        if wanted == vector.connected {
            return;
        }
        let event = vector.interrupt.event_fd();
        match wanted {
            Some(message) => self.router.connect(vector.gsi, event, message),
            None => self.router.disconnect(vector.gsi, event),
        }
        vector.connected = wanted;
    }
}

impl Vector {
    fn word(&self, index: usize) -> u32 {
        self.entry
            .chunks_exact(4)
            .nth(index)
            .and_then(|word| word.try_into().ok())
            .map_or(0, u32::from_le_bytes)
    }

    fn message(&self) -> Message {
        Message {
            address: u64::from(self.word(1)) << 32 | u64::from(self.word(0)),
            data: self.word(2),
        }
    }

    fn masked(&self) -> bool {
        self.word(3) & VECTOR_MASKED != 0
    }

    fn pending(&self) -> bool {
        self.connected.is_none() && self.interrupt.is_pending()
    }
}

#[cfg(test)]
#[path = "msix_test.rs"]
mod tests;
