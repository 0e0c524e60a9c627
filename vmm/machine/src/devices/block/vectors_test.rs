use super::{Durability, Vectors, ZEROES_LENGTH, ZEROES_REPEATED, read, write};
use crate::virtio::mock_driver::{MockDriver, guest_ram};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

/// A chain of three writable buffers of 3, 4 and 5 bytes.
fn with_vectors(test: impl FnOnce(&MockDriver, Vectors)) {
    let mut driver = MockDriver::new(&guest_ram(), 0x1000, 8);
    driver.add(&[(0x8000, 3, true), (0x9000, 4, true), (0xa000, 5, true)]);
    let chain = driver.queue(0).unwrap().pop().unwrap().unwrap();
    let vectors = Vectors::to_fill(&mut chain.writer(), 12).unwrap();
    test(&driver, vectors);
}

fn lengths(vectors: &Vectors) -> Vec<usize> {
    vectors.list.iter().map(|vector| vector.iov_len).collect()
}

#[test]
fn what_is_done_is_left_behind() {
    with_vectors(|_, mut vectors| {
        assert_eq!((lengths(&vectors), vectors.len()), (vec![3, 4, 5], 12));
        vectors.advance(0);
        assert_eq!(lengths(&vectors), [3, 4, 5]);
        vectors.advance(1);
        assert_eq!((lengths(&vectors), vectors.len()), (vec![2, 4, 5], 11));
        vectors.advance(2);
        assert_eq!(lengths(&vectors), [4, 5]);
        vectors.advance(7);
        assert_eq!((lengths(&vectors), vectors.len()), (vec![2], 2));
        // More than there is leaves nothing.
        vectors.advance(100);
        assert_eq!((lengths(&vectors), vectors.len()), (vec![], 0));
    });
}

#[test]
fn a_transfer_goes_on_at_the_right_byte() {
    with_vectors(|driver, mut vectors| {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"xabcdefghijkl", 0).unwrap();
        driver.write(0x8000, b"...");
        vectors.advance(2);
        assert_eq!(read(&file, &vectors, 1).unwrap(), 10);
        assert_eq!(&driver.read::<3>(0x8000), b"..a");
        assert_eq!(&driver.read::<4>(0x9000), b"bcde");
        assert_eq!(&driver.read::<6>(0xa000), b"fghij\0");
    });
}

#[test]
fn zeroes_are_zero_and_bounded() {
    assert!(lengths(&Vectors::zeroes(0)).is_empty());
    assert_eq!(lengths(&Vectors::zeroes(512)), [512]);
    assert_eq!(
        lengths(&Vectors::zeroes(ZEROES_LENGTH as u64 + 1)),
        [ZEROES_LENGTH, 1]
    );
    assert_eq!(
        Vectors::zeroes(u64::MAX).len(),
        ZEROES_REPEATED * ZEROES_LENGTH
    );

    let mut file: File = tempfile::tempfile().unwrap();
    file.write_all_at(&[1; 5000], 0).unwrap();
    let zeroes = Vectors::zeroes(4999);
    assert_eq!(write(&file, &zeroes, 0, Durability::Stable).unwrap(), 4999);
    let mut content = Vec::new();
    file.read_to_end(&mut content).unwrap();
    assert_eq!(content, [vec![0; 4999], vec![1]].concat());
}

#[test]
fn an_offset_that_no_file_has_is_an_error() {
    let file = tempfile::tempfile().unwrap();
    let zeroes = Vectors::zeroes(512);
    assert!(write(&file, &zeroes, u64::MAX, Durability::Volatile).is_err());
    assert!(read(&file, &Vectors::zeroes(0), u64::MAX).is_err());
}
