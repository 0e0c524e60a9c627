//! Everything that is in guest memory when the first instruction runs.
//!
//! ```text
//!   0x0_0010  MP table
//!   0x0_0500  GDT                          (64-bit entry: also page tables at 0x9000)
//!   0x0_6000  start information (PVH), or  0x0_7000  zero page (64-bit entry)
//!   0x0_8000  memory map, module list (PVH), or a seed for random numbers (64-bit entry)
//!   0x2_0000  command line
//!   0xf_0000  table of interrupt routes
//!   0x10_0000 and up: the kernel where its ELF says, the initrd behind it
//! ```

pub(crate) mod command_line;
pub(crate) mod elf;
pub(crate) mod initrd;
pub(crate) mod linux64;
pub(crate) mod memory_map;
pub(crate) mod mptable;
pub(crate) mod pirq;
pub(crate) mod pvh;
#[cfg(test)]
pub(crate) mod test_kernel;

use vm_memory::GuestAddress;

/// Address of the global descriptor table.
pub(crate) const GDT: GuestAddress = GuestAddress(0x500);
/// Address of the PVH start information.
pub(crate) const START_INFO: GuestAddress = GuestAddress(0x6000);
/// Address of the zero page of the 64-bit boot protocol.
pub(crate) const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
/// Address of the PVH memory map.
pub(crate) const MEMORY_MAP: GuestAddress = GuestAddress(0x8000);
/// Address of the PVH module list.
pub(crate) const MODULES: GuestAddress = GuestAddress(0x8800);
/// Address of the seed for the kernel's random numbers.
pub(crate) const SEED: GuestAddress = GuestAddress(0x8c00);
/// Address of the three page tables of the 64-bit entry.
pub(crate) const PAGE_TABLES: GuestAddress = GuestAddress(0x9000);
/// Address of the command line.
pub(crate) const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);
/// End of the memory below 640 KiB that we tell the guest is RAM.
pub(crate) const LOW_RAM_END: u64 = 0x9_fc00;
/// Address of the MP table. It is where Linux looks for it first, at each 16 bytes of the lowest KiB, and
/// each look costs 1400 instructions. It takes the lowest page for the firmware's, and uses it for nothing.
pub(crate) const MP_TABLE: GuestAddress = GuestAddress(0x10);
/// End of the room for it: what a firmware would say about itself, which is nothing, is behind it.
#[cfg(test)]
pub(crate) const MP_TABLE_END: u64 = 0x400;
/// Address of the table of interrupt routes: where Linux looks first, and it is not RAM for it.
pub(crate) const PIRQ_TABLE: GuestAddress = GuestAddress(0xf_0000);
/// Where memory above the legacy area begins. The kernel must not reach below it.
pub(crate) const HIGH_MEMORY: u64 = 0x10_0000;

/// Which way into the kernel is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// 32-bit protected mode, `ebx` = [`START_INFO`].
    Pvh(u32),
    /// Long mode, `rsi` = [`ZERO_PAGE`].
    Linux64(u64),
}
