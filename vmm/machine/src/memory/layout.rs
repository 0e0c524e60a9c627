//! Where RAM sits in the guest's physical address space.

/// Where the hole for devices begins; RAM below it, RAM again above [`HIGH_RAM_START`].
///
/// A whole GiB, so that the guest's kernel can map both parts with its largest pages.
pub(crate) const HOLE_START: u64 = 3 << 30;
/// Where RAM goes on after the hole.
pub(crate) const HIGH_RAM_START: u64 = 4 << 30;
/// The hot-plug region is given to the guest in pieces of this size: that of a memory block of
/// Linux on x86-64, below which it adds nothing.
pub(crate) const HOTPLUG_SLOT: u64 = 128 << 20;
/// Alignment of the hot-plug region: the largest memory block of Linux, which it uses when there
/// are 64 GiB or more.
pub(crate) const HOTPLUG_ALIGNMENT: u64 = 2 << 30;

/// The regions of `bytes` of RAM that are there from the start: guest address and length.
pub(super) fn boot_regions(bytes: u64) -> Vec<(u64, u64)> {
    let low = bytes.min(HOLE_START);
    let high = bytes - low;
    let mut regions = vec![(0, low)];
    if high > 0 {
        regions.push((HIGH_RAM_START, high));
    }
    regions
}

/// Where the hot-plug region begins in a guest with `bytes` of RAM from the start: above 4 GiB
/// and above all of it.
pub(super) fn hotplug_start(bytes: u64) -> u64 {
    let high = bytes.saturating_sub(HOLE_START);
    (HIGH_RAM_START + high).next_multiple_of(HOTPLUG_ALIGNMENT)
}

#[cfg(test)]
#[path = "layout_test.rs"]
mod tests;
