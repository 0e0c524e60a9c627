//! How calls reach the disk: an engine takes them one by one and gives them back when they are
//! done, in any order.

pub(super) mod plain;
pub(super) mod ring;

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use rustix::fs::FallocateFlags;

use self::plain::Plain;
use self::ring::Ring;
use super::disk::{Disk, Extent};
use super::vectors::{Durability, Vectors};

/// Most calls that are with an engine at a time.
pub(super) const CAPACITY: usize = 128;

/// Most bytes of data that are asked for, or copied on the io thread itself, in one of its turns;
/// then the other devices have theirs. Data in the page cache is copied at some 10 GB/s.
pub(super) const TURN_BYTES: usize = 4 << 20;

/// One call to the kernel. It belongs to the engine until it is done, and with it the list of
/// buffers.
pub(super) enum Call {
    /// Read from `offset` on.
    Read {
        /// Where on the disk, in bytes.
        offset: u64,
        /// Where to.
        into: Vectors,
    },
    /// Write from `offset` on.
    Write {
        /// Where on the disk, in bytes.
        offset: u64,
        /// Where from.
        from: Vectors,
        /// Whether it has to be on the medium afterwards.
        durability: Durability,
    },
    /// Bring everything written before onto the medium.
    Sync,
    /// Make zeroes, or holes, without writing.
    Clear(Clearing, Extent),
}

impl Call {
    /// What of the disk it is about. Bringing to the medium what was written is about the disk as a whole,
    /// which is one file then: several are not written to.
    pub(super) fn extent(&self) -> Extent {
        let (offset, length) = match self {
            Self::Read { offset, into } => (*offset, into.len()),
            Self::Write { offset, from, .. } => (*offset, from.len()),
            Self::Clear(_, extent) => return *extent,
            Self::Sync => (0, 0),
        };
        Extent {
            offset,
            length: length as u64,
        }
    }
}

/// How to make zeroes without writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clearing {
    /// Give the space back.
    Punch,
    /// Keep the space.
    Zero,
}

impl Clearing {
    /// The mode of fallocate(2), which block devices understand as well.
    fn mode(self) -> FallocateFlags {
        let how = match self {
            Self::Punch => FallocateFlags::PUNCH_HOLE,
            Self::Zero => FallocateFlags::ZERO_RANGE,
        };
        how | FallocateFlags::KEEP_SIZE
    }
}

/// By what a device knows its calls: the queue and the head of the chain. There is at most one call
/// for a chain at a time, and one chain with a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tag {
    /// Index of the queue.
    pub(super) queue: u16,
    /// Head of the chain.
    pub(super) head: u16,
}

/// A call that is done.
pub(super) struct Done {
    /// Which.
    pub(super) tag: Tag,
    /// The call.
    pub(super) call: Call,
    /// Bytes read or written; zero for other calls.
    pub(super) result: io::Result<usize>,
}

/// Makes calls. The device keeps the number of those that are not done at [`CAPACITY`].
pub(super) trait Engine: Send {
    /// The io thread turns to the device. An engine that makes calls on that thread makes only so
    /// many before the next turn, [`TURN_BYTES`] of them.
    fn turn(&mut self) {}
    /// Whether there are calls that wait for the next turn.
    fn wants_turn(&self) -> bool {
        false
    }
    /// Takes a call; it need not begin before [`Engine::submit`].
    ///
    /// # Errors
    /// Fails when the engine cannot take it; nothing comes back for it then.
    fn start(&mut self, tag: Tag, call: Call) -> io::Result<()>;
    /// Begins what was taken, without waiting for it.
    ///
    /// # Errors
    /// Fails when the engine is of no use any more.
    fn submit(&mut self) -> io::Result<()>;
    /// Gives back a call that is done.
    fn take_done(&mut self) -> Option<Done>;
    /// Begins what was taken and waits until [`Engine::take_done`] gives something, if there is
    /// anything to wait for.
    ///
    /// # Errors
    /// Fails when the engine is of no use any more.
    fn wait(&mut self) -> io::Result<()>;
    /// A descriptor that can be read while calls are done, if they are not done at once.
    fn completions(&self) -> Option<RawFd>;
}

/// Makes an engine for a disk.
pub(super) type EngineMaker = fn(&Arc<Disk>) -> Box<dyn Engine>;

/// The best engine that this host allows. io_uring may be compiled out, forbidden by a filter
/// (ENOSYS, EPERM), by `kernel.io_uring_disabled`, or too old to be restricted.
pub(super) fn best(disk: &Arc<Disk>) -> Box<dyn Engine> {
    match Ring::new(disk) {
        Ok(ring) => Box::new(ring),
        Err(_) => Box::new(Plain::new(disk)),
    }
}
