//! The root file system and bind mounts.

use std::fs;

use caisson_e2e::{BUSYBOX, CleanMachine, Ctr, DEBIAN};

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_hundred_mebibytes_written_to_the_root_are_read_back_the_same() {
    let _machine = CleanMachine::watch();
    let script = "import hashlib, os, random\n\
        generator = random.Random(7)\n\
        block = [generator.randbytes(1 << 20) for _ in range(10)]\n\
        written = hashlib.sha256()\n\
        with open('/large', 'wb') as file:\n\
        \x20   for n in range(100):\n\
        \x20       file.write(block[n % 10]); written.update(block[n % 10])\n\
        \x20   file.flush(); os.fsync(file.fileno())\n\
        read = hashlib.sha256(open('/large', 'rb').read())\n\
        print(os.stat('/large').st_size, read.hexdigest() == written.hexdigest())";
    let output = Ctr::run(DEBIAN, "large", &["python3", "-c", script])
        .finish()
        .ok()
        .text();
    assert_eq!(output, "104857600 True");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_writable_bind_mount_carries_files_both_ways() {
    let _machine = CleanMachine::watch();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("in"), "from the host").unwrap();
    let script = "cat /data/in; echo -n from the guest >/data/out; mkdir /data/sub";
    let output = run_with_mount(directory.path(), "rw", script).ok();
    assert_eq!(output.text(), "from the host");
    assert_eq!(
        fs::read_to_string(directory.path().join("out")).unwrap(),
        "from the guest"
    );
    assert!(directory.path().join("sub").is_dir());
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_read_only_bind_mount_cannot_be_written() {
    let _machine = CleanMachine::watch();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("in"), "from the host").unwrap();
    let script = "cat /data/in; touch /data/out; rm /data/in; ! mount -o remount,rw /data";
    let output = run_with_mount(directory.path(), "ro", script).ok();
    assert_eq!(output.text(), "from the host");
    assert!(
        output.stderr.contains("Read-only file system"),
        "{}",
        output.stderr
    );
    let names: Vec<_> = fs::read_dir(directory.path()).unwrap().flatten().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_single_file_is_mounted_without_its_neighbours() {
    let _machine = CleanMachine::watch();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("one");
    fs::write(&file, "only this").unwrap();
    fs::write(directory.path().join("neighbour"), "secret").unwrap();
    let mount = format!(
        "type=bind,src={},dst=/etc/one,options=rbind:ro",
        file.display()
    );
    let script = "cat /etc/one; ls /etc | grep neighbour; ! grep -r secret /etc";
    let output = Ctr::run_with(
        &["--mount", &mount],
        BUSYBOX,
        "single",
        &["sh", "-c", script],
    )
    .finish()
    .ok();
    assert_eq!(output.text(), "only this");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_missing_mount_source_is_named() {
    let _machine = CleanMachine::watch();
    let mount = "type=bind,src=/no/such/place,dst=/data,options=rbind:rw";
    let message = Ctr::run_with(&["--mount", mount], BUSYBOX, "no-source", &["true"])
        .finish()
        .failure();
    assert!(message.contains("/no/such/place"), "{message}");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_read_only_root_refuses_writes() {
    let _machine = CleanMachine::watch();
    let output =
        Ctr::run_with(&["--read-only"], BUSYBOX, "read-only", &["touch", "/file"]).finish();
    assert_eq!(output.code, 1);
    assert!(
        output.stderr.contains("Read-only file system"),
        "{}",
        output.stderr
    );
}

fn run_with_mount(
    directory: &std::path::Path,
    access: &str,
    script: &str,
) -> caisson_e2e::Finished {
    let mount = format!(
        "type=bind,src={},dst=/data,options=rbind:{access}",
        directory.display()
    );
    Ctr::run_with(
        &["--mount", &mount],
        BUSYBOX,
        "mount",
        &["sh", "-c", script],
    )
    .finish()
}
