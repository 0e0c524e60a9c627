//! What a test left behind on the machine.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// After the last call has answered, the shim still has to exit and the kernel to take its
/// namespaces apart; in emulation that takes seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// What containerd and its network plug-ins make for themselves at their first container or pod and
/// keep.
const CONTAINERDS_OWN: [&str; 15] = [
    "/run/containerd/fifo",
    "/run/containerd/s",
    "/run/containerd/io.containerd.runtime.v2.task",
    "/run/containerd/io.containerd.runtime.v2.task/default",
    "/run/containerd/io.containerd.runtime.v2.task/k8s.io",
    "/run/containerd/io.containerd.sandbox.controller.v1.shim",
    "/run/containerd/io.containerd.sandbox.controller.v1.shim/k8s.io",
    "/run/containerd/io.containerd.grpc.v1.cri",
    "/run/containerd/io.containerd.grpc.v1.cri/containers",
    "/run/containerd/io.containerd.grpc.v1.cri/sandboxes",
    "/run/netns",
    "/run/xtables.lock",
    "/sys/class/net/cni0",
    // The kernel's module makes these two when the plug-in bandwidth needs one of its own.
    "/sys/class/net/ifb0",
    "/sys/class/net/ifb1",
];

/// Where containerd opens files for the sake of one container.
const OF_CONTAINERS: [&str; 3] = [
    "/run/containerd/fifo",
    "/run/containerd/io.containerd.sandbox.controller.v1.shim",
    "/run/containerd/io.containerd.runtime.v2.task",
];

/// The machine as it was when a test began. When it goes out of scope, the machine must look the
/// same again: no process, mount, socket, network interface, cgroup or file under /run more, and no
/// descriptor of containerd on any of them.
///
/// Declare it first in a test, so that it is dropped last.
#[derive(Debug)]
pub struct CleanMachine {
    before: BTreeSet<String>,
}

impl CleanMachine {
    /// Remembers the machine as it is.
    #[must_use]
    pub fn watch() -> Self {
        Self {
            before: everything(),
        }
    }

    fn leftovers(&self) -> Vec<String> {
        everything().difference(&self.before).cloned().collect()
    }
}

impl Drop for CleanMachine {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        let deadline = Instant::now() + PATIENCE;
        let mut left = self.leftovers();
        while !left.is_empty() && Instant::now() < deadline {
            // There is no one event for "everything is gone".
            thread::sleep(Duration::from_millis(50));
            left = self.leftovers();
        }
        let mut list = String::new();
        for item in &left {
            let _ = writeln!(list, "  {item}");
        }
        assert!(left.is_empty(), "left behind:\n{list}");
    }
}

/// One line for each thing that a container could leave.
fn everything() -> BTreeSet<String> {
    let mut things = BTreeSet::new();
    processes(&mut things);
    mounts(&mut things);
    sockets(&mut things);
    children(
        "network interface",
        Path::new("/sys/class/net"),
        &mut things,
    );
    tree("cgroup", Path::new("/sys/fs/cgroup"), true, &mut things);
    tree("file", Path::new("/run"), false, &mut things);
    descriptors(&mut things);
    things
}

fn processes(things: &mut BTreeSet<String>) {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let ours = name.starts_with("caisson") || name.starts_with("containerd-shim");
        if ours {
            things.insert(format!(
                "process {} {}",
                entry.file_name().display(),
                name.trim()
            ));
        }
    }
}

/// The files of containers that containerd has open, also those that are deleted.
fn descriptors(things: &mut BTreeSet<String>) {
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        if name.trim() != "containerd" {
            continue;
        }
        let descriptors = fs::read_dir(process.path().join("fd"));
        for descriptor in descriptors.into_iter().flatten().flatten() {
            if let Ok(target) = fs::read_link(descriptor.path())
                && OF_CONTAINERS.iter().any(|place| target.starts_with(place))
            {
                things.insert(format!("descriptor of containerd {}", target.display()));
            }
        }
    }
}

fn mounts(things: &mut BTreeSet<String>) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in table.lines() {
        if let Some(target) = line.split(' ').nth(4) {
            things.insert(format!("mount {target}"));
        }
    }
}

fn sockets(things: &mut BTreeSet<String>) {
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    for line in table.lines().skip(1) {
        if let Some(path) = line.split_whitespace().nth(7)
            && path.contains("caisson")
        {
            things.insert(format!("socket {path}"));
        }
    }
    children("socket", Path::new("/run/containerd/s"), things);
}

fn children(kind: &str, directory: &Path, things: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if !is_containerds_own(&entry.path()) {
            things.insert(format!("{kind} {}", entry.path().display()));
        }
    }
}

fn is_containerds_own(path: &Path) -> bool {
    CONTAINERDS_OWN.iter().any(|own| path == Path::new(own))
}

fn tree(kind: &str, directory: &Path, only_directories: bool, things: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if (is_directory || !only_directories) && !is_containerds_own(&entry.path()) {
            things.insert(format!("{kind} {}", entry.path().display()));
        }
        if is_directory {
            tree(kind, &entry.path(), only_directories, things);
        }
    }
}
