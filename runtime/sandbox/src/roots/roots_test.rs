use caisson_protocol::agent::{DiskNumber, RootPlace};
use rustix::mount::MountFlags;

use super::{GuestMount, GuestRoot, plan};
use crate::disks::DeviceNumber;
use crate::{ErrorKind, RootMount, SandboxError};

/// A mount, with its options separated by blanks.
fn mount(kind: &str, source: &str, options: &str) -> RootMount {
    RootMount {
        kind: kind.into(),
        source: source.into(),
        target: String::new(),
        options: options.split_whitespace().map(str::to_owned).collect(),
    }
}

/// One whose options have blanks.
fn formatted(kind: &str, source: &str, options: &[&str]) -> RootMount {
    RootMount {
        options: options.iter().map(|&option| option.to_owned()).collect(),
        ..mount(kind, source, "")
    }
}

fn guest(mounts: &[RootMount]) -> GuestRoot {
    plan(mounts).unwrap().expect("it is for the guest")
}

fn refused(mounts: &[RootMount]) -> SandboxError {
    plan(mounts).unwrap_err()
}

/// What the guest is told, with disks that are numbered in their order.
fn told(root: GuestRoot) -> Vec<GuestMount> {
    let numbers = (0..).map(|minor| DeviceNumber { major: 254, minor });
    root.mounts(numbers)
}

fn disk(minor: u32) -> DiskNumber {
    DiskNumber {
        major: 254,
        minor,
        ..Default::default()
    }
}

fn place(mount: u32, path: &str) -> RootPlace {
    RootPlace {
        mount,
        path: path.into(),
        ..Default::default()
    }
}

/// What containerd 2.2 gives with `default_size` for an image of so many layers.
fn block_mode(layers: usize) -> Vec<RootMount> {
    let mut mounts = vec![mount("ext4", "/s/9/rwlayer.img", "rw loop")];
    for layer in (1..=layers).rev() {
        let source = format!("/s/{layer}/layer.erofs");
        mounts.push(mount("erofs", &source, "ro loop"));
    }
    let lower = match layers {
        1 => "lowerdir={{ mount 1 }}".to_owned(),
        _ => format!("lowerdir={{{{ overlay 1 {layers} }}}}"),
    };
    mounts.push(formatted(
        "format/mkdir/overlay",
        "overlay",
        &[
            "X-containerd.mkdir.path={{ mount 0 }}/upper:0755",
            "X-containerd.mkdir.path={{ mount 0 }}/work:0755",
            "workdir={{ mount 0 }}/work",
            "upperdir={{ mount 0 }}/upper",
            &lower,
        ],
    ));
    mounts
}

#[test]
fn directories_of_the_host_are_shared() {
    for mounts in [
        vec![],
        vec![mount("bind", "/image", "rbind rw")],
        vec![mount(
            "overlay",
            "overlay",
            "workdir=/w upperdir=/u lowerdir=/a:/b",
        )],
        vec![mount(
            "mkdir/bind",
            "/image",
            "X-containerd.mkdir.path=/image rbind",
        )],
        vec![
            mount("bind", "/a", "ro"),
            formatted("format/overlay", "overlay", &["lowerdir={{ mount 0 }}:/b"]),
        ],
        // The layers are containerd's; what is written is to be in a directory of the host.
        vec![
            mount("erofs", "/a", "ro loop"),
            formatted(
                "format/mkdir/overlay",
                "overlay",
                &["workdir=/w", "upperdir=/u", "lowerdir={{ mount 0 }}"],
            ),
        ],
    ] {
        assert_eq!(plan(&mounts).unwrap(), None, "{mounts:?}");
    }
}

#[test]
fn a_device_of_devmapper_and_a_file_of_blockfile_are_roots() {
    for (kind, source, options, expected, flags) in [
        (
            "ext4",
            "/dev/mapper/pool-snap-3",
            "",
            "",
            MountFlags::empty(),
        ),
        (
            "ext4",
            "/dev/mapper/pool-snap-3",
            "discard ro",
            "discard",
            MountFlags::RDONLY,
        ),
        ("ext4", "/s/7", "loop rw", "discard", MountFlags::empty()),
        (
            "ext4",
            "/s/7",
            "loop nodiscard rw",
            "nodiscard",
            MountFlags::empty(),
        ),
        (
            "ext3",
            "/s/7",
            "loop noatime ro",
            "",
            MountFlags::RDONLY.union(MountFlags::NOATIME),
        ),
        ("erofs", "/s/1/layer.erofs", "loop", "", MountFlags::RDONLY),
    ] {
        let root = guest(&[mount(kind, source, options)]);
        assert_eq!(root.steps.len(), 1);
        assert_eq!(root.steps[0].sources, [source]);
        let writable = !flags.contains(MountFlags::RDONLY);
        assert_eq!(root.steps[0].writable, writable, "{kind} {options}");
        let told = told(root);
        assert_eq!(told[0].options.join(","), expected, "{kind} {options}");
        assert_eq!(told[0].flags, flags.bits(), "{kind} {options}");
        assert_eq!(told[0].disks, [disk(0)]);
        let driver = if kind == "erofs" { "erofs" } else { "ext4" };
        assert_eq!(told[0].kind, driver);
        assert!(told[0].name.contains(source), "{}", told[0].name);
    }
}

#[test]
fn layers_and_a_writable_file_are_put_together_in_the_guest() {
    for layers in [1, 3, 128] {
        let root = guest(&block_mode(layers));
        assert!(root.steps[0].writable);
        assert!(root.steps[1..].iter().all(|step| !step.writable));
        let told = told(root);
        assert_eq!(told.len(), layers + 2);
        for (number, on_disk) in told[..=layers].iter().enumerate() {
            assert_eq!(on_disk.disks, [disk(u32::try_from(number).unwrap())]);
        }
        let overlay = told.last().unwrap();
        assert_eq!(overlay.kind, "overlay");
        let lower = (1..=u32::try_from(layers).unwrap()).map(|number| place(number, ""));
        assert_eq!(overlay.lower, lower.collect::<Vec<_>>());
        assert_eq!(*overlay.upper, place(0, "upper"));
        assert_eq!(*overlay.work, place(0, "work"));
        let made: Vec<_> = overlay
            .directories
            .iter()
            .map(|new| (new.place.path.as_str(), new.mode, new.uid))
            .collect();
        assert_eq!(made, [("upper", 0o755, 0), ("work", 0o755, 0)]);
        assert_eq!((&overlay.options[..], overlay.flags), (&[][..], 0));
    }
}

#[test]
fn layers_that_are_only_read_are_put_together_too() {
    // A view of several layers, and one of layers that are merged into one with further devices.
    let mut several = vec![mount("erofs", "/2", "ro"), mount("erofs", "/1", "ro")];
    let lower = ["lowerdir={{ overlay 1 0 }}", "index=off", "ro"];
    several.push(formatted("format/mkdir/overlay", "overlay", &lower));
    let told_of_several = told(guest(&several));
    let overlay = &told_of_several[2];
    assert_eq!(overlay.lower, [place(1, ""), place(0, "")]);
    assert!(overlay.upper.is_none() && overlay.work.is_none());
    assert_eq!(overlay.options, ["index=off"]);
    assert_eq!(overlay.flags, MountFlags::RDONLY.bits());

    let merged = [
        mount(
            "erofs",
            "/3/fsmeta.erofs",
            "ro loop device=/1/layer.erofs device=/2/layer.erofs",
        ),
        formatted("format/bind", "{{ mount 0 }}", &["ro", "rbind"]),
    ];
    let root = guest(&merged);
    let paths = ["/3/fsmeta.erofs", "/1/layer.erofs", "/2/layer.erofs"];
    assert_eq!(root.steps[0].sources, paths);
    let told = told(root);
    assert_eq!(told[0].disks, [disk(0), disk(1), disk(2)]);
    assert!(told[0].options.is_empty());
    assert_eq!(
        (told[1].kind.as_str(), &told[1].lower[..]),
        ("bind", &[place(0, "")][..])
    );
}

#[test]
fn a_root_without_layers_is_a_directory_of_the_writable_file() {
    let mounts = [
        mount("ext4", "/s/1/rwlayer.img", "rw loop"),
        formatted(
            "format/mkdir/bind",
            "{{ mount 0 }}/upper",
            &[
                "X-containerd.mkdir.path={{ mount 0 }}/upper:0755:5:6",
                "rw",
                "rbind",
            ],
        ),
    ];
    let told = told(guest(&mounts));
    assert_eq!(told[1].lower, [place(0, "upper")]);
    let new = &told[1].directories[0];
    assert_eq!((new.mode, new.uid, new.gid), (0o755, 5, 6));
}

#[test]
fn what_the_guest_cannot_mount_is_refused_by_name() {
    use ErrorKind::{InvalidArgument, Unimplemented};
    let in_block_mode = |option: &str| {
        let mut mounts = block_mode(1);
        mounts[2].options.push(option.to_owned());
        mounts
    };
    let mut below = mount("ext4", "/d", "");
    below.target = "/data".into();
    let chained = |source: &str| {
        vec![
            mount("ext4", "/d", ""),
            formatted("format/bind", source, &[]),
        ]
    };
    for (mounts, kind, expected) in [
        (
            vec![mount("xfs", "/dev/mapper/a", "nouuid")],
            Unimplemented,
            "xfs mount of /dev/mapper/a",
        ),
        (
            vec![mount("btrfs", "/dev/mapper/a", "")],
            Unimplemented,
            "btrfs",
        ),
        (
            vec![mount("mkfs/ext4", "/d", "")],
            Unimplemented,
            "mkfs/ext4",
        ),
        (vec![below], Unimplemented, "/data"),
        (
            vec![formatted("format/ext4", "{{ source 0 }}", &[])],
            Unimplemented,
            "its source",
        ),
        (
            vec![mount("ext4", "/d", "errors=panic")],
            InvalidArgument,
            "errors=panic",
        ),
        (
            vec![mount("ext4", "/d", "journal_dev=8:0")],
            InvalidArgument,
            "journal_dev",
        ),
        (
            vec![mount("ext4", "/d", "device=/e")],
            InvalidArgument,
            "device=/e",
        ),
        (
            vec![mount("erofs", "/d", "fsid=x")],
            InvalidArgument,
            "fsid",
        ),
        (
            vec![mount("erofs", "/d", "X-containerd.dmverity=/d.v")],
            Unimplemented,
            "dm-verity",
        ),
        (
            vec![mount("erofs", "/2", ""), mount("erofs", "/1", "")],
            InvalidArgument,
            "hide",
        ),
        (
            in_block_mode("lowerdir=/host"),
            Unimplemented,
            "\"/host\" is a directory of the host",
        ),
        (
            in_block_mode("lowerdir={{ mount 3 }}"),
            InvalidArgument,
            "names mount 3",
        ),
        (
            in_block_mode("lowerdir={{ mount x }}"),
            InvalidArgument,
            "not understood",
        ),
        (
            in_block_mode("lowerdir={{ mount 1 }}/../.."),
            InvalidArgument,
            "not understood",
        ),
        (
            in_block_mode("lowerdir={{ mount 1 }}/a,b"),
            InvalidArgument,
            "not understood",
        ),
        (
            in_block_mode("lowerdir={{ overlay 0 99999999 }}"),
            InvalidArgument,
            "not understood",
        ),
        (
            in_block_mode("upperdir={{ mount 1 }}/upper"),
            InvalidArgument,
            "mount 1 is read-only",
        ),
        (
            in_block_mode("workdir={{ overlay 0 1 }}"),
            InvalidArgument,
            "not one directory",
        ),
        (
            in_block_mode("X-containerd.mkdir.path={{ mount 0 }}/a:9"),
            InvalidArgument,
            "mkdir",
        ),
        (
            in_block_mode("X-containerd.mkdir.path={{ mount 0 }}:0755"),
            InvalidArgument,
            "is a mount",
        ),
        (in_block_mode("uidmap=0:1:2"), Unimplemented, "hostUsers"),
        (in_block_mode("fancy"), InvalidArgument, "\"fancy\""),
        (chained("/host"), Unimplemented, "/host"),
        (block_mode(129), InvalidArgument, "131 mounts"),
        (block_mode(1)[..2].to_vec(), InvalidArgument, "hide"),
    ] {
        let error = refused(&mounts);
        assert_eq!(error.kind(), kind, "{error}");
        let text = error.to_string();
        assert!(text.starts_with("root file system: "), "{text}");
        assert!(text.contains(expected), "{text}");
    }
    let mut no_work = block_mode(1);
    no_work[2].options.remove(2);
    assert!(refused(&no_work).to_string().contains("workdir together"));
}

#[test]
fn sources_that_are_not_there_are_named() {
    let mut mounts = block_mode(1);
    let file = tempfile::NamedTempFile::new().unwrap();
    mounts[0].source = file.path().display().to_string();
    let error = guest(&mounts).orders().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("/s/1/layer.erofs"), "{error}");

    mounts[1].source = "/dev".into();
    let error = guest(&mounts).orders().unwrap_err().to_string();
    assert!(
        error.contains("neither a file nor a block device"),
        "{error}"
    );

    mounts[1].source = mounts[0].source.clone();
    let orders = guest(&mounts).orders().unwrap();
    let keys: Vec<_> = orders.iter().map(|order| order.source.key()).collect();
    assert_eq!(keys[0], keys[1], "it is one file");
    assert!(orders[0].writable && !orders[1].writable);
}
