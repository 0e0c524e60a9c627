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
        let path = format!("/proc/{}/smaps", self.pid);
        HostMemory::of(&fs::read_to_string(path).expect("the process runs"))
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
    fn of(maps: &str) -> Self {
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
                // writable.
                (range, _) if range.contains('-') => in_guest = rest.starts_with("rw-s "),
                _ => {}
            }
        }
        memory
    }
}

#[cfg(test)]
#[path = "host_process_test.rs"]
mod tests;
