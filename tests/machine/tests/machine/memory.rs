//! Memory: little, much, more and less of it.

use caisson_machine_tests::{TestMachine, eventually};

const MIB: u64 = 1 << 20;

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_guest_boots_with_128_mib_and_without_late_devices() {
    let builder = TestMachine::builder().memory_mib(128);
    let machine = builder.without_late_devices().boot();
    the_seed_is_used_and_wiped(&machine);
    total_is_nearly(&machine, 128);
    machine.write_pattern("/tmp/file", 1, 40 * MIB);
    machine.check_pattern("/tmp/file", 1, 40 * MIB);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn three_and_a_half_gib_lie_on_both_sides_of_the_hole() {
    let machine = TestMachine::builder().memory_mib(3584).boot();
    total_is_nearly(&machine, 3584);
    memory_above_four_gib_is_usable(&machine);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn six_gib_are_more_than_the_outer_machine_has_and_usable() {
    let machine = TestMachine::builder().memory_mib(6144).boot();
    total_is_nearly(&machine, 6144);
    memory_above_four_gib_is_usable(&machine);
}

/// It is all that the kernel was given beside its own: there is no source of random numbers on the bus.
#[track_caller]
fn the_seed_is_used_and_wiped(machine: &TestMachine) {
    const GIVEN: &str = "/sys/kernel/boot_params/setup_data/0";
    assert_eq!(machine.read_file(&format!("{GIVEN}/type")).trim(), "0x9");
    assert_eq!(machine.read_file(&format!("{GIVEN}/data")), "");
    let hardware = machine.read_file("/sys/class/misc/hw_random/rng_available");
    assert!(!hardware.contains("virtio"), "{hardware}");
    // It does not block.
    assert_eq!(machine.shell("head -c 32 /dev/random | wc -c"), "32");
}

/// The kernel keeps some for itself: its code, and 64 bytes for each page.
#[track_caller]
fn total_is_nearly(machine: &TestMachine, mib: u64) {
    let total = machine.meminfo("MemTotal") / 1024;
    assert!(
        total < mib && total > mib - mib / 40 - 32,
        "{total} of {mib} MiB"
    );
}

/// Memory below 4 GiB is of the zone DMA32, which is used last.
#[track_caller]
fn memory_above_four_gib_is_usable(machine: &TestMachine) {
    let before = free_pages_above_four_gib(machine);
    let resident = machine.vmm().memory().guest_rss;
    machine.write_pattern("/tmp/file", 2, 128 * MIB);
    let used = before.saturating_sub(free_pages_above_four_gib(machine)) * 4096;
    assert!(used > 120 * MIB, "{} MiB lie above 4 GiB", used / MIB);
    machine.check_pattern("/tmp/file", 2, 128 * MIB);
    // And on the host it is memory, too: a write that went nowhere would read as zeros.
    let grown = machine.vmm().memory().guest_rss.saturating_sub(resident);
    assert!(grown > 100 * 1024, "{grown} KiB more are resident");
}

#[track_caller]
fn free_pages_above_four_gib(machine: &TestMachine) -> u64 {
    let zones = machine.read_file("/proc/zoneinfo");
    let normal = zones
        .split("zone")
        .find(|zone| zone.trim().starts_with("Normal"));
    let normal = normal.unwrap_or_else(|| panic!("nothing lies above 4 GiB:\n{zones}"));
    let free = normal
        .lines()
        .find_map(|line| line.trim().strip_prefix("pages free"));
    free.unwrap().trim().parse().unwrap()
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn memory_grows_by_a_gib_and_is_given_back() {
    // What is plugged as ordinary memory may hold pages of the kernel itself, which cannot be
    // unplugged for as long as they are in use.
    let machine = TestMachine::builder()
        .hotplug_memory_mib(1024)
        .parameters("memhp_default_state=online_movable")
        .boot();
    let at_first = machine.meminfo("MemTotal") / 1024;

    machine.set_hotplug_memory(1024);
    plugged(&machine, 1024);
    // A block is plugged before the guest has put it to use.
    eventually("the guest uses what is plugged", || {
        let grown = machine.meminfo("MemTotal") / 1024;
        (at_first + 960..=at_first + 1024).contains(&grown)
    });
    let before = machine.vmm().memory().guest_rss;
    machine.shell("mount -o remount,size=90% /tmp");
    machine.write_pattern("/tmp/file", 3, 640 * MIB);
    machine.check_pattern("/tmp/file", 3, 640 * MIB);
    let full = machine.vmm().memory().guest_rss;
    assert!(
        full >= before + 600 * 1024,
        "{before} KiB were resident and now {full}"
    );

    machine.shell("rm /tmp/file");
    machine.set_hotplug_memory(0);
    plugged(&machine, 0);
    let shrunk = machine.meminfo("MemTotal") / 1024;
    assert!(
        shrunk <= at_first,
        "MemTotal is {shrunk} after {at_first} MiB"
    );
    let after = machine.vmm().memory().guest_rss;
    assert!(
        after + 500 * 1024 <= full,
        "{full} KiB were resident and still {after}"
    );
    // What is left of it works.
    machine.echo(4, MIB);
}

#[track_caller]
fn plugged(machine: &TestMachine, mib: u32) {
    eventually(&format!("{mib} MiB are plugged"), || {
        machine.metrics().memory.plugged_mib == mib
    });
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_balloon_gives_memory_to_the_host_and_back() {
    let machine = TestMachine::builder().memory_mib(512).boot();
    // Memory that was used once is the host's no more.
    machine.write_pattern("/tmp/file", 5, 200 * MIB);
    let full = machine.vmm().memory().guest_rss;
    machine.shell("rm /tmp/file");

    machine.set_balloon(256);
    eventually("the balloon holds 256 MiB", || {
        machine.metrics().memory.balloon_mib == 256
    });
    let after = machine.vmm().memory().guest_rss;
    assert!(
        after + 100 * 1024 <= full,
        "{full} KiB were resident and still {after}"
    );
    assert!(machine.meminfo("MemFree") < 256 * 1024);

    machine.set_balloon(0);
    eventually("the balloon is empty", || {
        machine.metrics().memory.balloon_mib == 0
    });
    machine.write_pattern("/tmp/file", 6, 200 * MIB);
    machine.check_pattern("/tmp/file", 6, 200 * MIB);
}
