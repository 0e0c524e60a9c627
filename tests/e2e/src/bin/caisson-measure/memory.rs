//! What the processes that came since a moment take of the host's memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

/// The memory of some processes, by their names.
#[derive(Debug)]
pub(crate) struct Usage {
    /// Number of processes, and their proportional set size in KiB: guest memory, everything else.
    by_name: BTreeMap<String, (usize, u64, u64)>,
}

impl Usage {
    /// The processes that there are.
    pub(crate) fn processes() -> BTreeSet<i32> {
        let entries = fs::read_dir("/proc").expect("there are processes");
        let names = entries.flatten().map(|entry| entry.file_name());
        names
            .filter_map(|name| name.to_str()?.parse().ok())
            .collect()
    }

    /// What those processes take that are not among `before`.
    pub(crate) fn since(before: &BTreeSet<i32>) -> Self {
        let mut by_name: BTreeMap<String, (usize, u64, u64)> = BTreeMap::new();
        for pid in Self::processes().difference(before) {
            let (guest, own) = pss(*pid);
            // Threads of the kernel have no memory of their own.
            if guest + own > 0 {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                let sum = by_name.entry(name.trim().to_owned()).or_default();
                *sum = (sum.0 + 1, sum.1 + guest, sum.2 + own);
            }
        }
        Self { by_name }
    }

    /// KiB of all of them.
    pub(crate) fn total(&self) -> u64 {
        self.by_name
            .values()
            .map(|(_, guest, own)| guest + own)
            .sum()
    }

    /// KiB of guest memory.
    pub(crate) fn guest(&self) -> u64 {
        self.by_name.values().map(|(_, guest, _)| guest).sum()
    }

    /// Prints what each of `pods` takes.
    pub(crate) fn print(&self, pods: u64) {
        for (name, (count, _, own)) in &self.by_name {
            println!("{name:<28} {:>10} KiB ({count} processes)", own / pods);
        }
        println!("{:<28} {:>10} KiB", "guest memory", self.guest() / pods);
        println!("{:<28} {:>10} KiB", "all", self.total() / pods);
    }
}

/// Proportional set size in KiB of a process: guest memory, everything else.
fn pss(pid: i32) -> (u64, u64) {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
    let (mut guest, mut own, mut in_guest) = (0, 0, false);
    for line in maps.lines() {
        if let Some(size) = line.strip_prefix("Pss:") {
            let size: u64 = size.trim().trim_end_matches(" kB").parse().unwrap_or(0);
            *(if in_guest { &mut guest } else { &mut own }) += size;
        } else if line
            .split_once(' ')
            .is_some_and(|(range, _)| range.contains('-'))
        {
            // Only a guest's memory is mapped shared and writable, by us and by gVisor.
            in_guest = line.contains(" rw-s ");
        }
    }
    (guest, own)
}

/// KiB that the kernel could give to programs without swapping.
pub(crate) fn available() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("the kernel tells its memory");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.expect("the kernel tells what is available")
}

/// A control group of the host with the memory that it is charged.
#[derive(Debug)]
pub(crate) struct Group(String);

const GROUPS: &str = "/sys/fs/cgroup";

impl Group {
    /// Makes a group whose members are charged, too.
    pub(crate) fn new(path: &str) -> Self {
        let group = Self(path.to_owned());
        fs::create_dir_all(format!("{GROUPS}{path}")).expect("a control group can be made");
        let control = format!("{GROUPS}{path}/cgroup.subtree_control");
        fs::write(control, "+memory").expect("members are charged");
        group
    }

    /// Makes a member of it.
    pub(crate) fn member(&self, name: &str) -> Self {
        Self::new(&format!("{}/{name}", self.0))
    }

    /// Its path, as CRI wants it.
    pub(crate) fn path(&self) -> &str {
        &self.0
    }

    /// KiB that it is charged now.
    pub(crate) fn current(&self) -> u64 {
        self.kib("memory.current", "")
    }

    /// KiB that it was charged at most.
    pub(crate) fn peak(&self) -> u64 {
        self.kib("memory.peak", "")
    }

    /// KiB of one kind of memory.
    pub(crate) fn stat(&self, kind: &str) -> u64 {
        self.kib("memory.stat", kind)
    }

    /// KiB that are there until somebody gives them back: memory of processes, guest memory, and
    /// what the kernel needs for it.
    pub(crate) fn held(&self) -> u64 {
        let kernel = self
            .stat("kernel")
            .saturating_sub(self.stat("slab_reclaimable"));
        self.stat("anon") + self.stat("shmem") + kernel
    }

    /// KiB of files of the host that could be read again.
    pub(crate) fn cache(&self) -> u64 {
        self.stat("file").saturating_sub(self.stat("shmem"))
    }

    /// Lets it have so many MiB.
    pub(crate) fn allow(&self, mib: u64) {
        let file = format!("{GROUPS}{}/memory.max", self.0);
        fs::write(file, (mib << 20).to_string()).expect("a group has a limit");
    }

    /// How many of its processes were killed for want of memory.
    pub(crate) fn killed(&self) -> u64 {
        self.number("memory.events", "oom_kill ")
    }

    /// The processor time that it has used.
    pub(crate) fn processor_time(&self) -> Duration {
        Duration::from_micros(self.number("cpu.stat", "usage_usec "))
    }

    fn kib(&self, file: &str, kind: &str) -> u64 {
        self.number(file, kind) >> 10
    }

    fn number(&self, file: &str, kind: &str) -> u64 {
        let text = fs::read_to_string(format!("{GROUPS}{}/{file}", self.0)).unwrap_or_default();
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(kind));
        let number: Option<u64> = lines.find_map(|number| number.trim().parse().ok());
        number.unwrap_or_default()
    }
}
