use vm_memory::{Bytes, GuestAddress};

use super::super::initrd::Initrd;
use super::super::memory_map::ranges;
use super::super::{COMMAND_LINE, MEMORY_MAP, MODULES, START_INFO};
use super::{MAGIC, write};
use crate::memory::{Backing, GuestRam};

#[test]
fn the_structures_are_where_the_protocol_says() {
    let memory = GuestRam::new(64, Backing::Private).unwrap();
    let initrd = Initrd {
        address: GuestAddress(0x200_0000),
        length: 12345,
    };
    write(&memory, &ranges(&memory), Some(initrd)).unwrap();

    let u32_at = |at: u64| memory.read_obj::<u32>(GuestAddress(at)).unwrap();
    let u64_at = |at: u64| memory.read_obj::<u64>(GuestAddress(at)).unwrap();
    let info = START_INFO.0;
    assert_eq!(u32_at(info), MAGIC);
    assert_eq!(u32_at(info + 4), 1, "version");
    assert_eq!(u32_at(info + 12), 1, "modules");
    assert_eq!(u64_at(info + 16), MODULES.0);
    assert_eq!(u64_at(info + 24), COMMAND_LINE.0);
    assert_eq!(u64_at(info + 32), 0, "no ACPI tables");
    assert_eq!(u64_at(info + 40), MEMORY_MAP.0);
    assert_eq!(u32_at(info + 48), 3, "ranges");
    assert_eq!(u64_at(MODULES.0), 0x200_0000);
    assert_eq!(u64_at(MODULES.0 + 8), 12345);
    let last = MEMORY_MAP.0 + 2 * 24;
    assert_eq!(
        (u64_at(last), u64_at(last + 8), u32_at(last + 16)),
        (0x10_0000, 63 << 20, 1)
    );
}

#[test]
fn without_initrd_there_is_no_module() {
    let memory = GuestRam::new(64, Backing::Private).unwrap();
    write(&memory, &ranges(&memory), None).unwrap();
    let count: u32 = memory.read_obj(GuestAddress(START_INFO.0 + 12)).unwrap();
    assert_eq!(count, 0);
}
