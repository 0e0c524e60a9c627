//! Guest memory: where it sits in the guest's physical address space and what backs it.
//!
//! ```text
//!   0 ────────── 3 GiB ─────────── 4 GiB ──────────▶
//!   │ RAM (low)  │ hole: PCI window,│ RAM (high), if more than 3 GiB
//!   │            │ IOAPIC, LAPIC    │
//! ```
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::AsRawFd;

use rustix::fs::{MemfdFlags, SealFlags};
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionCollectionError, GuestRegionMmap,
};

/// Where the hole for devices begins; RAM below it, RAM again above [`HIGH_RAM_START`].
///
/// A whole GiB, so that the guest's kernel can map both parts with its largest pages.
pub(crate) const HOLE_START: u64 = 3 << 30;
/// Where RAM goes on after the hole.
pub(crate) const HIGH_RAM_START: u64 = 4 << 30;
/// Alignment of the host mapping, the size of a huge page: KVM can only map guest memory with
/// huge pages where guest and host addresses are congruent modulo their size.
const HUGE_PAGE: usize = 2 << 20;

/// Who else sees the guest's memory.
#[derive(Debug)]
pub(crate) enum Backing {
    /// Only this process: private anonymous memory.
    Private,
    /// Also the processes that receive its file: a sealed memfd, mapped shared. Needed by
    /// vhost-user devices.
    Shared,
    /// The same with a file that came from outside: an empty one on a tmpfs. Such a file cannot
    /// be sealed: another process that has it can truncate it and thereby end this one. Only the
    /// file server of the same pod gets it.
    File(File),
}

/// Why guest memory could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    /// The size cannot be represented.
    #[error("guest memory of {0} MiB is more than can be addressed")]
    Size(u64),
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

/// The guest's RAM, mapped into this process.
///
/// Dropping it gives the pages back to the host but keeps the addresses: whoever still holds a
/// clone of the map it dereferences to reads zeros, not the memory of somebody else.
#[derive(Debug)]
pub(crate) struct GuestRam {
    regions: GuestMemoryMmap<()>,
    _mappings: Vec<Mapping>,
}

impl GuestRam {
    /// Makes `mib` MiB of zeroed RAM, laid out with the hole below 4 GiB.
    ///
    /// # Errors
    /// See [`MemoryError`].
    pub(crate) fn new(mib: u64, backing: Backing) -> Result<Self, MemoryError> {
        let bytes = mib
            .checked_mul(1 << 20)
            .filter(|bytes| *bytes > 0 && *bytes <= 1 << 46)
            .ok_or(MemoryError::Size(mib))?;
        let file = match backing {
            Backing::Private => None,
            Backing::Shared => Some(sealed_memfd(bytes)?),
            Backing::File(file) => Some(sized(file, bytes)?),
        };
        let mut regions = Vec::new();
        let mut mappings = Vec::new();
        let mut offset = 0;
        for (start, length) in layout(bytes) {
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
            _mappings: mappings,
        })
    }

    /// Bytes of RAM.
    pub(crate) fn bytes(&self) -> u64 {
        self.regions.iter().map(GuestMemoryRegion::len).sum()
    }

    /// Bytes of RAM that start at address 0.
    pub(crate) fn low_bytes(&self) -> u64 {
        self.bytes().min(HOLE_START)
    }
}

impl Deref for GuestRam {
    type Target = GuestMemoryMmap<()>;

    fn deref(&self) -> &Self::Target {
        &self.regions
    }
}

/// The regions of `bytes` of RAM: guest address and length.
fn layout(bytes: u64) -> Vec<(u64, u64)> {
    let low = bytes.min(HOLE_START);
    let high = bytes - low;
    let mut regions = vec![(0, low)];
    if high > 0 {
        regions.push((HIGH_RAM_START, high));
    }
    regions
}

/// A memory file that can neither shrink (which would turn accesses into SIGBUS) nor grow.
fn sealed_memfd(bytes: u64) -> Result<File, MemoryError> {
    let make = || -> io::Result<File> {
        let fd =
            rustix::fs::memfd_create("guest-ram", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, bytes)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(File::from(fd))
    };
    make().map_err(|source| MemoryError::File { bytes, source })
}

/// Gives an empty file of a tmpfs its size.
fn sized(file: File, bytes: u64) -> Result<File, MemoryError> {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    let failed = |source| MemoryError::File { bytes, source };
    let metadata = file.metadata().map_err(failed)?;
    let kind = rustix::fs::fstatfs(&file).map_err(|errno| failed(errno.into()))?;
    if !metadata.is_file() || kind.f_type != TMPFS_MAGIC {
        return Err(MemoryError::BadFile(format!(
            "is on a file system of type {:#x}",
            kind.f_type
        )));
    }
    if metadata.len() != 0 {
        let length = metadata.len();
        return Err(MemoryError::BadFile(format!("has {length} bytes")));
    }
    file.set_len(bytes).map_err(failed)?;
    Ok(file)
}

/// Mapped RAM: its pages are given back on drop, its address never.
#[derive(Debug)]
struct Mapping {
    address: *mut libc::c_void,
    length: usize,
}

// SAFETY: the pointer is only an address for madvise; nothing is read or written through it.
unsafe impl Send for Mapping {}
// SAFETY: as above, and there is no method that takes `&self`.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // The first fits shared memory and fails for private, for which the second is enough.
        // SAFETY: the range belongs to this value and stays mapped; the pages become zeros.
        unsafe { libc::madvise(self.address, self.length, libc::MADV_REMOVE) };
        // SAFETY: as above.
        unsafe { libc::madvise(self.address, self.length, libc::MADV_DONTNEED) };
    }
}

/// Reserves address space without access to it.
fn reserve(length: usize) -> Result<*mut libc::c_void, MemoryError> {
    // SAFETY: a new mapping at an address chosen by the kernel touches nothing that exists.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(MemoryError::Reserve {
            bytes: length,
            source: io::Error::last_os_error(),
        });
    }
    Ok(address)
}

/// Maps one region at a host address aligned to [`HUGE_PAGE`].
fn map_region(
    start: u64,
    length: u64,
    file: Option<FileOffset>,
) -> Result<(GuestRegionMmap<()>, Mapping), MemoryError> {
    let length = usize::try_from(length).map_err(|_| MemoryError::Size(length >> 20))?;
    let reserved = length
        .checked_add(HUGE_PAGE)
        .ok_or(MemoryError::Size(length as u64 >> 20))?;
    // What is reserved beyond the region stays without access, on both sides: a stray access next
    // to guest memory faults instead of hitting something else.
    let reservation = reserve(reserved)?;
    let padding = reservation.align_offset(HUGE_PAGE);
    let address = reservation.wrapping_byte_add(padding);
    let (sharing, fd, offset) = match &file {
        None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0),
        Some(file) => (
            libc::MAP_SHARED,
            file.file().as_raw_fd(),
            libc::off_t::try_from(file.start())
                .map_err(|_| MemoryError::Size(file.start() >> 20))?,
        ),
    };
    let flags = sharing | libc::MAP_NORESERVE;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: `address..address + length` lies inside the reservation made above, which nothing
    // else uses: `padding` is below HUGE_PAGE, by which the reservation is larger than `length`.
    let mapped = unsafe {
        libc::mmap(
            address,
            length,
            protection,
            flags | libc::MAP_FIXED,
            fd,
            offset,
        )
    };
    if mapped == libc::MAP_FAILED {
        return Err(MemoryError::Reserve {
            bytes: length,
            source: io::Error::last_os_error(),
        });
    }
    // Advice only: a host without transparent huge pages runs the guest more slowly.
    // SAFETY: the range was mapped just above.
    unsafe { libc::madvise(mapped, length, libc::MADV_HUGEPAGE) };
    // SAFETY: as above; a core dump must not contain the tenant's memory.
    unsafe { libc::madvise(mapped, length, libc::MADV_DONTDUMP) };

    let mut builder = MmapRegionBuilder::new(length)
        .with_mmap_prot(protection)
        .with_mmap_flags(flags);
    if let Some(file) = file {
        builder = builder.with_file_offset(file);
    }
    // SAFETY: the range is mapped with these flags and nobody ever unmaps it.
    let builder = unsafe { builder.with_raw_mmap_pointer(mapped.cast()) };
    let region = GuestRegionMmap::new(builder.build()?, GuestAddress(start))
        .ok_or(MemoryError::Size(start >> 20))?;
    Ok((
        region,
        Mapping {
            address: mapped,
            length,
        },
    ))
}

#[cfg(test)]
#[path = "memory_test.rs"]
mod tests;
