//! The 64-bit Linux boot protocol (Linux Documentation/arch/x86/boot.rst and zero-page.rst).

use vm_memory::{Address, Bytes, GuestMemoryError};

use super::initrd::Initrd;
use super::memory_map::Range;
use super::{COMMAND_LINE, GDT, PAGE_TABLES, SEED, ZERO_PAGE};
use crate::memory::GuestRam;

/// Offsets in the zero page.
const E820_COUNT: usize = 0x1e8;
const BOOT_FLAG: usize = 0x1fe;
const HEADER_MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const LOADER_TYPE: usize = 0x210;
const RAMDISK_ADDRESS: usize = 0x218;
const RAMDISK_LENGTH: usize = 0x21c;
const COMMAND_LINE_ADDRESS: usize = 0x228;
const SETUP_DATA: usize = 0x250;
const E820_TABLE: usize = 0x2d0;
const PAGE: usize = 4096;

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
/// Loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;

/// `SETUP_RNG_SEED`, which Linux knows from 5.20 on: mixed into the pool before anything is drawn from
/// it, trusted like the processor's own numbers, and wiped.
const SETUP_RNG_SEED: u32 = 9;
/// Bytes of a seed: twice what the pool needs to count as full.
pub(crate) const SEED_LENGTH: usize = 64;

/// Page table entry bits: present, writable; and for the lowest table: a page of 2 MiB.
const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const LARGE: u64 = 1 << 7;

/// Selectors that the protocol asks for, and the task segment.
pub(crate) const CODE_SELECTOR: u16 = 0x10;
/// Data segment.
pub(crate) const DATA_SELECTOR: u16 = 0x18;
/// Task segment.
pub(crate) const TASK_SELECTOR: u16 = 0x20;
/// Descriptors: none, none, flat 64-bit code, flat data, task state.
pub(crate) const DESCRIPTORS: [u64; 5] = [
    0,
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x0000_8b00_0000_0067,
];

/// Writes the zero page, the page tables, which map the first GiB to itself, the GDT and the `seed` for
/// random numbers, which is to be of this machine alone.
///
/// # Errors
/// Fails when guest memory is too small for it.
pub(crate) fn write(
    memory: &GuestRam,
    ranges: &[Range],
    initrd: Option<Initrd>,
    seed: &[u8; SEED_LENGTH],
) -> Result<(), GuestMemoryError> {
    memory.write_slice(&zero_page(ranges, initrd), ZERO_PAGE)?;
    // A list of one: next, type, length, and what it is about.
    memory.write_obj(0u64, SEED)?;
    memory.write_obj(SETUP_RNG_SEED, SEED.unchecked_add(8))?;
    memory.write_obj(SEED_LENGTH as u32, SEED.unchecked_add(12))?;
    memory.write_slice(seed, SEED.unchecked_add(16))?;

    let table = |index: u64| PAGE_TABLES.0 + index * PAGE as u64;
    let [top, middle, lowest] = [table(0), table(1), table(2)];
    memory.write_obj(middle | PRESENT | WRITABLE, PAGE_TABLES)?;
    memory.write_obj(lowest | PRESENT | WRITABLE, vm_memory::GuestAddress(middle))?;
    debug_assert_eq!(top, PAGE_TABLES.0);
    let pages: Vec<u8> = (0..512u64)
        .flat_map(|page| (page << 21 | PRESENT | WRITABLE | LARGE).to_le_bytes())
        .collect();
    memory.write_slice(&pages, vm_memory::GuestAddress(lowest))?;

    let descriptors: Vec<u8> = DESCRIPTORS
        .iter()
        .flat_map(|descriptor| descriptor.to_le_bytes())
        .collect();
    memory.write_slice(&descriptors, GDT)
}

fn zero_page(ranges: &[Range], initrd: Option<Initrd>) -> Vec<u8> {
    let mut page = vec![0; PAGE];
    let mut put = |offset: usize, bytes: &[u8]| {
        for (byte, value) in page.iter_mut().skip(offset).zip(bytes) {
            *byte = *value;
        }
    };
    put(BOOT_FLAG, &0xaa55u16.to_le_bytes());
    put(HEADER_MAGIC, b"HdrS");
    put(VERSION, &0x020cu16.to_le_bytes());
    put(LOADER_TYPE, &[LOADER_UNDEFINED]);
    put(COMMAND_LINE_ADDRESS, &(COMMAND_LINE.0 as u32).to_le_bytes());
    if let Some(initrd) = initrd {
        // The initrd lies below the hole, so both fit.
        put(RAMDISK_ADDRESS, &(initrd.address.0 as u32).to_le_bytes());
        put(RAMDISK_LENGTH, &(initrd.length as u32).to_le_bytes());
    }
    put(SETUP_DATA, &SEED.0.to_le_bytes());
    put(E820_COUNT, &[ranges.len() as u8]);
    for (index, range) in ranges.iter().enumerate() {
        let kind = if range.usable {
            E820_RAM
        } else {
            E820_RESERVED
        };
        let at = E820_TABLE + index * 20;
        put(at, &range.start.to_le_bytes());
        put(at + 8, &range.length.to_le_bytes());
        put(at + 16, &kind.to_le_bytes());
    }
    page
}

#[cfg(test)]
#[path = "linux64_test.rs"]
mod tests;
