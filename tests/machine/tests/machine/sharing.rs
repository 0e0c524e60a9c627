//! Directories of the host in the guest.

use std::fs;

use caisson_machine_tests::{Device, TestMachine};

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_second_file_server_carries_files_both_ways() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("in"), "from the host").unwrap();
    let share = Device::file_server("share", directory.path());
    let machine = TestMachine::builder().device(share).boot();
    machine.shell("mkdir /run/share; mount -t virtiofs share /run/share");

    assert_eq!(machine.read_file("/run/share/in"), "from the host");
    machine.write_pattern("/run/share/out", 1, 4 << 20);
    machine.shell("mkdir /run/share/sub; mv /run/share/in /run/share/sub/moved");
    let written = fs::File::open(directory.path().join("out")).unwrap();
    caisson_machine_tests::Comparison::of(&mut &written, 1, 4 << 20).unwrap();
    assert!(directory.path().join("sub/moved").is_file());

    // The root is shared as well, and the one who mounts it decides that it cannot be written.
    let touched = machine.run(&["touch", "/usr/file"]);
    assert!(
        touched.errors().contains("Read-only"),
        "{}",
        touched.errors()
    );
    machine.shell("umount /run/share");
}
