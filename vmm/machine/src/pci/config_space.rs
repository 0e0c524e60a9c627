//! The 256 bytes of a function's configuration space (PCI Local Bus 3.0 §6.1), type 0 header.
//!
//! Every byte has a mask of the bits the guest may write. That is all there is to sizing a BAR: the
//! address bits below its size are not writable, so that all ones read back as its size.

/// Size of the configuration space in bytes.
pub(crate) const SIZE: usize = 256;

const VENDOR_ID: u8 = 0x00;
const COMMAND: u8 = 0x04;
const STATUS: u8 = 0x06;
const REVISION: u8 = 0x08;
const BAR0: u8 = 0x10;
const SUBSYSTEM: u8 = 0x2c;
const CAPABILITIES: u8 = 0x34;
const INTERRUPT_LINE: u8 = 0x3c;

/// Command bits the guest may set: memory space, bus master, interrupt disable.
const COMMAND_WRITABLE: u16 = COMMAND_MEMORY | 1 << 2 | 1 << 10;
/// Command bit: the function answers at its memory BAR.
const COMMAND_MEMORY: u16 = 1 << 1;
/// Status bit: there is a list of capabilities.
const STATUS_CAPABILITIES: u16 = 1 << 4;
/// First byte behind the header.
const HEADER_END: u8 = 0x40;

/// Who a function is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity {
    /// Vendor of the function.
    pub(crate) vendor: u16,
    /// Device number given by the vendor.
    pub(crate) device: u16,
    /// Revision.
    pub(crate) revision: u8,
    /// Base class, subclass, programming interface.
    pub(crate) class: [u8; 3],
    /// Subsystem vendor and device.
    pub(crate) subsystem: (u16, u16),
}

/// A configuration space.
#[derive(Debug)]
pub(crate) struct ConfigSpace {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    /// Length of BAR 0, 0 if there is none.
    bar_length: u32,
    /// Where the next capability goes.
    next: u8,
    /// Where the link to the next capability goes.
    link: u8,
}

impl ConfigSpace {
    /// A function without BAR and capabilities.
    pub(crate) fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            bar_length: 0,
            next: HEADER_END,
            link: CAPABILITIES,
        };
        let [base, sub, interface] = identity.class;
        space.put(VENDOR_ID, &identity.vendor.to_le_bytes());
        space.put(VENDOR_ID + 2, &identity.device.to_le_bytes());
        space.put(REVISION, &[identity.revision, interface, sub, base]);
        space.put(SUBSYSTEM, &identity.subsystem.0.to_le_bytes());
        space.put(SUBSYSTEM + 2, &identity.subsystem.1.to_le_bytes());
        space.allow(COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        // Software keeps its own notes here; nothing reads it.
        space.allow(INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Adds BAR 0: 32-bit memory, not prefetchable, `length` bytes (a power of two of at least 16)
    /// at `address`.
    pub(crate) fn add_bar(&mut self, address: u32, length: u32) {
        debug_assert!(length.is_power_of_two() && length >= 16);
        let mask = !(length - 1);
        self.put(BAR0, &(address & mask).to_le_bytes());
        self.allow(BAR0, &mask.to_le_bytes());
        self.bar_length = length;
    }

    /// Adds a capability: `body` follows the id and the link (PCI Local Bus 3.0 §6.7). Returns the
    /// offset of the capability.
    pub(crate) fn add_capability(&mut self, id: u8, body: &[u8]) -> u8 {
        let at = self.next;
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.put(self.link, &[at]);
        let status = self.u16(STATUS) | STATUS_CAPABILITIES;
        self.put(STATUS, &status.to_le_bytes());
        self.link = at + 1;
        // Capabilities start at multiples of four.
        self.next =
            u8::try_from((usize::from(at) + 2 + body.len()).next_multiple_of(4)).unwrap_or(u8::MAX);
        at
    }

    /// Lets the guest write the bits of `mask` at `offset`.
    pub(crate) fn allow(&mut self, offset: u8, mask: &[u8]) {
        for (byte, mask) in self.writable.iter_mut().skip(offset.into()).zip(mask) {
            *byte = *mask;
        }
    }

    /// Reads what the guest sees; what lies behind the end reads as all ones.
    pub(crate) fn read(&self, offset: u8, data: &mut [u8]) {
        data.fill(0xff);
        for (byte, value) in data.iter_mut().zip(self.bytes.iter().skip(offset.into())) {
            *byte = *value;
        }
    }

    /// Writes the bits that the guest may write.
    pub(crate) fn write(&mut self, offset: u8, data: &[u8]) {
        let bytes = self.bytes.iter_mut().zip(&self.writable);
        for ((byte, mask), value) in bytes.skip(offset.into()).zip(data) {
            *byte = (*byte & !mask) | (value & mask);
        }
    }

    /// Where BAR 0 is decoded: start and length, if the guest switched memory space on.
    pub(crate) fn decoded_bar(&self) -> Option<(u64, u64)> {
        (self.bar_length > 0 && self.u16(COMMAND) & COMMAND_MEMORY != 0).then(|| {
            let address = self.u32(BAR0) & !(self.bar_length - 1);
            (u64::from(address), u64::from(self.bar_length))
        })
    }

    /// The byte at `offset`.
    pub(crate) fn u8(&self, offset: u8) -> u8 {
        self.bytes.get(usize::from(offset)).copied().unwrap_or(0xff)
    }

    /// The little-endian word at `offset`.
    pub(crate) fn u16(&self, offset: u8) -> u16 {
        let mut bytes = [0; 2];
        self.read(offset, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// The little-endian double word at `offset`.
    pub(crate) fn u32(&self, offset: u8) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Sets bytes whether or not the guest may write them.
    pub(crate) fn put(&mut self, offset: u8, data: &[u8]) {
        debug_assert!(usize::from(offset) + data.len() <= SIZE);
        for (byte, value) in self.bytes.iter_mut().skip(offset.into()).zip(data) {
            *byte = *value;
        }
    }
}

#[cfg(test)]
#[path = "config_space_test.rs"]
mod tests;
