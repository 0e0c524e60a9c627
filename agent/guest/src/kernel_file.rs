//! Files by which the kernel is told something: in sysfs, below /proc/sys, of a cgroup.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Writes `value` to such a file. One that is not there is not made: where the kernel lacks what it is for,
/// that is the error.
///
/// # Errors
/// What `open(2)` and `write(2)` answer.
pub fn set(path: &Path, value: &str) -> io::Result<()> {
    let mut file = File::options().write(true).open(path)?;
    file.write_all(value.as_bytes())
}
