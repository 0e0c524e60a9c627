//! The table of interrupt routes (Microsoft, PCI IRQ Routing Table Specification 1.0), which says that
//! there are none: all interrupts of the bus are messages.
//!
//! Without a table Linux looks for one at each byte of 64 KiB, in 350 thousand instructions.

use vm_memory::{Bytes, GuestMemoryError};

use super::PIRQ_TABLE;
use crate::memory::GuestRam;

/// Length of a table without entries.
const LENGTH: usize = 32;
/// A router that nobody has: Linux then looks for the one in slot 0, where nothing is, and not for any.
const NO_ROUTER: [u8; 4] = [0xff; 4];

/// Writes the table to [`PIRQ_TABLE`].
///
/// # Errors
/// Fails when guest memory is too small for it.
pub(crate) fn write(memory: &GuestRam) -> Result<(), GuestMemoryError> {
    memory.write_slice(&build(), PIRQ_TABLE)
}

/// Signature, version 1.0, length; the router's slot; interrupts that are for the bus alone; the
/// router's vendor and device; reserved; and the byte that makes the sum of all zero.
fn build() -> Vec<u8> {
    let mut table = b"$PIR\x00\x01".to_vec();
    table.extend((LENGTH as u16).to_le_bytes());
    table.extend([0; 4]);
    table.extend(NO_ROUTER);
    table.resize(LENGTH - 1, 0);
    let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    table.push(sum.wrapping_neg());
    table
}

#[cfg(test)]
#[path = "pirq_test.rs"]
mod tests;
