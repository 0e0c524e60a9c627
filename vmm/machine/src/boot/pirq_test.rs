use super::{LENGTH, build};

#[test]
fn the_table_is_one_that_linux_takes() {
    let table = build();
    assert_eq!(table.len(), LENGTH);
    assert_eq!(table[..8], *b"$PIR\x00\x01\x20\x00");
    let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    assert_eq!(sum, 0);
    assert_eq!(table[8..12], [0; 4], "bus 0, slot 0, no interrupts");
}
