//! Filling containerd's store with images, on the machine that builds the testbed.
//!
//! `caisson-testbed-init import ARCHIVE NAMESPACE …` is the first process of a container made by
//! unshare(1) and chroot(1) around the new root. Doing it here and not in the outer machine makes
//! it ten times as fast: unpacking is all hashing.

use std::ffi::OsString;
use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::mount::MountFlags;

use crate::containerd;
use crate::mounts;
use crate::processes::Processes;

const STORE: &str = "/var/lib/containerd";
/// Where the store's own folder stays in reach while a tmpfs lies over it.
const KEPT_STORE: &str = "/media";
/// Only the store is wanted, not what serves a cluster.
const CONFIG: &str = "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \
    \"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\"]\n";
const CONFIG_FILE: &str = "/run/import.toml";

/// Imports every archive into its namespace.
pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    let private = MountFlags::NOSUID | MountFlags::NODEV;
    mounts::attach("proc", "/proc", "proc", private, c"")?;
    mounts::attach("tmpfs", "/run", "tmpfs", private, c"mode=755")?;
    // The snapshotter needs a file system that can be the upper layer of an overlay. The one that
    // holds the cache may itself be an overlay, which cannot; a tmpfs always can.
    fs::create_dir_all(STORE).with_context(|| format!("creating {STORE}"))?;
    rustix::mount::mount_bind(STORE, KEPT_STORE).context("binding the store")?;
    mounts::attach("tmpfs", STORE, "tmpfs", MountFlags::empty(), c"mode=711")?;
    fs::write(CONFIG_FILE, CONFIG).with_context(|| format!("writing {CONFIG_FILE}"))?;
    let processes = Processes::new()?;
    let containerd = containerd::start(&["--config", CONFIG_FILE], &processes, None)?;
    for pair in arguments.chunks(2) {
        let [archive, namespace] = pair else {
            bail!("an archive without a namespace: {pair:?}");
        };
        eprintln!(
            "{} for namespace {}",
            archive.display(),
            namespace.display()
        );
        let mut command = Command::new("ctr");
        command
            .env_clear()
            .env("PATH", crate::PATH)
            .arg("-n")
            .arg(namespace)
            .args(["images", "import"])
            .arg(archive)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        processes.run(&mut command)?;
    }
    processes.terminate(containerd)?;
    let mut copy = Command::new("cp");
    copy.env_clear()
        .env("PATH", crate::PATH)
        .args(["-a", "--sparse=always"])
        .arg(format!("{STORE}/."))
        .arg(KEPT_STORE);
    processes.run(&mut copy)
}
