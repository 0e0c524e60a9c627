//! Network devices by their place on the PCI bus.

use std::fs;
use std::io;
use std::path::Path;

use caisson_protocol::agent::Interface;

use crate::bus;
use crate::error::{AgentError, Doing};

/// The interface that a device is to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    /// Its number.
    pub(super) index: u32,
    /// Its name now.
    pub(super) name: String,
    /// Whether it is up.
    pub(super) is_up: bool,
}

/// The devices of all interfaces. The bus is searched for new ones if one is missing.
///
/// # Errors
/// [`AgentError::FailedPrecondition`] when one is not there.
pub(super) fn find_all(interfaces: &[Interface]) -> Result<Vec<(Device, &Interface)>, AgentError> {
    find_all_below(Path::new(bus::PCI), interfaces)
}

fn find_all_below<'a>(
    pci: &Path,
    interfaces: &'a [Interface],
) -> Result<Vec<(Device, &'a Interface)>, AgentError> {
    let mut has_rescanned = false;
    let mut devices = Vec::new();
    for interface in interfaces {
        let mut device = find(pci, interface.slot).doing("look at the bus")?;
        if device.is_none() && !has_rescanned {
            has_rescanned = true;
            bus::rescan(pci)?;
            device = find(pci, interface.slot).doing("look at the bus")?;
        }
        let device = device.ok_or_else(|| {
            AgentError::FailedPrecondition(format!(
                "there is no network device in slot {} for interface {:?}",
                interface.slot, interface.name
            ))
        })?;
        devices.push((device, interface));
    }
    Ok(devices)
}

fn find(pci: &Path, slot: u32) -> io::Result<Option<Device>> {
    let Some(interface) = bus::device(pci, slot, "net")? else {
        return Ok(None);
    };
    let name = interface.file_name().unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    let read = |file| fs::read_to_string(interface.join(file));
    let index = read("ifindex")?.trim().parse().map_err(io::Error::other)?;
    let flags = read("flags")?;
    let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16);
    let flags = flags.map_err(io::Error::other)?;
    Ok(Some(Device {
        index,
        name,
        is_up: flags & libc::IFF_UP.cast_unsigned() != 0,
    }))
}

#[cfg(test)]
#[path = "device_test.rs"]
mod tests;
