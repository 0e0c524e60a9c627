//! Disks.

use caisson_machine_tests::{Disk, TestMachine};

const MIB: u64 = 1 << 20;

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn an_ext4_made_in_the_guest_is_whole_on_the_host() {
    let disk = Disk::new("written", 160);
    let untouched = Disk::new("read-only", 1);
    let machine = TestMachine::builder()
        .vcpus(2)
        .device(disk.device())
        .device(untouched.read_only())
        .boot();
    let path = machine.disk_path("written");
    machine.shell(&format!(
        "mkfs.ext4 -q {path}; mkdir /run/disk; mount {path} /run/disk"
    ));
    machine.write_pattern("/run/disk/data", 31, 64 * MIB);
    machine.shell("umount /run/disk");
    machine.shell(&format!("e2fsck -f -n {path}; mount {path} /run/disk"));
    machine.check_pattern("/run/disk/data", 31, 64 * MIB);
    machine.shell("umount /run/disk");

    // A read-only disk is one in the guest's eyes, and refuses those who do not look.
    let path = machine.disk_path("read-only");
    assert_eq!(machine.shell(&format!("blockdev --getro {path}")), "1");
    machine.shell(&format!("blockdev --setrw {path}"));
    let written = machine.run(&[
        "dd",
        "if=/dev/urandom",
        &format!("of={path}"),
        "count=8",
        "conv=fsync",
    ]);
    assert_ne!(written.code, 0, "{}", written.errors());
    drop(machine);

    disk.check_ext4();
    disk.check_ext4_file("/data", 31, 64 * MIB);
    assert_eq!(untouched.allocated(), 0);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn what_is_discarded_takes_no_space_on_the_host() {
    let disk = Disk::new("discarded", 32);
    let machine = TestMachine::builder().device(disk.device()).boot();
    let path = machine.disk_path("discarded");
    machine.write_pattern(&path, 32, 16 * MIB);
    let full = disk.allocated();
    assert!(full >= 16 * MIB, "{full} bytes");

    machine.shell(&format!("blkdiscard --offset 0 --length 8M {path}"));
    let half = disk.allocated();
    // But for what the file system needs to remember the hole.
    assert!(half + 7 * MIB <= full, "{full} bytes before, {half} after");
    machine.shell(&format!(
        "blkdiscard --zeroout {path}; cmp -n 32M {path} /dev/zero"
    ));
    // Whatever of the file is there now, it is zero.
    let content = std::fs::read(disk.path()).unwrap();
    assert!(content.iter().all(|byte| *byte == 0));
}
