//! A debug build of the shim, which can be told to fail.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::shim::bundle;

/// How long a call may take to come to its fail point: a virtual machine starts in the meantime.
const PATIENCE: Duration = Duration::from_secs(60);

/// The debug build, as a runtime of containerd: `cargo verify` puts it beside the test program.
///
/// # Panics
/// Panics when it is not there.
#[must_use]
pub fn faulty_runtime() -> String {
    let program = std::env::current_exe().expect("a program knows its own file");
    let shim = program.with_file_name("containerd-shim-caisson-v2");
    assert!(shim.exists(), "there is no {}", shim.display());
    shim.display().to_string()
}

/// Waits until the shim of a container has passed a fail point.
///
/// # Panics
/// Panics when it does not.
#[track_caller]
pub fn wait_for_fail_point(container: &str, point: &str) {
    let file = bundle(container).join("fail-points");
    let deadline = Instant::now() + PATIENCE;
    // The bundle itself does not exist at first, so there is nothing to be told by.
    while !fs::read_to_string(&file).is_ok_and(|text| text.lines().any(|line| line == point)) {
        assert!(
            Instant::now() < deadline,
            "the shim did not come to {point}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}
