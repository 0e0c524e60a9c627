#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{Read, Write};

use super::{Comparison, Pattern, random_sizes};

#[test]
fn the_bytes_do_not_depend_on_how_they_are_read() {
    let whole = Pattern::bytes(7, 1000);
    let mut pattern = Pattern::new(7);
    let mut pieces = Vec::new();
    for size in [0, 1, 2, 3, 5, 8, 13, 21, 947] {
        let mut piece = vec![0; size];
        pattern.read_exact(&mut piece).unwrap();
        pieces.extend(piece);
    }
    assert_eq!(pieces, whole);
    assert_ne!(Pattern::bytes(8, 1000), whole);
}

#[test]
fn the_same_bytes_in_other_pieces_are_accepted() {
    let bytes = Pattern::bytes(1, 200_000);
    Comparison::of(&mut bytes.as_slice(), 1, 200_000).unwrap();
    let mut comparison = Comparison::new(1);
    for piece in bytes.chunks(777) {
        comparison.write_all(piece).unwrap();
    }
}

#[test]
fn the_first_wrong_byte_is_named() {
    let mut bytes = Pattern::bytes(1, 100_000);
    bytes[70_000] ^= 0x40;
    bytes[70_001] ^= 0x40;
    let error = Comparison::of(&mut bytes.as_slice(), 1, 100_000).unwrap_err();
    assert!(error.to_string().starts_with("byte 70000 is "), "{error}");
}

#[test]
fn a_byte_too_few_or_too_many_is_noticed() {
    let bytes = Pattern::bytes(1, 1000);
    for count in [999, 1001] {
        let error = Comparison::of(&mut bytes.as_slice(), 1, count).unwrap_err();
        assert!(error.to_string().starts_with("1000 bytes came"), "{error}");
    }
}

#[test]
fn sizes_are_within_their_limit_and_differ() {
    let sizes = random_sizes(3, 200, 1000);
    assert_eq!(sizes.len(), 200);
    assert!(sizes.iter().all(|size| *size <= 1000));
    let mut different = sizes.clone();
    different.sort_unstable();
    different.dedup();
    assert!(different.len() > 100, "{sizes:?}");
    assert_eq!(random_sizes(3, 200, 1000), sizes);
}
