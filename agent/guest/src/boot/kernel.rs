//! Finds out what the kernel lacks that containers need, so that a kernel that was not built for
//! guests is refused by the name of the option and not by a strange failure later.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use crate::cgroup;

/// Namespaces, by their name in `/proc/self/ns`.
const NAMESPACES: [(&str, &str); 6] = [
    ("mnt", "CONFIG_NAMESPACES"),
    ("pid", "CONFIG_PID_NS"),
    ("uts", "CONFIG_UTS_NS"),
    ("ipc", "CONFIG_IPC_NS"),
    ("net", "CONFIG_NET_NS"),
    ("cgroup", "CONFIG_CGROUPS"),
];

/// File systems, by their name in `/proc/filesystems`.
const FILE_SYSTEMS: [(&str, &str); 5] = [
    ("tmpfs", "CONFIG_TMPFS"),
    ("overlay", "CONFIG_OVERLAY_FS"),
    ("virtiofs", "CONFIG_VIRTIO_FS"),
    ("mqueue", "CONFIG_POSIX_MQUEUE"),
    ("devpts", "CONFIG_UNIX98_PTYS"),
];

/// Controllers, by their name in `cgroup.controllers`.
const CONTROLLERS: [(&str, &str); 5] = [
    ("memory", "CONFIG_MEMCG"),
    ("cpu", "CONFIG_CGROUP_SCHED"),
    ("cpuset", "CONFIG_CPUSETS"),
    ("pids", "CONFIG_CGROUP_PIDS"),
    ("io", "CONFIG_BLK_CGROUP"),
];

/// Files of `/proc` that come with an option.
const FILES: [(&str, &str); 2] = [
    (
        "sys/kernel/sched_cfs_bandwidth_slice_us",
        "CONFIG_CFS_BANDWIDTH",
    ),
    ("sys/kernel/seccomp/actions_avail", "CONFIG_SECCOMP_FILTER"),
];

/// The missing options, by their names in the kernel's configuration.
#[must_use]
pub fn missing() -> Vec<&'static str> {
    missing_below(Path::new("/proc"), Path::new(cgroup::ROOT))
}

fn missing_below(proc: &Path, cgroups: &Path) -> Vec<&'static str> {
    let file_systems = fs::read_to_string(proc.join("filesystems")).unwrap_or_default();
    let file_systems: HashSet<&str> = file_systems
        .lines()
        .filter_map(|line| line.split_whitespace().last())
        .collect();
    let controllers = fs::read_to_string(cgroups.join("cgroup.controllers")).unwrap_or_default();
    let controllers: HashSet<&str> = controllers.split_whitespace().collect();
    let mut missing = Vec::new();
    let mut need = |there: bool, option: &'static str| {
        if !there && !missing.contains(&option) {
            missing.push(option);
        }
    };
    for (name, option) in NAMESPACES {
        need(proc.join("self/ns").join(name).exists(), option);
    }
    for (name, option) in FILE_SYSTEMS {
        need(file_systems.contains(name), option);
    }
    for (name, option) in CONTROLLERS {
        need(controllers.contains(name), option);
    }
    for (file, option) in FILES {
        need(proc.join(file).exists(), option);
    }
    missing
}

/// `uname -r`.
#[must_use]
pub fn release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
#[path = "kernel_test.rs"]
mod tests;
