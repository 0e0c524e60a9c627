//! The PCI bus, where the host puts the devices of the machine. Each is known by its slot.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{AgentError, Doing};

/// The kernel's directory of the bus.
pub const PCI: &str = "/sys/bus/pci";

/// What the device in `slot` is to the kernel in `class` (`net`, `block`): the directory with its
/// name. `None` as long as no driver has made it such a thing.
///
/// # Errors
/// What the kernel answers.
pub fn device(pci: &Path, slot: u32, class: &str) -> io::Result<Option<PathBuf>> {
    let function = function(pci, slot);
    let Some(virtio) = child(&function, "virtio")? else {
        return Ok(None);
    };
    let devices = function.join(virtio).join(class);
    Ok(child(&devices, "")?.map(|name| devices.join(name)))
}

/// Searches the bus for new devices, and returns when drivers have taken them.
///
/// # Errors
/// [`AgentError::Internal`] with what the kernel answers.
pub fn rescan(pci: &Path) -> Result<(), AgentError> {
    fs::write(pci.join("rescan"), "1").doing("search the bus for new devices")
}

/// Takes the device in `slot` from its driver and forgets it. Without one there is nothing to do.
///
/// # Errors
/// What the kernel answers.
pub fn remove(pci: &Path, slot: u32) -> io::Result<()> {
    let function = function(pci, slot);
    if !function.try_exists()? {
        return Ok(());
    }
    fs::write(function.join("remove"), "1")
}

fn function(pci: &Path, slot: u32) -> PathBuf {
    pci.join(format!("devices/0000:00:{slot:02x}.0"))
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
