//! A block device to have and to lose.

use std::fs::{self, File};
use std::process::Command;

use tempfile::NamedTempFile;

/// A block device of this machine that is a file. The kernel takes it away when nobody has it open
/// any more, whatever happens to the test.
pub(crate) struct LoopDevice {
    /// What it holds.
    pub(crate) file: NamedTempFile,
    /// Major and minor.
    pub(crate) number: (u32, u32),
    /// What the kernel calls it.
    pub(crate) name: String,
    _open: File,
}

impl LoopDevice {
    /// One of a MiB; `None`, with a printed reason, where there can be none.
    pub(crate) fn new(read_only: bool) -> Option<Self> {
        let file = NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let mut losetup = Command::new("losetup");
        if read_only {
            losetup.arg("--read-only");
        }
        let made = losetup.args(["--find", "--show"]).arg(file.path()).output();
        let Ok(made) = made.map_err(|error| eprintln!("skipped: losetup: {error}")) else {
            return None;
        };
        if !made.status.success() {
            eprintln!("skipped: no loop device can be made: {made:?}, needs root");
            return None;
        }
        let path = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        let open = File::open(&path).unwrap();
        // As it is open, this is for later.
        let detached = Command::new("losetup").args(["--detach", &path]).status();
        assert!(detached.unwrap().success());
        let name = path.trim_start_matches("/dev/").to_owned();
        let number = fs::read_to_string(format!("/sys/block/{name}/dev")).unwrap();
        let (major, minor) = number.trim().split_once(':').unwrap();
        Some(Self {
            file,
            number: (major.parse().unwrap(), minor.parse().unwrap()),
            name,
            _open: open,
        })
    }
}
