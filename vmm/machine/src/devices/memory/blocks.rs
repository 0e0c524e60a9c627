//! Which blocks of the hot-plug region are plugged.

use std::ops::Range;

use crate::memory::HOTPLUG_SLOT;

/// Bytes of a block, the least that can be plugged: a huge page, so that giving blocks back never
/// splits one.
pub(crate) const BLOCK: u64 = 2 << 20;

/// Blocks of a slot: one word of bits.
const IN_SLOT: u64 = HOTPLUG_SLOT / BLOCK;
const _: () = assert!(IN_SLOT == u64::BITS as u64, "a slot is a word");

/// Blocks next to each other, known to lie in the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    first: u64,
    count: u64,
}

/// What the blocks of a run are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// All plugged.
    Plugged,
    /// None plugged.
    Unplugged,
    /// Some plugged.
    Mixed,
}

/// All blocks, in words of one slot each.
#[derive(Debug)]
pub(super) struct Blocks {
    region: Range<u64>,
    plugged: Vec<u64>,
}

impl Blocks {
    /// A region of whole slots with nothing plugged.
    pub(super) fn new(region: Range<u64>) -> Self {
        let slots = region.end.saturating_sub(region.start) / HOTPLUG_SLOT;
        let slots = usize::try_from(slots).unwrap_or(0);
        Self {
            region,
            plugged: vec![0; slots],
        }
    }

    /// The `count` blocks from guest address `address` on; `None` if there are none, or they are
    /// not all within the first `usable` bytes of the region.
    pub(super) fn run(&self, address: u64, count: u16, usable: u64) -> Option<Run> {
        let offset = address.checked_sub(self.region.start)?;
        let run = Run {
            first: offset / BLOCK,
            count: count.into(),
        };
        let limit = usable.min(self.region.end - self.region.start) / BLOCK;
        let inside = run.first <= limit && run.count <= limit - run.first;
        (count > 0 && offset.is_multiple_of(BLOCK) && inside).then_some(run)
    }

    /// The guest addresses of a run.
    pub(super) fn range(&self, run: Run) -> Range<u64> {
        let start = self.region.start + run.first * BLOCK;
        start..start + run.bytes()
    }

    /// What the blocks of a run are.
    pub(super) fn state(&self, run: Run) -> State {
        let (mut all, mut none) = (true, true);
        for (slot, mask) in run.parts() {
            let plugged = self.word(slot) & mask;
            all &= plugged == mask;
            none &= plugged == 0;
        }
        match (all, none) {
            (true, _) => State::Plugged,
            (_, true) => State::Unplugged,
            _ => State::Mixed,
        }
    }

    /// The slots of a run in which nothing is plugged.
    pub(super) fn empty_slots(&self, run: Run) -> impl Iterator<Item = u32> {
        run.parts()
            .map(|(slot, _)| slot)
            .filter(|slot| self.word(*slot) == 0)
    }

    /// The slots in which something is plugged.
    pub(super) fn slots_in_use(&self) -> impl Iterator<Item = u32> {
        (0..)
            .zip(&self.plugged)
            .filter(|(_, word)| **word != 0)
            .map(|(slot, _)| slot)
    }

    /// Plugs the blocks of a run.
    pub(super) fn plug(&mut self, run: Run) {
        self.change(run, |word, mask| word | mask);
    }

    /// Unplugs the blocks of a run.
    pub(super) fn unplug(&mut self, run: Run) {
        self.change(run, |word, mask| word & !mask);
    }

    /// Unplugs all.
    pub(super) fn clear(&mut self) {
        self.plugged.fill(0);
    }

    fn word(&self, slot: u32) -> u64 {
        self.plugged.get(slot as usize).copied().unwrap_or(0)
    }

    fn change(&mut self, run: Run, to: impl Fn(u64, u64) -> u64) {
        for (slot, mask) in run.parts() {
            if let Some(word) = self.plugged.get_mut(slot as usize) {
                *word = to(*word, mask);
            }
        }
    }
}

impl Run {
    /// Its length.
    pub(super) fn bytes(self) -> u64 {
        self.count * BLOCK
    }

    /// The slots it touches, with the bits of its blocks in each.
    fn parts(self) -> impl Iterator<Item = (u32, u64)> {
        let last = self.first + self.count.saturating_sub(1);
        (self.first / IN_SLOT..=last / IN_SLOT).map(move |slot| {
            let begin = slot * IN_SLOT;
            let from = self.first.max(begin) - begin;
            let to = last.min(begin + IN_SLOT - 1) - begin;
            let mask = (u64::MAX << from) & (u64::MAX >> (IN_SLOT - 1 - to));
            (u32::try_from(slot).unwrap_or(u32::MAX), mask)
        })
    }
}

#[cfg(test)]
#[path = "blocks_test.rs"]
mod tests;
