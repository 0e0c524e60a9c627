//! Descriptor chains (virtio 1.3 §2.7.5): walked once, checked once, then only read and written
//! through cursors that cannot leave their buffers.
//!
//! The walk copies every descriptor out of guest memory before it looks at it, so a driver that
//! changes one afterwards changes nothing. The same holds for request headers: a device copies a
//! header with [`Reader::read_object`] and never looks at guest memory for it again.

use std::ops::Range;
use std::sync::Arc;

use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::queue::QueueError;

/// Most descriptors of a chain. The specification allows as many as the queue is long; Linux goes
/// beyond that with indirect tables, and 1024 is what its block and file system drivers stay below.
pub(crate) const MAX_CHAIN: usize = 1024;

/// Bytes of a descriptor.
const DESCRIPTOR_SIZE: u32 = 16;

/// Where a descriptor table is, and how many descriptors it holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DescriptorTable {
    /// Guest address.
    pub(crate) address: u64,
    /// Number of descriptors.
    pub(crate) size: u16,
}

/// A buffer known to lie in one region of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    address: u64,
    length: u32,
}

/// A chain of buffers: first those the device reads, then those it writes.
pub(crate) struct Chain {
    head: u16,
    memory: Arc<GuestMemoryMmap>,
    segments: Vec<Segment>,
    /// How many of `segments` are readable.
    readable: usize,
    readable_len: u32,
    writable_len: u32,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain")
            .field("head", &self.head)
            .field("readable_len", &self.readable_len)
            .field("writable_len", &self.writable_len)
            .finish_non_exhaustive()
    }
}

impl Chain {
    /// Walks the chain that begins at descriptor `head` of `table`.
    ///
    /// # Errors
    /// Fails when the chain breaks a rule of virtio 1.3 §2.7.5 or leaves guest memory.
    pub(super) fn walk(
        memory: Arc<GuestMemoryMmap>,
        table: DescriptorTable,
        head: u16,
    ) -> Result<Self, QueueError> {
        let mut chain = Self {
            head,
            memory,
            segments: Vec::with_capacity(4),
            readable: 0,
            readable_len: 0,
            writable_len: 0,
        };
        let (mut table, mut index, mut indirect) = (table, head, false);
        // A direct chain that visits more descriptors than its table has is a loop.
        let mut limit = usize::from(table.size).min(MAX_CHAIN);
        let mut visited = 0;
        loop {
            if visited == limit {
                return Err(QueueError::ChainTooLong { head, limit });
            }
            visited += 1;
            let descriptor = chain.descriptor(table, index)?;
            if descriptor.refers_to_indirect_table() {
                if indirect {
                    return Err(QueueError::IndirectInIndirect { index });
                }
                if descriptor.has_next() {
                    return Err(QueueError::IndirectWithNext { index });
                }
                table = indirect_table(descriptor)?;
                limit = MAX_CHAIN;
                index = 0;
                indirect = true;
                continue;
            }
            chain.push(index, descriptor)?;
            if !descriptor.has_next() {
                return Ok(chain);
            }
            let next = descriptor.next();
            if next >= table.size {
                return Err(QueueError::Next {
                    index,
                    next,
                    size: table.size,
                });
            }
            index = next;
        }
    }

    fn descriptor(&self, table: DescriptorTable, index: u16) -> Result<Descriptor, QueueError> {
        let outside = QueueError::DescriptorOutsideMemory {
            table: table.address,
            index,
        };
        let offset = u64::from(index) * u64::from(DESCRIPTOR_SIZE);
        let Some(address) = table.address.checked_add(offset) else {
            return Err(outside);
        };
        match self.memory.read_obj::<RawDescriptor>(GuestAddress(address)) {
            Ok(raw) => Ok(Descriptor::from(raw)),
            Err(_) => Err(outside),
        }
    }

    fn push(&mut self, index: u16, descriptor: Descriptor) -> Result<(), QueueError> {
        let writable = descriptor.is_write_only();
        if !writable && self.segments.len() > self.readable {
            return Err(QueueError::ReadableAfterWritable { index });
        }
        let segment = Segment {
            address: descriptor.addr().0,
            length: descriptor.len(),
        };
        self.readable_len
            .checked_add(self.writable_len)
            .and_then(|sum| sum.checked_add(segment.length))
            .ok_or(QueueError::ChainBytes { head: self.head })?;
        slice(&self.memory, segment)?;
        self.segments.push(segment);
        if writable {
            self.writable_len = self.writable_len.saturating_add(segment.length);
        } else {
            self.readable = self.segments.len();
            self.readable_len = self.readable_len.saturating_add(segment.length);
        }
        Ok(())
    }

    /// Index of the first descriptor, by which the driver knows the chain.
    pub(crate) fn head(&self) -> u16 {
        self.head
    }

    /// Bytes for the device to write.
    pub(crate) fn writable_len(&self) -> u32 {
        self.writable_len
    }

    /// Guest addresses of the writable buffers, in order.
    pub(crate) fn writable_ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let segments = self.segments.get(self.readable..).unwrap_or_default();
        segments.iter().map(|segment| {
            let end = segment.address.saturating_add(segment.length.into());
            segment.address..end
        })
    }

    /// A cursor over the readable part.
    pub(crate) fn reader(&self) -> Reader<'_> {
        let segments = self.segments.get(..self.readable).unwrap_or_default();
        Reader(Cursor::new(&self.memory, segments, self.readable_len))
    }

    /// A cursor over the writable part.
    pub(crate) fn writer(&self) -> Writer<'_> {
        let segments = self.segments.get(self.readable..).unwrap_or_default();
        Writer(Cursor::new(&self.memory, segments, self.writable_len))
    }
}

fn indirect_table(descriptor: Descriptor) -> Result<DescriptorTable, QueueError> {
    let length = descriptor.len();
    if length == 0 || !length.is_multiple_of(DESCRIPTOR_SIZE) {
        return Err(QueueError::IndirectLength { length });
    }
    let size = u16::try_from(length / DESCRIPTOR_SIZE)
        .map_err(|_| QueueError::IndirectLength { length })?;
    Ok(DescriptorTable {
        address: descriptor.addr().0,
        size,
    })
}

/// The one place where a guest address and length become memory: checked as a whole, never the
/// start first and the length later.
fn slice(memory: &GuestMemoryMmap, segment: Segment) -> Result<VolatileSlice<'_>, QueueError> {
    let outside = QueueError::BufferOutsideMemory {
        address: segment.address,
        length: segment.length,
    };
    let Ok(length) = usize::try_from(segment.length) else {
        return Err(outside);
    };
    memory
        .get_slice(GuestAddress(segment.address), length)
        .map_err(|_| outside)
}

/// A position in a list of buffers.
#[derive(Clone)]
struct Cursor<'a> {
    memory: &'a GuestMemoryMmap,
    segments: &'a [Segment],
    /// Bytes of the first segment that are behind the cursor.
    offset: u32,
    left: u32,
}

impl<'a> Cursor<'a> {
    fn new(memory: &'a GuestMemoryMmap, segments: &'a [Segment], left: u32) -> Self {
        Self {
            memory,
            segments,
            offset: 0,
            left,
        }
    }

    /// The next stretch of at most `limit` bytes within one buffer, without moving.
    fn peek(&self, limit: u32) -> Option<Segment> {
        let first = self.segments.first()?;
        Some(Segment {
            address: first.address.saturating_add(u64::from(self.offset)),
            length: first.length.saturating_sub(self.offset).min(limit),
        })
    }

    /// Moves over `count` bytes of the first buffer.
    fn advance(&mut self, count: u32) {
        self.offset = self.offset.saturating_add(count);
        self.left = self.left.saturating_sub(count);
        if let Some((first, rest)) = self.segments.split_first()
            && self.offset >= first.length
        {
            self.segments = rest;
            self.offset = 0;
        }
    }

    /// Hands the next stretches of `count` bytes in all to `each`, in order; moves over them.
    ///
    /// # Errors
    /// Fails when fewer are left.
    fn each(
        &mut self,
        count: usize,
        mut each: impl FnMut(VolatileSlice<'a>),
    ) -> Result<(), QueueError> {
        let mut wanted = self.check(count)?;
        while wanted > 0 {
            let Some(segment) = self.peek(wanted) else {
                break;
            };
            if segment.length > 0 {
                each(slice(self.memory, segment)?);
            }
            wanted = wanted.saturating_sub(segment.length);
            self.advance(segment.length);
        }
        Ok(())
    }

    /// Moves over `count` bytes.
    ///
    /// # Errors
    /// Fails when fewer are left.
    fn skip(&mut self, count: usize) -> Result<(), QueueError> {
        let mut wanted = self.check(count)?;
        while wanted > 0
            && let Some(segment) = self.peek(wanted)
        {
            wanted = wanted.saturating_sub(segment.length);
            self.advance(segment.length);
        }
        Ok(())
    }

    /// The next stretches of `count` bytes in all, in order; moves over them.
    ///
    /// # Errors
    /// Fails when fewer are left.
    fn take(&mut self, count: usize) -> Result<Vec<VolatileSlice<'a>>, QueueError> {
        let mut slices = Vec::with_capacity(self.segments.len());
        self.each(count, |slice| slices.push(slice))?;
        Ok(slices)
    }

    /// `count` as a number of bytes that are left.
    fn check(&self, count: usize) -> Result<u32, QueueError> {
        u32::try_from(count)
            .ok()
            .filter(|count| *count <= self.left)
            .ok_or(QueueError::TooShort {
                needed: count,
                left: self.left(),
            })
    }

    fn left(&self) -> usize {
        usize::try_from(self.left).unwrap_or(usize::MAX)
    }
}

/// Reads what the driver wrote, front to back. A clone is an independent position.
#[derive(Clone)]
pub(crate) struct Reader<'a>(Cursor<'a>);

impl<'a> Reader<'a> {
    /// Bytes left.
    pub(crate) fn left(&self) -> usize {
        self.0.left()
    }

    /// Copies the next `bytes.len()` bytes.
    ///
    /// # Errors
    /// Fails when fewer are left.
    pub(crate) fn read_exact(&mut self, bytes: &mut [u8]) -> Result<(), QueueError> {
        let mut done = 0;
        self.0.each(bytes.len(), |slice| {
            // A slice is never longer than what is wanted.
            let rest = bytes.get_mut(done..).unwrap_or_default();
            done += slice.copy_to(rest);
        })
    }

    /// Copies a plain structure.
    ///
    /// # Errors
    /// Fails when fewer bytes are left.
    pub(crate) fn read_object<T: FromBytes + IntoBytes>(&mut self) -> Result<T, QueueError> {
        let mut object = T::new_zeroed();
        self.read_exact(object.as_mut_bytes())?;
        Ok(object)
    }

    /// Moves over the next `count` bytes.
    ///
    /// # Errors
    /// Fails when fewer are left.
    pub(crate) fn skip(&mut self, count: usize) -> Result<(), QueueError> {
        self.0.skip(count)
    }

    /// The next `count` bytes where they lie in guest memory. The driver can change them at any
    /// time: hand them to the kernel, decide nothing by them.
    ///
    /// # Errors
    /// Fails when fewer are left.
    pub(crate) fn slices(&mut self, count: usize) -> Result<Vec<VolatileSlice<'a>>, QueueError> {
        self.0.take(count)
    }
}

/// Writes what the driver will read, front to back.
#[derive(Clone)]
pub(crate) struct Writer<'a>(Cursor<'a>);

impl<'a> Writer<'a> {
    /// Bytes left.
    pub(crate) fn left(&self) -> usize {
        self.0.left()
    }

    /// Copies `bytes` to guest memory.
    ///
    /// # Errors
    /// Fails when they do not fit; nothing is written then.
    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> Result<(), QueueError> {
        let mut done = 0;
        self.0.each(bytes.len(), |slice| {
            // A slice is never longer than what is left.
            let rest = bytes.get(done..).unwrap_or_default();
            slice.copy_from(rest);
            done += slice.len();
        })
    }

    /// Copies a plain structure.
    ///
    /// # Errors
    /// Fails when it does not fit.
    pub(crate) fn write_object<T: IntoBytes + Immutable>(
        &mut self,
        object: &T,
    ) -> Result<(), QueueError> {
        self.write_all(object.as_bytes())
    }

    /// Moves over the next `count` bytes, which stay as they are.
    ///
    /// # Errors
    /// Fails when fewer are left.
    pub(crate) fn skip(&mut self, count: usize) -> Result<(), QueueError> {
        self.0.skip(count)
    }

    /// Adds the next `count` bytes of room to `slices`, where they lie in guest memory.
    ///
    /// # Errors
    /// Fails when fewer are left.
    pub(crate) fn append(
        &mut self,
        count: usize,
        slices: &mut Vec<VolatileSlice<'a>>,
    ) -> Result<(), QueueError> {
        self.0.each(count, |slice| slices.push(slice))
    }

    /// The next `count` bytes of room where they lie in guest memory.
    ///
    /// # Errors
    /// Fails when fewer are left.
    pub(crate) fn slices(&mut self, count: usize) -> Result<Vec<VolatileSlice<'a>>, QueueError> {
        self.0.take(count)
    }
}
