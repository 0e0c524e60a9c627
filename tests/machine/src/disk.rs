//! A disk that is a file of the host.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use caisson_control::{DeviceConfig, DiskConfig, Limits};
use tempfile::NamedTempFile;

use crate::builder::Device;
use crate::pattern::Comparison;

/// On a file system that is not made of memory: flushes and holes are real there.
const DIRECTORY: &str = "/var/tmp";

/// An image that goes with this value.
#[derive(Debug)]
pub struct Disk {
    id: String,
    image: NamedTempFile,
}

impl Disk {
    /// An empty disk.
    ///
    /// # Panics
    /// Panics when the image cannot be made.
    #[must_use]
    #[track_caller]
    pub fn new(id: &str, mib: u64) -> Self {
        let image = NamedTempFile::new_in(DIRECTORY).expect("there is room for disks");
        let sized = image.as_file().set_len(mib << 20);
        sized.expect("a file can have holes");
        Self {
            id: id.to_owned(),
            image,
        }
    }

    /// Where its image is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.image.path()
    }

    /// The disk for a machine, with one queue, to read and write.
    ///
    /// # Panics
    /// Panics when the image is gone.
    #[must_use]
    #[track_caller]
    pub fn device(&self) -> Device {
        self.device_with(false)
    }

    /// The disk for a machine, with one queue, to read only.
    ///
    /// # Panics
    /// Panics when the image is gone.
    #[must_use]
    #[track_caller]
    pub fn read_only(&self) -> Device {
        self.device_with(true)
    }

    #[track_caller]
    fn device_with(&self, read_only: bool) -> Device {
        let image = File::options()
            .read(true)
            .write(!read_only)
            .open(self.path())
            .expect("the image is there");
        let config = DiskConfig {
            id: self.id.clone(),
            read_only,
            direct: false,
            queues: 1,
            limits: Limits::default(),
            parts: Vec::new(),
        };
        Device::new(DeviceConfig::Disk(config), vec![image.into()])
    }

    /// Bytes of the host's disk that the image takes.
    ///
    /// # Panics
    /// Panics when the image is gone.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let metadata = self.image.as_file().metadata();
        metadata.expect("the image is open").blocks() * 512
    }

    /// Makes sure that the image begins with a pattern.
    ///
    /// # Panics
    /// Panics when it is something else.
    #[track_caller]
    pub fn check_pattern(&self, seed: u64, bytes: u64) {
        let image = File::open(self.path()).expect("the image is there");
        check(image.take(bytes), seed, bytes);
    }

    /// Makes sure that the ext4 in the image has no error.
    ///
    /// # Panics
    /// Panics with what fsck says.
    #[track_caller]
    pub fn check_ext4(&self) {
        let mut fsck = Command::new("e2fsck");
        succeed(fsck.args(["-f", "-n"]).arg(self.path()));
    }

    /// Makes sure that a file of the ext4 in the image is a pattern.
    ///
    /// # Panics
    /// Panics when it is something else.
    #[track_caller]
    pub fn check_ext4_file(&self, name: &str, seed: u64, bytes: u64) {
        let copy = NamedTempFile::new_in(DIRECTORY).expect("there is room for a file");
        let dump = format!("dump {name} {}", copy.path().display());
        succeed(Command::new("debugfs").args(["-R", &dump]).arg(self.path()));
        check(copy.reopen().expect("the copy is there"), seed, bytes);
    }
}

#[track_caller]
fn check(mut file: impl Read, seed: u64, bytes: u64) {
    let compared = Comparison::of(&mut file, seed, bytes);
    compared.unwrap_or_else(|error| panic!("pattern {seed} is not on the disk: {error}"));
}

#[track_caller]
fn succeed(command: &mut Command) {
    let output = command.output().expect("e2fsprogs is installed");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}{errors}");
}
