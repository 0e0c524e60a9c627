//! Devices that come and go while the machine runs.

use std::fs;

use caisson_machine_tests::{Device, Disk, Tap, TestMachine};

const MIB: u64 = 1 << 20;

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_disk_is_plugged_and_unplugged_a_hundred_times() {
    let disk = Disk::new("plugged", 4);
    let machine = TestMachine::builder().boot();
    let descriptors = || {
        fs::read_dir(format!("/proc/{}/fd", machine.vmm().pid()))
            .unwrap()
            .count()
    };
    // The kernel's own for io_uring, of which it keeps one as long as the process lives, have
    // nothing to do with a device that is gone.
    let threads = || {
        let mut names = machine.vmm().threads();
        names.retain(|name| !name.starts_with("iou-wrk"));
        names.len()
    };
    let (at_first, open) = (threads(), descriptors());
    for round in 0..100 {
        let slot = machine.plug(disk.device());
        machine.rescan();
        // It is the only disk.
        machine.write_pattern("/dev/vda", round, MIB);
        machine.check_pattern("/dev/vda", round, MIB);
        machine.remove(slot);
        machine.unplug(slot);
        disk.check_pattern(round, MIB);
    }
    // The guest's hello may still have had one at first.
    assert!(descriptors() <= open, "{open} were open");
    assert_eq!(threads(), at_first);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_directory_and_a_network_interface_are_plugged_and_unplugged() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "plugged").unwrap();
    let tap = Tap::new(1, "192.168.126.1/24");
    let machine = TestMachine::builder().boot();
    for round in 0..3 {
        let share = machine.plug(Device::file_server("late", directory.path()));
        let net = machine.plug(tap.device());
        machine.rescan();
        machine.shell(
            "mkdir -p /run/late; mount -t virtiofs late /run/late; \
             ip addr add 192.168.126.2/24 dev eth0; ip link set eth0 up",
        );
        assert_eq!(
            machine.read_file("/run/late/file"),
            "plugged",
            "round {round}"
        );
        machine.shell("busybox ping -c 1 192.168.126.1; umount /run/late");
        for slot in [share, net] {
            machine.remove(slot);
            machine.unplug(slot);
        }
    }
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_device_that_is_unplugged_without_a_word_takes_nothing_else_with_it() {
    let disk = Disk::new("torn-out", 4);
    let machine = TestMachine::builder().boot();
    let slot = machine.plug(disk.device());
    machine.rescan();
    machine.write_pattern("/dev/vda", 1, MIB);
    machine.unplug(slot);
    machine.echo(2, MIB);
    assert_eq!(machine.shell("echo alive"), "alive");
}
