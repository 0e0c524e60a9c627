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
    let options = ["--privileged", "--mount", &volume, "--mount", &readonly];
    let hostile = Container::start_with(&options, DEBIAN, "hostile", &["sleep", "1000"]);

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
