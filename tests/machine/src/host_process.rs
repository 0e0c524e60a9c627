//! What a process of the machine costs the host.

use std::fs;

/// A running process of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostProcess {
    pub(crate) pid: u32,
}

/// Memory of a process in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostMemory {
    /// Resident pages of the guest's RAM.
    pub guest_rss: u64,
    /// The same, each page divided by the number of its users.
    pub guest_pss: u64,
    /// Resident pages of everything else.
    pub own_rss: u64,
    /// The same, each page divided by the number of its users.
    pub own_pss: u64,
}

impl HostProcess {
    /// The process with this number.
    #[must_use]
    pub fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// Its number.
    #[must_use]
    pub fn pid(self) -> u32 {
        self.pid
    }

    /// What it has of the host's memory now.
    ///
    /// # Panics
    /// Panics when it does not run.
    #[must_use]
    #[track_caller]
    pub fn memory(self) -> HostMemory {
        self.memory_beside(u64::MAX)
    }

    /// The same for a VMM whose guest's RAM may also be a private mapping: one of `ram` bytes or
    /// more.
    ///
    /// # Panics
    /// Panics when it does not run.
    #[must_use]
    #[track_caller]
    pub fn memory_beside(self, ram: u64) -> HostMemory {
        let path = format!("/proc/{}/smaps", self.pid);
        HostMemory::of(&fs::read_to_string(path).expect("the process runs"), ram)
    }

    /// How many threads it has made itself: the kernel's own, which work for a VM or a vhost
    /// device, are not counted.
    ///
    /// # Panics
    /// Panics when it does not run.
    #[must_use]
    #[track_caller]
    pub fn own_threads(self) -> usize {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid)).expect("the process runs");
        let states = tasks
            .flatten()
            .filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
        states.filter(|state| !is_kernel_worker(state)).count()
    }

    /// The names of its threads.
    ///
    /// # Panics
    /// Panics when it does not run.
    #[must_use]
    #[track_caller]
    pub fn threads(self) -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid)).expect("the process runs");
        let names = tasks
            .flatten()
            .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
        names.map(|name| name.trim().to_owned()).collect()
    }
}

impl HostMemory {
    /// Sums the mappings of a `/proc/PID/smaps`.
    fn of(maps: &str, ram: u64) -> Self {
        let mut memory = Self::default();
        let mut in_guest = false;
        for line in maps.lines() {
            let Some((name, rest)) = line.split_once(' ') else {
                continue;
            };
            let size = || rest.trim().trim_end_matches(" kB").parse().unwrap_or(0);
            match (name, in_guest) {
                ("Rss:", true) => memory.guest_rss += size(),
                ("Rss:", false) => memory.own_rss += size(),
                ("Pss:", true) => memory.guest_pss += size(),
                ("Pss:", false) => memory.own_pss += size(),
                // The line before those of a mapping: only the guest's RAM is mapped shared and
                // writable, or that large.
                (range, _) if range.contains('-') => {
                    in_guest = rest.starts_with("rw-s ") || length(range) >= ram;
                }
                _ => {}
            }
        }
        memory
    }
}

/// Bytes of a range of addresses as `/proc/PID/smaps` writes it.
fn length(range: &str) -> u64 {
    let number = |text| u64::from_str_radix(text, 16).unwrap_or(0);
    range
        .split_once('-')
        .map_or(0, |(begin, end)| number(end).saturating_sub(number(begin)))
}

/// Whether a `/proc/PID/task/TID/stat` is of a thread that the kernel made for its own use
/// (`PF_USER_WORKER` among the flags, the seventh word after the name).
fn is_kernel_worker(state: &str) -> bool {
    const PF_USER_WORKER: u64 = 0x4000;
    let after_name = state.rsplit_once(')').map_or("", |(_, rest)| rest);
    let flags = after_name.split_whitespace().nth(6);
    flags.and_then(|flags| flags.parse().ok()).unwrap_or(0) & PF_USER_WORKER != 0
}

#[cfg(test)]
#[path = "host_process_test.rs"]
mod tests;
