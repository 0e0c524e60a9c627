//! How long a test waits.

use std::thread;
use std::time::{Duration, Instant};

/// What a machine does in a second on hardware takes half a minute in emulation, and several times
/// that when the emulator shares its processor. Nothing here takes minutes unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Waits until `holds` does; for what comes about by itself and of which nobody is told.
///
/// # Panics
/// Panics with `what` when it does not come about.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it never came about that {what}");
        // There is no event to wait for.
        thread::sleep(Duration::from_millis(20));
    }
}
