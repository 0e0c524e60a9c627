//! Processes of the host.

use std::fs;

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
