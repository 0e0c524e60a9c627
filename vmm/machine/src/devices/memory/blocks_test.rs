use super::{BLOCK, Blocks, IN_SLOT, Run, State};

const START: u64 = 4 << 30;
const SLOT: u64 = 128 << 20;
const ALL: u64 = 3 * SLOT;

fn blocks() -> Blocks {
    Blocks::new(START..START + ALL)
}

/// The run of `count` blocks from block `first` on.
fn run(first: u64, count: u16) -> Run {
    blocks().run(START + first * BLOCK, count, ALL).unwrap()
}

#[test]
fn a_run_is_one_or_more_whole_blocks_of_the_usable_region() {
    let blocks = blocks();
    let good = [
        (START, 1, ALL),
        (START + ALL - BLOCK, 1, ALL),
        (START, 192, ALL),
        (START + BLOCK, 63, SLOT),
        (START, 192, u64::MAX),
    ];
    for (address, count, usable) in good {
        let run = blocks.run(address, count, usable).unwrap();
        let end = address + u64::from(count) * BLOCK;
        assert_eq!(blocks.range(run), address..end);
    }
    let bad = [
        (START, 0, ALL),
        (START + 1, 1, ALL),
        (START + BLOCK / 2, 1, ALL),
        (START - BLOCK, 1, ALL),
        (START - BLOCK, 2, ALL),
        (0, 1, ALL),
        (START, 193, ALL),
        (START + ALL, 1, ALL),
        (START + ALL - BLOCK, 2, ALL),
        (START, 65, SLOT),
        (START + SLOT, 1, SLOT),
        (START, 1, 0),
        (START, 1, BLOCK - 1),
        (u64::MAX - BLOCK + 1, 1, ALL),
        (u64::MAX, u16::MAX, ALL),
    ];
    for (address, count, usable) in bad {
        assert_eq!(blocks.run(address, count, usable), None, "{address:#x}");
    }
}

#[test]
fn a_run_falls_apart_into_the_words_of_its_slots() {
    let parts = |run: Run| run.parts().collect::<Vec<_>>();
    assert_eq!(parts(run(0, 1)), [(0, 1)]);
    assert_eq!(parts(run(63, 1)), [(0, 1 << 63)]);
    assert_eq!(parts(run(0, 64)), [(0, u64::MAX)]);
    assert_eq!(parts(run(62, 4)), [(0, 3 << 62), (1, 3)]);
    assert_eq!(
        parts(run(1, 191)),
        [(0, u64::MAX - 1), (1, u64::MAX), (2, u64::MAX)]
    );
}

#[test]
fn the_state_of_a_run_is_that_of_its_blocks() {
    let mut blocks = blocks();
    blocks.plug(run(60, 8));
    for (first, count, state) in [
        (60, 8, State::Plugged),
        (63, 2, State::Plugged),
        (59, 1, State::Unplugged),
        (68, 1, State::Unplugged),
        (59, 2, State::Mixed),
        (67, 2, State::Mixed),
        (0, 192, State::Mixed),
        (68, 124, State::Unplugged),
    ] {
        assert_eq!(blocks.state(run(first, count)), state, "{first}");
    }
    blocks.unplug(run(64, 1));
    assert_eq!(blocks.state(run(60, 8)), State::Mixed);
    blocks.clear();
    assert_eq!(blocks.state(run(0, 192)), State::Unplugged);
}

#[test]
fn a_slot_is_in_use_as_long_as_a_block_of_it_is_plugged() {
    let mut blocks = blocks();
    let all = run(0, 192);
    let empty = |blocks: &Blocks| blocks.empty_slots(all).collect::<Vec<_>>();
    let used = |blocks: &Blocks| blocks.slots_in_use().collect::<Vec<_>>();
    assert_eq!((empty(&blocks), used(&blocks)), (vec![0, 1, 2], vec![]));
    let last = u16::try_from(IN_SLOT).unwrap();
    blocks.plug(run(IN_SLOT, last));
    assert_eq!((empty(&blocks), used(&blocks)), (vec![0, 2], vec![1]));
    blocks.unplug(run(IN_SLOT + 1, last - 1));
    assert_eq!(used(&blocks), [1]);
    blocks.unplug(run(IN_SLOT, 1));
    assert_eq!((empty(&blocks), used(&blocks)), (vec![0, 1, 2], vec![]));
    assert_eq!(blocks.empty_slots(run(70, 1)).collect::<Vec<_>>(), [1]);
}
