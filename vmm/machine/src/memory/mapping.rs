//! Guest memory in the address space of this process.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestRegionMmap};

use super::MemoryError;

/// Alignment of the host mapping, the size of a huge page: KVM can only map guest memory with
/// huge pages where guest and host addresses are congruent modulo their size.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// Mapped RAM: its pages are given back on drop, its address never.
#[derive(Debug)]
pub(super) struct Mapping {
    address: *mut libc::c_void,
    length: usize,
    /// Guest address of its first byte.
    start: u64,
    /// Whether its pages are those of a file.
    shared: bool,
}

// SAFETY: the pointer is only an address for madvise; nothing is read or written through it.
unsafe impl Send for Mapping {}
// SAFETY: as above, and the kernel orders calls of madvise on the same range.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// The guest addresses it covers.
    pub(super) fn range(&self) -> Range<u64> {
        self.start..self.start.saturating_add(self.length as u64)
    }

    /// Gives the pages of a part of [`Mapping::range`] back to the host; they read as zeros then.
    /// Both ends are multiples of the page size.
    ///
    /// # Errors
    /// Fails when the kernel refuses.
    pub(super) fn discard(&self, part: &Range<u64>) -> io::Result<()> {
        // The pages of a file are the file's, and stay in it unless they are removed from there;
        // this also takes them out of the other processes that map it.
        let advice = match self.shared {
            true => libc::MADV_REMOVE,
            false => libc::MADV_DONTNEED,
        };
        self.advise(part, advice)
    }

    /// Backs a part of [`Mapping::range`], where it has no pages yet, by small pages.
    ///
    /// # Errors
    /// Fails when the kernel refuses, as one without huge pages does.
    pub(super) fn use_small_pages(&self, part: &Range<u64>) -> io::Result<()> {
        self.advise(part, libc::MADV_NOHUGEPAGE)
    }

    fn advise(&self, part: &Range<u64>, advice: libc::c_int) -> io::Result<()> {
        let own = self.range();
        let part = part.start.max(own.start)..part.end.min(own.end);
        if part.is_empty() {
            return Ok(());
        }
        let offset = usize::try_from(part.start - own.start).map_err(io::Error::other)?;
        let length = usize::try_from(part.end - part.start).map_err(io::Error::other)?;
        let address = self.address.wrapping_byte_add(offset);
        // SAFETY: `offset` and `length` stay within the mapping, by the limits put on `part`. It
        // stays mapped; at most its pages become zeros, and nothing in this process relies on what
        // is in guest memory.
        if unsafe { libc::madvise(address, length, advice) } == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // If the kernel refuses, the end of the process does it.
        let _ = self.discard(&self.range());
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
pub(super) fn map_region(
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

    let shared = file.is_some();
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
            start,
            shared,
        },
    ))
}
