//! Writes to the address register that KVM notes down instead of leaving the guest for each one.
//!
//! A configuration access is a write of the address and an access to the data. The first alone
//! changes nothing that anybody could see, so KVM may keep it until the second comes out to us
//! (Linux Documentation/virt/kvm/api.rst, KVM_REGISTER_COALESCED_MMIO). Half of the exits of the
//! guest's scan of the bus go away by that.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU32, Ordering};

use kvm_bindings::{KVM_COALESCED_MMIO_PAGE_OFFSET, kvm_coalesced_mmio};
use kvm_ioctls::VcpuFd;

/// Size of the page in which KVM keeps the writes.
const PAGE: usize = 4096;
/// Two indices of 32 bits come before the writes.
const HEADER: usize = 8;
/// Writes that fit.
const CAPACITY: u32 = ((PAGE - HEADER) / size_of::<kvm_coalesced_mmio>()) as u32;

/// One write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PostedWrite {
    /// The port.
    pub(crate) port: u16,
    /// The value, in as many bytes as `length` says.
    pub(crate) data: [u8; 8],
    /// Bytes written.
    pub(crate) length: usize,
}

/// The ring in which KVM keeps the writes: one for the whole machine, mapped once.
#[derive(Debug)]
pub(crate) struct PostedWrites(NonNull<u8>);

// SAFETY: the mapping belongs to this value alone; only KVM accesses the page besides it, by the
// rules of the ring.
unsafe impl Send for PostedWrites {}

impl PostedWrites {
    /// Maps the ring of the machine that `vcpu` belongs to.
    ///
    /// # Errors
    /// Fails when the process has no address space left.
    pub(crate) fn new(vcpu: &VcpuFd) -> io::Result<Self> {
        let offset = i64::from(KVM_COALESCED_MMIO_PAGE_OFFSET) * PAGE as i64;
        // SAFETY: a new mapping at an address chosen by the kernel touches nothing that exists.
        let page = unsafe {
            libc::mmap(
                null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                offset,
            )
        };
        NonNull::new(page)
            .filter(|page| page.as_ptr() != libc::MAP_FAILED)
            .map(|page| Self(page.cast()))
            .ok_or_else(io::Error::last_os_error)
    }

    /// Takes the oldest write.
    pub(crate) fn take(&mut self) -> Option<PostedWrite> {
        let first = self.index(0).load(Ordering::Relaxed) % CAPACITY;
        // Pairs with the barrier of KVM between an entry and the index behind it.
        let last = self.index(1).load(Ordering::Acquire) % CAPACITY;
        if first == last {
            return None;
        }
        let at = HEADER + first as usize * size_of::<kvm_coalesced_mmio>();
        // SAFETY: `first` is below CAPACITY, so the entry lies in the page.
        let entry = unsafe { self.0.add(at) }.cast::<kvm_coalesced_mmio>();
        // SAFETY: the entry is aligned to 8 in the page, KVM has finished it, as `last` says, and
        // does not touch it before `first` is moved on; any bits are valid.
        let entry = unsafe { entry.read_volatile() };
        self.index(0)
            .store((first + 1) % CAPACITY, Ordering::Release);
        Some(PostedWrite {
            // A port has 16 bits.
            port: (entry.phys_addr & 0xffff) as u16,
            data: entry.data,
            length: (entry.len as usize).min(entry.data.len()),
        })
    }

    /// One of the two indices: 0 for the oldest entry, 1 for the end.
    fn index(&self, which: usize) -> &AtomicU32 {
        // SAFETY: both lie in the header of the page.
        let index = unsafe { self.0.add(which * size_of::<AtomicU32>()) };
        // SAFETY: the page stays mapped as long as this value; KVM accesses the indices as whole
        // words too, so atomics are the way to share them.
        unsafe { index.cast::<AtomicU32>().as_ref() }
    }
}

impl Drop for PostedWrites {
    fn drop(&mut self) {
        // SAFETY: `new` mapped this page and nothing refers to it any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), PAGE) };
    }
}
