//! A debug build of the shim, which can be told to fail.

use std::fs;

use crate::shim::bundle;
use crate::wait::wait_until;

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
    // The bundle itself does not exist at first, so there is nothing to be told by.
    wait_until(&format!("the shim has come to {point}"), || {
        fs::read_to_string(&file).is_ok_and(|text| text.lines().any(|line| line == point))
    });
}
