//! The plain engine: every call is made at once, on the thread that asks for it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use crate::devices::block::disk::Disk;
use crate::devices::block::engine::{Call, Done, Engine, Tag};
use crate::devices::block::vectors;

/// The engine.
pub(in crate::devices::block) struct Plain {
    disk: Arc<Disk>,
    done: VecDeque<Done>,
}

impl Plain {
    /// An engine for `disk`.
    pub(in crate::devices::block) fn new(disk: &Arc<Disk>) -> Self {
        Self {
            disk: Arc::clone(disk),
            done: VecDeque::new(),
        }
    }

    /// Makes a call.
    fn make(&self, call: &Call) -> io::Result<usize> {
        let file = self.disk.file();
        match call {
            Call::Read { offset, into } => vectors::read(file, into, *offset),
            Call::Write {
                offset,
                from,
                durability,
            } => vectors::write(file, from, *offset, *durability),
            Call::Sync => file.sync_data().map(|()| 0),
            Call::Clear(clearing, extent) => {
                rustix::fs::fallocate(file, clearing.mode(), extent.offset, extent.length)?;
                Ok(0)
            }
        }
    }
}

impl Engine for Plain {
    fn start(&mut self, tag: Tag, call: Call) -> io::Result<()> {
        let result = self.make(&call);
        self.done.push_back(Done { tag, call, result });
        Ok(())
    }

    fn submit(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn take_done(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    fn wait(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn completions(&self) -> Option<RawFd> {
        None
    }
}
