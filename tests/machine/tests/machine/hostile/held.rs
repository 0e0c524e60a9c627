//! What a VMM holds of the host.

use std::fs;

use caisson_machine_tests::HostProcess;

/// More of its own memory than this it does not come to hold by whatever a guest does. A flood of
/// the socket device alone may have 1023 connections with windows at a time.
const MOST_GROWTH: u64 = 8 << 10;

/// What it holds at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    descriptors: usize,
    threads: Vec<String>,
    /// Memory other than the guest's, in KiB.
    memory: u64,
}

impl Held {
    /// What a process holds now.
    pub(super) fn by(process: HostProcess) -> Self {
        let open = fs::read_dir(format!("/proc/{}/fd", process.pid())).unwrap();
        let mut threads = process.threads();
        // The kernel's own: those of rings, of which it keeps one as long as the process lives, and
        // KVM's, which comes with the first entry into the guest.
        threads.retain(|name| !name.starts_with("iou-wrk") && !name.starts_with("kvm-"));
        threads.sort();
        Self {
            descriptors: open.count(),
            threads,
            memory: process.memory().own_rss,
        }
    }

    /// Whether it is no more than it was `before`.
    pub(super) fn is_no_more_than(&self, before: &Self) -> bool {
        self.descriptors <= before.descriptors
            && self.threads == before.threads
            && self.memory <= before.memory + MOST_GROWTH
    }
}
