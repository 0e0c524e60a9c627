//! Links that an image or a container has planted where the agent makes something: they lead no further
//! than the container's own root, and never into that of the agent, where those of all other containers
//! are.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "this is test code, which the settings for tests do not see outside of test functions"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::guest::{Guest, in_guest};

/// A place in the agent's root, with something to lose.
struct Outside {
    directory: tempfile::TempDir,
}

impl Outside {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["net", "pts", "shm", "new"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        for name in ["ptmx", "console", "hosts", "null"] {
            fs::write(directory.path().join(name), "of the agent").unwrap();
        }
        Self { directory }
    }

    /// What is there: each name, and what it holds.
    fn content(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut directories = vec![self.directory.path().to_path_buf()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).unwrap() {
                let entry = entry.unwrap();
                let kind = entry.file_type().unwrap();
                let text = if kind.is_dir() {
                    directories.push(entry.path());
                    "directory".to_owned()
                } else if kind.is_file() {
                    fs::read_to_string(entry.path()).unwrap()
                } else {
                    format!("{kind:?}")
                };
                found.insert(entry.path(), text);
            }
        }
        found
    }

    /// Makes the same place in an image, so that links lead somewhere in a container, too.
    fn copy_into(&self, image: &Path) {
        let path = self.directory.path().strip_prefix("/").unwrap();
        for name in ["net", "pts", "shm"] {
            fs::create_dir_all(image.join(path).join(name)).unwrap();
        }
    }

    /// Ways to get here from `place` in the root file system: from the top, and by many steps upwards.
    fn ways(&self) -> [PathBuf; 2] {
        let path = self.directory.path();
        let upwards = Path::new(&"../".repeat(30)).join(path.strip_prefix("/").unwrap());
        [path.to_path_buf(), upwards]
    }
}

/// Puts a link to `target` where there is something in the image.
fn plant(guest: &Guest, at: &str, target: &Path) {
    let place = guest.rootfs.join(at);
    let _ = fs::remove_file(&place);
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    symlink(target, &place).unwrap();
}

/// The configuration with one more mount.
fn with_mount(mut config: Value, source: &Path, destination: &str) -> Value {
    let mount = json!({
        "destination": destination,
        "type": "bind",
        "source": source,
        "options": ["rbind", "rw"],
    });
    config["mounts"].as_array_mut().unwrap().push(mount);
    config
}

/// Makes a container, and whatever comes of it, removes it; what it printed, or why there is none.
async fn attempt(guest: &Guest, config: &Value) -> String {
    let streamed = guest.streamed();
    if let Err(error) = guest.create("c", config, streamed.stdio.clone()).await {
        return error.to_string();
    }
    guest.start("c", "").await.unwrap();
    guest.wait("c", "").await.unwrap();
    guest.delete("c", "").await.unwrap();
    streamed.output().await.0
}

#[test]
fn a_mount_ends_in_its_container_wherever_links_lead() {
    in_guest(
        "links::a_mount_ends_in_its_container_wherever_links_lead",
        async |guest| {
            let outside = Outside::new();
            let before = outside.content();
            let volume = tempfile::tempdir().unwrap();
            fs::write(volume.path().join("hosts"), "of the host").unwrap();
            let file = volume.path().join("hosts");
            outside.copy_into(&guest.rootfs);
            for way in outside.ways() {
                // The place itself, one on the way to it, and one that is not there yet.
                for (link, source, destination, seen) in [
                    ("etc", &*file, "/etc/hosts", "/etc/hosts"),
                    ("data", volume.path(), "/data", "/data/hosts"),
                    (
                        "data",
                        volume.path(),
                        "/data/new/place",
                        "/data/new/place/hosts",
                    ),
                    (
                        "srv/deep",
                        &*file,
                        "/srv/deep/er/hosts",
                        "/srv/deep/er/hosts",
                    ),
                ] {
                    plant(&guest, link, &way);
                    let config = guest.config(&["cat", seen]);
                    let said = attempt(&guest, &with_mount(config, source, destination)).await;
                    assert_eq!(outside.content(), before, "{link} -> {}", way.display());
                    assert_eq!(said, "of the host", "{link} -> {}", way.display());
                    fs::remove_file(guest.rootfs.join(link)).unwrap();
                    guest.assert_clean();
                }
            }
        },
    );
}

#[test]
fn what_every_container_gets_is_made_nowhere_else() {
    in_guest(
        "links::what_every_container_gets_is_made_nowhere_else",
        async |guest| {
            let outside = Outside::new();
            let before = outside.content();
            for (number, way) in outside.ways().iter().cycle().take(4).enumerate() {
                if number == 2 {
                    outside.copy_into(&guest.rootfs);
                }
                for link in ["proc", "sys", "dev", "tmp"] {
                    plant(&guest, link, way);
                    let mut config = guest.config(&["ls", "/dev"]);
                    config["process"]["cwd"] = json!("/tmp/new");
                    config["linux"]["devices"] = json!([
                        {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200},
                        {"path": "/tmp/null", "type": "c", "major": 1, "minor": 3},
                    ]);
                    for terminal in [false, true] {
                        config["process"]["terminal"] = json!(terminal);
                        let said = attempt(&guest, &config).await;
                        assert_eq!(outside.content(), before, "{link} -> {}", way.display());
                        let of_links = "/dev of the root file system is a symbolic link";
                        assert_eq!(link == "dev", said.contains(of_links), "{link}: {said}");
                    }
                    fs::remove_file(guest.rootfs.join(link)).unwrap();
                    fs::create_dir(guest.rootfs.join(link)).unwrap();
                    guest.assert_clean();
                }
            }
            let said = attempt(&guest, &guest.config(&["echo", "well"])).await;
            assert_eq!(said, "well\n");
        },
    );
}
