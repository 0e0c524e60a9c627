//! Faults, one after another: processes that die, calls that stall, machines that are full. After
//! each, containerd and the shim agree on what there is, and nothing is left behind.
//!
//! Names that begin with p and a number are those of the table in docs/testing.md.

mod deleting;
mod dying;
mod execs;
mod resources;
mod restarting;

use std::fs;
use std::path::Path;

use caisson_e2e::Container;

/// Removes what is left of a container whose client was cut off: the container itself, and the
/// FIFOs that `ctr` made and did not come to remove.
fn tidy(container: &str) {
    drop(Container::named(container));
    let fifos = Path::new("/run/containerd/fifo");
    if fifos.exists() {
        fs::remove_dir_all(fifos).unwrap();
    }
}
