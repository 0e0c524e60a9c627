//! Requests in any order, right ones and wrong ones, against a model that is only a set of numbers.

use std::collections::BTreeSet;

use super::{
    ACK, BLOCK, Backing, Bench, ERROR, MIXED, NACK, PLUG, REGION, SLOT, START, STATE, UNPLUG,
    UNPLUG_ALL, UNPLUGGED,
};

const BLOCKS: u64 = REGION / BLOCK;
const IN_SLOT: u64 = SLOT / BLOCK;

/// What the device should know.
#[derive(Default)]
struct Model {
    plugged: BTreeSet<u64>,
    requested: u64,
    usable: u64,
}

impl Model {
    fn set_requested(&mut self, blocks: u64) {
        self.requested = blocks;
        self.usable = self.usable.max(blocks.next_multiple_of(IN_SLOT));
    }

    fn answer(&mut self, kind: u16, first: i64, count: u16, shift: u64) -> (u16, u16) {
        if kind == UNPLUG_ALL {
            self.plugged.clear();
            self.usable = self.requested.next_multiple_of(IN_SLOT);
            return ACK;
        }
        let end = first + i64::from(count);
        if shift != 0 || count == 0 || first < 0 || end > i64::try_from(self.usable).unwrap() {
            return ERROR;
        }
        let blocks: BTreeSet<u64> = (first.unsigned_abs()..end.unsigned_abs()).collect();
        let already = self.plugged.intersection(&blocks).count();
        let (all, none) = (already == blocks.len(), already == 0);
        match kind {
            PLUG if !none => ERROR,
            PLUG if (self.plugged.len() + blocks.len()) as u64 > self.requested => NACK,
            PLUG => {
                self.plugged.extend(blocks);
                ACK
            }
            UNPLUG if !all => ERROR,
            UNPLUG => {
                self.plugged.retain(|block| !blocks.contains(block));
                ACK
            }
            STATE if all => ACK,
            STATE if none => UNPLUGGED,
            STATE => MIXED,
            _ => ERROR,
        }
    }

    fn slots(&self) -> Vec<u32> {
        let slots: BTreeSet<u64> = self.plugged.iter().map(|block| block / IN_SLOT).collect();
        slots.into_iter().map(|slot| slot as u32).collect()
    }
}

/// Carries out what `bytes` say, four for each step, and compares the device with the model after
/// each. Every sequence of bytes means something: they may come from a generator or from a fuzzer.
pub(crate) fn play(mut bytes: impl Iterator<Item = u8>) {
    let mut bench = Bench::new(Backing::Private);
    let mut model = Model::default();
    while let (Some(what), Some(first), Some(count), Some(fault)) =
        (bytes.next(), bytes.next(), bytes.next(), bytes.next())
    {
        if what % 8 == 7 {
            let blocks = u64::from(first) % (BLOCKS + 1);
            bench.host.set_requested(blocks * BLOCK);
            model.set_requested(blocks);
        } else {
            // Every eighth address is beside a block; a few blocks lie outside the region; all are
            // unplugged seldom, so that something is plugged most of the time.
            let kind = match what % 8 {
                0..=2 => PLUG,
                3 | 4 => UNPLUG,
                5 => STATE,
                _ if fault < 64 => UNPLUG_ALL,
                _ => u16::from(fault),
            };
            let shift = if fault % 8 == 0 {
                u64::from(count) + 1
            } else {
                0
            };
            let first = i64::from(first % 140) - 4;
            let count = u16::from(count % 24);
            let address = START
                .wrapping_add_signed(first * i64::try_from(BLOCK).unwrap())
                .wrapping_add(shift);
            let expected = model.answer(kind, first, count, shift);
            let answer = bench.ask(kind, address, count);
            assert_eq!(answer, expected, "{kind} {first} {count} {shift}");
        }
        let plugged = model.plugged.len() as u64;
        assert_eq!(bench.sizes(), (model.usable, plugged, model.requested));
        assert_eq!(bench.slots(), model.slots());
    }
}

/// A reproducible stream of bytes (splitmix64).
fn generator(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    })
    .flatten()
}

#[test]
fn any_sequence_of_requests_leaves_what_a_set_of_blocks_would() {
    for seed in 0..40 {
        play(generator(seed).take(4 * 300));
    }
}

#[test]
fn a_region_filled_block_by_block_is_full() {
    let mut bench = Bench::new(Backing::Private);
    bench.host.set_requested(REGION);
    for block in 0..BLOCKS {
        assert_eq!(bench.ask_block(PLUG, block, 1), ACK);
    }
    assert_eq!(bench.ask_block(STATE, 0, BLOCKS as u16), ACK);
    assert_eq!(bench.sizes(), (BLOCKS, BLOCKS, BLOCKS));
    for block in (0..BLOCKS).rev() {
        assert_eq!(bench.ask_block(UNPLUG, block, 1), ACK);
    }
    assert_eq!(bench.sizes(), (BLOCKS, 0, BLOCKS));
    assert!(bench.slots().is_empty());
}
