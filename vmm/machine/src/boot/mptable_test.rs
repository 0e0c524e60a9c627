use super::super::MP_TABLE_END;
use super::{MP_TABLE, build};
use crate::vcpu::MAX_VCPUS;

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

#[test]
fn both_checksums_are_right_for_any_number_of_cpus() {
    for cpus in 1..=32 {
        let bytes = build(cpus);
        let (pointer, table) = bytes.split_at(16);
        assert_eq!(&pointer[..4], b"_MP_");
        assert_eq!(sum(pointer), 0);
        let at = u32::from_le_bytes(pointer[4..8].try_into().unwrap());
        assert_eq!(u64::from(at), MP_TABLE.0 + 16);

        assert_eq!(&table[..4], b"PCMP");
        let length = u16::from_le_bytes(table[4..6].try_into().unwrap());
        assert_eq!(usize::from(length), table.len());
        assert_eq!(sum(table), 0);
    }
}

#[test]
fn the_largest_table_fits_below_the_data_of_a_firmware() {
    let end = MP_TABLE.0 + build(MAX_VCPUS).len() as u64;
    assert!(end <= MP_TABLE_END, "it ends at {end:#x}");
}

#[test]
fn the_entries_are_as_many_and_as_long_as_the_header_says() {
    let bytes = build(3);
    let table = &bytes[16..];
    let count = u16::from_le_bytes(table[34..36].try_into().unwrap());
    let mut rest = &table[44..];
    let mut kinds = Vec::new();
    while let Some(kind) = rest.first() {
        kinds.push(*kind);
        rest = &rest[if *kind == 0 { 20 } else { 8 }..];
    }
    assert_eq!(kinds.len(), usize::from(count));
    let of = |kind| kinds.iter().filter(|found| **found == kind).count();
    assert_eq!(
        [of(0), of(1), of(2), of(3), of(4)],
        [3, 1, 0, 0, 2],
        "CPUs, bus, no IOAPIC, so no interrupts, local interrupts"
    );
}

#[test]
fn only_the_first_cpu_is_the_boot_cpu() {
    let bytes = build(2);
    let first = &bytes[60..80];
    let second = &bytes[80..100];
    assert_eq!((first[1], first[3]), (0, 3));
    assert_eq!((second[1], second[3]), (1, 1));
}
