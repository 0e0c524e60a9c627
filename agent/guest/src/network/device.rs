//! Network devices by their place on the PCI bus.

use std::fs;
use std::io;
use std::path::Path;

use caisson_protocol::agent::Interface;

use crate::error::{AgentError, Doing};

const PCI: &str = "/sys/bus/pci";

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
    find_all_below(Path::new(PCI), interfaces)
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
            // The write returns when drivers have taken what is new.
            fs::write(pci.join("rescan"), "1").doing("search the bus for new devices")?;
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
    let function = pci.join(format!("devices/0000:00:{slot:02x}.0"));
    let Some(virtio) = child(&function, "virtio")? else {
        return Ok(None);
    };
    let interfaces = function.join(virtio).join("net");
    let Some(name) = child(&interfaces, "")? else {
        return Ok(None);
    };
    let read = |file| fs::read_to_string(interfaces.join(&name).join(file));
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

/// The entry of a directory whose name begins so; the directory need not be there.
fn child(directory: &Path, beginning: &str) -> io::Result<Option<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string()
            && name.starts_with(beginning)
        {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

#[cfg(test)]
#[path = "device_test.rs"]
mod tests;
