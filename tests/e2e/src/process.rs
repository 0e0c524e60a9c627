//! Processes of the host.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::wait_until;

/// The parent of a running process.
///
/// # Panics
/// Panics when the process does not run.
#[must_use]
#[track_caller]
pub fn parent_of(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    // The name, in parentheses, may hold anything (proc_pid_stat(5)).
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let parent = after_name
        .split_whitespace()
        .nth(1)
        .and_then(|parent| parent.parse().ok());
    parent.expect("every process has a parent")
}

/// The children of a process.
#[must_use]
pub fn children_of(pid: i32) -> Vec<i32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(path).unwrap_or_default();
    children
        .split_whitespace()
        .filter_map(|child| child.parse().ok())
        .collect()
}

/// Sends a signal.
///
/// # Panics
/// Panics when the process does not run.
#[track_caller]
pub fn signal(pid: i32, signal: Signal) {
    let pid = Pid::from_raw(pid).expect("a process id");
    kill_process(pid, signal).expect("the process runs");
}

/// Returns when a process is gone.
///
/// # Panics
/// Panics when it does not go.
#[track_caller]
pub fn end_of(pid: i32) {
    wait_until(&format!("process {pid} is gone"), || {
        !fs::exists(format!("/proc/{pid}")).unwrap_or(false)
    });
}

/// What a process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Resident memory in KiB.
    pub resident_kib: usize,
}

impl Footprint {
    /// That of a running process.
    ///
    /// # Panics
    /// Panics when the process does not run.
    #[must_use]
    #[track_caller]
    pub fn of(pid: i32) -> Self {
        let count = |what: &str| {
            fs::read_dir(format!("/proc/{pid}/{what}"))
                .expect("the process runs")
                .count()
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|line| line.split_whitespace().next()?.parse().ok());
        Self {
            descriptors: count("fd"),
            threads: count("task"),
            resident_kib: resident.expect("a process has memory"),
        }
    }
}

/// The mounts that a process sees: what, where, and with which options.
///
/// # Panics
/// Panics when the process does not run.
#[must_use]
#[track_caller]
pub fn mounts_of(pid: i32) -> Vec<String> {
    let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("the process runs");
    let mut mounts: Vec<String> = table
        .lines()
        // The first two numbers name the mount and its parent, and are new every time.
        .filter_map(|line| line.splitn(3, ' ').nth(2).map(str::to_owned))
        .collect();
    mounts.sort();
    mounts
}
