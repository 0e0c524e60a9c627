//! What something takes: time until it is done, and all that the machine's processors do for it.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// After this, nothing is left to do of what a client has asked for: containerd collects its garbage,
/// shims end, the kernel takes namespaces apart. With a clock that counts instructions, which stands
/// for the programs while nothing runs, it costs no time.
const SETTLED: Duration = Duration::from_secs(1);

/// What something took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// From its begin to its end.
    pub(crate) elapsed: Duration,
    /// Time of all processors that was not idle, until all was settled. A guest's time is in it, as
    /// far as the guest does something. Waiting is not, nor what earlier calls have left to do.
    pub(crate) busy: Option<Duration>,
}

/// Does something, and waits until the machine has nothing more to do for it.
pub(crate) fn cost<T>(what: impl FnOnce() -> T) -> (T, Cost) {
    let (before, begun) = (busy(), Instant::now());
    let made = what();
    let elapsed = begun.elapsed();
    thread::sleep(SETTLED);
    let busy = before
        .zip(busy())
        .map(|(before, after)| after.saturating_sub(before));
    (made, Cost { elapsed, busy })
}

/// Time that tasks have run on all processors (sched-stats, version 15 and later), to the nanosecond.
fn busy() -> Option<Duration> {
    let text = fs::read_to_string("/proc/schedstat").ok()?;
    of_tasks(&text)
}

fn of_tasks(text: &str) -> Option<Duration> {
    let processors = text.lines().filter(|line| line.starts_with("cpu"));
    // The name, and the seventh number.
    let ran = processors.map(|line| line.split_whitespace().nth(7)?.parse::<u64>().ok());
    let ran: Option<u64> = ran.sum();
    ran.map(Duration::from_nanos)
}

#[cfg(test)]
#[path = "cost_test.rs"]
mod tests;
