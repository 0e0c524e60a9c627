use super::{HIGH_RAM_START, HOLE_START, HOTPLUG_ALIGNMENT, boot_regions, hotplug_start};

const MIB: u64 = 1 << 20;

#[test]
fn ram_below_the_hole_is_one_region() {
    assert_eq!(boot_regions(64 * MIB), [(0, 64 * MIB)]);
    assert_eq!(boot_regions(HOLE_START), [(0, HOLE_START)]);
}

#[test]
fn ram_that_does_not_fit_below_the_hole_goes_on_above_4_gib() {
    assert_eq!(
        boot_regions(HOLE_START + MIB),
        [(0, HOLE_START), (HIGH_RAM_START, MIB)]
    );
    assert_eq!(
        boot_regions(5 << 30),
        [(0, HOLE_START), (HIGH_RAM_START, 2 << 30)]
    );
}

#[test]
fn the_hot_plug_region_is_above_4_gib_and_above_all_ram() {
    assert_eq!(hotplug_start(64 * MIB), 4 << 30);
    assert_eq!(hotplug_start(HOLE_START), 4 << 30);
    assert_eq!(hotplug_start(HOLE_START + MIB), 6 << 30);
    assert_eq!(hotplug_start(5 << 30), 6 << 30, "right behind the RAM");
    for mib in [64, 1000, 3073, 4095, 70_001, 1 << 26] {
        let start = hotplug_start(mib * MIB);
        assert!(start.is_multiple_of(HOTPLUG_ALIGNMENT));
        let last = boot_regions(mib * MIB).pop().unwrap();
        assert!(start >= last.0 + last.1, "{mib} MiB");
    }
}
