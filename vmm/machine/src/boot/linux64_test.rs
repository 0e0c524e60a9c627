use vm_memory::{Bytes, GuestAddress};

use super::super::initrd::Initrd;
use super::super::memory_map::ranges;
use super::super::{COMMAND_LINE, PAGE_TABLES, ZERO_PAGE};
use super::{SEED_LENGTH, write};
use crate::memory::{Backing, GuestRam};

fn guest() -> GuestRam {
    let memory = GuestRam::new(64, Backing::Private).unwrap();
    let initrd = Initrd {
        address: GuestAddress(0x200_0000),
        length: 12345,
    };
    write(&memory, &ranges(&memory), Some(initrd), &[7; SEED_LENGTH]).unwrap();
    memory
}

#[test]
fn the_zero_page_holds_what_the_protocol_asks_for() {
    let memory = guest();
    let u32_at = |at: u64| {
        memory
            .read_obj::<u32>(GuestAddress(ZERO_PAGE.0 + at))
            .unwrap()
    };
    let u64_at = |at: u64| {
        memory
            .read_obj::<u64>(GuestAddress(ZERO_PAGE.0 + at))
            .unwrap()
    };
    assert_eq!(u32_at(0x202), u32::from_le_bytes(*b"HdrS"));
    assert_eq!(u32_at(0x218), 0x200_0000);
    assert_eq!(u32_at(0x21c), 12345);
    assert_eq!(u64::from(u32_at(0x228)), COMMAND_LINE.0);
    assert_eq!(u32_at(0x1e8) & 0xff, 3);
    let last = 0x2d0 + 2 * 20;
    assert_eq!(
        (u64_at(last), u64_at(last + 8), u32_at(last + 16)),
        (0x10_0000, 63 << 20, 1)
    );
}

#[test]
fn a_seed_is_what_the_list_of_the_zero_page_consists_of() {
    let memory = guest();
    let u64_at = |at: u64| memory.read_obj::<u64>(GuestAddress(at)).unwrap();
    let u32_at = |at: u64| memory.read_obj::<u32>(GuestAddress(at)).unwrap();
    let first = u64_at(ZERO_PAGE.0 + 0x250);
    assert_eq!(u64_at(first), 0, "the last of the list");
    assert_eq!(u32_at(first + 8), 9, "SETUP_RNG_SEED");
    let length = u32_at(first + 12);
    assert_eq!(length as usize, SEED_LENGTH);
    let mut seed = [0; SEED_LENGTH + 1];
    memory
        .read_slice(&mut seed, GuestAddress(first + 16))
        .unwrap();
    assert_eq!(seed[..SEED_LENGTH], [7; SEED_LENGTH]);
    assert!(first + 16 + u64::from(length) <= PAGE_TABLES.0);
}

#[test]
fn the_page_tables_map_the_first_gib_to_itself() {
    let memory = guest();
    let entry = |at: u64| memory.read_obj::<u64>(GuestAddress(at)).unwrap();
    for address in [0, ZERO_PAGE.0, 0x100_0000, (1 << 30) - 1] {
        let pdpt = entry(PAGE_TABLES.0 + 8 * (address >> 39)) & !0xfff;
        let pd = entry(pdpt + 8 * (address >> 30)) & !0xfff;
        let page = entry(pd + 8 * (address >> 21 & 511));
        assert_eq!(page & 0x83, 0x83, "present, writable, large");
        assert_eq!((page & !0x1f_ffff) + (address & 0x1f_ffff), address);
    }
}
