//! A container that wants out: root, with every capability, in a volume that the host shares with it.
//! What it tries is in `hostile.py`; what it got of each try, in the words of errno(3), is compared here.
//! The host, its files and the pod beside it must be as before.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use caisson_e2e::{BUSYBOX, CleanMachine, Container, DEBIAN, Shim};

const PROGRAM: &str = include_str!("hostile.py");
const SECRET: &str = "of the host";

/// What each try must come to.
const WANTED: [(&str, &str); 24] = [
    // Links in the volume that lead out of it: the guest's kernel follows them, in the guest.
    ("read through an absolute link", "ENOENT"),
    ("read through a link upwards", "ENOENT"),
    ("write through an absolute link", "ENOENT"),
    ("walk through a link to a directory", "ENOENT"),
    ("hard link from another volume", "EXDEV"),
    // Nodes in a volume are of no device.
    ("open a node of the host's disk", "EACCES"),
    ("open a node of KVM", "EACCES"),
    ("open a node of physical memory", "EACCES"),
    // Names are names.
    ("a name of bytes", "done"),
    ("a name of 255 bytes", "done"),
    ("a name of 256 bytes", "ENAMETOOLONG"),
    // Read-only is the host's word.
    ("write to a read-only volume", "EROFS"),
    ("make the volume writable", "done"),
    ("write to it again", "EROFS"),
    ("mount the file server once more", "done"),
    ("write by that way", "EROFS"),
    // Nobody but the host speaks to the agent, and the host listens to nobody else.
    ("connect to the agent's requests", "refused"),
    ("connect to the agent's streams", "refused"),
    ("connect to the host's ports", "refused"),
    // The kernel is what it is.
    ("load a module", "ENOSYS"),
    ("load another kernel", "ENOSYS"),
    ("open the memory", "ENOENT"),
    ("open the kernel's memory", "ENOENT"),
    (
        "exchange a directory for a link while it is written to",
        "done",
    ),
];

/// Annotations by which other runtimes let a pod choose its machine, and those that one might try on
/// ours.
const ANNOTATIONS: [&str; 9] = [
    "io.katacontainers.config.hypervisor.kernel=/etc/passwd",
    "io.katacontainers.config.hypervisor.kernel_params=init=/bin/sh",
    "io.katacontainers.config.hypervisor.default_memory=4096",
    "io.katacontainers.config.hypervisor.default_vcpus=7",
    "io.katacontainers.config.hypervisor.virtio_fs_extra_args=[\"-o\", \"source=/\"]",
    "run.oci.handler=krun",
    "caisson.kernel=/etc/passwd",
    "caisson.memory=4096",
    "dev.caisson.vcpus=7",
];

/// What a machine is: its kernel, how that was started, its processors, the pages it has been given.
const MACHINE: &str = "cat /proc/version /proc/cmdline; nproc; grep present /proc/zoneinfo";

/// What a kernel says of itself to a container without privileges: its settings, what there should
/// not be of modules, other kernels and memory, its log and its addresses.
const KERNEL: &str = r"
for setting in kernel/dmesg_restrict kernel/unprivileged_bpf_disabled kernel/perf_event_paranoid \
    kernel/randomize_va_space dev/tty/legacy_tiocsti; do
    echo $setting $(cat /proc/sys/$setting)
done
for path in /proc/modules /proc/sys/kernel/modprobe /proc/sys/kernel/kexec_load_disabled /dev/mem \
    /dev/kmem /dev/port; do
    test -e $path && echo $path is there
done
dmesg > /dev/null 2>&1 && echo its log can be read
echo addresses $(grep -c -v '^00* ' /proc/kallsyms)
";
const HARD: &str = "\
kernel/dmesg_restrict 1
kernel/unprivileged_bpf_disabled 2
kernel/perf_event_paranoid 2
kernel/randomize_va_space 2
dev/tty/legacy_tiocsti 0
addresses 0";

#[track_caller]
fn said(container: &Container, script: &str) -> String {
    container.exec(&["sh", "-c", script]).finish().ok().text()
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_container_that_owns_its_guest_gets_nothing_of_the_host() {
    let _machine = CleanMachine::watch();
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    for name in ["volume", "readonly", "outside"] {
        fs::create_dir(place(name)).unwrap();
    }
    fs::write(place("secret"), SECRET).unwrap();
    fs::write(place("readonly/file"), SECRET).unwrap();

    let neighbour = Container::start(BUSYBOX, "neighbour", &["sleep", "1000"]);
    let volume = mount(&place("volume"), "/volume", "rw");
    let readonly = mount(&place("readonly"), "/readonly", "ro");
    let mut options = vec!["--privileged", "--mount", &volume, "--mount", &readonly];
    options.extend(ANNOTATIONS.iter().flat_map(|value| ["--annotation", value]));
    let hostile = Container::start_with(&options, DEBIAN, "hostile", &["sleep", "1000"]);

    assert_eq!(said(&hostile, MACHINE), said(&neighbour, MACHINE));
    assert_eq!(said(&neighbour, KERNEL), HARD);

    let outside = folder.path().display().to_string();
    let output = hostile
        .exec(&["python3", "-c", PROGRAM, &outside])
        .finish()
        .ok();
    let text = output.text();
    let tries: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.split_once(": "))
        .collect();
    for (what, wanted) in WANTED {
        let got = tries.get(what).copied().unwrap_or("nothing was said of it");
        assert_eq!(got, wanted, "{what}, of:\n{text}\n{}", output.stderr);
    }
    assert_eq!(tries.len(), WANTED.len(), "{text}");

    assert_eq!(fs::read_to_string(place("secret")).unwrap(), SECRET);
    assert_eq!(fs::read_to_string(place("readonly/file")).unwrap(), SECRET);
    for (name, files) in [("readonly", 1), ("outside", 0)] {
        assert_eq!(fs::read_dir(place(name)).unwrap().count(), files, "{name}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
    what_it_left_is_what_it_asked_for(&place("volume"));

    // The pod beside it, and its own, answer as before.
    assert_eq!(
        neighbour.exec(&["echo", "well"]).finish().ok().text(),
        "well"
    );
    assert_eq!(Shim::of("hostile").pids().unwrap().processes.len(), 1);
}

/// Links that were stored as they are, nodes that are nodes, and names byte by byte.
#[track_caller]
fn what_it_left_is_what_it_asked_for(volume: &Path) {
    let link = fs::read_link(volume.join("absolute")).unwrap();
    assert!(link.ends_with("secret"), "{}", link.display());
    let node = fs::symlink_metadata(volume.join("disk")).unwrap();
    assert!(node.file_type().is_block_device());
    assert_eq!(node.rdev(), 8 << 8);
    let names: Vec<_> = fs::read_dir(volume)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        names.iter().any(|name| name.as_bytes() == b"\xff\n ;$(x)"),
        "{names:?}"
    );
}

fn mount(source: &Path, destination: &str, access: &str) -> String {
    format!(
        "type=bind,src={},dst={destination},options=rbind:{access}",
        source.display()
    )
}
