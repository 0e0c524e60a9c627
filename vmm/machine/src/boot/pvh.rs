//! The PVH boot protocol (Xen docs/misc/pvh.pandoc): a start information structure with the command
//! line, the initrd as a module, and the memory map.

use vm_memory::{Bytes, GuestMemoryError};
use zerocopy::{Immutable, IntoBytes};

use super::initrd::Initrd;
use super::memory_map::Range;
use super::{COMMAND_LINE, MEMORY_MAP, MODULES, START_INFO};
use crate::memory::GuestRam;

/// `hvm_start_info`, version 1.
#[derive(Debug, Default, IntoBytes, Immutable)]
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    modules: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

/// `hvm_modlist_entry`.
#[derive(Debug, Default, IntoBytes, Immutable)]
#[repr(C)]
struct Module {
    address: u64,
    length: u64,
    command_line: u64,
    reserved: u64,
}

/// `hvm_memmap_table_entry`.
#[derive(Debug, IntoBytes, Immutable)]
#[repr(C)]
struct MapEntry {
    address: u64,
    length: u64,
    kind: u32,
    reserved: u32,
}

/// "xEn3" with the highest bit of the E set.
const MAGIC: u32 = 0x336e_c578;
const KIND_RAM: u32 = 1;
const KIND_RESERVED: u32 = 2;

/// Writes the start information for a kernel with this memory map and initrd. The command line is
/// written elsewhere.
///
/// # Errors
/// Fails when guest memory is too small for it.
pub(crate) fn write(
    memory: &GuestRam,
    ranges: &[Range],
    initrd: Option<Initrd>,
) -> Result<(), GuestMemoryError> {
    let mut map = Vec::new();
    for range in ranges {
        let entry = MapEntry {
            address: range.start,
            length: range.length,
            kind: if range.usable {
                KIND_RAM
            } else {
                KIND_RESERVED
            },
            reserved: 0,
        };
        map.extend_from_slice(entry.as_bytes());
    }
    memory.write_slice(&map, MEMORY_MAP)?;

    let mut info = StartInfo {
        magic: MAGIC,
        version: 1,
        command_line: COMMAND_LINE.0,
        memory_map: MEMORY_MAP.0,
        memory_map_entries: ranges.len() as u32,
        ..StartInfo::default()
    };
    if let Some(initrd) = initrd {
        let module = Module {
            address: initrd.address.0,
            length: initrd.length,
            ..Module::default()
        };
        memory.write_slice(module.as_bytes(), MODULES)?;
        info.module_count = 1;
        info.modules = MODULES.0;
    }
    memory.write_slice(info.as_bytes(), START_INFO)
}

#[cfg(test)]
#[path = "pvh_test.rs"]
mod tests;
