//! The bus itself: configuration accesses by port, memory accesses by address.

use super::Function;
use super::posted::PostedWrites;

/// Port of the address register, 32 bits.
pub(crate) const ADDRESS_PORT: u16 = 0xcf8;
/// First of the four ports of the data register.
pub(crate) const DATA_PORT: u16 = 0xcfc;

/// Most functions on the bus: one in each of the 32 device slots.
pub(crate) const MAX_FUNCTIONS: usize = 32;

/// Bit of the address register that turns accesses to the data register into configuration cycles.
const ENABLE: u32 = 1 << 31;

/// Where the BARs are handed out. It ends below the IOAPIC at 0xfec0_0000.
const WINDOW: std::ops::Range<u32> = 0xc000_0000..0xfe00_0000;

/// No slot or no address is left on the bus.
#[derive(Debug, thiserror::Error)]
#[error("the PCI bus is full: it has room for {MAX_FUNCTIONS} functions")]
pub(crate) struct BusFull;

/// The bus.
pub(crate) struct PciRoot {
    address: u32,
    /// Writes to the address register that KVM has kept back.
    posted: Option<PostedWrites>,
    functions: Vec<Box<dyn Function>>,
    next_bar: u32,
}

impl PciRoot {
    /// An empty bus.
    pub(crate) fn new() -> Self {
        Self {
            address: 0,
            posted: None,
            functions: Vec::new(),
            next_bar: WINDOW.start,
        }
    }

    /// From now on writes to the address register may come by way of `posted`.
    pub(crate) fn set_posted(&mut self, posted: PostedWrites) {
        self.posted = Some(posted);
    }

    /// Sets `length` bytes of the window aside, aligned to `length`, a power of two.
    ///
    /// # Errors
    /// Fails when the window is used up.
    pub(crate) fn allocate_bar(&mut self, length: u32) -> Result<u32, BusFull> {
        let start = self
            .next_bar
            .checked_next_multiple_of(length)
            .ok_or(BusFull)?;
        let end = start.checked_add(length).ok_or(BusFull)?;
        if end > WINDOW.end {
            return Err(BusFull);
        }
        self.next_bar = end;
        Ok(start)
    }

    /// Puts a function into the next slot.
    ///
    /// # Errors
    /// Fails when all slots are taken.
    pub(crate) fn add(&mut self, function: Box<dyn Function>) -> Result<(), BusFull> {
        if self.functions.len() >= MAX_FUNCTIONS {
            return Err(BusFull);
        }
        self.functions.push(function);
        Ok(())
    }

    /// Handles a read of a port from [`ADDRESS_PORT`] on, eight ports in all.
    pub(crate) fn port_read(&mut self, port: u16, data: &mut [u8]) {
        self.catch_up();
        data.fill(0xff);
        if port == ADDRESS_PORT && data.len() == 4 {
            data.copy_from_slice(&self.address.to_le_bytes());
        } else if let Some((function, offset)) = self.selected(port, data.len()) {
            function.config_read(offset, data);
        }
    }

    /// Handles a write of such a port. A write of less than 32 bits to the address register is not
    /// for it (PCI Local Bus 3.0 §3.2.2.3.2).
    pub(crate) fn port_write(&mut self, port: u16, data: &[u8]) {
        self.catch_up();
        self.write_port(port, data);
    }

    /// Does what came by way of KVM. It keeps no more than fits into a page, so this ends.
    fn catch_up(&mut self) {
        for _ in 0..u8::MAX {
            let Some(write) = self.posted.as_mut().and_then(PostedWrites::take) else {
                return;
            };
            if let Some(data) = write.data.get(..write.length) {
                self.write_port(write.port, data);
            }
        }
    }

    fn write_port(&mut self, port: u16, data: &[u8]) {
        if port == ADDRESS_PORT {
            if let Ok(bytes) = data.try_into() {
                self.address = u32::from_le_bytes(bytes);
            }
        } else if let Some((function, offset)) = self.selected(port, data.len()) {
            function.config_write(offset, data);
        }
    }

    /// Handles a read of memory that is not RAM; where no BAR is decoded, all ones come back.
    pub(crate) fn memory_read(&mut self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((function, offset)) = self.decoding(address, data.len()) {
            function.bar_read(offset, data);
        }
    }

    /// Handles a write to memory that is not RAM.
    pub(crate) fn memory_write(&mut self, address: u64, data: &[u8]) {
        if let Some((function, offset)) = self.decoding(address, data.len()) {
            function.bar_write(offset, data);
        }
    }

    /// Stops what runs behind the functions.
    pub(crate) fn shut_down(&mut self) {
        for function in &mut self.functions {
            function.shut_down();
        }
    }

    /// The function and the offset that the address register selects for an access of `length`
    /// bytes at `port`.
    fn selected(&mut self, port: u16, length: usize) -> Option<(&mut dyn Function, u8)> {
        let byte = port.checked_sub(DATA_PORT).filter(|byte| *byte < 4)?;
        if usize::from(byte) + length > 4 || self.address & ENABLE == 0 {
            return None;
        }
        let [register, function, bus, _] = self.address.to_le_bytes();
        // Only bus 0 exists, and only function 0 of each device.
        if bus != 0 || function & 7 != 0 {
            return None;
        }
        let function = self.functions.get_mut(usize::from(function >> 3))?;
        Some((function.as_mut(), (register & !3) | byte as u8))
    }

    /// The function whose BAR holds all of the access, and the offset in it.
    fn decoding(&mut self, address: u64, length: usize) -> Option<(&mut dyn Function, u64)> {
        let end = address.checked_add(length as u64)?;
        for function in &mut self.functions {
            if let Some((start, size)) = function.bar()
                && start <= address
                && end <= start + size
            {
                return Some((function.as_mut(), address - start));
            }
        }
        None
    }
}

#[cfg(test)]
#[path = "root_test.rs"]
mod tests;
