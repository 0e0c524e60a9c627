//! The bus itself: configuration accesses by port, memory accesses by address.

use super::Function;
use super::posted::PostedWrites;
use crate::virtio::device::DeviceKind;

/// Port of the address register, 32 bits.
pub(crate) const ADDRESS_PORT: u16 = 0xcf8;
/// First of the four ports of the data register.
pub(crate) const DATA_PORT: u16 = 0xcfc;

/// Slots of the bus, each with room for one function.
pub(crate) const SLOTS: usize = 32;
/// Most functions on the bus. Slot 0 stays empty: it is the host bridge's, which does not show itself.
pub(crate) const MAX_FUNCTIONS: usize = SLOTS - 1;

/// Bit of the address register that turns accesses to the data register into configuration cycles.
const ENABLE: u32 = 1 << 31;

/// Where the BARs are at first, those of each slot in a stretch of its own. The guest moves them if
/// it likes to.
const WINDOW: u32 = 0xc000_0000;
/// The stretch of a slot.
const BAR_STRETCH: u32 = 0x1_0000;

/// No slot is left on the bus.
#[derive(Debug, thiserror::Error)]
#[error("the PCI bus is full: it has room for {MAX_FUNCTIONS} functions")]
pub(crate) struct BusFull;

/// The bus.
pub(crate) struct PciRoot {
    address: u32,
    /// Writes to the address register that KVM has kept back.
    posted: Option<PostedWrites>,
    slots: [Option<Box<dyn Function>>; SLOTS],
    /// The slot whose function the guest does not see yet.
    hidden: Option<u8>,
}

impl PciRoot {
    /// An empty bus.
    pub(crate) fn new() -> Self {
        Self {
            address: 0,
            posted: None,
            slots: [const { None }; SLOTS],
            hidden: None,
        }
    }

    /// From now on writes to the address register may come by way of `posted`.
    pub(crate) fn set_posted(&mut self, posted: PostedWrites) {
        self.posted = Some(posted);
    }

    /// The first slot that is free.
    ///
    /// # Errors
    /// Fails when all are taken.
    pub(crate) fn free_slot(&self) -> Result<u8, BusFull> {
        let mut slots = (0..).zip(&self.slots).skip(1);
        slots
            .find(|(_, function)| function.is_none())
            .map(|(slot, _)| slot)
            .ok_or(BusFull)
    }

    /// Where the BAR of the function in `slot` is put at first: room for 64 KiB.
    pub(crate) fn first_bar(slot: u8) -> u32 {
        WINDOW + u32::from(slot) * BAR_STRETCH
    }

    /// Puts a function into a slot and gives back what was there.
    pub(crate) fn put(
        &mut self,
        slot: u8,
        function: Box<dyn Function>,
    ) -> Option<Box<dyn Function>> {
        self.slots.get_mut(usize::from(slot))?.replace(function)
    }

    /// Puts a function into a slot that looks empty until [`PciRoot::reveal`].
    pub(crate) fn put_hidden(&mut self, slot: u8, function: Box<dyn Function>) {
        self.put(slot, function);
        self.hidden = Some(slot);
    }

    /// From now on what was hidden is found by a guest that looks for what is new.
    pub(crate) fn reveal(&mut self) {
        self.hidden = None;
    }

    /// Takes the function in a slot off the bus.
    pub(crate) fn take(&mut self, slot: u8) -> Option<Box<dyn Function>> {
        self.slots.get_mut(usize::from(slot))?.take()
    }

    /// The slots of the virtio devices in ascending order, what they are, and how often each was
    /// set up so that it could not run.
    pub(crate) fn devices(&self) -> impl Iterator<Item = (u8, DeviceKind, u64)> {
        (0..).zip(&self.slots).filter_map(|(slot, function)| {
            let function = function.as_ref()?;
            Some((slot, function.device()?, function.refusals()))
        })
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

    /// Stops what runs behind the functions, where it is.
    pub(crate) fn pause(&mut self) {
        self.functions().for_each(|function| function.pause());
    }

    /// Lets what runs behind the functions go on.
    pub(crate) fn resume(&mut self) {
        self.functions().for_each(|function| function.resume());
    }

    /// Stops what runs behind the functions for good.
    pub(crate) fn shut_down(&mut self) {
        self.functions().for_each(|function| function.shut_down());
    }

    fn functions(&mut self) -> impl Iterator<Item = &mut Box<dyn Function>> {
        self.slots.iter_mut().flatten()
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
        let slot = function >> 3;
        if self.hidden == Some(slot) {
            return None;
        }
        let function = self.slots.get_mut(usize::from(slot))?.as_mut()?;
        Some((function.as_mut(), (register & !3) | byte as u8))
    }

    /// The function whose BAR holds all of the access, and the offset in it.
    fn decoding(&mut self, address: u64, length: usize) -> Option<(&mut dyn Function, u64)> {
        let end = address.checked_add(length as u64)?;
        for function in self.functions() {
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
