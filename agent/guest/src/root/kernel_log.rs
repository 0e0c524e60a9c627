//! What the kernel says about a mount that it refuses: mount(2) itself has one number for many
//! reasons.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

/// Records of the kernel's log, one with each read (Documentation/ABI/testing/dev-kmsg).
const LOG: &str = "/dev/kmsg";
/// Longest record of it.
const RECORD: usize = 8192;
/// Longest text that is told, in characters.
const LONGEST: usize = 200;
/// Most records that are read: a kernel that says more has other troubles.
const MOST: usize = 64;

/// The kernel's log from some moment on.
#[derive(Debug)]
pub(super) struct KernelLog(File);

impl KernelLog {
    /// What is said from now on; `None` where the log cannot be read.
    pub(super) fn from_now_on() -> Option<Self> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
        let mut log = options.open(LOG).ok()?;
        log.seek(SeekFrom::End(0)).ok()?;
        Some(Self(log))
    }

    /// The last that was said by a file system, or nothing.
    pub(super) fn last(&mut self) -> String {
        let mut last = String::new();
        let mut record = vec![0; RECORD];
        for _ in 0..MOST {
            let Ok(count) = self.0.read(&mut record) else {
                break;
            };
            let text = String::from_utf8_lossy(record.get(..count).unwrap_or_default());
            if let Some(said) = of_file_system(&text) {
                last = said;
            }
        }
        last
    }
}

/// The text of a record, `PRIORITY,NUMBER,TIME,FLAGS;TEXT` and lines about it.
fn of_file_system(record: &str) -> Option<String> {
    let (_, text) = record.lines().next()?.split_once(';')?;
    let begins = ["EXT4-fs", "erofs", "overlayfs", "JBD2"];
    let known = begins.iter().any(|begin| text.starts_with(begin));
    known.then(|| text.trim().chars().take(LONGEST).collect())
}

#[cfg(test)]
#[path = "kernel_log_test.rs"]
mod tests;
