//! What becomes of requests.

use super::test_engines::{clumsy, no_clearing, recorded, recorder, slow};
use super::*;

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}

#[test]
fn what_is_on_the_disk_is_read() {
    for engine in engines() {
        let mut bench = Bench::new(engine);
        assert_eq!(bench.request((kind::IN, 5), &[], 1536), (OK, 1537));
        assert_eq!(bench.in_memory(ROOM, 1536), bench.on_disk(5, 1536));
        assert_eq!(bench.in_memory(ROOM + 1536, 16), [0; 16]);
        assert_eq!(bench.drivers[0].interrupts(), 1);
        let counters = bench.device().counters();
        assert_eq!((counters.requests, counters.bytes_to_guest), (1, 1536));
        assert_eq!((counters.bytes_from_guest, counters.throttled), (0, 0));
    }
}

#[test]
fn what_is_written_is_on_the_disk_and_nothing_beside_it() {
    for engine in engines() {
        let mut bench = Bench::new(engine);
        let (before, after) = (bench.on_disk(9, 512), bench.on_disk(12, 512));
        let data: Vec<u8> = (0..1024).map(|at| (at * 3) as u8).collect();
        assert_eq!(bench.request((kind::OUT, 10), &data, 0), (OK, 1));
        assert_eq!(bench.on_disk(10, 1024), data);
        assert_eq!(bench.on_disk(9, 512), before);
        assert_eq!(bench.on_disk(12, 512), after);
        assert_eq!(bench.device().counters().bytes_from_guest, 1024);
    }
}

#[test]
fn a_large_transfer_reaches_the_disk_as_a_whole() {
    for engine in engines() {
        let size = 4 << 20;
        let mut bench = Bench::with(engine, &config(), contents(size), FLUSH);
        assert_eq!(bench.request((kind::IN, 0), &[], size as u32).0, OK);
        assert_eq!(
            bench.in_memory(ROOM, size as usize),
            bench.on_disk(0, size as usize)
        );
        let data: Vec<u8> = (0..size as u32).map(|at| (at / 3) as u8).collect();
        bench.drivers[0].write(ROOM, &data);
        let head = {
            bench.ask(0, 0, (kind::OUT, 0), &[], 0);
            bench.add(
                0,
                &[
                    (HEADER, 16, false),
                    (ROOM, size as u32, false),
                    (STATUS, 1, true),
                ],
            )
        };
        bench.answer(0, head).unwrap();
        assert_eq!(bench.on_disk(0, size as usize), data);
    }
}

#[test]
fn a_request_may_be_spread_over_buffers_in_any_way() {
    for engine in engines() {
        let mut bench = Bench::new(engine);
        let mut message = kind::OUT.to_le_bytes().to_vec();
        message.extend([0; 4]);
        message.extend(7u64.to_le_bytes());
        message.extend((0..512u32).map(|at| at as u8));
        bench.drivers[0].write(GIVEN, &message);
        let head = bench.add(
            0,
            &[
                (GIVEN, 3, false),
                (GIVEN + 3, 0, false),
                (GIVEN + 3, 40, false),
                (GIVEN + 43, 485, false),
                (STATUS, 1, true),
            ],
        );
        assert_eq!(bench.answer(0, head).unwrap(), 1);
        assert_eq!(bench.on_disk(7, 512), &message[16..]);

        let mut header = kind::IN.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(7u64.to_le_bytes());
        bench.drivers[0].write(HEADER, &header);
        // The status shares a buffer with the end of the data.
        let head = bench.add(
            0,
            &[
                (HEADER, 16, false),
                (ROOM, 500, true),
                (ROOM + 0x1000, 13, true),
            ],
        );
        assert_eq!(bench.answer(0, head).unwrap(), 513);
        assert_eq!(bench.in_memory(ROOM, 500), &message[16..516]);
        assert_eq!(bench.in_memory(ROOM + 0x1000, 12), &message[516..]);
        assert_eq!(bench.in_memory(ROOM + 0x100c, 1), [OK]);
    }
}

#[test]
fn a_flush_is_answered() {
    for engine in engines() {
        let mut bench = Bench::new(engine);
        assert_eq!(bench.request((kind::FLUSH, 0), &[], 0), (OK, 1));
    }
}

#[test]
fn the_id_is_given() {
    let mut bench = Bench::new(plain);
    assert_eq!(bench.request((kind::GET_ID, 0), &[], 20), (OK, 21));
    assert_eq!(bench.in_memory(ROOM, 20), b"disk-of-a-test\0\0\0\0\0\0");
    // No call was made for it, and so no engine.
    assert_eq!(bench.device().watches(), []);
}

#[test]
fn discarded_sectors_lose_their_content() {
    for engine in engines() {
        let mut bench = Bench::new(engine);
        let kept = bench.on_disk(16, 512);
        let ranges = [range(8, 8, 0), range(0, 0, 0), range(24, 16, 0)].concat();
        assert_eq!(bench.request((kind::DISCARD, 0), &ranges, 0), (OK, 1));
        assert_eq!(bench.on_disk(8, 4096), vec![0; 4096]);
        assert_eq!(bench.on_disk(24, 8192), vec![0; 8192]);
        assert_eq!(bench.on_disk(16, 512), kept);
        assert_eq!(bench.file.metadata().unwrap().len(), SECTORS * 512);
    }
}

#[test]
fn zeroed_sectors_are_zero() {
    for engine in engines() {
        for flags in [0, 1] {
            let mut bench = Bench::new(engine);
            let (before, after) = (bench.on_disk(2, 512), bench.on_disk(14, 512));
            let what = (kind::WRITE_ZEROES, 0);
            assert_eq!(bench.request(what, &range(3, 11, flags), 0), (OK, 1));
            assert_eq!(bench.on_disk(3, 11 * 512), vec![0; 11 * 512]);
            assert_eq!(bench.on_disk(2, 512), before);
            assert_eq!(bench.on_disk(14, 512), after);
        }
    }
}

#[test]
fn only_with_the_unmap_flag_is_space_given_back() {
    let mut bench = Bench::new(recorder);
    bench.request((kind::WRITE_ZEROES, 0), &range(0, 8, 0), 0);
    bench.request((kind::WRITE_ZEROES, 0), &range(0, 8, 1), 0);
    bench.request((kind::DISCARD, 0), &range(0, 8, 0), 0);
    assert_eq!(recorded(), ["zero", "punch", "punch"]);
}

#[test]
fn a_host_that_does_everything_by_halves_is_helped() {
    let size = 2 << 20;
    let mut bench = Bench::with(clumsy, &config(), contents(size), FLUSH);
    let kept = bench.on_disk(3000, 512);
    assert_eq!(bench.request((kind::IN, 5), &[], 8192), (OK, 8193));
    assert_eq!(bench.in_memory(ROOM, 8192), bench.on_disk(5, 8192));
    let data: Vec<u8> = (0..8192).map(|at| (at / 5) as u8).collect();
    assert_eq!(bench.request((kind::OUT, 3), &data, 0), (OK, 1));
    assert_eq!(bench.on_disk(3, 8192), data);
    // Zeroes are written, more than one call takes; a discard is a hint that is not followed.
    assert_eq!(
        bench
            .request((kind::WRITE_ZEROES, 0), &range(1, 2999, 1), 0)
            .0,
        OK
    );
    assert_eq!(bench.on_disk(1, 2999 * 512), vec![0; 2999 * 512]);
    assert_eq!(
        bench.request((kind::DISCARD, 0), &range(3000, 8, 0), 0).0,
        OK
    );
    assert_eq!(bench.on_disk(3000, 512), kept);
}

#[test]
fn a_driver_that_cannot_flush_gets_stable_writes() {
    let mut bench = Bench::with(recorder, &config(), contents(SECTORS * 512), 0);
    bench.request((kind::OUT, 0), &[1; 512], 0);
    bench.request((kind::WRITE_ZEROES, 0), &range(0, 8, 0), 0);
    assert_eq!(recorded(), ["stable write", "zero", "sync"]);

    let mut bench = Bench::new(recorder);
    bench.request((kind::OUT, 0), &[1; 512], 0);
    bench.request((kind::WRITE_ZEROES, 0), &range(0, 8, 0), 0);
    bench.request((kind::FLUSH, 0), &[], 0);
    assert_eq!(recorded(), ["write", "zero", "sync"]);
}

#[test]
fn a_file_that_has_shrunk_is_an_error() {
    for engine in engines() {
        let mut bench = Bench::new(engine);
        bench.file.set_len(1024).unwrap();
        // The driver can rely on what was read before the end, and on no more.
        assert_eq!(bench.request((kind::IN, 0), &[], 2048), (IO_ERROR, 1024));
        assert_eq!(bench.request((kind::IN, 4), &[], 512), (IO_ERROR, 0));
        assert_eq!(bench.device().counters().bytes_to_guest, 1024);
    }
}

#[test]
fn a_read_only_disk_changes_for_nobody() {
    let config = DiskConfig {
        read_only: true,
        ..config()
    };
    for engine in engines() {
        let mut bench = Bench::with(engine, &config, contents(SECTORS * 512), FLUSH);
        let before = bench.on_disk(0, 1 << 20);
        for (kind, given) in [
            (kind::OUT, vec![1; 512]),
            (kind::DISCARD, range(0, 8, 0)),
            (kind::WRITE_ZEROES, range(0, 8, 0)),
            (kind::WRITE_ZEROES, range(0, 8, 1)),
        ] {
            assert_eq!(bench.request((kind, 0), &given, 0), (IO_ERROR, 1));
        }
        assert_eq!(bench.request((kind::FLUSH, 0), &[], 0).0, OK);
        assert_eq!(bench.request((kind::IN, 0), &[], 512).0, OK);
        assert_eq!(bench.on_disk(0, 1 << 20), before);
    }
}

#[test]
fn requests_that_make_no_sense_are_answered_so() {
    let mut bench = Bench::new(plain);
    let before = bench.on_disk(0, 1 << 20);
    let ranges = |count| vec![range(0, 1, 0); count].concat();
    for (what, given, room, status) in [
        // Behind the end, and so far behind that numbers overflow.
        ((kind::IN, SECTORS), vec![], 512, IO_ERROR),
        ((kind::IN, SECTORS - 1), vec![], 1024, IO_ERROR),
        ((kind::OUT, SECTORS), vec![1; 512], 0, IO_ERROR),
        ((kind::OUT, u64::MAX), vec![1; 512], 0, IO_ERROR),
        ((kind::OUT, u64::MAX / 512), vec![1; 512], 0, IO_ERROR),
        // No whole sectors.
        ((kind::IN, 0), vec![], 511, IO_ERROR),
        ((kind::OUT, 0), vec![1; 513], 0, IO_ERROR),
        // Data on the wrong side.
        ((kind::IN, 0), vec![1; 512], 512, IO_ERROR),
        ((kind::OUT, 0), vec![1; 512], 512, IO_ERROR),
        ((kind::FLUSH, 0), vec![1; 512], 0, IO_ERROR),
        ((kind::FLUSH, 0), vec![], 512, IO_ERROR),
        ((kind::DISCARD, 0), range(0, 1, 0), 1, IO_ERROR),
        // Ranges that are cut, missing, too many, too long, behind the end or with wrong flags.
        ((kind::DISCARD, 0), vec![], 0, IO_ERROR),
        ((kind::DISCARD, 0), vec![0; 15], 0, IO_ERROR),
        ((kind::DISCARD, 0), ranges(17), 0, IO_ERROR),
        ((kind::WRITE_ZEROES, 0), ranges(2), 0, IO_ERROR),
        ((kind::WRITE_ZEROES, 0), range(0, 32769, 0), 0, IO_ERROR),
        ((kind::DISCARD, 0), range(SECTORS - 1, 2, 0), 0, IO_ERROR),
        ((kind::DISCARD, 0), range(u64::MAX, 1, 0), 0, IO_ERROR),
        ((kind::DISCARD, 0), range(0, 1, 1), 0, UNSUPPORTED),
        ((kind::WRITE_ZEROES, 0), range(0, 1, 2), 0, UNSUPPORTED),
        // Not the room for an id.
        ((kind::GET_ID, 0), vec![], 19, IO_ERROR),
        ((kind::GET_ID, 0), vec![], 21, IO_ERROR),
        // SCSI commands, secure erase and what nobody has heard of.
        ((2, 0), vec![], 512, UNSUPPORTED),
        ((14, 0), range(0, 1, 0), 0, UNSUPPORTED),
        ((u32::MAX, 0), vec![], 0, UNSUPPORTED),
    ] {
        let (answer, written) = bench.request(what, &given, room);
        assert_eq!(answer, status, "{what:?} with {} and {room}", given.len());
        assert_eq!(written, if room == 0 { 1 } else { 0 });
    }
    assert_eq!(bench.on_disk(0, 1 << 20), before);
    // The device is as good as before.
    assert_eq!(bench.request((kind::IN, 0), &[], 512).0, OK);
}

#[test]
fn a_header_that_is_cut_is_answered() {
    let mut bench = Bench::new(plain);
    for readable in [&[(HEADER, 15, false)][..], &[]] {
        bench.drivers[0].write(STATUS, &[0xff]);
        let chain = [readable, &[(STATUS, 1, true)]].concat();
        let head = bench.add(0, &chain);
        assert_eq!(bench.answer(0, head).unwrap(), 1);
        assert_eq!(bench.status(0), IO_ERROR);
    }
}

#[test]
fn an_empty_transfer_is_done_at_once() {
    let mut bench = Bench::new(plain);
    assert_eq!(bench.request((kind::IN, SECTORS), &[], 0), (OK, 1));
    assert_eq!(bench.request((kind::OUT, 0), &[], 0), (OK, 1));
    assert_eq!(
        bench.request((kind::DISCARD, 0), &range(0, 0, 0), 0),
        (OK, 1)
    );
    assert_eq!(bench.device().watches(), []);
}

#[test]
fn a_chain_without_a_status_stops_the_device() {
    let mut bench = Bench::new(plain);
    let head = bench.add(0, &[(HEADER, 16, false)]);
    let fault = bench.answer(0, head);
    assert!(matches!(fault, Err(DeviceFault::Request(_))), "{fault:?}");
}

#[test]
fn a_chain_outside_guest_memory_stops_the_device() {
    let mut bench = Bench::new(plain);
    let head = bench.add(
        0,
        &[
            (HEADER, 16, false),
            (u64::MAX - 4096, 512, true),
            (STATUS, 1, true),
        ],
    );
    let fault = bench.answer(0, head);
    assert!(
        matches!(fault, Err(DeviceFault::Queue { index: 0, .. })),
        "{fault:?}"
    );
}

#[test]
fn every_queue_is_served() {
    let config = DiskConfig {
        queues: 8,
        ..config()
    };
    for engine in engines() {
        let mut bench = Bench::with(engine, &config, contents(SECTORS * 512), FLUSH);
        let heads: Vec<u16> = (0..8)
            .map(|queue| bench.ask(queue, queue as u64, (kind::IN, queue as u64 * 3), &[], 512))
            .collect();
        for (queue, head) in heads.into_iter().enumerate() {
            assert_eq!(bench.answer(queue, head).unwrap(), 513);
            let place = queue as u64;
            assert_eq!(
                bench.in_memory(ROOM + place * 0x1_0000, 512),
                bench.on_disk(place * 3, 512)
            );
            assert_eq!(bench.drivers[queue].interrupts(), 1);
        }
        assert_eq!(bench.device().counters().requests, 8);
    }
}

#[test]
fn more_requests_than_can_be_in_flight_are_served_all_the_same() {
    for engine in engines().into_iter().chain([slow as EngineMaker]) {
        let config = DiskConfig {
            queues: 4,
            ..config()
        };
        let mut bench = Bench::with(engine, &config, contents(SECTORS * 512), FLUSH);
        // 60 chains of three buffers fill a queue of 256 but for some.
        let heads: Vec<(usize, u16, u64)> = (0..240)
            .map(|n| {
                let queue = n as usize % 4;
                (queue, bench.ask(queue, n % 180, (kind::IN, n), &[], 512), n)
            })
            .collect();
        for (queue, head, n) in heads {
            assert_eq!(bench.answer(queue, head).unwrap(), 513, "request {n}");
        }
        assert_eq!(bench.device().counters().requests, 240);
    }
}

#[test]
fn past_the_page_cache_blocks_are_read_and_written() {
    use std::os::unix::fs::OpenOptionsExt;
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_DIRECT);
    let direct = match options.open(file.path()) {
        Ok(direct) => direct,
        Err(error) => return eprintln!("skipped: no O_DIRECT in the temporary directory: {error}"),
    };
    let config = DiskConfig {
        direct: true,
        ..config()
    };
    for engine in engines() {
        let mut bench = Bench::with(engine, &config, direct.try_clone().unwrap(), FLUSH);
        let data: Vec<u8> = (0..8192).map(|at| (at / 7) as u8).collect();
        assert_eq!(bench.request((kind::OUT, 8), &data, 0), (OK, 1));
        assert_eq!(bench.request((kind::IN, 8), &[], 8192), (OK, 8193));
        assert_eq!(bench.in_memory(ROOM, 8192), data);
        // Seen through the page cache.
        let mut seen = vec![0; 8192];
        file.as_file().read_exact_at(&mut seen, 4096).unwrap();
        assert_eq!(seen, data);
        // Zeroes that have to be written come from aligned memory too.
        let zeroes = range(8, 8, 0);
        assert_eq!(bench.request((kind::WRITE_ZEROES, 0), &zeroes, 0).0, OK);
        assert_eq!(bench.request((kind::IN, 8), &[], 4096).0, OK);
        assert_eq!(bench.in_memory(ROOM, 4096), [0; 4096]);
    }
    let mut bench = Bench::with(no_clearing, &config, direct, FLUSH);
    assert_eq!(bench.request((kind::OUT, 8), &[1; 8192], 0).0, OK);
    assert_eq!(
        bench.request((kind::WRITE_ZEROES, 0), &range(8, 8, 0), 0).0,
        OK
    );
    assert_eq!(bench.request((kind::IN, 8), &[], 8192).0, OK);
    assert_eq!(bench.in_memory(ROOM, 4096), [0; 4096]);
    assert_eq!(bench.in_memory(ROOM + 4096, 4096), [1; 4096]);
}
