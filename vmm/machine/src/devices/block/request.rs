//! Requests (virtio 1.3 §5.2.6): what a chain asks for, checked against the disk.
//!
//! ```text
//!   readable: ┌─ header ─┬─ data to write, or ranges ─┐   writable: ┌─ data to read ─┬─ status ─┐
//!             │ 16 bytes │                            │             │                │ 1 byte   │
//!             └──────────┴────────────────────────────┘             └────────────────┴──────────┘
//! ```
//!
//! How the parts are spread over buffers does not matter (virtio 1.3 §2.7.4). The header and the
//! ranges are copied once; the data stays where it is.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::disk::{Extent, Geometry, SECTOR};
use crate::virtio::chain::{Chain, Reader};

/// Bytes of an id (virtio 1.3 §5.2.6.1).
pub(super) const ID_LENGTH: u32 = 20;

/// Most sectors of one range to discard: 1 GiB.
pub(super) const MAX_DISCARD_SECTORS: u32 = 1 << 21;
/// Most ranges of one request to discard.
pub(super) const MAX_DISCARD_RANGES: u32 = 16;
/// Most sectors of one range to zero, 16 MiB: the host may have to write them.
pub(super) const MAX_ZERO_SECTORS: u32 = 1 << 15;
/// Most ranges of one request to zero; Linux sends one.
pub(super) const MAX_ZERO_RANGES: u32 = 1;

/// Types of requests, `VIRTIO_BLK_T_*`.
pub(super) mod kind {
    /// Read.
    pub(crate) const IN: u32 = 0;
    /// Write.
    pub(crate) const OUT: u32 = 1;
    /// Make everything written before stable.
    pub(crate) const FLUSH: u32 = 4;
    /// Read the id.
    pub(crate) const GET_ID: u32 = 8;
    /// Forget sectors.
    pub(crate) const DISCARD: u32 = 11;
    /// Make sectors zero.
    pub(crate) const WRITE_ZEROES: u32 = 13;
}

/// The range may be given back to the host, `VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP`.
pub(super) const FLAG_UNMAP: u32 = 1;

/// The answer to a request, `VIRTIO_BLK_S_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// Done.
    Ok,
    /// The request makes no sense, or the host failed.
    IoError,
    /// The device does not know such requests.
    Unsupported,
}

impl Status {
    /// The byte for the driver.
    pub(super) fn byte(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::IoError => 1,
            Self::Unsupported => 2,
        }
    }
}

/// The header of every request.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Header {
    /// See [`kind`].
    pub(super) kind: U32,
    /// Nothing.
    pub(super) reserved: U32,
    /// Where reads and writes begin.
    pub(super) sector: U64,
}

/// A range of sectors to discard or to zero.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Range {
    /// The first sector.
    pub(super) sector: U64,
    /// How many.
    pub(super) sectors: U32,
    /// [`FLAG_UNMAP`] and reserved bits.
    pub(super) flags: U32,
}

const HEADER_SIZE: usize = size_of::<Header>();
const RANGE_SIZE: usize = size_of::<Range>();

/// A request that the disk can carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// Read this into the writable part.
    Read(Extent),
    /// Write the readable part behind the header here.
    Write(Extent),
    /// Make everything written before stable.
    Flush,
    /// Forget this.
    Discard(Vec<Extent>),
    /// Make this zero.
    Zero {
        /// What.
        extents: Vec<Extent>,
        /// Whether the space may be given back.
        unmap: bool,
    },
    /// Give the id.
    Identify,
}

impl Request {
    /// Bytes that the request counts for in a rate limit.
    pub(super) fn cost(&self) -> u64 {
        match self {
            Self::Read(extent) | Self::Write(extent) => extent.length,
            // The host may have to write them.
            Self::Zero { extents, .. } => extents.iter().map(|extent| extent.length).sum(),
            Self::Flush | Self::Discard(_) | Self::Identify => 0,
        }
    }
}

/// Finds out what `chain` asks for. Its last writable byte, which there must be, is for the status.
///
/// # Errors
/// Fails with the status to answer when the request makes no sense for a disk of this geometry.
pub(super) fn parse(chain: &Chain, geometry: Geometry) -> Result<Request, Status> {
    let mut reader = chain.reader();
    if reader.left() < HEADER_SIZE {
        return Err(Status::IoError);
    }
    let header: Header = reader.read_object().map_err(|_| Status::IoError)?;
    let given = u64::try_from(reader.left()).map_err(|_| Status::IoError)?;
    let room = u64::from(chain.writable_len()).saturating_sub(1);

    let (reads, writes) = match header.kind.get() {
        kind::IN | kind::GET_ID => (true, false),
        kind::OUT | kind::DISCARD | kind::WRITE_ZEROES => (false, true),
        kind::FLUSH => (false, false),
        _ => return Err(Status::Unsupported),
    };
    let misplaced = (given > 0 && !writes) || (room > 0 && !reads);
    if misplaced || (writes && geometry.read_only) {
        return Err(Status::IoError);
    }
    match header.kind.get() {
        kind::IN => extent(header.sector.get(), room, geometry).map(Request::Read),
        kind::OUT => extent(header.sector.get(), given, geometry).map(Request::Write),
        kind::DISCARD => discard(reader, geometry),
        kind::WRITE_ZEROES => zero(reader, geometry),
        kind::GET_ID if room != u64::from(ID_LENGTH) => Err(Status::IoError),
        kind::GET_ID => Ok(Request::Identify),
        _ => Ok(Request::Flush),
    }
}

/// The `length` bytes from `sector` on, if they are whole blocks of the disk.
fn extent(sector: u64, length: u64, geometry: Geometry) -> Result<Extent, Status> {
    let block = u64::from(geometry.block_size);
    let offset = sector.checked_mul(SECTOR).ok_or(Status::IoError)?;
    let end = offset.checked_add(length).ok_or(Status::IoError)?;
    if end > geometry.bytes || !offset.is_multiple_of(block) || !length.is_multiple_of(block) {
        return Err(Status::IoError);
    }
    Ok(Extent { offset, length })
}

fn discard(reader: Reader<'_>, geometry: Geometry) -> Result<Request, Status> {
    let ranges = ranges(reader, MAX_DISCARD_RANGES)?;
    // No flag means anything here, UNMAP neither (virtio 1.3 §5.2.6.2).
    if ranges.iter().any(|range| range.flags.get() != 0) {
        return Err(Status::Unsupported);
    }
    extents(&ranges, MAX_DISCARD_SECTORS, geometry).map(Request::Discard)
}

fn zero(reader: Reader<'_>, geometry: Geometry) -> Result<Request, Status> {
    let ranges = ranges(reader, MAX_ZERO_RANGES)?;
    if ranges
        .iter()
        .any(|range| range.flags.get() & !FLAG_UNMAP != 0)
    {
        return Err(Status::Unsupported);
    }
    Ok(Request::Zero {
        extents: extents(&ranges, MAX_ZERO_SECTORS, geometry)?,
        unmap: ranges.iter().all(|range| range.flags.get() == FLAG_UNMAP),
    })
}

/// Copies the ranges, of which there are 1 to `most`.
fn ranges(mut reader: Reader<'_>, most: u32) -> Result<Vec<Range>, Status> {
    let (count, rest) = (reader.left() / RANGE_SIZE, reader.left() % RANGE_SIZE);
    if rest != 0 || count == 0 || count > usize::try_from(most).unwrap_or(usize::MAX) {
        return Err(Status::IoError);
    }
    (0..count)
        .map(|_| reader.read_object().map_err(|_| Status::IoError))
        .collect()
}

/// The ranges in bytes, without those that are empty.
fn extents(ranges: &[Range], most: u32, geometry: Geometry) -> Result<Vec<Extent>, Status> {
    let mut extents = Vec::with_capacity(ranges.len());
    for range in ranges {
        if range.sectors.get() > most {
            return Err(Status::IoError);
        }
        let length = u64::from(range.sectors.get()) * SECTOR;
        let extent = extent(range.sector.get(), length, geometry)?;
        if extent.length > 0 {
            extents.push(extent);
        }
    }
    Ok(extents)
}

#[cfg(test)]
#[path = "request_test.rs"]
mod tests;
