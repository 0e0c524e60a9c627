//! The outer machine's root: a Debian system with containerd, and the test images in its store.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt;
use crate::apt_source::Mirror;
use crate::cache::{Cache, Key, remove};
use crate::containerd::ContainerdVersion;
use crate::disk;
use crate::outer_kernel::OuterKernel;
use crate::progress;
use crate::test_image::TestImages;
use crate::tool;

/// Size of the root disk, in bytes. The file is sparse.
const SIZE: u64 = 8 << 30;

/// Raised when this file changes what it makes.
const ROOT_VERSION: &str = "1";
const DISK_VERSION: &str = "2";

/// What the system is for (containerd and its runtimes), and what people look around with.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "ca-certificates",
    "containerd",
    "containernetworking-plugins",
    "crun",
    "e2fsprogs",
    "ethtool",
    "iperf3",
    "iproute2",
    "iptables",
    "jq",
    "kmod",
    "procps",
    "python3-minimal",
    "runc",
    "socat",
    "strace",
    "util-linux",
];

/// A pod network as clusters have it: a bridge, addresses from a range, forwarded ports.
const NETWORK: &str = r#"{
  "cniVersion": "0.4.0",
  "name": "testbed",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0",
      "isGateway": true,
      "ipMasq": true,
      "ipam": {
        "type": "host-local",
        "ranges": [[{ "subnet": "10.88.0.0/16" }]],
        "routes": [{ "dst": "0.0.0.0/0" }]
      }
    },
    { "type": "portmap", "capabilities": { "portMappings": true } }
  ]
}
"#;

/// A Debian system with containerd, as a folder.
pub(crate) struct Root {
    folder: PathBuf,
    key: Key,
}

impl Root {
    /// Finds or makes it.
    pub(crate) fn prepare(
        cache: &Cache,
        mirror: &Mirror,
        version: ContainerdVersion,
    ) -> Result<Self> {
        let key = Key::of(&[ROOT_VERSION, version.suite(), &PACKAGES.join(" ")]);
        let folder = cache.artefact(&format!("root-{version}"), &key, |target| {
            let text = format!(
                "installing Debian {} with containerd {version}",
                version.suite()
            );
            progress::step(&text, || {
                apt::make_root(mirror, version.suite(), PACKAGES, target)
            })
        })?;
        Ok(Self { folder, key })
    }

    /// The system's files.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// What the disk is made of.
pub(crate) struct RootDisk<'a> {
    pub(crate) version: ContainerdVersion,
    pub(crate) root: &'a Root,
    pub(crate) kernel: &'a OuterKernel,
    pub(crate) images: &'a TestImages,
    /// The testbed's init, which also imports images.
    pub(crate) init: &'a Path,
}

impl RootDisk<'_> {
    /// What its artefacts are called.
    pub(crate) fn name(version: ContainerdVersion) -> String {
        format!("disk-{version}")
    }

    /// Finds or makes the disk.
    pub(crate) fn prepare(&self, cache: &Cache) -> Result<PathBuf> {
        let config = self.version.config();
        let key = Key::of(&[
            self.root.key.as_ref(),
            self.kernel.key().as_ref(),
            self.images.key().as_ref(),
            config.as_bytes(),
            NETWORK.as_bytes(),
            DISK_VERSION.as_bytes(),
            &SIZE.to_le_bytes(),
        ]);
        cache.artefact(&Self::name(self.version), &key, |target| {
            let text = format!("importing the test images into containerd {}", self.version);
            let work = cache.scratch("disk")?;
            let tree = work.join("root");
            self.tree(&config, &tree)?;
            progress::step(&text, || self.import_images(&tree))?;
            progress::step("making the root disk", || disk::make(&tree, SIZE, target))?;
            remove(&work)
        })
    }

    /// The root's files: the Debian system's as hard links, and ours.
    fn tree(&self, config: &str, tree: &Path) -> Result<()> {
        let copy = |from: &Path, to: &Path| {
            let mut command = Command::new("cp");
            tool::run(command.arg("-al").arg(from).arg(to))
        };
        copy(&self.root.folder, tree)?;
        let modules = tree.join("usr/lib/modules");
        remove(&modules)?;
        copy(&self.kernel.modules(), &modules)?;
        for folder in ["media", "mnt", "opt", "share", "usr/local"] {
            fs::create_dir_all(tree.join(folder))?;
        }
        for (name, text) in [
            ("etc/containerd/config.toml", config),
            ("etc/cni/net.d/10-testbed.conflist", NETWORK),
            ("etc/hostname", "testbed\n"),
            (
                "etc/hosts",
                "127.0.0.1 localhost testbed\n::1 localhost testbed\n",
            ),
            // What mmdebstrap took over names this machine's resolver.
            ("etc/resolv.conf", ""),
        ] {
            let file = tree.join(name);
            // Never written through: it may be a hard link into the cache.
            remove(&file)?;
            if let Some(parent) = file.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        }
        Ok(())
    }

    /// Runs the root's own containerd over the root, shut off from this machine: namespaces of its
    /// own, and no network. Whatever it mounts goes with its namespace.
    fn import_images(&self, tree: &Path) -> Result<()> {
        let init = tree.join("tmp/caisson-testbed-init");
        fs::copy(self.init, &init).with_context(|| format!("copying {}", self.init.display()))?;
        let archives = tree.join("tmp/archives");
        tool::run(
            Command::new("cp")
                .arg("-al")
                .arg(self.images.folder())
                .arg(&archives),
        )?;
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--pid",
                "--net",
                "--ipc",
                "--uts",
                "--fork",
                "--kill-child",
            ])
            .arg("chroot")
            .arg(tree)
            .args(["/tmp/caisson-testbed-init", "import"]);
        for (archive, namespace, _) in TestImages::imports() {
            command
                .arg(format!("/tmp/archives/{archive}"))
                .arg(namespace);
        }
        tool::run_with_progress(&mut command)?;
        remove(&archives)?;
        remove(&init)
    }
}
