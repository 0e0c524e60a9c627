//! Rate limits, and what a disk may be made of.

use caisson_control::Rate;

use super::*;

fn limited(limits: Limits) -> DiskConfig {
    DiskConfig {
        limits,
        queues: 2,
        ..config()
    }
}

fn rate(per_second: u64, burst: u64) -> Option<Rate> {
    Some(Rate { per_second, burst })
}

#[test]
fn too_many_requests_wait_and_none_is_lost() {
    let limits = Limits {
        operations: rate(100, 3),
        bytes: None,
    };
    for engine in engines() {
        let mut bench = Bench::with(engine, &limited(limits), contents(SECTORS * 512), FLUSH);
        // The limit is one for all queues.
        let heads: Vec<(usize, u16)> = (0..20)
            .map(|n| {
                (
                    n as usize % 2,
                    bench.ask(n as usize % 2, n, (kind::IN, n), &[], 512),
                )
            })
            .collect();
        for (queue, head) in heads {
            assert_eq!(bench.answer(queue, head).unwrap(), 513);
        }
        let counters = bench.device().counters();
        assert_eq!(counters.requests, 20);
        assert!(counters.throttled > 0);
        for n in 0..20 {
            assert_eq!(
                bench.in_memory(ROOM + n * 0x1_0000, 512),
                bench.on_disk(n, 512)
            );
        }
    }
}

#[test]
fn a_limit_of_bytes_counts_reads_writes_and_zeroes() {
    let limits = Limits {
        operations: None,
        // Slow enough that what is owed is not paid for while a busy machine does something else.
        bytes: rate(1 << 14, 1024),
    };
    let mut range = 0u64.to_le_bytes().to_vec();
    range.extend(8u32.to_le_bytes());
    range.extend(0u32.to_le_bytes());
    for (what, given, room) in [
        (kind::IN, vec![], 4096),
        (kind::OUT, vec![0; 4096], 0),
        (kind::WRITE_ZEROES, range, 0),
    ] {
        let mut bench = Bench::with(plain, &limited(limits), contents(SECTORS * 512), FLUSH);
        let first = bench.ask(0, 0, (what, 0), &given, room);
        let second = bench.ask(0, 1, (kind::IN, 0), &[], 512);
        bench.device().on_queue(0).unwrap();
        // The first may pass, however large it is; the second has to wait until that is paid for.
        assert_eq!(bench.device().counters().requests, 1);
        assert_eq!(bench.device().counters().throttled, 1);
        bench.answer(0, first).unwrap();
        bench.answer(0, second).unwrap();
    }
}

#[test]
fn a_flush_costs_no_bytes() {
    let limits = Limits {
        operations: None,
        bytes: rate(1, 1),
    };
    let mut bench = Bench::with(plain, &limited(limits), contents(SECTORS * 512), FLUSH);
    for _ in 0..3 {
        bench.request((kind::FLUSH, 0), &[], 0);
        bench.request((kind::GET_ID, 0), &[], 20);
    }
    assert_eq!(bench.device().counters().throttled, 0);
}

#[test]
fn what_waits_for_the_limit_is_found_after_a_stop() {
    let limits = Limits {
        // As above.
        operations: rate(20, 1),
        bytes: None,
    };
    for engine in engines() {
        let mut bench = Bench::with(engine, &limited(limits), contents(SECTORS * 512), FLUSH);
        let heads: Vec<u16> = (0..5)
            .map(|n| bench.ask(0, n, (kind::IN, n), &[], 512))
            .collect();
        bench.device().on_queue(0).unwrap();
        let Stopped { device, positions } = bench.stop();
        bench.collect();
        // Whatever passed is answered, and the rest is still in the queue.
        assert_eq!(usize::from(positions[0].next_avail), bench.answers.len());
        assert!((1..5).contains(&bench.answers.len()));
        bench.activate(device, &positions);
        for driver in &bench.drivers {
            driver.kick.write(1).unwrap();
        }
        for head in heads {
            bench.answer(0, head).unwrap();
        }
        assert_eq!(bench.device().counters().requests, 5);
    }
}

#[test]
fn ids_and_numbers_of_queues_are_checked() {
    let make = |id: &str, queues| {
        let config = DiskConfig {
            id: id.to_owned(),
            queues,
            ..config()
        };
        Block::new(&config, vec![contents(512).into()])
    };
    for id in ["x", "exactly-20-bytes-id!", "with space"] {
        assert!(make(id, 8).is_ok(), "{id:?}");
    }
    for id in ["", "21-bytes-are-too-long", "näh", "line\n"] {
        assert!(matches!(make(id, 1), Err(BlockError::Id)), "{id:?}");
    }
    for queues in [0, 9] {
        assert!(matches!(make("x", queues), Err(BlockError::Queues(n)) if n == queues));
    }
}

#[test]
fn a_full_id_is_read_without_an_end() {
    let config = DiskConfig {
        id: "exactly-20-bytes-id!".to_owned(),
        ..config()
    };
    let mut bench = Bench::with(plain, &config, contents(512), FLUSH);
    bench.request((kind::GET_ID, 0), &[], 20);
    assert_eq!(bench.in_memory(ROOM, 20), b"exactly-20-bytes-id!");
}

#[test]
fn features_and_configuration_tell_what_the_disk_is() {
    let make = |read_only, queues| {
        let config = DiskConfig {
            read_only,
            queues,
            ..config()
        };
        Block::new(&config, vec![contents(SECTORS * 512).into()]).unwrap()
    };
    let (seg_max, ro, blk_size, flush) = (1 << 2, 1 << 5, 1 << 6, 1 << 9);
    let (topology, mq, discard, zeroes) = (1 << 10, 1 << 12, 1 << 13, 1 << 14);
    let always = seg_max | blk_size | flush | topology;
    assert_eq!(make(false, 1).features(), always | discard | zeroes);
    assert_eq!(make(true, 1).features(), always | ro);
    assert_eq!(make(true, 4).features(), always | ro | mq);

    let config = make(false, 4).config();
    assert_eq!(config.length(), 60);
    let number = |offset, length| {
        let mut bytes = [0; 8];
        config.read(offset, &mut bytes[..length]);
        u64::from_le_bytes(bytes)
    };
    assert_eq!(number(0, 8), SECTORS);
    assert_eq!(number(12, 4), 254);
    assert_eq!(number(20, 4), 512);
    // Blocks of this size are 2^exponent sectors, and the smallest that do without a penalty.
    let block = contents(512)
        .metadata()
        .map(|m| std::os::unix::fs::MetadataExt::blksize(&m));
    let block = block.unwrap().clamp(512, 65536);
    assert_eq!(512 << number(24, 1), block);
    assert_eq!(number(26, 2) * 512, block);
    assert_eq!(number(34, 2), 4);
    assert_eq!(number(36, 4), 1 << 21);
    assert_eq!(number(40, 4), 16);
    assert_eq!(number(44, 4) * 512, block);
    assert_eq!(number(48, 4), 1 << 15);
    assert_eq!(number(52, 4), 1);
    assert_eq!(number(56, 1), 1);
}

#[test]
fn a_driver_without_a_first_queue_is_at_fault() {
    let device = Block::new(&config(), vec![contents(512).into()]).unwrap();
    let memory = guest_ram();
    let result = Box::new(device).activate(activation(0, &memory, vec![None]));
    assert!(matches!(result, Err((_, DeviceFault::QueueMissing(0)))));
}
