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

/// Interface files of a group that has all controllers.
const CGROUP_FILES: [(&str, &str); 6] = [
    ("memory.max", "CONFIG_MEMCG"),
    ("cpu.weight", "CONFIG_CGROUP_SCHED"),
    ("cpu.max", "CONFIG_CFS_BANDWIDTH"),
    ("cpuset.cpus", "CONFIG_CPUSETS"),
    ("pids.max", "CONFIG_CGROUP_PIDS"),
    ("io.stat", "CONFIG_BLK_CGROUP"),
];

/// The missing options, by their names in the kernel's configuration.
#[must_use]
pub fn missing() -> Vec<&'static str> {
    missing_below(
        Path::new("/proc"),
        &Path::new(cgroup::ROOT).join(cgroup::PARENT),
    )
}

fn missing_below(proc: &Path, group: &Path) -> Vec<&'static str> {
    let mut missing = Vec::new();
    let mut need = |there: bool, option: &'static str| {
        if !there && !missing.contains(&option) {
            missing.push(option);
        }
    };
    for (name, option) in NAMESPACES {
        need(proc.join("self/ns").join(name).exists(), option);
    }
    let text = fs::read_to_string(proc.join("filesystems")).unwrap_or_default();
    let known: HashSet<&str> = text
        .lines()
        .filter_map(|line| line.split_whitespace().last())
        .collect();
    for (name, option) in FILE_SYSTEMS {
        need(known.contains(name), option);
    }
    for (file, option) in CGROUP_FILES {
        need(group.join(file).exists(), option);
    }
    need(
        proc.join("sys/kernel/seccomp/actions_avail").exists(),
        "CONFIG_SECCOMP_FILTER",
    );
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
