//! A request on its way: which call comes next, and what the driver is told at the end.

use std::io;

use super::disk::{Disk, Extent};
use super::engine::{Call, Clearing};
use super::request::{Request, Status};
use super::vectors::{Durability, Vectors};
use crate::virtio::chain::Chain;
use crate::virtio::queue::QueueError;

/// What happens next.
pub(super) enum Step {
    /// This call has to be made.
    Call(Call),
    /// The request is done.
    Done(Status),
}

/// A request whose calls are made one after the other.
pub(super) struct Task {
    chain: Chain,
    plan: Plan,
    /// Whether the driver takes a write for stable as soon as it is done.
    durability: Durability,
    /// Bytes of the data that were read or written.
    transferred: u32,
}

enum Plan {
    Read,
    Write,
    Flush,
    /// Discards, or zeroes: the current extent and those that follow.
    Clear {
        how: Clearing,
        must_be_zero: bool,
        current: Extent,
        rest: std::vec::IntoIter<Extent>,
    },
    /// The data is written, but not yet stable.
    Settle,
}

impl Task {
    /// Begins with a request other than [`Request::Identify`].
    ///
    /// # Errors
    /// Fails when the chain is shorter than the request, which parsing has excluded.
    pub(super) fn new(
        chain: Chain,
        request: Request,
        durability: Durability,
    ) -> Result<(Self, Step), QueueError> {
        let (plan, step) = match request {
            Request::Read(extent) => {
                let mut writer = chain.writer();
                let room = writer.left().saturating_sub(1);
                let into = Vectors::to_fill(&mut writer, room)?;
                let offset = extent.offset;
                (Plan::Read, transfer(Call::Read { offset, into }))
            }
            Request::Write(extent) => {
                let mut reader = chain.reader();
                let count = usize::try_from(extent.length).unwrap_or(usize::MAX);
                reader.skip(reader.left().saturating_sub(count))?;
                let call = Call::Write {
                    offset: extent.offset,
                    from: Vectors::to_read(&mut reader, count)?,
                    durability,
                };
                (Plan::Write, transfer(call))
            }
            Request::Flush => (Plan::Flush, Step::Call(Call::Sync)),
            Request::Discard(extents) => clear(Clearing::Punch, false, extents),
            Request::Zero { extents, unmap } => {
                let how = match unmap {
                    true => Clearing::Punch,
                    false => Clearing::Zero,
                };
                clear(how, true, extents)
            }
            Request::Identify => (Plan::Flush, Step::Done(Status::Unsupported)),
        };
        let task = Self {
            chain,
            plan,
            durability,
            transferred: 0,
        };
        Ok((task, step))
    }

    /// Goes on after a call.
    pub(super) fn advance(&mut self, disk: &Disk, call: Call, result: io::Result<usize>) -> Step {
        match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Step::Call(call),
            Err(error) => self.failed(disk, &call, &error),
            Ok(count) => self.succeeded(call, count),
        }
    }

    /// Bytes of data that the driver gets back.
    pub(super) fn bytes_to_guest(&self) -> u32 {
        match self.plan {
            Plan::Read => self.transferred,
            _ => 0,
        }
    }

    /// Bytes of data that the driver gave.
    pub(super) fn bytes_from_guest(&self) -> u32 {
        match self.plan {
            Plan::Write => self.transferred,
            _ => 0,
        }
    }

    /// Gives the chain back.
    pub(super) fn into_chain(self) -> Chain {
        self.chain
    }

    fn succeeded(&mut self, call: Call, count: usize) -> Step {
        match call {
            Call::Read { offset, mut into } => {
                let Some(offset) = self.moved(offset, &mut into, count) else {
                    return Step::Done(Status::IoError);
                };
                transfer(Call::Read { offset, into })
            }
            Call::Write {
                offset,
                mut from,
                durability,
            } => {
                let Some(offset) = self.moved(offset, &mut from, count) else {
                    return Step::Done(Status::IoError);
                };
                match &self.plan {
                    Plan::Clear { current, .. } if from.len() == 0 => {
                        let end = current.offset.saturating_add(current.length);
                        self.zeroes(offset, end)
                    }
                    _ => transfer(Call::Write {
                        offset,
                        from,
                        durability,
                    }),
                }
            }
            Call::Clear(..) => self.next_extent(),
            Call::Sync => Step::Done(Status::Ok),
        }
    }

    /// `count` bytes were moved: the offset of those that follow. Nothing moved means that the file
    /// has become shorter than the disk is.
    fn moved(&mut self, offset: u64, vectors: &mut Vectors, count: usize) -> Option<u64> {
        let count = count.min(vectors.len());
        if count == 0 {
            return None;
        }
        vectors.advance(count);
        let moved = u32::try_from(count).unwrap_or(u32::MAX);
        self.transferred = self.transferred.saturating_add(moved);
        offset.checked_add(u64::from(moved))
    }

    fn failed(&mut self, disk: &Disk, call: &Call, error: &io::Error) -> Step {
        // Not every file system and device can do both (EOPNOTSUPP).
        let cannot = error.raw_os_error() == Some(libc::EOPNOTSUPP);
        match (&self.plan, call) {
            (Plan::Clear { must_be_zero, .. }, Call::Clear(_, extent)) if cannot => {
                if *must_be_zero {
                    return self.zeroes(extent.offset, extent.offset.saturating_add(extent.length));
                }
                match disk.forget(*extent) {
                    Ok(()) => self.next_extent(),
                    Err(_) => Step::Done(Status::IoError),
                }
            }
            _ => Step::Done(Status::IoError),
        }
    }

    /// Writes zeroes from `offset` to `end`, as many as one call takes.
    fn zeroes(&mut self, offset: u64, end: u64) -> Step {
        match end.saturating_sub(offset) {
            0 => self.next_extent(),
            left => Step::Call(Call::Write {
                offset,
                from: Vectors::zeroes(left),
                durability: self.durability,
            }),
        }
    }

    fn next_extent(&mut self) -> Step {
        let Plan::Clear {
            how, current, rest, ..
        } = &mut self.plan
        else {
            return Step::Done(Status::Ok);
        };
        if let Some(extent) = rest.next() {
            *current = extent;
            return Step::Call(Call::Clear(*how, extent));
        }
        match self.durability {
            Durability::Volatile => Step::Done(Status::Ok),
            Durability::Stable => {
                self.plan = Plan::Settle;
                Step::Call(Call::Sync)
            }
        }
    }
}

/// The call, unless there is nothing left to transfer.
fn transfer(call: Call) -> Step {
    match &call {
        Call::Read { into: vectors, .. } | Call::Write { from: vectors, .. }
            if vectors.len() == 0 =>
        {
            Step::Done(Status::Ok)
        }
        _ => Step::Call(call),
    }
}

fn clear(how: Clearing, must_be_zero: bool, extents: Vec<Extent>) -> (Plan, Step) {
    let mut rest = extents.into_iter();
    match rest.next() {
        Some(current) => (
            Plan::Clear {
                how,
                must_be_zero,
                current,
                rest,
            },
            Step::Call(Call::Clear(how, current)),
        ),
        None => (Plan::Settle, Step::Done(Status::Ok)),
    }
}
