//! Root file systems that the guest mounts from disks; here they are loop devices.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "this is test code, which the settings for tests do not see outside of test functions"
)]

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use caisson_protocol::agent::{
    CreateContainerRequest, DiskNumber, NewDirectory, RootMount, RootPlace,
};
use rustix::mount::MountFlags;
use ttrpc::Code;

use crate::guest::{Guest, context, in_guest, refusal};

/// A disk of this machine, made of a file; the kernel forgets it when nobody has it open.
struct Disk {
    number: DiskNumber,
    _open: File,
    _file: tempfile::NamedTempFile,
}

impl Disk {
    /// One of 8 MiB; `None`, with a printed reason, where there can be none. With an ext4 of what is
    /// in `content`, if that is given.
    fn new(content: Option<&Path>) -> Option<Self> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 << 20).unwrap();
        if let Some(content) = content {
            let made = Command::new("mke2fs")
                .args(["-q", "-t", "ext4", "-d"])
                .args([content, file.path()])
                .output();
            match made {
                Ok(output) => assert!(output.status.success(), "{output:?}"),
                Err(error) => {
                    println!("skipped: mke2fs: {error}");
                    return None;
                }
            }
        }
        let losetup = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file.path())
            .output();
        let path = match losetup {
            Ok(output) if output.status.success() => String::from_utf8(output.stdout).unwrap(),
            other => {
                println!("skipped: there is no loop device: {other:?}");
                return None;
            }
        };
        let path = path.trim();
        let open = File::open(path).unwrap();
        let detached = Command::new("losetup").args(["--detach", path]).status();
        assert!(detached.unwrap().success());
        let name = path.trim_start_matches("/dev/");
        let number = fs::read_to_string(format!("/sys/block/{name}/dev")).unwrap();
        let (major, minor) = number.trim().split_once(':').unwrap();
        Some(Self {
            number: DiskNumber {
                major: major.parse().unwrap(),
                minor: minor.parse().unwrap(),
                ..Default::default()
            },
            _open: open,
            _file: file,
        })
    }

    fn mount(&self, flags: MountFlags) -> RootMount {
        RootMount {
            kind: "ext4".to_owned(),
            flags: flags.bits(),
            disks: vec![self.number.clone()],
            name: "ext4 mount of /layers/1".to_owned(),
            ..Default::default()
        }
    }
}

fn place(mount: u32, path: &str) -> RootPlace {
    RootPlace {
        mount,
        path: path.to_owned(),
        ..Default::default()
    }
}

/// Layers 0 and 1 below the directories of mount 2.
fn overlay() -> RootMount {
    let directory = |path: &str, mode| NewDirectory {
        place: Some(place(2, path)).into(),
        mode,
        ..Default::default()
    };
    RootMount {
        kind: "overlay".to_owned(),
        lower: vec![place(0, ""), place(1, "")],
        upper: Some(place(2, "upper")).into(),
        work: Some(place(2, "work")).into(),
        directories: vec![directory("upper", 0o755), directory("work", 0o711)],
        name: "overlay".to_owned(),
        ..Default::default()
    }
}

fn request(guest: &Guest, script: &str, mounts: Vec<RootMount>) -> CreateContainerRequest {
    let mut config = guest.config(&["sh", "-c", script]);
    // What the host says of a root that it does not share.
    config["root"]["path"] = "/not/shared".into();
    CreateContainerRequest {
        root_mounts: mounts,
        ..guest.create_request("c", &config)
    }
}

/// What a container prints that runs once, and is deleted.
async fn run(guest: &Guest, script: &str, mounts: Vec<RootMount>) -> String {
    let streamed = guest.streamed();
    let request = CreateContainerRequest {
        stdio: Some(streamed.stdio.clone()).into(),
        ..request(guest, script, mounts)
    };
    guest
        .client
        .create_container(context(), &request)
        .await
        .unwrap();
    guest.start("c", "").await.unwrap();
    guest.wait("c", "").await.unwrap();
    let (out, errors) = streamed.output().await;
    guest.delete("c", "").await.unwrap();
    assert_nothing_mounted();
    format!("{out}{errors}")
}

#[track_caller]
fn assert_nothing_mounted() {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("-root/"), "{mounts}");
}

#[test]
fn a_disk_is_a_root_and_keeps_what_is_written() {
    in_guest(
        "roots::a_disk_is_a_root_and_keeps_what_is_written",
        async |guest| {
            let Some(disk) = Disk::new(Some(&guest.rootfs)) else {
                return;
            };
            let writable = || vec![disk.mount(MountFlags::empty())];
            let script = "echo kept >/new; stat -f -c %T /; exit 3";
            assert_eq!(run(&guest, script, writable()).await, "ext2/ext3\n");
            assert_eq!(run(&guest, "cat /new", writable()).await, "kept\n");
            let read_only = vec![disk.mount(MountFlags::RDONLY)];
            let refused = run(&guest, "cat /new; echo x >/new", read_only).await;
            assert!(refused.starts_with("kept\n"), "{refused}");
            assert!(refused.contains("Read-only file system"), "{refused}");
        },
    );
}

#[test]
fn layers_are_put_together_and_what_is_written_goes_into_the_upper_one() {
    in_guest(
        "roots::layers_are_put_together_and_what_is_written_goes_into_the_upper_one",
        async |guest| {
            let top = tempfile::tempdir().unwrap();
            fs::write(top.path().join("which"), "top").unwrap();
            let empty = tempfile::tempdir().unwrap();
            fs::write(guest.rootfs.join("which"), "base").unwrap();
            let disks = [top.path(), &guest.rootfs, empty.path()].map(|from| Disk::new(Some(from)));
            let [Some(top), Some(base), Some(writable)] = disks else {
                return;
            };
            let mounts = || {
                vec![
                    top.mount(MountFlags::RDONLY),
                    base.mount(MountFlags::RDONLY),
                    writable.mount(MountFlags::empty()),
                    overlay(),
                ]
            };
            let script = "cat /which; echo -n new >/which";
            assert_eq!(run(&guest, script, mounts()).await, "top");
            assert_eq!(run(&guest, "cat /which", mounts()).await, "new");
            let mut shown = writable.mount(MountFlags::RDONLY);
            shown.name = "the upper".to_owned();
            // The layer below has programs, and the upper only what was written.
            let mut only_upper = RootMount {
                kind: "bind".to_owned(),
                flags: MountFlags::RDONLY.bits(),
                lower: vec![place(1, "")],
                name: "bind".to_owned(),
                ..Default::default()
            };
            let all = vec![
                shown.clone(),
                base.mount(MountFlags::RDONLY),
                only_upper.clone(),
            ];
            let output = run(&guest, "cat /which; echo >/which", all).await;
            assert!(output.starts_with("base"), "{output}");
            assert!(output.contains("Read-only file system"), "{output}");

            // It has no programs: what is mounted is undone when the container cannot be made.
            only_upper.lower = vec![place(0, "upper")];
            let request = request(&guest, "true", vec![shown, only_upper]);
            let made = guest.client.create_container(context(), &request).await;
            assert!(made.is_err());
            assert_nothing_mounted();
        },
    );
}

#[test]
fn what_is_not_mounted_is_named_with_the_reason_and_nothing_is_left() {
    in_guest(
        "roots::what_is_not_mounted_is_named_with_the_reason_and_nothing_is_left",
        async |guest| {
            let (Some(disk), Some(blank)) = (Disk::new(Some(&guest.rootfs)), Disk::new(None))
            else {
                return;
            };
            let good = || disk.mount(MountFlags::empty());
            let mut gone = good();
            gone.disks[0].minor = 1 << 19;
            let mut strange = good();
            strange.options = vec!["nonsense".to_owned()];
            let mut missing = overlay();
            missing.lower = vec![place(0, "no/such/place")];
            let mut beyond = overlay();
            beyond.lower = vec![place(7, "")];
            let view = |lower| RootMount {
                upper: None.into(),
                work: None.into(),
                directories: Vec::new(),
                lower,
                ..overlay()
            };
            let layered = view(vec![place(0, ""); 131]);
            let mut crowded = good();
            crowded.disks = vec![crowded.disks[0].clone(); 129];
            let mut strange_overlay = view(vec![place(0, "bin")]);
            strange_overlay.options = vec!["nonsense=1".to_owned()];
            let long = view(vec![place(0, &"./".repeat(150)), place(0, "bin")]);
            let mut unknown = good();
            unknown.kind = "tmpfs".to_owned();
            for (mounts, code, expected) in [
                (
                    vec![blank.mount(MountFlags::empty())],
                    Code::FAILED_PRECONDITION,
                    "/layers/1",
                ),
                (
                    vec![good(), gone],
                    Code::FAILED_PRECONDITION,
                    "No such file",
                ),
                (vec![strange], Code::FAILED_PRECONDITION, "Invalid argument"),
                (
                    vec![good(), good(), good(), missing],
                    Code::FAILED_PRECONDITION,
                    "No such file",
                ),
                (vec![good(), beyond], Code::FAILED_PRECONDITION, "no mount"),
                (vec![unknown], Code::INVALID_ARGUMENT, "tmpfs"),
                (vec![good(); 131], Code::INVALID_ARGUMENT, "131"),
                (vec![good(), layered], Code::INVALID_ARGUMENT, "131 layers"),
                (vec![crowded], Code::INVALID_ARGUMENT, "129 disks"),
                (
                    vec![good(), strange_overlay],
                    Code::FAILED_PRECONDITION,
                    "Unknown parameter 'nonsense'",
                ),
                (
                    vec![good(), long],
                    Code::FAILED_PRECONDITION,
                    "lowerdir+ has",
                ),
            ] {
                let request = request(&guest, "true", mounts);
                let made = guest.client.create_container(context(), &request).await;
                let (refused, text) = refusal(made);
                assert_eq!(refused, code, "{text}");
                assert!(text.contains(expected), "{text}");
                assert_nothing_mounted();
            }
            // The name is free, and the disk as well.
            assert_eq!(run(&guest, "echo well", vec![good()]).await, "well\n");
        },
    );
}

#[test]
fn an_overlay_has_more_layers_than_options_of_one_page() {
    in_guest(
        "roots::an_overlay_has_more_layers_than_options_of_one_page",
        async |guest| {
            const LAYERS: usize = 128;
            let content = tempfile::tempdir().unwrap();
            let name = |number| format!("layer-with-a-name-that-is-long-enough-{number}");
            for number in 0..LAYERS {
                let layer = content.path().join(name(number));
                fs::create_dir(&layer).unwrap();
                fs::write(layer.join(format!("of-{number}")), "").unwrap();
                fs::write(layer.join("top"), format!("{number}\n")).unwrap();
            }
            let disks = [guest.rootfs.as_path(), content.path()].map(|from| Disk::new(Some(from)));
            let [Some(base), Some(layers)] = disks else {
                return;
            };
            let mut lower: Vec<_> = (0..LAYERS).map(|number| place(1, &name(number))).collect();
            lower.push(place(0, ""));
            let view = RootMount {
                upper: None.into(),
                work: None.into(),
                directories: Vec::new(),
                lower,
                flags: MountFlags::RDONLY.bits(),
                ..overlay()
            };
            let read_only = MountFlags::RDONLY;
            let mounts = vec![base.mount(read_only), layers.mount(read_only), view];
            let script = "cat /top; ls -d /of-* | wc -l; touch /new 2>&1; grep ' / ' /proc/mounts";
            let said = run(&guest, script, mounts).await;
            let lines: Vec<&str> = said.lines().collect();
            assert_eq!(lines[..2], ["0", "128"], "{said}");
            assert!(lines[2].contains("Read-only file system"), "{said}");
            assert!(
                lines[3].starts_with("overlay / overlay ro,nodev,"),
                "{said}"
            );
        },
    );
}

#[test]
fn links_on_a_disk_lead_nowhere() {
    in_guest("roots::links_on_a_disk_lead_nowhere", async |guest| {
        let trap = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/", trap.path().join("upper")).unwrap();
        std::os::unix::fs::symlink(".", trap.path().join("work")).unwrap();
        let disks = [guest.rootfs.as_path(), trap.path()].map(|from| Disk::new(Some(from)));
        let [Some(base), Some(trap)] = disks else {
            return;
        };
        let base = || base.mount(MountFlags::RDONLY);
        let mounts = vec![base(), base(), trap.mount(MountFlags::empty()), overlay()];
        let request = request(&guest, "true", mounts);
        let made = guest.client.create_container(context(), &request).await;
        let (code, text) = refusal(made);
        assert_eq!(code, Code::FAILED_PRECONDITION);
        assert!(text.contains("symbolic links"), "{text}");
        assert_nothing_mounted();
    });
}
