//! Stretches of memory that the kernel fills or reads without a copy in between, and the two calls
//! that do so at once.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use vm_memory::VolatileSlice;

use crate::virtio::chain::{Reader, Writer};
use crate::virtio::iovec::iovecs;
use crate::virtio::queue::QueueError;

/// Zeroes to write where the host cannot make them otherwise; aligned so that they can also go past
/// the page cache.
static ZEROES: Zeroes = Zeroes([0; ZEROES_LENGTH]);
const ZEROES_LENGTH: usize = 4096;

/// Most stretches of zeroes of one call: 1 MiB of them.
const ZEROES_REPEATED: usize = 256;

#[repr(align(4096))]
struct Zeroes([u8; ZEROES_LENGTH]);

/// Whether a write has to be on the medium when it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// When a flush says so.
    Volatile,
    /// At once.
    Stable,
}

impl Durability {
    /// The flags of pwritev2(2).
    pub(super) fn flags(self) -> i32 {
        match self {
            Self::Volatile => 0,
            Self::Stable => libc::RWF_DSYNC,
        }
    }
}

/// Stretches of guest memory, or of zeroes. Guest memory keeps its addresses as long as the process
/// lives (see [`crate::memory::GuestRam`]), so a call in flight may outlast everything but this
/// list.
pub(super) struct Vectors {
    list: Vec<libc::iovec>,
    /// Bytes of all stretches.
    left: usize,
}

// SAFETY: the addresses are only for the kernel, which may be called on any thread.
unsafe impl Send for Vectors {}

impl Vectors {
    /// The next `count` bytes of what the driver wrote.
    ///
    /// # Errors
    /// Fails when fewer are left.
    pub(super) fn to_read(from: &mut Reader<'_>, count: usize) -> Result<Self, QueueError> {
        Ok(Self::new(&from.slices(count)?))
    }

    /// The next `count` bytes of room for the driver to read.
    ///
    /// # Errors
    /// Fails when fewer are left.
    pub(super) fn to_fill(into: &mut Writer<'_>, count: usize) -> Result<Self, QueueError> {
        Ok(Self::new(&into.slices(count)?))
    }

    /// Zeroes, `wanted` bytes of them or as many as fit into one call.
    pub(super) fn zeroes(wanted: u64) -> Self {
        let mut left = usize::try_from(wanted)
            .unwrap_or(usize::MAX)
            .min(ZEROES_REPEATED * ZEROES_LENGTH);
        let total = left;
        let mut list = Vec::with_capacity(left.div_ceil(ZEROES_LENGTH));
        while left > 0 {
            let now = left.min(ZEROES_LENGTH);
            list.push(libc::iovec {
                iov_base: ZEROES.0.as_ptr().cast_mut().cast(),
                iov_len: now,
            });
            left -= now;
        }
        Self { list, left: total }
    }

    fn new(slices: &[VolatileSlice<'_>]) -> Self {
        // A chain has no more buffers than these.
        let list = iovecs(slices);
        let left = list.iter().map(|vector| vector.iov_len).sum();
        Self { list, left }
    }

    /// Bytes of all stretches.
    pub(super) fn len(&self) -> usize {
        self.left
    }

    /// The first `count` bytes are done: what is left begins behind them.
    pub(super) fn advance(&mut self, count: usize) {
        let mut rest = count.min(self.left);
        self.left -= rest;
        let whole = self.list.iter().take_while(|vector| {
            let passed = vector.iov_len <= rest;
            if passed {
                rest -= vector.iov_len;
            }
            passed
        });
        let whole = whole.count();
        self.list.drain(..whole);
        if let Some(first) = self.list.first_mut() {
            first.iov_base = first.iov_base.wrapping_byte_add(rest);
            first.iov_len -= rest;
        }
    }

    /// The first bytes, at most `count`.
    pub(super) fn front(&self, count: usize) -> Self {
        let total = count.min(self.left);
        let mut left = total;
        let mut list = Vec::new();
        for vector in &self.list {
            if left == 0 {
                break;
            }
            let iov_len = vector.iov_len.min(left);
            list.push(libc::iovec { iov_len, ..*vector });
            left -= iov_len;
        }
        Self { list, left: total }
    }

    /// The list as the kernel takes it; it stays where it is until this is changed or dropped.
    pub(super) fn raw(&self) -> (*const libc::iovec, u32) {
        // A chain has at most 1024 buffers, which is also what the kernel takes at most.
        let count = u32::try_from(self.list.len()).unwrap_or(0);
        (self.list.as_ptr(), count)
    }
}

/// Reads from `offset` of `file` into `into`; returns how many bytes.
pub(super) fn read(file: &File, into: &Vectors, offset: u64) -> io::Result<usize> {
    let (list, count) = into.raw();
    let (fd, offset) = (file.as_raw_fd(), position(offset)?);
    let count = libc::c_int::try_from(count).map_err(io::Error::other)?;
    // SAFETY: `list` holds `count` stretches of guest memory, which is always mapped and may be
    // changed at any time.
    sized(unsafe { libc::preadv2(fd, list, count, offset, 0) })
}

/// Writes `from` at `offset` of `file`; returns how many bytes.
pub(super) fn write(
    file: &File,
    from: &Vectors,
    offset: u64,
    durability: Durability,
) -> io::Result<usize> {
    let (list, count) = from.raw();
    let (fd, offset) = (file.as_raw_fd(), position(offset)?);
    let count = libc::c_int::try_from(count).map_err(io::Error::other)?;
    // SAFETY: `list` holds `count` stretches of guest memory, which is always mapped, or of a
    // constant; the kernel only reads them.
    sized(unsafe { libc::pwritev2(fd, list, count, offset, durability.flags()) })
}

fn position(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(io::Error::other)
}

fn sized(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
#[path = "vectors_test.rs"]
mod tests;
