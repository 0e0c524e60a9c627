//! Disks of several files.

use std::os::fd::OwnedFd;

use caisson_control::{DiskPart, MAX_DISK_PARTS, lay_out};

use super::*;
use crate::devices::block::disk::DiskError;
use crate::devices::block::files::PartsError;

const SIZES: [u64; 3] = [512 * 9, 512, 512 * 64];

/// A file whose every sector begins with the number of the file and its own.
fn numbered(file: u8, bytes: u64) -> File {
    let mut content = vec![0; bytes as usize];
    for (sector, bytes) in content.chunks_mut(512).enumerate() {
        bytes.fill(file);
        bytes[1] = sector as u8;
    }
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&content, 0).unwrap();
    file
}

fn files() -> Vec<OwnedFd> {
    let numbered = |(size, file)| OwnedFd::from(numbered(file, size));
    SIZES.into_iter().zip(1..).map(numbered).collect()
}

fn of_parts(sizes: &[u64]) -> DiskConfig {
    DiskConfig {
        read_only: true,
        parts: lay_out(sizes).unwrap(),
        ..config()
    }
}

fn bench(engine: EngineMaker) -> (Bench, Vec<DiskPart>) {
    let config = of_parts(&SIZES);
    let device = Block::with_engine(&config, files(), engine).unwrap();
    // The file of the bench is not one of the disk's.
    let mut bench = Bench::with(engine, &super::config(), contents(512), FLUSH);
    bench.stop();
    let memory = guest_ram();
    bench.drivers = vec![MockDriver::new(&memory, 0x1000, 256)];
    bench.memory = memory;
    bench.activate(Box::new(device), &[]);
    (bench, config.parts)
}

#[test]
fn each_file_is_read_where_it_is() {
    for engine in engines() {
        let (mut bench, parts) = bench(engine);
        for (part, file) in parts.iter().zip(1_u8..) {
            let first = part.offset / 512;
            let sectors = part.bytes / 512;
            for (skipped, count) in [(0, sectors), (0, 1), (sectors - 1, 1), (sectors / 2, 1)] {
                let bytes = (count * 512) as u32;
                let answer = bench.request((kind::IN, first + skipped), &[], bytes);
                assert_eq!(answer, (0, bytes + 1));
                let data = bench.in_memory(ROOM, bytes as usize);
                for (sector, data) in (skipped..).zip(data.chunks(512)) {
                    assert_eq!((data[0], data[1], data[511]), (file, sector as u8, file));
                }
            }
        }
        // What is asked of the disk as a whole.
        assert_eq!(bench.request((kind::FLUSH, 0), &[], 0).0, 0);
        assert_eq!(bench.request((kind::GET_ID, 0), &[], 20), (0, 21));
        assert_eq!(bench.in_memory(ROOM, 14), b"disk-of-a-test");
    }
}

#[test]
fn what_goes_beyond_a_file_is_an_error_and_nothing_is_written_to_the_driver() {
    for engine in engines() {
        let (mut bench, parts) = bench(engine);
        let before = [0xa5; 4096];
        for part in &parts {
            let end = (part.offset + part.bytes) / 512;
            for (sector, sectors) in [(end - 1, 2), (end, 1), (end - 1, 8), (end, 8)] {
                bench.drivers[0].write(ROOM, &before);
                let (status, written) = bench.request((kind::IN, sector), &[], sectors * 512);
                assert_eq!((status, written), (1, 0), "{sectors} sectors at {sector}");
                assert_eq!(bench.in_memory(ROOM, 4096), before);
            }
        }
        // From before the last file into it.
        let last = parts[2].offset / 512;
        assert_eq!(bench.request((kind::IN, last - 1), &[], 1024).0, 1);
        assert_eq!(bench.request((kind::IN, u64::MAX / 512), &[], 512).0, 1);
        // And it is to be read only.
        assert_eq!(bench.request((kind::OUT, 0), &[0; 512], 0).0, 1);
        let range = [0_u64.to_le_bytes(), 1_u64.to_le_bytes()].concat();
        assert_eq!(bench.request((kind::DISCARD, 0), &range, 0).0, 1);
        assert_eq!(bench.request((kind::WRITE_ZEROES, 0), &range, 0).0, 1);
        // It still works.
        assert_eq!(bench.request((kind::IN, 0), &[], 512).0, 0);
    }
}

#[test]
fn a_file_that_has_become_shorter_is_an_error() {
    for engine in engines() {
        let kept = numbered(1, 1024);
        let files = vec![kept.try_clone().unwrap().into(), numbered(2, 512).into()];
        let (mut bench, _) = bench(engine);
        bench.stop();
        let device = Block::with_engine(&of_parts(&[1024, 512]), files, engine).unwrap();
        let memory = guest_ram();
        bench.drivers = vec![MockDriver::new(&memory, 0x1000, 256)];
        bench.memory = memory;
        bench.activate(Box::new(device), &[]);
        kept.set_len(512).unwrap();
        assert_eq!(bench.request((kind::IN, 0), &[], 1024).0, 1);
        assert_eq!(bench.request((kind::IN, 0), &[], 512).0, 0);
    }
}

#[test]
fn only_what_is_read_is_put_together() {
    let good = of_parts(&SIZES);
    let new = |config: &DiskConfig, files| Block::new(config, files).map(drop).unwrap_err();
    for (config, files) in [
        (
            DiskConfig {
                read_only: false,
                ..good.clone()
            },
            files(),
        ),
        (
            DiskConfig {
                direct: true,
                ..good.clone()
            },
            files(),
        ),
    ] {
        let error = new(&config, files);
        assert!(
            matches!(error, BlockError::Disk(DiskError::Parts(PartsError::Way))),
            "{error}"
        );
    }
    for files in [Vec::new(), files().split_off(1)] {
        let error = new(&good, files);
        assert!(error.to_string().contains("files"), "{error}");
    }
    let error = new(&config(), files());
    assert!(matches!(error, BlockError::Files(3)), "{error}");
    let error = new(&config(), Vec::new());
    assert!(matches!(error, BlockError::Files(0)), "{error}");

    // Not as large as was said, and no file.
    let mut others = files();
    others[1] = numbered(2, 1024).into();
    let error = new(&good, others).to_string();
    assert_eq!(error, "file 1 has 1024 bytes, and not 512");
    let mut others = files();
    others[2] = File::open("/dev/null").unwrap().into();
    let error = new(&good, others).to_string();
    assert_eq!(error, "file 2 is no regular file");

    let too_many = DiskConfig {
        parts: vec![good.parts[0]; MAX_DISK_PARTS + 1],
        ..good
    };
    let error = new(&too_many, files()).to_string();
    assert!(error.starts_with("129 files"), "{error}");
}
