//! Root file systems on disks, from containerd's mounts to what the VMM and the agent are told.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use caisson_sandbox::{Config, CreateContainer, ErrorKind, RootMount, Sandbox};
use rustix::fs::FlockOperation;

use crate::pod::{Pod, in_pod};
use crate::{init, soon};

/// With the file in which the fake VMM writes down what happens to disks.
fn noted(pod: &Pod) -> (Config, PathBuf) {
    let notes = pod.program("notes");
    let mut config = pod.config("");
    config.kernel_parameters += &format!(" notes={}", notes.display());
    (config, notes)
}

/// A file that is a disk, and how the VMM calls it.
fn disk(pod: &Pod, name: &str) -> (PathBuf, String) {
    let path = pod.program(name);
    fs::write(&path, vec![0; 4096]).unwrap();
    let serial = format!("ino:{:x}", fs::metadata(&path).unwrap().ino());
    (path, serial)
}

fn mount(kind: &str, source: &Path, options: &[&str]) -> RootMount {
    RootMount {
        kind: kind.into(),
        source: source.display().to_string(),
        target: String::new(),
        options: options.iter().map(|&option| option.into()).collect(),
    }
}

fn container(pod: &Pod, id: &str, program: &str, rootfs: Vec<RootMount>) -> CreateContainer {
    CreateContainer {
        rootfs,
        ..pod.container(id, program)
    }
}

fn lines(notes: &Path) -> Vec<String> {
    let text = fs::read_to_string(notes).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Checks that nobody holds the file's lock. A program that another test is starting has the descriptors
/// of this process until its exec, so it may be free a moment later.
#[track_caller]
fn assert_free(path: &Path) {
    let file = fs::File::open(path).unwrap();
    let lock = || rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
    for _ in 0..200 {
        if lock().is_ok() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    lock().unwrap();
}

#[test]
fn a_root_is_a_disk_of_the_machine_as_long_as_its_container_is() {
    in_pod(async |pod: &Pod| {
        let (config, notes) = noted(pod);
        let sandbox = soon(Sandbox::start(&config, pod.options())).await.unwrap();
        let (path, serial) = disk(pod, "blockfile");
        let root = || vec![mount("ext4", &path, &["loop", "rw"])];
        let web = container(pod, "web", "cat", root());
        soon(sandbox.create_container(web)).await.unwrap();
        assert_eq!(
            lines(&notes),
            [
                format!("slot 16: disk {serial}, writable"),
                "slot 16: found".to_owned(),
                "web: root ext4 on 254:16 with discard".to_owned(),
            ]
        );
        // Nothing of it is shared.
        let shared = pod.state_dir().join("shared/web/rootfs");
        assert_eq!(fs::read_dir(shared).unwrap().count(), 0);
        let file = fs::File::open(&path).unwrap();
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).unwrap_err();

        soon(sandbox.delete_process(&init("web"))).await.unwrap();
        assert_eq!(
            lines(&notes)[3..],
            ["slot 16: removed", "slot 16: unplugged"]
        );
        assert_free(&path);
        let again = container(pod, "web", "cat", root());
        soon(sandbox.create_container(again)).await.unwrap();
        soon(sandbox.stop()).await;
        drop(sandbox);
        assert_free(&path);
        pod.assert_nothing_left();
    });
}

#[test]
fn layers_are_disks_that_containers_share() {
    in_pod(async |pod: &Pod| {
        let (config, notes) = noted(pod);
        let sandbox = soon(Sandbox::start(&config, pod.options())).await.unwrap();
        let (layer, layer_serial) = disk(pod, "layer");
        for (id, slot) in [("one", 17), ("two", 18)] {
            let (upper, upper_serial) = disk(pod, id);
            let options = [
                "upperdir={{ mount 0 }}/upper",
                "workdir={{ mount 0 }}/work",
                "lowerdir={{ mount 1 }}",
            ];
            let rootfs = vec![
                mount("ext4", &upper, &["loop", "nodiscard"]),
                mount("erofs", &layer, &["loop"]),
                mount("format/overlay", Path::new("overlay"), &options),
            ];
            let container = container(pod, id, "cat", rootfs);
            soon(sandbox.create_container(container)).await.unwrap();
            let said = lines(&notes).join("\n");
            let upper_slot = if id == "one" { 16 } else { slot };
            for line in [
                format!("slot {upper_slot}: disk {upper_serial}, writable"),
                format!("slot 17: disk {layer_serial}, read-only"),
                format!("{id}: root ext4 on 254:{upper_slot} with nodiscard"),
                format!("{id}: root erofs on 254:17 with "),
                format!("{id}: root overlay on  with "),
            ] {
                assert!(said.contains(&line), "{line} in {said}");
            }
        }
        soon(sandbox.delete_process(&init("one"))).await.unwrap();
        assert!(!lines(&notes).contains(&"slot 17: unplugged".to_owned()));
        soon(sandbox.delete_process(&init("two"))).await.unwrap();
        assert_eq!(lines(&notes).last().unwrap(), "slot 17: unplugged");
        assert_free(&layer);
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}

/// A root of layers, the uppermost first, that is only read.
fn view(layers: &[&PathBuf]) -> Vec<RootMount> {
    let mut mounts: Vec<_> = layers
        .iter()
        .map(|layer| mount("erofs", layer, &["ro", "loop"]))
        .collect();
    let last = layers.len() - 1;
    let lower = format!("lowerdir={{{{ overlay 0 {last} }}}}");
    mounts.push(mount("format/overlay", Path::new("overlay"), &[&lower]));
    mounts
}

#[test]
fn layers_that_the_pod_does_not_have_yet_share_a_disk() {
    in_pod(async |pod: &Pod| {
        let (config, notes) = noted(pod);
        let sandbox = soon(Sandbox::start(&config, pod.options())).await.unwrap();
        let names = ["a", "b", "c", "d", "e"];
        let [a, b, c, d, e] = names.map(|name| disk(pod, name));
        // Twice the same layer is one file; the largest is not the first.
        fs::write(&b.0, vec![0; 8192]).unwrap();
        let rootfs = view(&[&a.0, &b.0, &c.0, &a.0]);
        soon(sandbox.create_container(container(pod, "one", "cat", rootfs)))
            .await
            .unwrap();
        assert_eq!(
            lines(&notes),
            [
                format!("slot 16: disk {}, read-only", a.1),
                "slot 16: found with 0+4096, 8192+8192, 20480+4096".to_owned(),
                "one: root erofs on 259:16000 with ".to_owned(),
                "one: root erofs on 259:16001 with ".to_owned(),
                "one: root erofs on 259:16002 with ".to_owned(),
                "one: root erofs on 259:16000 with ".to_owned(),
                "one: root overlay on  with ".to_owned(),
            ]
        );
        // Two that it has, and two that it has not.
        let rootfs = view(&[&d.0, &c.0, &e.0, &a.0]);
        soon(sandbox.create_container(container(pod, "two", "cat", rootfs)))
            .await
            .unwrap();
        assert_eq!(
            lines(&notes)[7..],
            [
                format!("slot 17: disk {}, read-only", d.1),
                "slot 17: found with 0+4096, 8192+4096".to_owned(),
                "two: root erofs on 259:17000 with ".to_owned(),
                "two: root erofs on 259:16002 with ".to_owned(),
                "two: root erofs on 259:17001 with ".to_owned(),
                "two: root erofs on 259:16000 with ".to_owned(),
                "two: root overlay on  with ".to_owned(),
            ]
        );
        // One layer of the first is not used any more, and stays with the others.
        soon(sandbox.delete_process(&init("one"))).await.unwrap();
        assert_eq!(lines(&notes).len(), 14);
        let file = fs::File::open(&b.0).unwrap();
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap_err();
        let rootfs = view(&[&b.0]);
        soon(sandbox.create_container(container(pod, "three", "cat", rootfs)))
            .await
            .unwrap();
        assert_eq!(lines(&notes)[14], "three: root erofs on 259:16001 with ");
        soon(sandbox.delete_process(&init("two"))).await.unwrap();
        assert_eq!(
            lines(&notes)[16..],
            ["slot 17: removed", "slot 17: unplugged"]
        );
        assert_free(&d.0);
        soon(sandbox.delete_process(&init("three"))).await.unwrap();
        assert_eq!(
            lines(&notes)[18..],
            ["slot 16: removed", "slot 16: unplugged"]
        );
        for layer in [&a, &b, &c, &d, &e] {
            assert_free(&layer.0);
        }
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}

#[test]
fn as_many_layers_as_there_can_be_are_one_disk_and_one_more_is_refused() {
    in_pod(async |pod: &Pod| {
        let (config, notes) = noted(pod);
        let sandbox = soon(Sandbox::start(&config, pod.options())).await.unwrap();
        let layers: Vec<_> = (0..130)
            .map(|number| disk(pod, &format!("{number}")).0)
            .collect();
        let most: Vec<&PathBuf> = layers[..128].iter().collect();
        soon(sandbox.create_container(container(pod, "web", "cat", view(&most))))
            .await
            .unwrap();
        let said = lines(&notes);
        assert!(
            said[1].starts_with("slot 16: found with 0+4096, "),
            "{}",
            said[1]
        );
        assert!(said[1].ends_with(", 1040384+4096"), "{}", said[1]);
        assert_eq!(said.len(), 2 + 129);
        soon(sandbox.delete_process(&init("web"))).await.unwrap();
        // That is for one disk; what is left of a root goes on another.
        let more: Vec<&PathBuf> = layers[..129].iter().collect();
        soon(sandbox.create_container(container(pod, "web", "cat", view(&more))))
            .await
            .unwrap();
        let said = lines(&notes);
        assert!(said.contains(&"slot 18: found".to_owned()), "{said:?}");
        soon(sandbox.delete_process(&init("web"))).await.unwrap();
        let before = lines(&notes);
        let too_many: Vec<&PathBuf> = layers.iter().collect();
        let error = soon(sandbox.create_container(container(pod, "web", "cat", view(&too_many))))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        let text = error.to_string();
        assert!(text.contains("131 mounts, and 130 are possible"), "{text}");
        assert_eq!(lines(&notes), before);
        for layer in &layers {
            assert_free(layer);
        }
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}

#[test]
fn a_layer_that_cannot_be_on_a_disk_is_named_and_none_is_left() {
    in_pod(async |pod: &Pod| {
        let (config, notes) = noted(pod);
        let sandbox = soon(Sandbox::start(&config, pod.options())).await.unwrap();
        let (good, _) = disk(pod, "good");
        let (odd, _) = disk(pod, "cut-off");
        fs::write(&odd, vec![0; 1000]).unwrap();
        let (taken, _) = disk(pod, "taken");
        let lock = fs::File::open(&taken).unwrap();
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        let absent = pod.program("absent-layer");
        for (layer, kind, words) in [
            (
                &odd,
                ErrorKind::FailedPrecondition,
                ["cut-off", "1000 bytes"],
            ),
            (
                &absent,
                ErrorKind::InvalidArgument,
                ["absent-layer", "not there"],
            ),
            (&taken, ErrorKind::FailedPrecondition, ["taken", "in use"]),
        ] {
            let rootfs = view(&[&good, layer]);
            let error = soon(sandbox.create_container(container(pod, "web", "cat", rootfs)))
                .await
                .unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            let text = error.to_string();
            for word in words {
                assert!(text.contains(word), "{word}: {text}");
            }
            assert!(
                text.starts_with("root file system: erofs mount of"),
                "{text}"
            );
            assert_eq!(text.matches("root file system").count(), 1, "{text}");
            assert_eq!(lines(&notes), Vec::<String>::new());
            assert_free(&good);
        }
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}

#[test]
fn a_root_that_cannot_be_had_is_named_and_leaves_no_disk() {
    in_pod(async |pod: &Pod| {
        let (config, notes) = noted(pod);
        let sandbox = soon(Sandbox::start(&config, pod.options())).await.unwrap();
        let (path, _) = disk(pod, "blockfile");
        let absent = pod.program("absent-disk");
        for (mounts, kind, expected) in [
            (
                vec![mount("ext4", &absent, &[])],
                ErrorKind::InvalidArgument,
                "absent-disk",
            ),
            (
                vec![mount("xfs", &path, &[])],
                ErrorKind::Unimplemented,
                "xfs",
            ),
        ] {
            let container = container(pod, "web", "cat", mounts);
            let error = soon(sandbox.create_container(container)).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(lines(&notes), Vec::<String>::new());
        }
        // Another pod has it.
        let file = fs::File::open(&path).unwrap();
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        let root = || vec![mount("ext4", &path, &["loop"])];
        let taken = container(pod, "web", "cat", root());
        let error = soon(sandbox.create_container(taken)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.to_string().contains("another pod has it"), "{error}");
        drop(file);
        // The guest makes no container of it.
        let refused = container(pod, "web", "absent", root());
        let error = soon(sandbox.create_container(refused)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(lines(&notes).last().unwrap(), "slot 16: unplugged");
        assert!(!pod.state_dir().join("shared/web").exists());
        assert_free(&path);
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}
