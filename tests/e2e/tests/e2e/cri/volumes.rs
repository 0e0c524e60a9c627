//! Volumes, as a kubelet lays them out on the host and mounts them into containers.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use caisson_e2e::{CleanMachine, Cri, PodConfig, PodSandbox};
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
    for name in ["disk", "memory", "config", "path"] {
        fs::create_dir(place(name)).unwrap();
    }
    // emptyDir in memory with a sizeLimit.
    let memory = host("memory");
    mount(&["-t", "tmpfs", "-o", "size=4M", "tmpfs", &memory]);
    // A ConfigMap: files lead through ..data to a directory with a time in its name.
    let config = place("config");
    let version = |name: &str, text: &str| {
        fs::create_dir(config.join(name)).unwrap();
        fs::write(config.join(name).join("key"), text).unwrap();
    };
    version("..1", "before");
    symlink("..1", config.join("..data")).unwrap();
    symlink("..data/key", config.join("key")).unwrap();
    fs::create_dir(place("path/inner")).unwrap();
    fs::write(place("path/inner/file"), "inner").unwrap();

    let at = |container: &str, host: &str, readonly: bool| json!({"container_path": container, "host_path": host, "readonly": readonly});
    let mounts = json!({"mounts": [
        at("/disk", &host("disk"), false),
        at("/memory", &memory, false),
        at("/config", &host("config"), true),
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

    assert_eq!(one.shell("cat /config/key"), "before");
    let refused = one.exec(&["touch", "/config/new"]);
    assert!(
        refused.stderr.contains("Read-only file system"),
        "{refused:?}"
    );
    // As the kubelet does it: a new directory, and the link exchanged at once.
    version("..2", "after");
    symlink("..2", config.join("..data_tmp")).unwrap();
    fs::rename(config.join("..data_tmp"), config.join("..data")).unwrap();
    fs::remove_dir_all(config.join("..1")).unwrap();
    assert_eq!(
        one.shell("cat /config/key; echo; readlink /config/..data"),
        "after\n..2"
    );
    assert_eq!(two.shell("cat /config/key"), "after");

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

    drop(pod);
    let unmounted = Command::new("umount")
        .arg("-n")
        .arg(&memory)
        .status()
        .unwrap();
    assert!(unmounted.success(), "{}", Path::new(&memory).display());
}

/// Without a trace in /run/mount.
fn mount(args: &[&str]) {
    let status = Command::new("mount").arg("-n").args(args).status();
    assert!(status.unwrap().success());
}
