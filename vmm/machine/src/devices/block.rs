//! Block device (virtio 1.3 §5.2): a file or a block device of the host, taken as it is, or several files
//! behind each other.
//!
//! ```text
//!            pop        parse            start            take_done
//!   queues ──────▶ Chain ───▶ Request ─▶ Task ──▶ Engine ──────────▶ Task ──▶ status, used ring
//!            │                            ▲                           │
//!            └ rate limit                 └────────── next call ──────┘
//! ```
//!
//! Data goes between guest memory and the kernel without a copy of ours. What a well-formed chain
//! asks for and the disk cannot do is answered with a status; only a chain that has no room for a
//! status is a fault of the driver.

mod block_device;
mod disk;
mod engine;
mod files;
mod request;
mod running;
#[cfg(test)]
mod sample;
mod task;
mod vectors;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use caisson_control::{DiskConfig, MAX_DISK_ID, MAX_QUEUES};
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ,
    VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

use self::disk::{Disk, DiskError, SECTOR};
use self::engine::EngineMaker;
use self::files::PartsError;
use self::request::{
    ID_LENGTH, MAX_DISCARD_RANGES, MAX_DISCARD_SECTORS, MAX_ZERO_RANGES, MAX_ZERO_SECTORS,
};
use self::running::RunningBlock;
use crate::rate_limit::RateLimiter;
use crate::virtio::config::SharedConfig;
use crate::virtio::device::{
    ActivateResult, Activation, Counters, Device, DeviceFault, DeviceKind,
};

/// Size of each queue. Linux sends requests of up to 254 buffers with it; as they are put into
/// indirect tables, it also bounds the requests in flight of one queue.
const QUEUE_SIZE: u16 = 256;

/// Most buffers of data in one request: header and status take two descriptors.
const SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;

/// Why a disk cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlockError {
    /// The id cannot be a serial number.
    #[error("its id must have 1 to {MAX_DISK_ID} printable ASCII characters")]
    Id,
    /// The number of queues is out of range.
    #[error("{0} queues: there can be 1 to {MAX_QUEUES}")]
    Queues(u8),
    /// One disk, one file, unless each has its place.
    #[error("{0} files: a disk without parts is one")]
    Files(usize),
    /// The files are none for a disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// No descriptors left.
    #[error("making its rate limit: {0}")]
    Limit(io::Error),
}

/// The block device before activation.
pub(crate) struct Block {
    disk: Arc<Disk>,
    id: [u8; ID_LENGTH as usize],
    queue_sizes: Vec<u16>,
    config: SharedConfig,
    /// Its buckets outlast a stop: a driver gains nothing by a reset.
    limiter: Option<RateLimiter>,
    /// Makes the engine, on the first request.
    engine: EngineMaker,
    /// What earlier activations did.
    counters: Counters,
}

impl Block {
    /// A disk of what `files` hold.
    ///
    /// # Errors
    /// Fails when the description is out of range or the files do not fit it.
    pub(crate) fn new(config: &DiskConfig, files: Vec<OwnedFd>) -> Result<Self, BlockError> {
        Self::with_engine(config, files, engine::best)
    }

    fn with_engine(
        config: &DiskConfig,
        files: Vec<OwnedFd>,
        engine: EngineMaker,
    ) -> Result<Self, BlockError> {
        let id = serial_number(&config.id).ok_or(BlockError::Id)?;
        if config.queues == 0 || config.queues > MAX_QUEUES {
            return Err(BlockError::Queues(config.queues));
        }
        let disk = open(config, files)?;
        let limits = &config.limits;
        let limiter = match limits.bytes.is_some() || limits.operations.is_some() {
            true => Some(RateLimiter::new(limits).map_err(BlockError::Limit)?),
            false => None,
        };
        Ok(Self {
            config: SharedConfig::new(configuration(&disk, config.queues)),
            disk: Arc::new(disk),
            id,
            queue_sizes: vec![QUEUE_SIZE; config.queues.into()],
            limiter,
            engine,
            counters: Counters::default(),
        })
    }
}

/// Looks at the files of a disk.
fn open(config: &DiskConfig, mut files: Vec<OwnedFd>) -> Result<Disk, BlockError> {
    if !config.parts.is_empty() {
        if !config.read_only || config.direct {
            return Err(DiskError::from(PartsError::Way).into());
        }
        return Ok(Disk::of_parts(files, &config.parts)?);
    }
    match (files.pop(), files.len()) {
        (Some(file), 0) => Ok(Disk::new(file, config.read_only, config.direct)?),
        (file, others) => Err(BlockError::Files(others + usize::from(file.is_some()))),
    }
}

impl Device for Block {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        let mut features = vec![
            VIRTIO_BLK_F_SEG_MAX,
            VIRTIO_BLK_F_BLK_SIZE,
            VIRTIO_BLK_F_TOPOLOGY,
            VIRTIO_BLK_F_FLUSH,
        ];
        if self.queue_sizes.len() > 1 {
            features.push(VIRTIO_BLK_F_MQ);
        }
        if self.disk.geometry().read_only {
            features.push(VIRTIO_BLK_F_RO);
        } else {
            features.extend([VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES]);
        }
        features.iter().fold(0, |all, feature| all | 1 << feature)
    }

    fn config(&self) -> SharedConfig {
        self.config.clone()
    }

    fn activate(self: Box<Self>, activation: Activation) -> ActivateResult {
        // A driver that does not know of several queues uses the first.
        match activation.queues.first() {
            Some(Some(_)) => Ok(Box::new(RunningBlock::new(*self, activation))),
            _ => Err((self, DeviceFault::QueueMissing(0))),
        }
    }
}

/// The id as the guest reads it: filled up with zeroes, which a full one has none of.
fn serial_number(id: &str) -> Option<[u8; ID_LENGTH as usize]> {
    let printable = id.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if id.is_empty() || !printable {
        return None;
    }
    let mut bytes = [0; ID_LENGTH as usize];
    bytes.get_mut(..id.len())?.copy_from_slice(id.as_bytes());
    Some(bytes)
}

/// The device configuration space, `struct virtio_blk_config` (virtio 1.3 §5.2.4).
#[derive(Debug, IntoBytes, zerocopy::Immutable)]
#[repr(C)]
struct Configuration {
    capacity: U64,
    size_max: U32,
    seg_max: U32,
    geometry: [u8; 4],
    blk_size: U32,
    physical_block_exp: u8,
    alignment_offset: u8,
    min_io_size: U16,
    opt_io_size: U32,
    writeback: u8,
    unused0: u8,
    num_queues: U16,
    max_discard_sectors: U32,
    max_discard_seg: U32,
    discard_sector_alignment: U32,
    max_write_zeroes_sectors: U32,
    max_write_zeroes_seg: U32,
    write_zeroes_may_unmap: u8,
    unused1: [u8; 3],
}

fn configuration(disk: &Disk, queues: u8) -> Vec<u8> {
    let (geometry, topology) = (disk.geometry(), disk.topology());
    let block = geometry.block_size;
    let exponent = (topology.physical_block / block).max(1).ilog2();
    // These two are in logical blocks.
    let least = topology.preferred.least.max(topology.physical_block) / block;
    let best = topology.preferred.best / block;
    let configuration = Configuration {
        capacity: (geometry.bytes / SECTOR).into(),
        size_max: 0.into(),
        seg_max: SEGMENTS.into(),
        geometry: [0; 4],
        blk_size: block.into(),
        physical_block_exp: u8::try_from(exponent).unwrap_or(0),
        alignment_offset: 0,
        min_io_size: u16::try_from(least).unwrap_or(u16::MAX).into(),
        opt_io_size: best.into(),
        writeback: 0,
        unused0: 0,
        num_queues: u16::from(queues).into(),
        max_discard_sectors: MAX_DISCARD_SECTORS.into(),
        max_discard_seg: MAX_DISCARD_RANGES.into(),
        discard_sector_alignment: (topology.physical_block / SECTOR as u32).into(),
        max_write_zeroes_sectors: MAX_ZERO_SECTORS.into(),
        max_write_zeroes_seg: MAX_ZERO_RANGES.into(),
        write_zeroes_may_unmap: 1,
        unused1: [0; 3],
    };
    configuration.as_bytes().to_vec()
}

#[cfg(test)]
#[path = "block_test.rs"]
mod tests;
