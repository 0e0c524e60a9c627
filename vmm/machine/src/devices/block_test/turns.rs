//! How long the io thread is kept.

use super::*;
use crate::devices::block::engine::TURN_BYTES;

const MIB: u32 = 1 << 20;

/// A disk of 16 MiB, of which the last byte of each MiB says which it is.
fn large() -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(16 * u64::from(MIB)).unwrap();
    for at in 1..=16 {
        let last = u64::from(MIB) * at - 1;
        file.write_all_at(&[at as u8], last).unwrap();
    }
    file
}

/// Asks for so many MiB from the beginning on, all of them to the same MiB of guest memory.
fn ask_for(bench: &mut Bench, mebibytes: usize) -> u16 {
    let header = [u64::from(kind::IN).to_le_bytes(), [0; 8]].concat();
    bench.drivers[0].write(HEADER + 32, &header);
    let mut buffers = vec![(HEADER + 32, 16, false)];
    buffers.extend(vec![(ROOM, MIB, true); mebibytes]);
    buffers.push((STATUS + 2, 1, true));
    bench.add(0, &buffers)
}

#[test]
fn a_huge_request_leaves_turns_to_others() {
    let mut bench = Bench::with(plain, &config(), large(), FLUSH);
    let huge = ask_for(&mut bench, 16);
    let small = bench.ask(0, 0, (kind::FLUSH, 0), &[], 0);
    // The huge one is more than is taken in a turn, so the small one is taken in the second.
    for _ in 0..2 {
        bench.turn().unwrap();
    }
    bench.collect();
    let heads: Vec<u16> = bench.answers.keys().map(|(_, head)| *head).collect();
    assert_eq!(heads, [small]);

    let mut turns = 0;
    while !bench.answers.contains_key(&(0, huge)) {
        bench.turn().unwrap();
        bench.collect();
        turns += 1;
    }
    assert_eq!(turns, 16 * MIB as usize / TURN_BYTES - 2);
    assert_eq!(bench.answers[&(0, huge)], 16 * MIB + 1);
    assert_eq!(bench.status(2), 0);
    assert_eq!(bench.in_memory(ROOM + u64::from(MIB) - 1, 1), [16]);
}

#[test]
fn a_huge_request_is_ended_by_a_stop() {
    let mut bench = Bench::with(plain, &config(), large(), FLUSH);
    let huge = ask_for(&mut bench, 16);
    bench.turn().unwrap();
    bench.stop();
    bench.collect();
    assert_eq!(bench.answers[&(0, huge)], 16 * MIB + 1);
}
