//! The asynchronous engine: io_uring.
//!
//! What the ring does passes by every system call filter, so the ring is restricted for good before
//! it is enabled: the files of the disk, registered beforehand, and the few operations a disk needs.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use io_uring::register::Restriction;
use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{IoUring, opcode, squeue};

use crate::devices::block::disk::Disk;
use crate::devices::block::engine::{CAPACITY, Call, Done, Engine, Tag};

/// `IOSQE_FIXED_FILE` and `IOSQE_ASYNC`.
const FIXED_FILE: u8 = squeue::Flags::FIXED_FILE.bits();
const ASYNC: u8 = squeue::Flags::ASYNC.bits();

/// A transfer beyond this is handed to a worker of the kernel, because copying it from or to the
/// page cache would keep the thread for long: a MiB takes some 100 µs.
const INLINE_BYTES: usize = 1 << 20;

/// Most workers that the kernel starts for calls that block. They count as threads of the process.
const WORKERS: u32 = 8;

/// The engine. Its file is readable while completions wait in the ring, as that of every io_uring,
/// so that no event descriptor is needed.
pub(in crate::devices::block) struct Ring {
    ring: IoUring,
    /// The calls that the kernel has, and their lists of buffers.
    calls: ManuallyDrop<BTreeMap<Tag, Call>>,
    /// Keeps the registered files open, which are numbered in their order.
    disk: Arc<Disk>,
}

impl Ring {
    /// A restricted ring for `disk`.
    ///
    /// # Errors
    /// Fails where the kernel has no io_uring, forbids it or cannot restrict it.
    pub(in crate::devices::block) fn new(disk: &Arc<Disk>) -> io::Result<Self> {
        let entries = u32::try_from(CAPACITY).map_err(io::Error::other)?;
        let ring = IoUring::builder()
            .dontfork()
            .setup_r_disabled()
            .build(entries)?;
        let submitter = ring.submitter();
        let files: Vec<RawFd> = disk.files().iter().map(AsRawFd::as_raw_fd).collect();
        submitter.register_files(&files)?;
        // Kernels before 5.15 do not know this; they use more workers.
        let _ = submitter.register_iowq_max_workers(&mut [WORKERS, WORKERS]);
        let mut restrictions = [
            Restriction::sqe_op(opcode::Readv::CODE),
            Restriction::sqe_op(opcode::Writev::CODE),
            Restriction::sqe_op(opcode::Fsync::CODE),
            Restriction::sqe_op(opcode::Fallocate::CODE),
            Restriction::sqe_flags_allowed(FIXED_FILE | ASYNC),
            Restriction::sqe_flags_required(FIXED_FILE),
        ];
        submitter.register_restrictions(&mut restrictions)?;
        submitter.register_enable_rings()?;
        Ok(Self {
            ring,
            calls: ManuallyDrop::new(BTreeMap::new()),
            disk: Arc::clone(disk),
        })
    }
}

impl Engine for Ring {
    fn start(&mut self, tag: Tag, call: Call) -> io::Result<()> {
        if self.calls.contains_key(&tag) {
            return Err(io::Error::other("two calls for one chain"));
        }
        let entry = entry(&self.disk, &call)?.user_data(number(tag));
        self.calls.insert(tag, call);
        // SAFETY: what the entry points to is a list owned by `calls` from here until the call is
        // done; its buffers are guest memory or constants, which are always mapped.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(|_| {
            self.calls.remove(&tag);
            io::Error::other("the submission queue is full")
        })
    }

    fn submit(&mut self) -> io::Result<()> {
        while !self.ring.submission().is_empty() {
            retry(|| self.ring.submit())?;
        }
        Ok(())
    }

    fn take_done(&mut self) -> Option<Done> {
        loop {
            let entry = self.ring.completion().next()?;
            let tag = tag(entry.user_data());
            // The kernel only gives back what it was given.
            let Some(call) = self.calls.remove(&tag) else {
                continue;
            };
            let result = entry.result();
            let result = usize::try_from(result)
                .map_err(|_| io::Error::from_raw_os_error(result.wrapping_neg()));
            return Some(Done { tag, call, result });
        }
    }

    fn wait(&mut self) -> io::Result<()> {
        while !self.calls.is_empty() && self.ring.completion().is_empty() {
            retry(|| self.ring.submit_and_wait(1))?;
        }
        Ok(())
    }

    fn completions(&self) -> Option<RawFd> {
        Some(self.ring.as_raw_fd())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel goes on with what it has even when the ring is closed: what it may still look
        // at is never freed.
        if self.calls.is_empty() {
            // SAFETY: dropped once, here, and not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.calls) };
        }
    }
}

/// Calls again what a signal interrupted.
fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<()> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map(|_| ()),
        }
    }
}

/// # Errors
/// Fails for what is in none of the files of the disk.
fn entry(disk: &Disk, call: &Call) -> io::Result<squeue::Entry> {
    let place = disk.files().place(call.extent())?;
    let file = Fixed(u32::try_from(place.index).map_err(io::Error::other)?);
    let at = place.offset;
    let mut flags = squeue::Flags::empty();
    let entry = match call {
        Call::Read { into, .. } => {
            let (list, count) = into.raw();
            flags.set(squeue::Flags::ASYNC, into.len() > INLINE_BYTES);
            opcode::Readv::new(file, list, count).offset(at).build()
        }
        Call::Write {
            from, durability, ..
        } => {
            let (list, count) = from.raw();
            flags.set(squeue::Flags::ASYNC, from.len() > INLINE_BYTES);
            opcode::Writev::new(file, list, count)
                .offset(at)
                .rw_flags(durability.flags())
                .build()
        }
        Call::Sync => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
        Call::Clear(clearing, extent) => opcode::Fallocate::new(file, extent.length)
            .offset(at)
            .mode(clearing.mode().bits().cast_signed())
            .build(),
    };
    // `Fixed` has set FIXED_FILE, which `flags` adds to.
    Ok(entry.flags(flags))
}

fn number(tag: Tag) -> u64 {
    u64::from(tag.queue) << 16 | u64::from(tag.head)
}

fn tag(number: u64) -> Tag {
    Tag {
        queue: (number >> 16 & 0xffff) as u16,
        head: (number & 0xffff) as u16,
    }
}

#[cfg(test)]
#[path = "ring_test.rs"]
mod tests;
