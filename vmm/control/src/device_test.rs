use super::{DiskPart, PART_ALIGNMENT, SECTOR, lay_out};

#[test]
fn files_lie_behind_each_other_with_a_gap() {
    let parts = lay_out(&[512, 4096, 3584, 8192]).unwrap();
    let at = |offset, bytes| DiskPart { offset, bytes };
    // A whole page is not filled to its last sector: the next file begins a page later.
    let expected = [at(0, 512), at(4096, 4096), at(12288, 3584), at(16384, 8192)];
    assert_eq!(parts, expected);
    for pair in parts.windows(2) {
        assert!(
            pair[0].offset + pair[0].bytes + SECTOR <= pair[1].offset,
            "{pair:?}"
        );
        assert!(pair[1].offset.is_multiple_of(PART_ALIGNMENT), "{pair:?}");
    }
    assert_eq!(lay_out(&[]), Some(Vec::new()));
}

#[test]
fn files_that_are_too_large_together_are_no_disk() {
    assert!(lay_out(&[1 << 62]).is_some());
    assert_eq!(lay_out(&[1 << 62, 1 << 62]), None);
    assert_eq!(lay_out(&[u64::MAX - 511]), None);
}
