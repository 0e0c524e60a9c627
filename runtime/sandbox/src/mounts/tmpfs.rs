//! File systems in memory.

use std::path::Path;

/// `TMPFS_MAGIC` of statfs(2).
const MAGIC: i64 = 0x0102_1994;

/// How many bytes the file system at `path` may hold, if it is a tmpfs with a limit.
pub(crate) fn tmpfs_size(path: &Path) -> Option<u64> {
    let status = rustix::fs::statfs(path).ok()?;
    // Without a limit there are no blocks to tell of.
    let blocks = (status.f_type == MAGIC && status.f_blocks > 0).then_some(status.f_blocks)?;
    blocks.checked_mul(u64::try_from(status.f_bsize).ok()?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::tmpfs_size;

    #[test]
    fn what_is_no_tmpfs_has_no_size() {
        assert_eq!(tmpfs_size(Path::new("/proc")), None);
        assert_eq!(tmpfs_size(Path::new("/no/such/place")), None);
    }
}
