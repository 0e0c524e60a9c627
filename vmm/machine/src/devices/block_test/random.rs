//! Requests of every kind, right and with one fault, against a model of the disk.

use super::*;
use crate::devices::block::sample::{Dice, Expected, Sample};

const ROUNDS: u64 = 600;
const SECTORS: u64 = 200;

#[test]
fn every_request_has_the_outcome_that_the_specification_wants() {
    for engine in engines() {
        for (seed, read_only) in [(1, false), (2, false), (3, true)] {
            run(engine, seed, read_only);
        }
    }
}

fn run(engine: EngineMaker, seed: u64, read_only: bool) {
    let config = DiskConfig {
        read_only,
        ..config()
    };
    let mut dice = Dice::new(seed);
    let mut bench = Bench::with(engine, &config, contents(SECTORS * 512), FLUSH);
    let mut model = bench.on_disk(0, (SECTORS * 512) as usize);
    for round in 0..ROUNDS {
        let sample = Sample::new(&mut dice, SECTORS, read_only);
        for (address, bytes) in &sample.contents {
            bench.drivers[0].write(*address, bytes);
        }
        let context = format!("seed {seed}, round {round}: {:?}", sample.buffers);
        let head = bench.add(0, &sample.buffers);
        let answer = bench.answer(0, head);
        if sample.expected == Expected::Fault {
            assert!(answer.is_err(), "{context}");
            bench.stop();
            let file = bench.file.try_clone().unwrap();
            bench = Bench::with(engine, &config, file, FLUSH);
            continue;
        }
        let filled = writable(&bench, &sample.buffers);
        let (status, data) = filled.split_last().unwrap();
        let mut length = 1;
        let mut wanted = 0;
        match sample.expected {
            Expected::Fault => unreachable!(),
            Expected::Refused(status) => {
                wanted = status;
                length = if data.is_empty() { 1 } else { 0 };
            }
            Expected::Read(offset, count) => {
                length = count + 1;
                let offset = offset as usize;
                assert!(data == &model[offset..offset + count], "{context}");
            }
            Expected::Write(offset, bytes) => {
                model[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
            }
            Expected::Flushed => {}
            Expected::Identified => {
                length = 21;
                assert_eq!(data, b"disk-of-a-test\0\0\0\0\0\0", "{context}");
            }
            Expected::Discarded(ranges) => {
                for (offset, count) in ranges {
                    let now = bench.on_disk(offset / 512, count as usize);
                    let before = &mut model[offset as usize..][..count as usize];
                    assert!(
                        now == before || now.iter().all(|byte| *byte == 0),
                        "{context}"
                    );
                    before.copy_from_slice(&now);
                }
            }
            Expected::Zeroed(ranges) => {
                for (offset, count) in ranges {
                    model[offset as usize..][..count as usize].fill(0);
                }
            }
        }
        assert_eq!(*status, wanted, "{context}");
        assert_eq!(answer.unwrap() as usize, length, "{context}");
        if round % 16 == 0 {
            assert!(bench.on_disk(0, model.len()) == model, "{context}");
        }
    }
    assert!(bench.on_disk(0, model.len()) == model);
}

/// What the writable buffers hold.
fn writable(bench: &Bench, buffers: &[Buffer]) -> Vec<u8> {
    buffers
        .iter()
        .filter(|(_, _, writable)| *writable)
        .flat_map(|(address, length, _)| bench.in_memory(*address, *length as usize))
        .collect()
}
