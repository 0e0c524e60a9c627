//! The plain engine: every call is made on the thread that asks for it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use crate::devices::block::disk::Disk;
use crate::devices::block::engine::{Call, Done, Engine, TURN_BYTES, Tag};
use crate::devices::block::vectors;

/// Most bytes of one call. The rest of a longer one comes as another call behind those that wait,
/// so that a request of 4 GiB, which a driver may ask for, keeps neither the thread nor the other
/// requests waiting.
const PIECE: usize = 1 << 20;

/// The engine.
pub(in crate::devices::block) struct Plain {
    disk: Arc<Disk>,
    waiting: VecDeque<(Tag, Call)>,
    /// Bytes that may still be copied in this turn.
    left: usize,
}

impl Plain {
    /// An engine for `disk`.
    pub(in crate::devices::block) fn new(disk: &Arc<Disk>) -> Self {
        Self {
            disk: Arc::clone(disk),
            waiting: VecDeque::new(),
            left: TURN_BYTES,
        }
    }

    /// Makes a call, or the beginning of it.
    fn make(&self, call: &Call) -> io::Result<usize> {
        let place = self.disk.files().place(call.extent())?;
        let (file, at) = (place.file, place.offset);
        match call {
            Call::Read { into, .. } => vectors::read(file, &into.front(PIECE), at),
            Call::Write {
                from, durability, ..
            } => vectors::write(file, &from.front(PIECE), at, *durability),
            Call::Sync => file.sync_data().map(|()| 0),
            Call::Clear(clearing, extent) => {
                rustix::fs::fallocate(file, clearing.mode(), at, extent.length)?;
                Ok(0)
            }
        }
    }
}

impl Engine for Plain {
    fn turn(&mut self) {
        self.left = TURN_BYTES;
    }

    fn wants_turn(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn start(&mut self, tag: Tag, call: Call) -> io::Result<()> {
        self.waiting.push_back((tag, call));
        Ok(())
    }

    fn submit(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn take_done(&mut self) -> Option<Done> {
        if self.left == 0 {
            return None;
        }
        let (tag, call) = self.waiting.pop_front()?;
        let result = self.make(&call);
        // A call without data counts as well: there may be any number of them.
        let bytes = result.as_ref().map_or(1, |bytes| (*bytes).max(1));
        self.left = self.left.saturating_sub(bytes);
        Some(Done { tag, call, result })
    }

    fn wait(&mut self) -> io::Result<()> {
        self.turn();
        Ok(())
    }

    fn completions(&self) -> Option<RawFd> {
        None
    }
}
