//! Root file systems on block devices, in files, and of EROFS layers.
#![allow(
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod blockfile;
mod erofs;
mod host;
mod many_layers;

use std::process::Command;

use caisson_e2e::{CleanMachine, signal};
use rustix::process::Signal;

use self::erofs::Node;
use self::host::{Host, Pod, layered_root, mount, opened, output};

const MIB: u64 = 1 << 20;

/// One machine for all that are shown to work, and to be refused.
#[test]
#[ignore = "needs the testbed: cargo verify"]
fn roots_on_disks_are_mounted_in_the_guest_and_leave_nothing() {
    let _machine = CleanMachine::watch();
    let host = Host::new();
    let pod = Pod::start("disk-roots");
    files_and_block_devices(&host, &pod);
    layers(&host, &pod);
    many_layers::are_few_disks(&host, &pod);
    many_layers::refusals(&host, &pod);
    refusals(&host, &pod);
    end_of_the_machine(&host, &pod);
}

fn files_and_block_devices(host: &Host, pod: &Pod) {
    let disk = host.ext4("blockfile", 32, true);
    let writable = [disk.mount("ext4", &["loop", "rw"])];

    // Content, metadata, and how large it is.
    let busybox = output(
        "sha256sum",
        &[host.tree().join("bin/busybox").to_str().unwrap()],
    );
    let script = "sha256sum /bin/busybox; df -P -m / | while read a b c; do echo $a $b; done; \
        mkdir /d && for n in $(seq 100); do echo $n >/d/$n; done && ln /d/1 /d/link && mv /d/2 /d/two \
        && chmod 4711 /d/3 && stat -c %a:%h /d/3 /d/1 && ls /d | wc -l && echo kept >/kept";
    let said = pod.run("one", &writable, script);
    assert_eq!(said.split(' ').next(), busybox.split(' ').next());
    let lines: Vec<&str> = said.lines().collect();
    let (device, mib) = lines[2].split_once(' ').unwrap();
    assert!(device.starts_with("/dev/vd"), "{said}");
    assert!((20..32).contains(&mib.parse::<u64>().unwrap()), "{said}");
    assert_eq!(lines[3..], ["4711:1", "644:2", "101"]);
    disk.assert_whole();
    assert_eq!(pod.disks(), 0);

    // The second start of the same snapshot finds it, with execs and a pause.
    pod.create("one", &writable, "sleep 9999").unwrap();
    pod.of("one").start("").unwrap();
    assert_eq!(pod.exec("one", "cat /kept"), "kept");
    pod.of("one").pause().unwrap();
    pod.of("one").resume().unwrap();
    // A neighbour with its own disk, a block device of the host, to read only.
    let _ = output("modprobe", &["loop"]);
    let device = host.ext4("device", 16, true);
    let loop_device = output("losetup", &["-f", "--show", device.text()]);
    let read_only = [mount("ext4", &loop_device, &["ro"])];
    let said = pod.run("two", &read_only, "cat /etc/which; ! touch /new");
    assert!(
        said.starts_with("base") && said.contains("Read-only file system"),
        "{said}"
    );
    let said = pod.run(
        "two",
        &[mount("ext4", &loop_device, &[])],
        "echo new >/new; cat /new",
    );
    assert_eq!(said, "new");
    assert_eq!(pod.exec("one", "cat /kept"), "kept");

    // As large as it is and no larger; what is deleted the host gets back.
    let full = pod.exec("one", "dd if=/dev/zero of=/large bs=65536 2>&1; sync; true");
    assert!(full.contains("No space left on device"), "{full}");
    let kept = disk.kept();
    assert!(kept > 24 * MIB, "{kept}");
    let _ = pod.exec("one", "rm /large; sync");
    pod.of("one").kill("", 9).unwrap();
    assert_eq!(pod.end("one").1, 137);
    disk.assert_whole();
    assert!(disk.kept() < kept / 2, "{} of {kept}", disk.kept());
    let _ = output("losetup", &["-d", &loop_device]);
    device.assert_whole();
}

fn layers(host: &Host, pod: &Pod) {
    let base = host.bytes("1.erofs", &erofs::image(&Node::of(&host.tree())));
    let changed = Node::Directory(
        [
            ("which".to_owned(), Node::File(b"top".to_vec(), 0o600)),
            ("gone".to_owned(), Node::Whiteout),
        ]
        .into(),
    );
    let top = host.bytes("2.erofs", &erofs::image(&Node::with("etc", changed)));
    let upper = host.ext4("rwlayer.img", 16, false);

    // One layer alone, as a view has it.
    let alone = [base.mount("erofs", &["ro", "loop"])];
    let said = pod.run(
        "one",
        &alone,
        "cat /etc/which; stat -f -c %T /; ! echo >/etc/which",
    );
    assert!(
        said.starts_with("base") && said.contains("Read-only file system"),
        "{said}"
    );

    let layers = || layered_root(&upper, &[&base, &top]);
    let script = "cat /etc/which; ls /etc; echo -n changed >/etc/which; echo new >/etc/new; \
        df -P -m / | while read a b c; do echo $a $b; done";
    let said = pod.run("one", &layers(), script);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines[0], "topwhich",
        "what is whited out is not there: {said}"
    );
    let (kind, mib) = lines.last().unwrap().split_once(' ').unwrap();
    assert!(
        kind == "overlay" && mib.parse::<u64>().unwrap() < 16,
        "{said}"
    );
    upper.assert_whole();
    let shown = output("debugfs", &["-R", "cat /upper/etc/which", upper.text()]);
    assert_eq!(shown, "changed");
    let script = "cat /etc/which /etc/new; dd if=/dev/zero of=/large bs=65536 2>&1; true";
    let said = pod.run("one", &layers(), script);
    assert!(said.starts_with("changednew"), "{said}");
    assert!(said.contains("No space left on device"), "{said}");

    // Where the host keeps what is written, it puts the layers together.
    let (work, written) = (host.path("work"), host.path("fs"));
    std::fs::create_dir(&work).unwrap();
    std::fs::create_dir(&written).unwrap();
    let options = [
        format!("workdir={}", work.display()),
        format!("upperdir={}", written.display()),
        "lowerdir={{ mount 0 }}".to_owned(),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let shared = [
        base.mount("erofs", &["ro", "loop"]),
        mount("format/mkdir/overlay", "overlay", &options),
    ];
    let said = pod.run("one", &shared, "cat /etc/which; echo -n kept >/etc/new");
    assert_eq!(said, "base");
    assert_eq!(
        std::fs::read_to_string(written.join("etc/new")).unwrap(),
        "kept"
    );
    for disk in [&base, &top, &upper] {
        disk.assert_free();
    }
}

fn refusals(host: &Host, pod: &Pod) {
    let good = host.ext4("good", 16, true);
    let zeroes = host.file("zeroes", 8);
    let odd = host.bytes("odd", &[0; 1000]);
    let vmm = pod.holder.vmm_pid();
    let ext4 = |disk: &host::Disk| disk.mount("ext4", &["loop", "rw"]);
    for (mounts, expected) in [
        (
            vec![ext4(&zeroes)],
            &["ext4 mount of", "zeroes", "Can't find ext4"][..],
        ),
        (
            vec![zeroes.mount("erofs", &["ro"])],
            &["erofs mount of", "zeroes", "guest"],
        ),
        (vec![ext4(&odd)], &["odd", "1000 bytes"]),
        (
            vec![mount("ext4", "/var/tmp/none", &[])],
            &["/var/tmp/none", "not there"],
        ),
        (
            vec![mount("ext4", "/var/tmp", &[])],
            &["/var/tmp", "neither a file nor"],
        ),
        (
            vec![mount("xfs", good.text(), &[])],
            &["xfs", "not supported"],
        ),
        (
            vec![good.mount("ext4", &["noload", "grpquota"])],
            &["grpquota", "not known"],
        ),
        (
            vec![
                ext4(&good),
                zeroes.mount("erofs", &[]),
                mount(
                    "format/overlay",
                    "overlay",
                    &[
                        "lowerdir={{ mount 1 }}",
                        "upperdir={{ mount 0 }}",
                        "workdir={{ mount 0 }}",
                    ],
                ),
            ],
            &["erofs mount of", "zeroes"],
        ),
    ] {
        let refused = pod.create("bad", &mounts, "true").unwrap_err();
        for word in expected {
            assert!(refused.contains(word), "{word}: {refused}");
        }
        assert_eq!(pod.disks(), 0, "{refused}");
        assert_eq!(
            opened(vmm, &host.path("")),
            Vec::<std::path::PathBuf>::new()
        );
        good.assert_free();
        zeroes.assert_free();
    }
    // No program to run.
    let failed = pod.create(
        "bad",
        &[host.ext4("empty", 8, false).mount("ext4", &["loop"])],
        "true",
    );
    assert!(failed.is_err());
    // Seventeen disks are one too many; files that are written are one each.
    let many: Vec<_> = (0..17)
        .map(|n| host.ext4(&format!("{n}"), 1, false))
        .collect();
    let mut mounts: Vec<_> = many
        .iter()
        .map(|disk| disk.mount("ext4", &["loop", "rw"]))
        .collect();
    mounts.push(mount(
        "format/overlay",
        "overlay",
        &["lowerdir={{ overlay 0 16 }}"],
    ));
    let refused = pod.create("bad", &mounts, "true").unwrap_err();
    assert!(refused.contains("a pod can have 16 disks"), "{refused}");
    assert_eq!(pod.disks(), 0);

    good.assert_free();
}

fn end_of_the_machine(host: &Host, pod: &Pod) {
    let good = host.ext4("good", 16, true);
    // It is killed: what it had is free, and what was synced is there.
    let root = [good.mount("ext4", &["loop", "rw"])];
    pod.create("good", &root, "echo kept >/kept; sync; sleep 9999")
        .unwrap();
    pod.of("good").start("").unwrap();
    while pod.exec("good", "cat /kept 2>/dev/null; true").is_empty() {}
    signal(pod.holder.vmm_pid(), Signal::KILL);
    assert_eq!(pod.of("good").wait("").unwrap().exit_status, 137);
    pod.of("good").delete("").unwrap();
    good.assert_free();
    let repaired = Command::new("e2fsck")
        .args(["-p", good.text()])
        .output()
        .unwrap();
    assert!(
        matches!(repaired.status.code(), Some(0 | 1)),
        "{repaired:?}"
    );
    assert_eq!(output("debugfs", &["-R", "cat /kept", good.text()]), "kept");
}
