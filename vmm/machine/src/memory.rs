//! Guest memory: where it sits in the guest's physical address space and what backs it.
//!
//! ```text
//!   0 ────────── 3 GiB ─────────── 4 GiB ────────────────────── aligned to 2 GiB ──────────▶
//!   │ RAM (low)  │ hole: PCI window,│ RAM (high), if more than 3 GiB │ hot-plug region,
//!   │            │ IOAPIC, LAPIC    │                                │ if asked for
//! ```
//!
//! The hot-plug region is mapped from the start, and costs nothing as long as nobody touches it:
//! devices and file servers know it, so that buffers in it work as soon as the guest has plugged
//! them. The guest itself sees of it what the memory device gives to KVM, and its memory map at
//! boot does not mention it.

mod backing;
mod layout;
mod mapping;

use std::io;
use std::ops::{Deref, Range};

use vm_memory::mmap::MmapRegionError;
use vm_memory::{
    Address, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionCollectionError, GuestRegionMmap,
};

pub(crate) use self::backing::Backing;
pub(crate) use self::layout::{HIGH_RAM_START, HOLE_START, HOTPLUG_ALIGNMENT, HOTPLUG_SLOT};
pub(crate) use self::mapping::HUGE_PAGE;
use self::mapping::{Mapping, map_region};

/// Bytes of a page, the least that can be given back.
pub(crate) const PAGE: u64 = 4096;
/// Most bytes in all.
const MAX_BYTES: u64 = 1 << 46;

/// Why guest memory could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    /// The size cannot be represented.
    #[error("guest memory of {0} MiB is more than can be addressed")]
    Size(u64),
    /// The hot-plug region does not consist of whole slots.
    #[error("{0} MiB of hot-plug memory: it must be a multiple of {slot}", slot = HOTPLUG_SLOT >> 20)]
    HotplugSize(u64),
    /// The memory file could not be made, sized or sealed.
    #[error("cannot make a memory file of {bytes} bytes for the guest: {source}")]
    File {
        /// Size of the file.
        bytes: u64,
        /// What failed.
        source: io::Error,
    },
    /// The file from outside is not what it should be.
    #[error("the file for the guest's memory must be an empty one on a tmpfs: it {0}")]
    BadFile(String),
    /// No address space for the mapping.
    #[error("cannot reserve {bytes} bytes of address space for guest memory: {source}")]
    Reserve {
        /// Size of the mapping.
        bytes: usize,
        /// What failed.
        source: io::Error,
    },
    /// The regions do not fit together.
    #[error("guest memory regions: {0}")]
    Regions(#[from] GuestRegionCollectionError),
    /// A region could not be described.
    #[error("guest memory region: {0}")]
    Region(#[from] MmapRegionError),
}

/// Why pages were not given back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiscardError {
    /// Not whole pages.
    #[error("{start:#x} to {end:#x} are not whole pages")]
    Alignment {
        /// First address.
        start: u64,
        /// Behind the last address.
        end: u64,
    },
    /// Not memory, or not all of it.
    #[error("{start:#x} to {end:#x} is not all guest memory")]
    Outside {
        /// First address.
        start: u64,
        /// Behind the last address.
        end: u64,
    },
    /// The kernel refused.
    #[error("giving back {start:#x} to {end:#x}: {source}")]
    Host {
        /// First address.
        start: u64,
        /// Behind the last address.
        end: u64,
        /// What it said.
        source: io::Error,
    },
}

/// The guest's RAM, mapped into this process.
///
/// Dropping it gives the pages back to the host but keeps the addresses: whoever still holds a
/// clone of the map it dereferences to reads zeros, not the memory of somebody else.
#[derive(Debug)]
pub(crate) struct GuestRam {
    regions: GuestMemoryMmap<()>,
    mappings: Vec<Mapping>,
    boot_bytes: u64,
    hotplug: Option<Range<u64>>,
}

impl GuestRam {
    /// Makes `mib` MiB of zeroed RAM, laid out with the hole below 4 GiB.
    ///
    /// # Errors
    /// See [`MemoryError`].
    #[cfg(test)]
    pub(crate) fn new(mib: u64, backing: Backing) -> Result<Self, MemoryError> {
        Self::with_hotplug(mib, 0, backing)
    }

    /// The same with a region of `hotplug_mib` MiB, a multiple of [`HOTPLUG_SLOT`], for what the
    /// guest may plug later; 0 for none.
    ///
    /// # Errors
    /// See [`MemoryError`].
    pub(crate) fn with_hotplug(
        mib: u64,
        hotplug_mib: u64,
        backing: Backing,
    ) -> Result<Self, MemoryError> {
        let in_bytes = |mib: u64| {
            mib.checked_mul(1 << 20)
                .filter(|bytes| *bytes <= MAX_BYTES)
                .ok_or(MemoryError::Size(mib))
        };
        let boot_bytes = in_bytes(mib)?;
        let hotplug_bytes = in_bytes(hotplug_mib)?;
        if boot_bytes == 0 {
            return Err(MemoryError::Size(mib));
        }
        if !hotplug_bytes.is_multiple_of(HOTPLUG_SLOT) {
            return Err(MemoryError::HotplugSize(hotplug_mib));
        }
        let mut layout = layout::boot_regions(boot_bytes);
        let mut hotplug = None;
        if hotplug_bytes > 0 {
            let start = layout::hotplug_start(boot_bytes);
            layout.push((start, hotplug_bytes));
            hotplug = Some(start..start + hotplug_bytes);
        }
        let bytes = boot_bytes + hotplug_bytes;
        let file = backing.file(bytes)?;
        let mut regions = Vec::new();
        let mut mappings = Vec::new();
        let mut offset = 0;
        for (start, length) in layout {
            let file = match &file {
                None => None,
                Some(file) => Some(FileOffset::new(
                    file.try_clone()
                        .map_err(|source| MemoryError::File { bytes, source })?,
                    offset,
                )),
            };
            let (region, mapping) = map_region(start, length, file)?;
            regions.push(region);
            mappings.push(mapping);
            offset += length;
        }
        Ok(Self {
            regions: GuestMemoryMmap::from_regions(regions)?,
            mappings,
            boot_bytes,
            hotplug,
        })
    }

    /// Bytes of RAM from the start.
    pub(crate) fn bytes(&self) -> u64 {
        self.boot_bytes
    }

    /// Bytes of RAM that start at address 0.
    pub(crate) fn low_bytes(&self) -> u64 {
        self.boot_bytes.min(HOLE_START)
    }

    /// The regions that are RAM from the start.
    pub(crate) fn boot_regions(&self) -> impl Iterator<Item = &GuestRegionMmap<()>> {
        let first_other = self.hotplug.as_ref().map_or(u64::MAX, |range| range.start);
        self.regions
            .iter()
            .filter(move |region| region.start_addr().raw_value() < first_other)
    }

    /// The guest addresses of the hot-plug region, if there is one.
    pub(crate) fn hotplug(&self) -> Option<Range<u64>> {
        self.hotplug.clone()
    }

    /// Asks for small pages behind a range of guest addresses in which nothing is yet. They cost
    /// as much as is used of them, where a huge page costs 2 MiB. A host that cannot tell the
    /// difference goes on as it would.
    pub(crate) fn use_small_pages(&self, range: &Range<u64>) {
        for mapping in &self.mappings {
            // Advice only, as that for huge pages.
            let _ = mapping.use_small_pages(range);
        }
    }

    /// Gives the pages of a range of guest addresses back to the host. They read as zeros until
    /// somebody writes to them.
    ///
    /// # Errors
    /// Fails when the range is not made of whole pages of guest memory, and changes nothing then.
    pub(crate) fn discard(&self, range: Range<u64>) -> Result<(), DiscardError> {
        let Range { start, end } = range;
        if range.is_empty() {
            return Ok(());
        }
        if !start.is_multiple_of(PAGE) || !end.is_multiple_of(PAGE) {
            return Err(DiscardError::Alignment { start, end });
        }
        let length = usize::try_from(end - start).unwrap_or(usize::MAX);
        if !self.regions.check_range(GuestAddress(start), length) {
            return Err(DiscardError::Outside { start, end });
        }
        for mapping in &self.mappings {
            mapping
                .discard(&range)
                .map_err(|source| DiscardError::Host { start, end, source })?;
        }
        Ok(())
    }
}

impl Deref for GuestRam {
    type Target = GuestMemoryMmap<()>;

    fn deref(&self) -> &Self::Target {
        &self.regions
    }
}

#[cfg(test)]
#[path = "memory_test.rs"]
mod tests;
