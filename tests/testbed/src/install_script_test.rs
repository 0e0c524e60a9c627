//! `deploy/install.sh`, into file systems of a test's own. With containerd it is tested in the
//! testbed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{FILES, INSTALLER};
use crate::workspace;

const CONFIGURATION: &str = "etc/containerd/config.toml";

/// An unpacked archive, and a file system to install it into.
struct Node {
    folder: TempDir,
}

impl Node {
    fn new() -> Self {
        let node = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        for file in FILES {
            write(&node.archive().join(file), file);
        }
        fs::copy(workspace::folder().unwrap().join(INSTALLER), node.script()).unwrap();
        fs::create_dir(node.root()).unwrap();
        node
    }

    fn archive(&self) -> PathBuf {
        self.folder.path().join("archive")
    }

    fn script(&self) -> PathBuf {
        self.archive().join("libexec/caisson/install.sh")
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn configuration(&self) -> String {
        fs::read_to_string(self.root().join(CONFIGURATION)).unwrap()
    }

    /// What it prints, or what it says of its failure.
    fn run(&self, what: &str, options: &[&str]) -> Result<String, String> {
        let output = Command::new("sh")
            .arg(self.script())
            .arg(what)
            .arg("--root")
            .arg(self.root())
            .args(options)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    }

    /// Every file of the file system and what is in it.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.root()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(self.root()).unwrap().to_owned();
                    files.insert(name, fs::read(&path).unwrap());
                }
            }
        }
        files
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn the_script_installs_what_the_testbed_installs() {
    let node = Node::new();
    node.run("install", &["--files-only"]).unwrap();
    let mut expected: Vec<PathBuf> = FILES
        .iter()
        .map(|file| Path::new("usr/local").join(file))
        .collect();
    expected.push("etc/caisson/config.toml".into());
    expected.sort();
    let files = node.files();
    assert_eq!(files.keys().cloned().collect::<Vec<_>>(), expected);
    let mode = |file: &str| {
        let metadata = fs::metadata(node.root().join("usr/local").join(file));
        metadata.unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode("bin/containerd-shim-caisson-v2"), 0o755);
    assert_eq!(mode("share/caisson/vmlinux"), 0o644);
    node.run("remove", &["--files-only"]).unwrap();
    assert_eq!(node.files(), BTreeMap::new());
}

#[test]
fn containerds_configuration_keeps_what_is_in_it_and_gets_it_back() {
    for (before, plugin) in [
        // Without an end of its last line.
        (
            "version = 2\n# ours\n[plugins]",
            "io.containerd.grpc.v1.cri",
        ),
        ("version = 3\n", "io.containerd.cri.v1.runtime"),
        ("# nothing but words\n", "io.containerd.grpc.v1.cri"),
    ] {
        let node = Node::new();
        write(&node.root().join(CONFIGURATION), before);
        let nothing_done = node.files();
        let said = node.run("install", &["--dry-run"]).unwrap();
        assert!(said.contains("dry run: "), "{said}");
        assert_eq!(node.files(), nothing_done);

        node.run("install", &[]).unwrap();
        let after = node.configuration();
        assert!(after.contains(before), "{after}");
        let table = format!("[plugins.\"{plugin}\".containerd.runtimes.\"caisson\"]");
        assert!(after.contains(&table), "{after}");
        let said = node.run("install", &[]).unwrap();
        assert!(
            said.lines().all(|line| line.starts_with("is there: ")),
            "{said}"
        );
        assert_eq!(node.configuration(), after);

        node.run("remove", &[]).unwrap();
        assert_eq!(node.files(), nothing_done);
    }
}

#[test]
fn what_others_have_changed_since_stays() {
    let node = Node::new();
    node.run("install", &[]).unwrap();
    let mine = "kernel = \"/elsewhere\"\n";
    write(&node.root().join("etc/caisson/config.toml"), mine);
    let theirs = node.configuration() + "[metrics]\n";
    write(&node.root().join(CONFIGURATION), &theirs);
    let said = node.run("remove", &[]).unwrap();
    assert!(said.contains("kept: /etc/caisson/config.toml"), "{said}");
    assert_eq!(node.configuration(), "version = 2\n[metrics]\n");
    assert_eq!(node.files().len(), 2);
}

#[test]
fn a_newer_archive_replaces_what_is_different() {
    let node = Node::new();
    node.run("install", &[]).unwrap();
    write(&node.archive().join("share/caisson/vmlinux"), "newer");
    let said = node.run("install", &[]).unwrap();
    let changed: Vec<&str> = said
        .lines()
        .filter(|line| !line.starts_with("is there"))
        .collect();
    assert_eq!(changed, ["file: /usr/local/share/caisson/vmlinux"]);
}

#[test]
fn another_place_and_another_name_are_written_down() {
    let node = Node::new();
    let options = [
        "--prefix",
        "/opt/caisson",
        "--handler",
        "vm",
        "--config",
        "/etc/vm.toml",
    ];
    node.run("install", &options).unwrap();
    let configuration = node.configuration();
    for line in [
        "runtimes.\"vm\"]",
        "runtime_path = \"/opt/caisson/bin/containerd-shim-caisson-v2\"",
        "ConfigPath = \"/etc/vm.toml\"",
    ] {
        assert!(configuration.contains(line), "{configuration}");
    }
    let own = fs::read_to_string(node.root().join("etc/vm.toml")).unwrap();
    assert!(
        own.contains("vmm = \"/opt/caisson/libexec/caisson/caisson-vmm\""),
        "{own}"
    );
    node.run("remove", &options).unwrap();
    assert_eq!(node.files(), BTreeMap::new());
    assert!(!node.root().join("opt/caisson").exists());
}

#[test]
fn what_cannot_be_is_one_sentence_and_nothing_is_done() {
    let off = "version = 2\ndisabled_plugins = [\"cri\"]\n";
    let taken =
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.caisson]\n";
    for (configuration, options, reason) in [
        (off, &[][..], "disabled_plugins"),
        (taken, &[], "choose another name with --handler"),
        ("[plugins.cri]\n", &[], "containerd config migrate"),
        (
            "",
            &["--handler", "Two words"],
            "no name of a runtime handler",
        ),
        ("", &["--prefix", "opt"], "opt is no absolute path"),
        ("", &["--prefix"], "--prefix needs a value"),
        ("", &["--quick"], "no option --quick"),
    ] {
        let node = Node::new();
        write(&node.root().join(CONFIGURATION), configuration);
        let before = node.files();
        let said = node.run("install", options).unwrap_err();
        assert!(said.contains(reason), "{said}");
        assert_eq!(node.files(), before);
    }
    let node = Node::new();
    fs::remove_file(node.archive().join("share/caisson/initrd.img")).unwrap();
    let said = node.run("install", &[]).unwrap_err();
    assert!(said.contains("initrd.img is missing"), "{said}");
    assert_eq!(node.files(), BTreeMap::new());
}
