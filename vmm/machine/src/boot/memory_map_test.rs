use super::ranges_of;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn usable(ranges: &[super::Range]) -> Vec<(u64, u64)> {
    ranges
        .iter()
        .filter(|range| range.usable)
        .map(|range| (range.start, range.start + range.length))
        .collect()
}

#[test]
fn small_guests_have_memory_up_to_their_size() {
    let ranges = ranges_of(64 * MIB, 64 * MIB);
    assert_eq!(usable(&ranges), [(0, 0x9_fc00), (MIB, 64 * MIB)]);
}

#[test]
fn large_guests_go_on_above_4_gib() {
    let ranges = ranges_of(3 * GIB, 5 * GIB);
    assert_eq!(
        usable(&ranges),
        [(0, 0x9_fc00), (MIB, 3 * GIB), (4 * GIB, 6 * GIB)]
    );
}

#[test]
fn ranges_ascend_and_do_not_overlap() {
    for (low, all) in [(64 * MIB, 64 * MIB), (3 * GIB, 3 * GIB), (3 * GIB, 9 * GIB)] {
        let ranges = ranges_of(low, all);
        for pair in ranges.windows(2) {
            assert!(pair[0].start + pair[0].length <= pair[1].start);
        }
    }
}

#[test]
fn memory_that_can_be_plugged_is_not_mentioned() {
    let ranges = |hotplug| {
        let backing = crate::memory::Backing::Private;
        let memory = crate::memory::GuestRam::with_hotplug(3073, hotplug, backing);
        super::ranges(&memory.unwrap())
    };
    assert_eq!(ranges(128), ranges(0));
}
