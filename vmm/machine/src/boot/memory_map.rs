//! What the guest is told about its physical memory.

use super::{HIGH_MEMORY, LOW_RAM_END};
use crate::memory::{GuestRam, HIGH_RAM_START};

/// A range of physical memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    /// First address.
    pub(crate) start: u64,
    /// Length in bytes.
    pub(crate) length: u64,
    /// Whether the guest may use it; otherwise it is reserved.
    pub(crate) usable: bool,
}

/// The ranges of a guest with this memory, in ascending order.
pub(crate) fn ranges(memory: &GuestRam) -> Vec<Range> {
    ranges_of(memory.low_bytes(), memory.bytes())
}

fn ranges_of(low: u64, all: u64) -> Vec<Range> {
    let range = |start, end, usable| Range {
        start,
        length: end - start,
        usable,
    };
    let mut ranges = vec![
        range(0, LOW_RAM_END, true),
        range(LOW_RAM_END, HIGH_MEMORY, false),
        range(HIGH_MEMORY, low, true),
    ];
    if all > low {
        ranges.push(range(HIGH_RAM_START, HIGH_RAM_START + all - low, true));
    }
    ranges
}

#[cfg(test)]
#[path = "memory_map_test.rs"]
mod tests;
