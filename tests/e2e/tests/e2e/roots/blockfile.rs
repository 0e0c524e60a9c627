//! containerd's own snapshotter of files that are disks.

use std::fs;

use caisson_e2e::{BUSYBOX, CleanMachine, Containerd, Ctr, RUNTIME};

use super::host::output;

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn the_blockfile_snapshotter_gives_roots() {
    let _machine = CleanMachine::watch();
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let _ = output("modprobe", &["loop"]);
    let (scratch, archive) = (path("scratch"), path("busybox.tar"));
    fs::File::create(&scratch)
        .unwrap()
        .set_len(16 << 20)
        .unwrap();
    let _ = output("mke2fs", &["-q", "-F", "-t", "ext4", &scratch]);
    let export = ["images", "export", &archive, BUSYBOX];
    let _ = Ctr::new(&export).finish().ok();
    let address = path("containerd.sock");
    let config = format!(
        "version = 2\nroot = '{}'\nstate = '{}'\n\
         disabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.nri.v1.nri']\n\
         [grpc]\naddress = '{address}'\n[ttrpc]\naddress = '{address}.ttrpc'\n\
         [plugins.'io.containerd.snapshotter.v1.blockfile']\n\
         scratch_file = '{scratch}'\nfs_type = 'ext4'\n",
        path("root"),
        path("state"),
    );
    fs::write(path("config.toml"), config).unwrap();
    let containerd = Containerd::another(&path("config.toml"));
    let ctr = |args: &[&str]| Ctr::new(&[&["--address", &address], args].concat()).finish();
    // Unpacked by the first run: the transfer service of 2.x knows its own snapshotter only.
    let import = ["images", "import", "--no-unpack", &archive];
    let _ = ctr(&import).ok();
    let run = |options: &[&str], id: &str, script: &str| {
        let fixed = ["run", "--runtime", RUNTIME, "--snapshotter", "blockfile"];
        ctr(&[&fixed, options, &[BUSYBOX, id, "sh", "-c", script]].concat())
    };
    // What the image has, byte for byte, as the usual snapshotter has it.
    let sums = "find /bin -type f | sort | while read file; do sha256sum $file; done";
    let usual = Ctr::run(BUSYBOX, "overlay-root", &["sh", "-c", sums])
        .finish()
        .ok();
    let script = format!("if [ -e /kept ]; then sleep 9999; fi; {sums}; echo kept >/kept");
    let said = run(&[], "blockfile-root", &script).ok();
    assert_eq!(said.text(), usual.text());
    let _ = ctr(&["task", "rm", "blockfile-root"]);
    // The second start of the same snapshot finds what the first has written.
    let _ = ctr(&["task", "start", "--detach", "blockfile-root"]).ok();
    let script = "cat /kept; df -P / | while read a b c; do echo $a; done";
    let words = [
        "task",
        "exec",
        "--exec-id",
        "e",
        "blockfile-root",
        "sh",
        "-c",
        script,
    ];
    let found = ctr(&words);
    let _ = ctr(&["task", "rm", "--force", "blockfile-root"]);
    let _ = ctr(&["container", "rm", "blockfile-root"]);
    let script = "cat /bin/busybox >/new";
    let refused = run(&["--rm", "--read-only"], "read-only-root", script);
    drop(containerd);
    let found = found.ok().text();
    assert!(
        found.starts_with("kept") && found.contains("/dev/vd"),
        "{found}"
    );
    assert!(
        refused.stderr.contains("Read-only file system"),
        "{}",
        refused.stderr
    );
}
