//! Volumes that the kubelet fills and updates: ConfigMap, Secret, projected, downward API.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use caisson_e2e::{CleanMachine, Cri, CriContainer, DEBIAN, PodConfig, PodSandbox};
use serde_json::json;
use tempfile::TempDir;

/// How long an update may take to be seen; a program that begins to watch takes seconds in emulation.
const PATIENCE: Duration = Duration::from_secs(120);

/// Writes the events of a directory and of a file in it to /disk/events: which was watched, the mask of
/// inotify(7) and the name.
const WATCH: &str = "my $inotify = syscall(294, 0);
my %watched;
for my $path ('/config', '/config/key') {
    my $text = \"$path\\0\";
    $watched{syscall(254, $inotify, $text, 0x7c4)} = $path;
}
open(my $events, '<&=', $inotify);
open(my $ready, '>', '/disk/watching');
while (sysread($events, my $data, 65536)) {
    open(my $out, '>>', '/disk/events');
    while (length $data) {
        my ($watch, $mask, $cookie, $length) = unpack('lLLL', $data);
        printf $out \"%s %x %s\\n\", $watched{$watch}, $mask, unpack('Z*', substr($data, 16, $length));
        $data = substr($data, 16 + $length);
    }
    close $out;
}
";

/// A volume as the kubelet fills it.
struct Volume(PathBuf);

impl Volume {
    fn new(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Exchanges what is in it, and removes version `old`.
    fn update(&self, version: &str, files: &[(&str, &str)], old: Option<&str>) {
        for (name, text) in files {
            let file = self.0.join(version).join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        symlink(version, self.0.join("..data_tmp")).unwrap();
        fs::rename(self.0.join("..data_tmp"), self.0.join("..data")).unwrap();
        for (name, _) in files {
            let top = name.split('/').next().unwrap();
            if fs::symlink_metadata(self.0.join(top)).is_err() {
                symlink(format!("..data/{top}"), self.0.join(top)).unwrap();
            }
        }
        if let Some(old) = old {
            fs::remove_dir_all(self.0.join(old)).unwrap();
        }
    }
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn updates_of_a_volume_are_seen_and_are_events_for_who_watches() {
    let _machine = CleanMachine::watch();
    let Some(cri) = Cri::connect() else { return };
    let folder = TempDir::new().unwrap();
    let place = |name: &str| folder.path().join(name);
    fs::create_dir(place("disk")).unwrap();
    let config = Volume::new(place("config"));
    config.update("..1", &[("key", "before"), ("folder/inner", "deep")], None);
    // A Secret with defaultMode 0400 in a pod with fsGroup, as the kubelet leaves it.
    let secret = Volume::new(place("secret"));
    secret.update("..1", &[("token", "secret"), ("private", "root's")], None);
    for (name, mode) in [
        ("", 0o2771),
        ("..1", 0o2750),
        ("..1/token", 0o440),
        ("..1/private", 0o400),
    ] {
        let path = secret.0.join(name);
        chown(&path, Some(0), Some(2000)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    // Too large to be kept in the guest: no events, and seen all the same.
    let large = Volume::new(place("large"));
    let much = "x".repeat(5 << 20);
    large.update("..1", &[("key", "before"), ("much", &much)], None);

    let at = |path: &str, name: &str, readonly| json!({"container_path": path, "host_path": place(name), "readonly": readonly});
    let mounts = json!([
        at("/disk", "disk", false),
        at("/config", "config", true),
        at("/secret", "secret", true),
        at("/large", "large", true),
        // subPath: the file of this version, for ever.
        at("/file", "config/..1/key", true),
    ]);
    let pod = PodSandbox::run(&cri, &PodConfig::new("pod"));
    let watcher = json!({"image": {"image": DEBIAN}, "mounts": mounts});
    let _watcher = pod.start_with("watcher", &["perl", "-e", WATCH], watcher);
    let user = json!({"mounts": mounts, "linux": {"security_context":
        {"run_as_user": {"value": 1000}, "run_as_group": {"value": 1000}, "supplemental_groups": [2000]}}});
    let user = pod.start_with("user", &["sleep", "1000"], user);

    assert_eq!(
        user.shell("cat /config/key /config/folder/inner /large/key /file"),
        "beforedeepbeforebefore"
    );
    assert_eq!(
        user.shell("stat -Lc '%a %u %g' /secret /secret/token /secret/private; cat /secret/token"),
        "2771 0 2000\n440 0 2000\n400 0 2000\nsecret"
    );
    let refused = user.exec(&["cat", "/secret/private"]);
    assert!(refused.stderr.contains("Permission denied"), "{refused:?}");

    becomes(|| fs::metadata(place("disk/watching")).is_ok());
    let files = [("key", "after"), ("folder/inner", "deep"), ("new", "")];
    config.update("..2", &files, Some("..1"));
    large.update("..2", &[("key", "after"), ("much", &much)], Some("..1"));
    // What the kubelet does: IN_CREATE of the version and of the link to come, the exchange, and the
    // removal of what was before; and in there, what is new and the end of what was watched.
    let expected = [
        "/config 40000100 ..2",
        "/config 100 ..data_tmp",
        "/config 40 ..data_tmp",
        "/config 80 ..data",
        "/config 40000200 ..1",
        "/config 100 new",
        "/config/key 400 ",
    ];
    becomes(|| {
        let events = fs::read_to_string(place("disk/events")).unwrap_or_default();
        let seen: Vec<_> = events.lines().collect();
        expected.iter().all(|event| seen.contains(event))
    });
    assert_eq!(
        user.shell("cat /config/key; readlink /config/..data; ls /config"),
        "after..2\nfolder\nkey\nnew"
    );
    sees(&user, "cat /large/key", "after");
    // One that is made now has the same.
    let late = pod.start_with("late", &["sleep", "1000"], json!({"mounts": [mounts[1]]}));
    assert_eq!(late.shell("cat /config/key"), "after");
    for container in [&user, &late] {
        let refused = container.exec(&["touch", "/config/new"]);
        assert!(refused.stderr.contains("Read-only"), "{refused:?}");
    }
    // One event for a link alone, too.
    fs::remove_file(config.0.join("new")).unwrap();
    sees(&late, "ls /config", "folder\nkey");
    assert!(Path::new(&config.0).join("..2").exists());
}

/// Waits until a shell in the container prints this.
#[track_caller]
fn sees(container: &CriContainer, script: &str, expected: &str) {
    becomes(|| container.shell(script) == expected);
}

/// Waits until it is so.
#[track_caller]
fn becomes(so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "it does not come to that");
        std::thread::sleep(Duration::from_millis(20));
    }
}
