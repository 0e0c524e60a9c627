//! gVisor's `runsc`, which the benchmark compares with. No test needs it, so that it is not in the
//! testbed's root.

use std::path::PathBuf;

use anyhow::Result;

use crate::apt::PrivateApt;
use crate::apt_source::Mirror;
use crate::cache::{Cache, Key, remove};
use crate::containerd::ContainerdVersion;
use crate::progress;

const PACKAGE: &str = "runsc";

/// Finds or fetches the program of Debian's package, from the release of the usual containerd. It
/// needs no libraries.
///
/// # Errors
/// When the package cannot be had.
pub fn runsc() -> Result<PathBuf> {
    let cache = Cache::open()?;
    let suite = ContainerdVersion::default().suite();
    let folder = cache.artefact("gvisor", &Key::of(&[suite, PACKAGE]), |target| {
        progress::step("fetching gVisor", || {
            let work = cache.scratch("gvisor")?;
            let mirror = Mirror::of_this_machine()?;
            PrivateApt::update(&mirror, suite, &work)?.unpack(PACKAGE, target)?;
            remove(&work)
        })
    })?;
    Ok(folder.join("usr/bin/runsc"))
}
