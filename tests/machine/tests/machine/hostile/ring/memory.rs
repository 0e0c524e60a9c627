//! Addresses behind which there is no RAM.

use caisson_machine_tests::ring::{Act, Width};

use super::survivor::{self, MEMORY, Survivor};

/// Room for the BAR of each slot of the bus, from here on.
const WINDOW: u64 = 0xc000_0000;
const STRETCH: u64 = 0x1_0000;
/// Bytes that a device of the bus decodes: virtio's, and those of pvpanic.
const VIRTIO: u64 = 0x8000;
const PAGE: u64 = 0x1000;
/// No byte of it is a panic for pvpanic.
const VALUE: u64 = 0xa6a6_a6a6_a6a6_a6a6;

/// Lets the function in `slot` answer at its BAR.
fn decode(slot: u32) -> [Act; 2] {
    let address = 0x8000_0004 | slot << 11;
    [
        Act::write_ports(0xcf8..0xcf9, Width::W4, address),
        Act::write_ports(0xcfc..0xcfd, Width::W4, 6),
    ]
}

/// Every access around an address.
fn around(address: u64) -> Vec<Act> {
    let near = address.saturating_sub(17)..address + 2;
    let of = |width| {
        [
            Act::load(near.clone(), width),
            Act::store(near.clone(), width, VALUE),
        ]
    };
    Width::ALL.into_iter().flat_map(of).collect()
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn the_edges_of_device_memory_may_be_crossed_by_accesses_of_any_width() {
    if survivor::skipped() {
        return;
    }
    let mut acts = Vec::new();
    for slot in 0..6 {
        acts.extend(decode(slot));
        let start = WINDOW + u64::from(slot) * STRETCH;
        for edge in [start, start + PAGE, start + VIRTIO, start + STRETCH] {
            acts.extend(around(edge));
        }
    }
    let went = Survivor::start(&acts).finish();
    assert_eq!(went.len(), acts.len());
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn where_there_is_nothing_any_access_is_harmless() {
    if survivor::skipped() {
        return;
    }
    let mut acts = Vec::new();
    // The end of RAM, the hole, KVM's interrupt controllers and what it keeps to itself, above all
    // RAM, and what the processor cannot address at all.
    for address in [
        MEMORY,
        0x8000_0000,
        WINDOW,
        0xe000_0000,
        0xfec0_0000,
        0xfed0_0000,
        0xfffb_c000,
        0xfffb_d000,
        0xfffc_0000,
        1 << 32,
        1 << 33,
        1 << 38,
        1 << 39,
        (1 << 39) + (1 << 30),
        1 << 47,
    ] {
        acts.extend(around(address));
    }
    // Long copies, in one instruction, between all of them.
    for (from, to) in [
        (MEMORY - 300, MEMORY - 100),
        (WINDOW + 2 * STRETCH, 0x20_0ff0),
        (0x20_0000, WINDOW + 3 * STRETCH),
        (0xfee0_0000, 0xfec0_0000),
        (0xb000_0000, 0xb000_0001),
    ] {
        acts.push(Act::copy(from, to, 600));
    }
    let went = Survivor::start(&acts).finish();
    assert_eq!(went.len(), acts.len());
}
