//! Builds what a pod's virtual machine starts from: the guest kernel and the guest root.
//!
//! ```text
//!  Debian's linux-source package ┐
//!  or a tarball you name         ├─▶ kernel/patches/*.patch ┐
//!                                ┘                          ├─▶ kernel/*.config ─▶ make ─▶ pack ──▶ vmlinux
//!  or an unpacked tree ─────────────────────────────────────┘
//!  caisson-agent, static ─────────────────────▶ newc archive ─────────▶ initrd.img
//! ```
//!
//! Both are reproducible: the same source, fragments and compilers give the same bytes, wherever
//! the work is done. Both are incremental: a second run with nothing changed only compares keys.

#![forbid(unsafe_code)]

pub mod check;
pub mod cpio;
pub mod definition;
pub mod elf;
pub mod fragments;
mod initrd;
pub mod kconfig;
mod kernel;
pub mod mirror;
mod padding;
mod patches;
mod progress;
pub mod required;
mod source;
pub mod toolchain;

use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use anyhow::Context;

pub use initrd::{build_initrd, initrd_from_agent};
pub use kernel::{build_kernel, verify_kernel_reproducible};
pub use source::update as update_source;

/// Where to build, and from what.
#[derive(Debug, Clone)]
pub struct Options {
    /// The checkout of Caisson: holds `guest-image/kernel` and the agent's source.
    pub workspace: PathBuf,
    /// Folder for the downloaded source, build trees, logs and results. About 3 GB.
    pub cache: PathBuf,
    /// A kernel source tree, which is used as it is, or a tarball of one, which gets Caisson's own
    /// patches; `None` for Debian's linux-source package, which gets them, too.
    pub kernel_source: Option<PathBuf>,
    /// Compilers at a time; `None` for one per processor.
    pub jobs: Option<NonZeroUsize>,
}

impl Options {
    /// The usual choices: Debian's kernel source, all processors, the default cache.
    ///
    /// # Errors
    /// Fails if no cache folder can be named, see [`default_cache`].
    pub fn new(workspace: impl Into<PathBuf>) -> anyhow::Result<Self> {
        Ok(Self {
            workspace: workspace.into(),
            cache: default_cache()?,
            kernel_source: None,
            jobs: None,
        })
    }

    /// Compilers at a time.
    pub(crate) fn jobs(&self) -> usize {
        self.jobs
            .or_else(|| available_parallelism().ok())
            .map_or(1, NonZeroUsize::get)
    }

    /// Creates the cache folder and holds a lock on it until the result is dropped: two builds in
    /// one tree would spoil each other.
    pub(crate) fn lock_cache(&self) -> anyhow::Result<File> {
        fs::create_dir_all(&self.cache)
            .with_context(|| format!("cannot create the cache folder {}", self.cache.display()))?;
        let path = self.cache.join("guest-image.lock");
        let lock = File::create(&path)
            .with_context(|| format!("cannot create the lock file {}", path.display()))?;
        if lock.try_lock().is_err() {
            progress::say("waiting for another build in the same cache folder");
            lock.lock()
                .with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(lock)
    }
}

/// What a virtual machine is started from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestImage {
    /// The guest kernel: an uncompressed, stripped ELF file with a PVH entry.
    pub kernel: PathBuf,
    /// The guest root: an uncompressed newc archive with the agent as `/init`.
    pub initrd: PathBuf,
}

/// Builds the kernel and the guest root, or finds them up to date. Progress goes to stderr.
///
/// # Errors
/// Says which step failed, with the last lines of its log, and what to do about it if known.
pub fn build(options: &Options) -> anyhow::Result<GuestImage> {
    Ok(GuestImage {
        kernel: build_kernel(options)?,
        initrd: build_initrd(options)?,
    })
}

/// The cache folder used unless one is named: `$CAISSON_CACHE`, or `caisson` in the user's cache
/// folder (`$XDG_CACHE_HOME`, else `~/.cache`).
///
/// # Errors
/// Fails if none of the three variables is set.
pub fn default_cache() -> anyhow::Result<PathBuf> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    variable("CAISSON_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|dir| dir.join("caisson")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/caisson")))
        .context(
            "no cache folder: set CAISSON_CACHE (or HOME) to a folder for downloads and builds",
        )
}

/// Writes `bytes` to `path` so that a reader sees the old file or the whole new one. A file that
/// already has these bytes is left alone, with its time.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    fs::write(&partial, bytes)
        .and_then(|()| fs::rename(&partial, path))
        .with_context(|| format!("cannot write {}", path.display()))
}
