//! The devices a shim can put into a machine, at boot or while it runs.

use serde::{Deserialize, Serialize};

/// Longest id of a disk in bytes (virtio 1.3 §5.2.6.1).
pub const MAX_DISK_ID: usize = 20;
/// Longest tag of a file server in bytes (virtio 1.3 §5.11.4).
pub const MAX_TAG: usize = 36;
/// Most files of which one disk is made: as many layers as an image may have in the field (Docker and
/// containerd's snapshotters stop at 127), and one more.
pub const MAX_DISK_PARTS: usize = 128;
/// To what the beginnings of files on a disk are aligned, in bytes: a page, as in the page cache.
pub const PART_ALIGNMENT: u64 = 4096;
/// The unit in which disks are measured, in bytes (virtio 1.3 §5.2.4).
pub const SECTOR: u64 = 512;
/// Most queues of a disk and most queue pairs of a network interface.
pub const MAX_QUEUES: u8 = 8;

/// A device. Most are made of files of the host; those that are not, a machine has once at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DeviceConfig {
    /// A disk.
    Disk(DiskConfig),
    /// A network interface.
    Net(NetConfig),
    /// A directory, served by another process.
    FileServer(FileServerConfig),
    /// The balloon: through it the guest reports what it has freed, and gives back what it is asked
    /// for by [`Request::SetBalloon`](crate::Request::SetBalloon).
    Balloon,
    /// The memory device, for a machine with [`BootConfig::hotplug_memory_mib`](crate::BootConfig).
    /// Once it is there it stays: the guest's kernel may be running in what came by it.
    Memory,
    /// A source of random numbers beside those that the guest's kernel is booted with.
    Rng,
}

impl DeviceConfig {
    /// How many files come with it, in the order in which they are used.
    #[must_use]
    pub fn file_count(&self) -> usize {
        match self {
            Self::Disk(disk) => disk.parts.len().max(1),
            Self::FileServer(_) => 1,
            Self::Net(net) => usize::from(net.queue_pairs),
            Self::Balloon | Self::Memory | Self::Rng => 0,
        }
    }
}

/// A disk. Its file is a regular file or a block device that holds the raw contents; the format is
/// never guessed. It must be open for writing unless the disk is read-only.
///
/// A disk may also be made of several files ([`DiskConfig::parts`]), which the guest sees behind each
/// other: so the layers of an image take one place on the bus instead of one each. There is no
/// partition table on it. The agent is told where the files are, and tells its kernel (BLKPG); so the
/// kernel needs no parser for tables, which would also read those of every volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// What the guest reads as the serial number: 1 to [`MAX_DISK_ID`] printable ASCII characters.
    pub id: String,
    /// Refuse every write, whatever the driver thinks.
    pub read_only: bool,
    /// Go past the host's page cache; the file must then be opened with `O_DIRECT`.
    #[serde(default)]
    pub direct: bool,
    /// Number of queues, 1 to [`MAX_QUEUES`].
    pub queues: u8,
    /// Limits on all requests together.
    #[serde(default)]
    pub limits: Limits,
    /// Where each file is on the disk, from its beginning on, at most [`MAX_DISK_PARTS`]; what is
    /// between them cannot be read. Empty: one file is the whole disk. A disk of parts is read-only, of
    /// regular files, and not `direct`. See [`lay_out`].
    #[serde(default)]
    pub parts: Vec<DiskPart>,
}

/// Where a file is on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskPart {
    /// Where it begins, in bytes: a multiple of [`PART_ALIGNMENT`].
    pub offset: u64,
    /// How long it is, in bytes: a multiple of [`SECTOR`], 1 or more, and the size of the file.
    pub bytes: u64,
}

impl DiskPart {
    /// Where the next file may begin. At least one sector lies between two files: the guest's kernel
    /// puts requests for neighbouring sectors together, whatever partition they are for, and one that
    /// goes beyond a file is refused.
    #[must_use]
    pub fn next_offset(self) -> Option<u64> {
        let end = self.offset.checked_add(self.bytes)?;
        end.checked_add(SECTOR)?
            .checked_next_multiple_of(PART_ALIGNMENT)
    }
}

/// Lays files of these sizes out on a disk, one behind the other; `None` when they are larger than a
/// disk can be.
#[must_use]
pub fn lay_out(sizes: &[u64]) -> Option<Vec<DiskPart>> {
    let mut offset = 0;
    let mut parts = Vec::with_capacity(sizes.len());
    for &bytes in sizes {
        let part = DiskPart { offset, bytes };
        offset = part.next_offset()?;
        parts.push(part);
    }
    i64::try_from(offset).ok().map(|_| parts)
}

/// A network interface. Its files are the queues of one tap, each opened with `IFF_VNET_HDR`,
/// `IFF_NO_PI` and, when there are several, `IFF_MULTI_QUEUE`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetConfig {
    /// The guest's hardware address; not a multicast one.
    pub mac: [u8; 6],
    /// Largest packet without the Ethernet header, 68 to 65535; the driver decides without it.
    pub mtu: Option<u16>,
    /// Number of queue pairs, 1 to [`MAX_QUEUES`].
    pub queue_pairs: u8,
    /// Limits on what the guest receives.
    #[serde(default)]
    pub receive: Limits,
    /// Limits on what the guest sends.
    #[serde(default)]
    pub transmit: Limits,
}

/// A directory that a file server shows to the guest as a virtio-fs device. Its file is a connected
/// vhost-user socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileServerConfig {
    /// The mount tag the guest sees, 1 to [`MAX_TAG`] bytes without NUL.
    pub tag: String,
}

/// Rate limits; none unless set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of data.
    #[serde(default)]
    pub bytes: Option<Rate>,
    /// Requests of a disk, packets of a network interface.
    #[serde(default)]
    pub operations: Option<Rate>,
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// What is allowed in the long run, 1 or more per second.
    pub per_second: u64,
    /// What may be used at once after a pause, 1 or more.
    pub burst: u64,
}

#[cfg(test)]
#[path = "device_test.rs"]
mod tests;
