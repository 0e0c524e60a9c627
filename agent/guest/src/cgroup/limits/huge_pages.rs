//! Huge pages for containers that may have some (Documentation/admin-guide/mm/hugetlbpage.rst).
//!
//! A node of Kubernetes sets pages aside; a guest would lose what nobody uses. Instead the kernel
//! may make them when a program asks, out of the guest's memory, and takes them apart afterwards.
//! How many a container has is for its cgroup to say.

use std::fs;
use std::io;
use std::path::Path;

const SIZES: &str = "/sys/kernel/mm/hugepages";
/// More than any guest has.
const ALL: &str = "4294967295";

/// Has the kernel make pages of this size, such as `2MB`, for programs that ask for them.
///
/// # Errors
/// Fails for a size that the kernel does not have.
pub(super) fn allow(size: &str) -> io::Result<()> {
    let kib = kib(size).ok_or(io::ErrorKind::InvalidInput)?;
    let folder = Path::new(SIZES).join(format!("hugepages-{kib}kB"));
    fs::write(folder.join("nr_overcommit_hugepages"), ALL)
}

/// The KiB of a size as cgroups and the specification write it.
fn kib(size: &str) -> Option<u64> {
    let units = [("KB", 1), ("MB", 1 << 10), ("GB", 1 << 20)];
    let (number, unit) = units
        .iter()
        .find_map(|(name, kib)| Some((size.strip_suffix(name)?, kib)))?;
    number.parse::<u64>().ok()?.checked_mul(*unit)
}

#[cfg(test)]
#[path = "huge_pages_test.rs"]
mod tests;
