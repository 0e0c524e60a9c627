//! Deadlines for a guest, in time in which the host lets it run.
//!
//! Many machines that start at once share few processors. Each of them is slow then, and none is
//! stuck: time that its threads wait for a processor does not count. A guest that halts or spins
//! for nothing is still noticed, after as much time as it could have used.

use std::collections::HashMap;
use std::fs;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

/// Nearly everything is done in this part of its time, and the threads are looked at only after it.
const UNWATCHED: u32 = 10;
/// An extension shorter than this part of the time ends the wait: the next would be shorter still.
const SHORTEST: u32 = 20;
/// Times its limit that a wait lasts at most: how long threads wait is also up to the guest, which
/// may have many that spin.
const MOST: u32 = 10;

/// Waits for `future`, and gives it `limit` and the time that the threads of the processes `pids`
/// wait for a processor; `None` when that has passed.
pub(super) async fn within<T>(
    pids: [u32; 2],
    limit: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    let begin = || {
        let before = waits(&pids);
        move || longest(&before, &waits(&pids))
    };
    extended(limit, begin, future).await
}

/// As [`within`]; `begin` begins to measure how long the machine waits, and what it returns says it.
async fn extended<T, M: Fn() -> Duration>(
    limit: Duration,
    begin: impl FnOnce() -> M,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = pin!(future);
    let unwatched = limit / UNWATCHED;
    if let Ok(output) = timeout(unwatched, &mut future).await {
        return Some(output);
    }
    let waited = begin();
    let usual = Instant::now() + limit.saturating_sub(unwatched);
    let mut deadline = usual;
    loop {
        if let Ok(output) = timeout_at(deadline, &mut future).await {
            return Some(output);
        }
        let later = usual + waited().min(limit * (MOST - 1));
        if later < deadline + limit / SHORTEST {
            return None;
        }
        deadline = later;
    }
}

/// How long each thread of some processes has waited for a processor, while it could have run
/// (`run_delay` in the kernel's sched-stats.rst). Threads of processes that are gone are left out.
fn waits(pids: &[u32]) -> HashMap<String, Duration> {
    let mut waits = HashMap::new();
    for pid in pids {
        let threads = fs::read_dir(format!("/proc/{pid}/task"));
        for thread in threads.into_iter().flatten().flatten() {
            let text = fs::read_to_string(thread.path().join("schedstat"));
            if let Some(waited) = text.ok().as_deref().and_then(parse) {
                let number = thread.file_name().to_string_lossy().into_owned();
                waits.insert(number, waited);
            }
        }
    }
    waits
}

/// The second of three numbers, all but the last in nanoseconds.
fn parse(schedstat: &str) -> Option<Duration> {
    let waited = schedstat.split_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(waited))
}

/// What the thread waited that waited longest. Not the sum: threads that wait at the same time
/// hold the machine up once.
fn longest(before: &HashMap<String, Duration>, now: &HashMap<String, Duration>) -> Duration {
    let waited = now.iter().map(|(thread, waited)| {
        let before = before.get(thread).copied().unwrap_or_default();
        waited.saturating_sub(before)
    });
    waited.max().unwrap_or_default()
}

#[cfg(test)]
#[path = "patience_test.rs"]
mod tests;
