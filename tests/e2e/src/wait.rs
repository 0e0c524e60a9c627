//! Waiting for what nobody tells.

use std::thread;
use std::time::{Duration, Instant};

/// In emulation, and with other work on the machine, little takes a minute.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(20);

/// Returns as soon as something holds.
///
/// # Panics
/// Panics when it does not come to hold; `what` says what.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not yet: {what}");
        thread::sleep(PAUSE);
    }
}
