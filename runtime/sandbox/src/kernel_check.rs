//! Whether a guest kernel has what Caisson and containers need.
//!
//! A kernel built with `CONFIG_IKCONFIG` carries its configuration, gzip-compressed between the
//! marks `IKCFG_ST` and `IKCFG_ED` (linux/kernel/configs.c). It is read only after a start has
//! failed, to say why.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::read::GzDecoder;

const START_MARK: &[u8] = b"IKCFG_ST";
/// Bytes read at a time while looking for the mark.
const CHUNK: usize = 1024 * 1024;
/// Most bytes of a kernel that are searched: far above any kernel, and a bound for a wrong file.
const MAX_SEARCHED: u64 = 1024 * 1024 * 1024;
/// Most bytes of an unpacked configuration; those of distributions have 300 KiB.
const MAX_CONFIG: u64 = 4 * 1024 * 1024;

/// An option that must be built in (`=y`): there are no modules in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Required {
    /// The option.
    pub(crate) option: &'static str,
    /// What it is needed for.
    pub(crate) reason: &'static str,
}

const fn required(option: &'static str, reason: &'static str) -> Required {
    Required { option, reason }
}

/// What every guest needs, in the order in which its absence is noticed.
const REQUIRED: &[Required] = &[
    required(
        "CONFIG_PVH",
        "the machine starts the kernel at its PVH entry",
    ),
    required(
        "CONFIG_X86_MPPARSE",
        "the machine describes its CPUs in an MP table",
    ),
    required(
        "CONFIG_BLK_DEV_INITRD",
        "the agent is in the initial RAM file system",
    ),
    required("CONFIG_BINFMT_ELF", "programs are ELF files"),
    required("CONFIG_PCI", "all devices are PCI functions"),
    required(
        "CONFIG_PCI_DIRECT",
        "PCI configuration space is read through I/O ports",
    ),
    required("CONFIG_PCI_MSI", "devices interrupt with MSI-X"),
    required("CONFIG_VIRTIO_PCI", "all devices are virtio devices on PCI"),
    required("CONFIG_NET", "the host talks to the agent over sockets"),
    required("CONFIG_VSOCKETS", "the host talks to the agent over vsock"),
    required(
        "CONFIG_VIRTIO_VSOCKETS",
        "the host talks to the agent over vsock",
    ),
    required("CONFIG_FUSE_FS", "images and volumes come over virtio-fs"),
    required("CONFIG_VIRTIO_FS", "images and volumes come over virtio-fs"),
    required("CONFIG_PROC_FS", "containers and the agent need /proc"),
    required("CONFIG_SYSFS", "containers need /sys"),
    required("CONFIG_TMPFS", "containers need /dev and /dev/shm"),
    required("CONFIG_DEVTMPFS", "the agent needs /dev"),
    required("CONFIG_UNIX98_PTYS", "terminals"),
    required("CONFIG_UNIX", "unix sockets"),
    required("CONFIG_EPOLL", "the agent waits with epoll"),
    required("CONFIG_SIGNALFD", "the agent waits for ended processes"),
    required(
        "CONFIG_OVERLAY_FS",
        "containers in containers, and images from block devices",
    ),
    required("CONFIG_NAMESPACES", "containers are made of namespaces"),
    required("CONFIG_PID_NS", "each container has its own processes"),
    required("CONFIG_UTS_NS", "each container has its own host name"),
    required("CONFIG_IPC_NS", "each container has its own System V IPC"),
    required("CONFIG_NET_NS", "each container has its own network"),
    required("CONFIG_CGROUPS", "limits of containers"),
    required("CONFIG_MEMCG", "memory limits of containers"),
    required("CONFIG_CGROUP_SCHED", "CPU weights of containers"),
    required("CONFIG_CFS_BANDWIDTH", "CPU limits of containers"),
    required("CONFIG_CGROUP_PIDS", "process limits of containers"),
    required("CONFIG_CPUSETS", "CPU sets of containers"),
    required("CONFIG_CGROUP_BPF", "device rules of containers"),
    required("CONFIG_BPF_SYSCALL", "device rules of containers"),
    required("CONFIG_SECCOMP_FILTER", "system call filters of containers"),
];

/// The options that the kernel at `path` lacks; `None` if it does not carry its configuration.
///
/// # Errors
/// Fails when the file cannot be read or its configuration cannot be unpacked.
pub(crate) fn missing_options(path: &Path) -> io::Result<Option<Vec<Required>>> {
    Ok(embedded_config(path)?.map(|config| missing_in(&config)))
}

/// The options of [`REQUIRED`] that are not built in according to the text of a configuration.
pub(crate) fn missing_in(config: &str) -> Vec<Required> {
    let built_in: std::collections::HashSet<&str> = config
        .lines()
        .filter_map(|line| line.trim().strip_suffix("=y"))
        .collect();
    REQUIRED
        .iter()
        .filter(|required| !built_in.contains(required.option))
        .copied()
        .collect()
}

/// One sentence that names the options and what each is for.
pub(crate) fn describe(missing: &[Required]) -> String {
    let list: Vec<String> = missing
        .iter()
        .map(|required| format!("{} ({})", required.option, required.reason))
        .collect();
    format!(
        "its configuration lacks {}: build it with these set to y",
        list.join(", ")
    )
}

fn embedded_config(path: &Path) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    let Some(mark) = find_mark(&mut file)? else {
        return Ok(None);
    };
    file.seek(SeekFrom::Start(mark + START_MARK.len() as u64))?;
    let mut config = String::new();
    GzDecoder::new(BufReader::new(file))
        .take(MAX_CONFIG)
        .read_to_string(&mut config)?;
    Ok(Some(config))
}

/// Offset of the start mark.
fn find_mark(file: &mut File) -> io::Result<Option<u64>> {
    let mut window = Vec::with_capacity(CHUNK + START_MARK.len());
    let mut window_start = 0;
    while window_start < MAX_SEARCHED {
        let read = file.by_ref().take(CHUNK as u64).read_to_end(&mut window)?;
        if let Some(at) = window
            .windows(START_MARK.len())
            .position(|bytes| bytes == START_MARK)
        {
            return Ok(Some(window_start + at as u64));
        }
        if read == 0 {
            return Ok(None);
        }
        // The mark may straddle two chunks.
        let done = window.len().saturating_sub(START_MARK.len() - 1);
        window.drain(..done);
        window_start += done as u64;
    }
    Ok(None)
}

#[cfg(test)]
#[path = "kernel_check_test.rs"]
mod tests;
