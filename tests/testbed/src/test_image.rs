//! The container images of the testbed, made from Debian packages without any registry.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use crate::apt;
use crate::apt_source::Mirror;
use crate::cache::{Cache, Key, remove};
use crate::containerd::PAUSE_IMAGE;
use crate::progress;
use crate::tool;

/// One static binary and its links.
const BUSYBOX_IMAGE: &str = "docker.io/library/busybox:latest";
/// A Debian system with perl and python.
const DEBIAN_IMAGE: &str = "docker.io/library/debian:stable";

const SUITE: &str = "trixie";
const DEBIAN_PACKAGES: &[&str] = &["perl", "python3-minimal"];

/// Raised when this file changes what it makes.
const VERSION: &str = "1";

/// Which archive goes into which containerd namespace, and the image's name there.
const IMPORTS: &[(&str, &str, &str)] = &[
    ("busybox.tar", "default", BUSYBOX_IMAGE),
    ("debian.tar", "default", DEBIAN_IMAGE),
    ("busybox.tar", "k8s.io", BUSYBOX_IMAGE),
    ("debian.tar", "k8s.io", DEBIAN_IMAGE),
    ("pause.tar", "k8s.io", PAUSE_IMAGE),
];

/// A folder of image archives in the cache.
#[derive(Debug)]
pub(crate) struct TestImages {
    folder: PathBuf,
    key: Key,
}

impl TestImages {
    /// Finds or makes them; `busybox` is a static one.
    pub(crate) fn prepare(cache: &Cache, mirror: &Mirror, busybox: &Path) -> Result<Self> {
        let imports: Vec<_> = IMPORTS
            .iter()
            .map(|(file, space, _)| (file, space))
            .collect();
        let imports = format!("{imports:?}");
        let key = Key::of(&[VERSION, SUITE, &DEBIAN_PACKAGES.join(" "), &imports]);
        let folder = cache.artefact("test-images", &key, |target| {
            fs::create_dir(target)?;
            let work = cache.scratch("test-images")?;
            progress::step("making the busybox image", || {
                let layer = work.join("layer.tar");
                busybox_layer(busybox, &work.join("busybox"), &layer)?;
                pack(&work, BUSYBOX_IMAGE, &["sh"], &target.join("busybox.tar"))?;
                // A pod's pause process only has to stay.
                let pause = ["sleep", "2147483647"];
                pack(&work, PAUSE_IMAGE, &pause, &target.join("pause.tar"))
            })?;
            progress::step("making the Debian image", || {
                apt::make_root(mirror, SUITE, DEBIAN_PACKAGES, &work.join("layer.tar"))?;
                pack(&work, DEBIAN_IMAGE, &["bash"], &target.join("debian.tar"))
            })?;
            remove(&work)
        })?;
        Ok(Self { folder, key })
    }

    /// The folder with the archives.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What they were made from.
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// Archive, namespace and name of each import.
    pub(crate) fn imports() -> &'static [(&'static str, &'static str, &'static str)] {
        IMPORTS
    }
}

fn busybox_layer(busybox: &Path, root: &Path, layer: &Path) -> Result<()> {
    for folder in [
        "bin", "dev", "etc", "home", "proc", "root", "sys", "tmp", "usr", "var",
    ] {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::set_permissions(root.join("root"), fs::Permissions::from_mode(0o700))?;
    fs::copy(busybox, root.join("bin/busybox"))
        .with_context(|| format!("copying {}", busybox.display()))?;
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    let applets = tool::output(Command::new(busybox).arg("--list"))?;
    for applet in String::from_utf8_lossy(&applets).lines() {
        if applet != "busybox" {
            symlink("busybox", root.join("bin").join(applet))
                .with_context(|| format!("linking {applet}"))?;
        }
    }
    tool::run(tar().arg("-cf").arg(layer).arg("-C").arg(root).arg("."))
}

/// Packs `layer.tar` of `work` into an archive in the format of `docker save`, which every version
/// of containerd imports.
fn pack(work: &Path, name: &str, command: &[&str], target: &Path) -> Result<()> {
    let digest = tool::output(Command::new("sha256sum").arg(work.join("layer.tar")))?;
    let digest = String::from_utf8_lossy(&digest);
    let digest = digest
        .split_whitespace()
        .next()
        .context("sha256sum printed nothing")?;
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Env": [format!("PATH={path}")], "Cmd": command },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    let manifest = json!([{
        "Config": "config.json",
        "RepoTags": [name],
        "Layers": ["layer.tar"],
    }]);
    fs::write(work.join("config.json"), config.to_string())?;
    fs::write(work.join("manifest.json"), manifest.to_string())?;
    let files = ["manifest.json", "config.json", "layer.tar"];
    tool::run(tar().arg("-cf").arg(target).arg("-C").arg(work).args(files))
}

/// tar with everything that differs between two runs left out.
fn tar() -> Command {
    let mut command = Command::new("tar");
    command.args([
        "--sort=name",
        "--mtime=@0",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
    ]);
    command
}
