use std::fs::File;
use std::os::unix::fs::FileExt;

use caisson_control::{DiskPart, MAX_DISK_PARTS, lay_out};

use super::{Files, PartsError, Placed, size};
use crate::devices::block::disk::Extent;

fn part(offset: u64, bytes: u64) -> DiskPart {
    DiskPart { offset, bytes }
}

fn extent(offset: u64, length: u64) -> Extent {
    Extent { offset, length }
}

#[test]
fn what_is_laid_out_is_a_disk() {
    let parts = lay_out(&[512, 8192, 4096 - 512, 1 << 40]).unwrap();
    // The last ends where another could begin.
    let last = parts.last().unwrap();
    assert_eq!(size(&parts).unwrap(), last.offset + (1 << 40) + 4096);
    let most = lay_out(&vec![512; MAX_DISK_PARTS]).unwrap();
    assert_eq!(size(&most).unwrap(), MAX_DISK_PARTS as u64 * 4096);
}

#[test]
fn places_that_cannot_be_are_refused() {
    for parts in [
        // Not at the beginning, not aligned, and too near to each other.
        vec![part(4096, 512)],
        vec![part(0, 512), part(512, 512)],
        vec![part(0, 512), part(0, 512)],
        vec![part(0, 4096), part(4096, 512)],
        vec![part(0, 8192), part(4096, 512)],
        vec![part(0, 512), part(8192, 512), part(4096, 512)],
        // Nothing, a part of a sector, and more than there can be.
        vec![part(0, 0)],
        vec![part(0, 513)],
        vec![part(0, u64::MAX)],
        vec![part(0, u64::MAX - 511)],
        vec![part(0, 1 << 63)],
        vec![part(0, (1 << 63) - 512)],
        vec![part(0, 512), part(u64::MAX - 4095, 512)],
    ] {
        let error = size(&parts).unwrap_err();
        assert!(
            matches!(error, PartsError::Place { index, part } if parts[index] == part),
            "{parts:?}: {error}"
        );
    }
    let many = vec![part(0, 512); MAX_DISK_PARTS + 1];
    for parts in [&many[..], &[]] {
        let error = size(parts).unwrap_err();
        assert!(matches!(error, PartsError::Count(count) if count == parts.len()));
    }
}

#[test]
fn everything_is_in_one_file_or_in_none() {
    let sizes = [512, 8192, 1024, 4096];
    let parts = lay_out(&sizes).unwrap();
    let placed = parts.iter().zip(0_u8..).map(|(part, number)| {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![number; part.bytes as usize], 0)
            .unwrap();
        Placed {
            extent: extent(part.offset, part.bytes),
            file,
        }
    });
    let files = Files::placed(placed.collect());
    let end = size(&parts).unwrap();
    let number = |file: &File| {
        let mut byte = [0xff];
        file.read_exact_at(&mut byte, 0).unwrap();
        usize::from(byte[0])
    };
    for offset in (0..end + 1024).step_by(256) {
        for length in (0..9000).step_by(256) {
            let found = files.place(extent(offset, length));
            let expected = parts.iter().position(|part| {
                part.offset <= offset && offset + length <= part.offset + part.bytes
            });
            let context = format!("{length} bytes at {offset}");
            match (found, expected) {
                (Ok(place), Some(index)) => {
                    assert_eq!(
                        (place.index, number(place.file)),
                        (index, index),
                        "{context}"
                    );
                    assert_eq!(place.offset, offset - parts[index].offset, "{context}");
                }
                (Err(_), None) => {}
                (found, expected) => panic!("{context}: {found:?}, {expected:?}"),
            }
        }
    }
    for (offset, length) in [
        (0, u64::MAX),
        (u64::MAX, 1),
        (u64::MAX, u64::MAX),
        (512, u64::MAX - 511),
    ] {
        files.place(extent(offset, length)).unwrap_err();
    }
}
