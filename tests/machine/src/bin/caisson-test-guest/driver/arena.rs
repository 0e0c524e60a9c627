//! Memory whose guest physical address is known: one huge page.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU8, Ordering};

use caisson_machine_tests::ARENA_BYTES;

use super::no_such_width;

const PAGE: u64 = 4096;

/// The memory, which devices write to as well.
pub(super) struct Arena {
    memory: &'static [AtomicU8],
    address: u64,
}

impl Arena {
    /// Takes a huge page.
    ///
    /// # Errors
    /// When the kernel has none.
    pub(super) fn new() -> io::Result<Self> {
        fs::write("/proc/sys/vm/nr_hugepages", "1")?;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing.
        let memory = unsafe {
            libc::mmap(
                null_mut(),
                ARENA_BYTES as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the mapping is that long and stays for good.
        let memory: &[AtomicU8] =
            unsafe { std::slice::from_raw_parts(memory.cast(), ARENA_BYTES as usize) };
        Ok(Self {
            memory,
            address: physical(memory.as_ptr().addr() as u64)?,
        })
    }

    /// Guest physical address.
    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// When they do not fit.
    pub(super) fn write(&self, at: u32, bytes: &[u8]) -> io::Result<()> {
        for (place, byte) in self.places(at, bytes.len())?.iter().zip(bytes) {
            place.store(*byte, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Reads a number of `width` bytes.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn number(&self, at: u32, width: u8) -> io::Result<u64> {
        let mut bytes = [0; 8];
        let part = bytes.get_mut(..width.into()).ok_or_else(no_such_width)?;
        for (byte, place) in part.iter_mut().zip(self.places(at, width.into())?) {
            *byte = place.load(Ordering::SeqCst);
        }
        Ok(u64::from_le_bytes(bytes))
    }

    fn places(&self, at: u32, length: usize) -> io::Result<&[AtomicU8]> {
        let at = at as usize;
        let places = self.memory.get(at..at.saturating_add(length));
        places.ok_or_else(|| io::Error::other("that is outside the arena"))
    }
}

/// What the page table says (Linux Documentation/admin-guide/mm/pagemap.rst).
fn physical(virtual_address: u64) -> io::Result<u64> {
    let mut entry = [0; 8];
    let page = virtual_address / PAGE;
    File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, page * 8)?;
    let entry = u64::from_le_bytes(entry);
    let frame = entry & ((1 << 55) - 1);
    if entry >> 63 == 0 || frame == 0 {
        return Err(io::Error::other("the kernel does not tell addresses"));
    }
    Ok(frame * PAGE)
}
