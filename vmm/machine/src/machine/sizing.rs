//! The memory that the guest has: what the host asks for, by the devices that are there for it.
//!
//! No machine needs either to start, and each costs the guest some millions of instructions: they are
//! plugged when they are wanted.

use std::io;
use std::sync::Arc;

use caisson_control::DeviceConfig;

use super::BootError;
use crate::devices::balloon::{Balloon, BalloonControl, BalloonEvents};
use crate::devices::memory::{HotplugMemory, HotplugSlots, Memory};
use crate::memory::GuestRam;

/// The ways to speak to the balloon and the memory device, as long as they are on the bus.
#[derive(Default)]
pub(super) struct Sizing {
    balloon: Option<BalloonControl>,
    hotplug: Option<HotplugMemory>,
}

fn resources(what: &'static str) -> impl FnOnce(io::Error) -> BootError {
    move |source| BootError::Resources { what, source }
}

impl Sizing {
    /// Makes the balloon.
    ///
    /// # Errors
    /// Fails when the process has no descriptors left.
    pub(super) fn balloon(&mut self, events: Arc<dyn BalloonEvents>) -> Result<Balloon, BootError> {
        let (device, control) = Balloon::new(events).map_err(resources("making the balloon"))?;
        self.balloon = Some(control);
        Ok(device)
    }

    /// Makes the memory device for the hot-plug region of `memory`.
    ///
    /// # Errors
    /// Fails when the machine was made without one, or the process has no descriptors left.
    pub(super) fn memory(
        &mut self,
        memory: &GuestRam,
        slots: Arc<dyn HotplugSlots>,
    ) -> Result<Memory, BootError> {
        let made = Memory::new(memory, slots).map_err(resources("making the memory device"))?;
        let (device, handle) = made.ok_or(BootError::NoHotplugMemory)?;
        self.hotplug = Some(handle);
        Ok(device)
    }

    /// The device of this kind is not on the bus any more, or did not get there.
    pub(super) fn forget(&mut self, config: &DeviceConfig) {
        match config {
            DeviceConfig::Balloon => self.balloon = None,
            DeviceConfig::Memory => self.hotplug = None,
            _ => {}
        }
    }

    /// Asks the guest to have `mib` MiB plugged.
    ///
    /// # Errors
    /// Fails when that is more than the machine was made for, or the device is not there.
    pub(super) fn set_hotplug_memory(&self, memory: &GuestRam, mib: u32) -> Result<(), BootError> {
        if memory.hotplug().is_none() {
            return Err(BootError::NoHotplugMemory);
        }
        let hotplug = self.hotplug.as_ref();
        let hotplug = hotplug.ok_or(BootError::NotPlugged("memory device"))?;
        let most = hotplug.most() >> 20;
        if u64::from(mib) > most {
            return Err(BootError::MoreMemory { wanted: mib, most });
        }
        hotplug.set_requested(u64::from(mib) << 20);
        Ok(())
    }

    /// Asks the guest to give `mib` MiB back through its balloon.
    ///
    /// # Errors
    /// Fails when that is all it has, or there is no balloon.
    pub(super) fn set_balloon(&self, memory: &GuestRam, mib: u32) -> Result<(), BootError> {
        let balloon = self.balloon.as_ref();
        let balloon = balloon.ok_or(BootError::NotPlugged("balloon"))?;
        let memory = (memory.bytes() + self.plugged()) >> 20;
        if u64::from(mib) >= memory {
            return Err(BootError::Balloon {
                wanted: mib,
                memory,
            });
        }
        balloon.set_target(mib);
        Ok(())
    }

    /// Bytes that the guest has plugged.
    pub(super) fn plugged(&self) -> u64 {
        self.hotplug.as_ref().map_or(0, HotplugMemory::plugged)
    }

    /// MiB that the balloon holds, as far as its driver is to be believed: it can be any number.
    pub(super) fn held(&self) -> u32 {
        self.balloon.as_ref().map_or(0, BalloonControl::held)
    }
}
