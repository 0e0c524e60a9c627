//! Which system calls threads make, counted by the kernel (histograms of trace events).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// An instance of its own, so that nobody else's tracing is disturbed.
const INSTANCE: &str = "/sys/kernel/tracing/instances/caisson-calls";
/// The threads of the VMM and of file servers, among all that make calls.
const OURS: &str =
    r#"comm == "caisson-vmm" || comm == "caisson-fs" || comm == "io" || comm ~ "vcpu*""#;
/// Every system call, by its number.
const CALLS: Histogram = Histogram {
    event: "events/raw_syscalls/sys_enter",
    value: "id",
};
/// Every ioctl(2), by its request.
const REQUESTS: Histogram = Histogram {
    event: "events/syscalls/sys_enter_ioctl",
    value: "cmd",
};

/// What is counted: an event, by thread and by one of its values.
struct Histogram {
    event: &'static str,
    value: &'static str,
}

/// Counts as long as it lives.
#[derive(Debug)]
pub struct Recording(PathBuf);

impl Recording {
    /// Begins to count.
    ///
    /// # Panics
    /// Panics where the kernel has no histograms, or no tracefs is mounted.
    #[must_use]
    #[track_caller]
    pub fn begin() -> Self {
        // What a test that was killed has left.
        let _ = fs::remove_dir(INSTANCE);
        fs::create_dir(INSTANCE).expect("tracefs is mounted");
        let recording = Self(INSTANCE.into());
        for histogram in [CALLS, REQUESTS] {
            histogram.begin(&recording.0);
        }
        recording
    }

    /// The numbers of the system calls that threads called `thread`, or that with a number behind it,
    /// have made.
    ///
    /// # Panics
    /// Panics when the histogram cannot be read.
    #[must_use]
    #[track_caller]
    pub fn calls(&self, thread: &str) -> BTreeSet<u32> {
        CALLS.values(&self.0, thread)
    }

    /// The requests of ioctl(2) among them.
    ///
    /// # Panics
    /// As [`Recording::calls`].
    #[must_use]
    #[track_caller]
    pub fn requests(&self, thread: &str) -> BTreeSet<u32> {
        REQUESTS.values(&self.0, thread)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

impl Histogram {
    #[track_caller]
    fn begin(&self, instance: &Path) {
        let Self { event, value } = self;
        let trigger = format!("hist:keys=common_pid.execname,{value}.hex:size=65536 if {OURS}");
        let path = instance.join(event).join("trigger");
        fs::write(&path, trigger).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    #[track_caller]
    fn values(&self, instance: &Path, thread: &str) -> BTreeSet<u32> {
        let path = instance.join(self.event).join("hist");
        let text = fs::read_to_string(&path);
        let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let of_thread = |line| entry(line).filter(|(name, _)| is(name, thread));
        text.lines()
            .filter_map(of_thread)
            .map(|(_, value)| value)
            .collect()
    }
}

fn is(name: &str, thread: &str) -> bool {
    name.trim_end_matches(|digit: char| digit.is_ascii_digit()) == thread
}

/// The name of the thread and the value of a line such as
/// `{ common_pid: vcpu0           [       317], id:                   10 } hitcount:         12`.
fn entry(line: &str) -> Option<(&str, u32)> {
    let (_, rest) = line.split_once("common_pid:")?;
    let (name, rest) = rest.split_once('[')?;
    let (_, rest) = rest.split_once(':')?;
    let (value, _) = rest.split_once('}')?;
    let value = value.trim();
    // Newer kernels write what they mean.
    let digits = value.strip_prefix("0x").unwrap_or(value);
    Some((name.trim(), u32::from_str_radix(digits, 16).ok()?))
}

#[cfg(test)]
#[path = "recording_test.rs"]
mod tests;
