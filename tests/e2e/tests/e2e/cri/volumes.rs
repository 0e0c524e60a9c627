//! Volumes, as a kubelet lays them out on the host and mounts them into containers.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Command;

use caisson_e2e::{CleanMachine, Cri, CriContainer, PodConfig, PodSandbox};
use serde_json::json;
use tempfile::TempDir;

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn volumes_of_a_pod_are_what_the_kubelet_makes_of_them() {
    let _machine = CleanMachine::watch();
    let Some(cri) = Cri::connect() else { return };
    let folder = TempDir::new().unwrap();
    let place = |name: &str| folder.path().join(name);
    let host = |name: &str| place(name).display().to_string();
    for name in ["disk", "memory", "path"] {
        fs::create_dir(place(name)).unwrap();
    }
    // emptyDir in memory with a sizeLimit.
    let memory = host("memory");
    mount(&["-t", "tmpfs", "-o", "size=4M", "tmpfs", &memory]);
    fs::create_dir(place("path/inner")).unwrap();
    fs::write(place("path/inner/file"), "inner").unwrap();

    let at = |container: &str, host: &str, readonly: bool| json!({"container_path": container, "host_path": host, "readonly": readonly});
    let mounts = json!({"mounts": [
        at("/disk", &host("disk"), false),
        at("/memory", &memory, false),
        // subPath: of a directory, and of a file.
        at("/sub", &host("path/inner"), false),
        at("/file", &host("path/inner/file"), true),
        // hostPath files, made by the kubelet: the termination log.
        at("/dev/termination-log", &host("disk/termination"), false),
    ]});
    fs::write(place("disk/termination"), "").unwrap();
    let pod = PodSandbox::run(&cri, &PodConfig::new("pod"));
    let one = pod.start_with("one", &["sleep", "1000"], mounts.clone());
    let two = pod.start_with("two", &["sleep", "1000"], mounts);

    let _ = one.shell("echo text >/disk/file && mkdir /disk/folder");
    assert_eq!(
        two.shell("cat /disk/file; ls /disk"),
        "text\nfile\nfolder\ntermination"
    );
    assert_eq!(fs::read_to_string(place("disk/file")).unwrap(), "text\n");

    let full = one.exec(&["dd", "if=/dev/zero", "of=/memory/big", "bs=1M", "count=8"]);
    assert!(full.stderr.contains("No space left"), "{full:?}");
    assert_eq!(two.shell("stat -c %s /memory/big"), (4 << 20).to_string());

    assert_eq!(
        one.shell("ls /sub; cat /sub/file /file"),
        "file\ninnerinner"
    );
    let _ = one.shell("echo more >/sub/more");
    assert_eq!(
        fs::read_to_string(place("path/inner/more")).unwrap(),
        "more\n"
    );
    let refused = one.exec(&["sh", "-c", "echo x >/file"]);
    assert!(
        refused.stderr.contains("Read-only file system"),
        "{refused:?}"
    );
    let _ = one.shell("echo the end >/dev/termination-log");
    assert_eq!(
        fs::read_to_string(place("disk/termination")).unwrap(),
        "the end\n"
    );

    // A file that is exchanged on the host stays what it was.
    fs::write(place("path/inner/other"), "other").unwrap();
    fs::rename(place("path/inner/other"), place("path/inner/file")).unwrap();
    assert_eq!(one.shell("cat /file"), "inner");

    drop(pod);
    unmount(&memory);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn mounts_of_the_host_are_followed_one_way_and_what_cannot_be_shared_is_refused() {
    let _machine = CleanMachine::watch();
    let Some(cri) = Cri::connect() else { return };
    let folder = TempDir::new().unwrap();
    let host = |name: &str| folder.path().join(name).display().to_string();
    for name in ["volume", "volume/below", "volume/later", "huge"] {
        fs::create_dir(host(name)).unwrap();
    }
    mount(&["-t", "tmpfs", "tmpfs", &host("volume/below")]);
    mount(&["-t", "hugetlbfs", "none", &host("huge")]);
    let _listener = UnixListener::bind(host("socket")).unwrap();
    let pod = PodSandbox::run(&cri, &PodConfig::new("pod"));
    let at = |source: &str, propagation: u32, read_only: bool| {
        json!({"mounts": [{"container_path": "/data", "host_path": host(source),
            "propagation": propagation, "readonly": read_only}]})
    };

    let follows = pod.start_with("follows", &["sleep", "1000"], at("volume", 1, false));
    let stays = pod.start_with("stays", &["sleep", "1000"], at("volume", 0, true));
    mount(&["-t", "tmpfs", "tmpfs", &host("volume/later")]);
    fs::write(host("volume/later/file"), "").unwrap();
    assert_eq!(follows.shell("ls /data/later"), "file");
    assert_eq!(stays.shell("ls /data/later"), "");
    // Read-only is so for all that is mounted below.
    let refused = stays.exec(&["touch", "/data/below/file"]);
    assert!(refused.stderr.contains("Read-only"), "{refused:?}");

    for (source, propagation, sentence) in [
        ("socket", 0, "a unix socket of the host cannot be reached"),
        ("huge", 0, "huge pages of the host"),
        ("volume", 2, "use HostToContainer"),
    ] {
        let more = at(source, propagation, false);
        let error = CriContainer::refused(&pod, &format!("no-{source}"), &["true"], more);
        assert!(error.contains(sentence), "{error}");
        assert!(error.contains("/data"), "{error}");
    }
    drop(pod);
    for name in ["volume/below", "volume/later", "huge"] {
        unmount(&host(name));
    }
}

fn unmount(path: &str) {
    let status = Command::new("umount").arg("-n").arg(path).status();
    assert!(status.unwrap().success(), "{path}");
}

/// Without a trace in /run/mount.
fn mount(args: &[&str]) {
    let status = Command::new("mount").arg("-n").args(args).status();
    assert!(status.unwrap().success());
}
