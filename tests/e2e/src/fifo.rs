//! A FIFO between a test and a process, used as containerd's clients use theirs.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::fs::{CWD, Mode, OFlags, fcntl_setfl, mkfifoat};
use tempfile::TempDir;

/// A FIFO that goes away again with this value.
#[derive(Debug)]
pub struct Fifo {
    directory: TempDir,
}

impl Fifo {
    /// Makes one in a directory of its own.
    ///
    /// # Panics
    /// Panics when it cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("the testbed's /tmp can be written");
        let fifo = Self { directory };
        mkfifoat(CWD, fifo.path(), Mode::RUSR | Mode::WUSR).expect("a FIFO can be made");
        fifo
    }

    /// Its path, for the call that starts the process.
    #[must_use]
    pub fn name(&self) -> String {
        self.path().display().to_string()
    }

    /// Opens it for reading, whether somebody writes yet or not. To be read from once the process
    /// was started: without a writer it is at its end.
    ///
    /// # Panics
    /// Panics when it cannot be opened.
    #[must_use]
    pub fn reader(&self) -> File {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(self.path())
            .expect("the FIFO is there");
        fcntl_setfl(&file, OFlags::empty()).expect("a FIFO can be read with waiting");
        file
    }

    /// Opens it for writing once somebody reads.
    ///
    /// # Panics
    /// Panics when it cannot be opened.
    #[must_use]
    pub fn writer(&self) -> File {
        OpenOptions::new()
            .write(true)
            .open(self.path())
            .expect("the FIFO is there")
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("fifo")
    }
}

impl Default for Fifo {
    fn default() -> Self {
        Self::new()
    }
}
