//! Timestamps of a start-up, one log line each, so that a slow start can be explained.

use rustix::time::{ClockId, clock_gettime};

/// Environment variable by which `start` tells the daemon when it began, in nanoseconds of
/// `CLOCK_MONOTONIC`.
pub(crate) const START_VARIABLE: &str = "CAISSON_SHIM_START_NS";

/// `CLOCK_MONOTONIC` in nanoseconds.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or_default();
    seconds * 1_000_000_000 + nanoseconds
}

/// Logs that the phase `name` of the container `id` was reached at `at_ns`.
pub(crate) fn log(id: &str, name: &str, at_ns: u64) {
    tracing::info!(id, phase = name, at_ns, "phase");
}

/// Logs that the phase `name` of the container `id` is reached now.
pub(crate) fn reached(id: &str, name: &str) {
    log(id, name, now());
}
