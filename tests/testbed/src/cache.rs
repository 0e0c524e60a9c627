//! The cache folder: things that take long to make, each named by a hash of what it was made from.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use crate::progress;

/// Hex digits of a key that go into a file name: 64 bits, far from any accident.
const KEY_LENGTH: usize = 16;

/// Prefix of what is still being made. Whatever bears it when the lock is free is a broken-off try.
const UNFINISHED: &str = "unfinished-";

/// A hash of everything an artefact is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key(String);

impl Key {
    /// The key of these inputs, in this order.
    #[must_use]
    pub(crate) fn of<T: AsRef<[u8]>>(inputs: &[T]) -> Self {
        let mut hash = Sha256::new();
        for input in inputs {
            let input = input.as_ref();
            // Lengths keep ("ab", "c") apart from ("a", "bc").
            hash.update((input.len() as u64).to_le_bytes());
            hash.update(input);
        }
        let mut text: String = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        text.truncate(KEY_LENGTH);
        Self(text)
    }

    /// The key as it appears in file names.
    #[must_use]
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// The cache folder, held by one run at a time.
#[derive(Debug)]
pub(crate) struct Cache {
    root: PathBuf,
    /// Locked; closing it unlocks.
    _lock: File,
}

/// Where the cache lies: `$CAISSON_CACHE`, `$XDG_CACHE_HOME/caisson` or `~/.cache/caisson`.
///
/// # Errors
/// When none of the variables is set.
pub fn location() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = set("CAISSON_CACHE") {
        return Ok(path.into());
    }
    if let Some(path) = set("XDG_CACHE_HOME") {
        return Ok(Path::new(&path).join("caisson"));
    }
    match set("HOME") {
        Some(home) => Ok(Path::new(&home).join(".cache/caisson")),
        None => bail!("there is no cache folder: set CAISSON_CACHE or HOME"),
    }
}

impl Cache {
    /// Opens the cache folder and waits until no other run is building in it.
    ///
    /// # Errors
    /// When the folder cannot be made or locked.
    pub(crate) fn open() -> Result<Self> {
        Self::at(location()?)
    }

    fn at(root: PathBuf) -> Result<Self> {
        fs::create_dir_all(&root).with_context(|| format!("creating {}", root.display()))?;
        let path = root.join("lock");
        let lock = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            progress::line("another run is preparing the testbed; waiting for it");
            rustix::fs::flock(&lock, FlockOperation::LockExclusive)
                .with_context(|| format!("locking {}", path.display()))?;
        }
        Ok(Self { root, _lock: lock })
    }

    /// The folder.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.root
    }

    /// The path of an artefact, made by `build` (which gets a path that does not exist yet) if it
    /// is missing. Earlier versions of the same artefact are removed.
    ///
    /// # Errors
    /// Those of `build`, and of the file system.
    pub(crate) fn artefact(
        &self,
        name: &str,
        key: &Key,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let finished = self.finished(name, key);
        if finished.exists() {
            return Ok(finished);
        }
        let unfinished = self.root.join(format!("{UNFINISHED}{name}"));
        remove(&unfinished)?;
        if let Err(error) = build(&unfinished) {
            remove(&unfinished)?;
            return Err(error);
        }
        fs::rename(&unfinished, &finished)
            .with_context(|| format!("renaming {}", unfinished.display()))?;
        self.remove_earlier(name, key)?;
        Ok(finished)
    }

    /// A scratch folder for `name`, empty, removed by the next use.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf> {
        let path = self.root.join(format!("{UNFINISHED}{name}.d"));
        remove(&path)?;
        fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(path)
    }

    fn finished(&self, name: &str, key: &Key) -> PathBuf {
        self.root.join(format!("{name}-{}", key.as_str()))
    }

    /// Whether any version of this artefact is there.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn has_any(&self, name: &str) -> Result<bool> {
        Ok(!self.versions(name)?.is_empty())
    }

    fn remove_earlier(&self, name: &str, key: &Key) -> Result<()> {
        let kept = self.finished(name, key);
        for path in self.versions(name)? {
            if path != kept {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Everything of this name, whatever its key.
    fn versions(&self, name: &str) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let file = entry.file_name();
            let is_one = file
                .to_str()
                .and_then(|file| file.strip_prefix(name)?.strip_prefix('-'))
                .is_some_and(|rest| {
                    rest.len() == KEY_LENGTH && rest.bytes().all(|b| b.is_ascii_hexdigit())
                });
            if is_one {
                found.push(entry.path());
            }
        }
        Ok(found)
    }
}

/// Removes the whole cache folder, once no other run is building in it.
///
/// # Errors
/// Those of the file system.
pub(crate) fn clean() -> Result<PathBuf> {
    let root = location()?;
    clean_at(&root)?;
    Ok(root)
}

fn clean_at(root: &Path) -> Result<()> {
    if root.exists() {
        let cache = Cache::at(root.to_path_buf())?;
        remove(cache.path())?;
    }
    Ok(())
}

/// Removes a file or a whole folder; nothing there is fine.
///
/// # Errors
/// Those of the file system.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    result.with_context(|| format!("removing {}", path.display()))
}

#[cfg(test)]
#[path = "cache_test.rs"]
mod tests;
