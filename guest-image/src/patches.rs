//! Our own changes to the kernel's source: the patches in `guest-image/kernel/patches`, in the order
//! of their names.
//!
//! A tree keeps a copy of each patch that is in it. What changed since is taken back, with those
//! after it, and applied anew; files that come out as they were keep their times, so that make
//! compiles what changed and no more.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use crate::kernel::hex;
use crate::progress::say;

/// Where a tree keeps the patches that are in it.
const APPLIED: &str = ".caisson-patches";
/// In that folder while a patch is applied or taken back: a tree with it is neither one nor the other.
const CHANGING: &str = "changing";

/// One patch.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Patch {
    /// The file's name.
    name: String,
    /// The header and the unified diff.
    text: Vec<u8>,
}

/// All patches of a folder.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Patches {
    folder: PathBuf,
    list: Vec<Patch>,
}

impl Patches {
    /// Reads `*.patch` in `folder`, which need not be there.
    pub(crate) fn read(folder: &Path) -> anyhow::Result<Self> {
        let cannot_read = |path: &Path| format!("cannot read {}", path.display());
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            entries => Some(entries.with_context(|| cannot_read(folder))?),
        };
        let mut list = Vec::new();
        for entry in entries.into_iter().flatten() {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "patch") {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                list.push(Patch {
                    name: name.into_owned(),
                    text: fs::read(&path).with_context(|| cannot_read(&path))?,
                });
            }
        }
        list.sort_by(|one, other| one.name.cmp(&other.name));
        let folder = folder.to_owned();
        Ok(Self { folder, list })
    }

    /// A digest of them all.
    pub(crate) fn identity(&self) -> String {
        let mut digest = Sha256::new();
        for Patch { name, text } in &self.list {
            for part in [name.as_bytes(), text] {
                digest.update((part.len() as u64).to_le_bytes());
                digest.update(part);
            }
        }
        hex(&digest.finalize())
    }

    /// Makes these the patches that are in `tree`.
    ///
    /// # Errors
    /// The first patch that does not apply, with the file for which it does not. The tree then has
    /// those before it.
    pub(crate) fn bring_to(&self, tree: &Path) -> anyhow::Result<()> {
        let applied = Self::read(&tree.join(APPLIED))?;
        let same = applied.list.iter().zip(&self.list);
        let same = same.take_while(|(one, other)| one == other).count();
        let mut before = BTreeMap::new();
        for patch in applied.list.iter().chain(&self.list) {
            for file in patch.files() {
                let file = tree.join(file);
                if let Some(state) = content_and_time(&file) {
                    before.insert(file, state);
                }
            }
        }
        for patch in applied.list.iter().skip(same).rev() {
            say(&format!("taking back {}", patch.name));
            patch.change(tree, Direction::Back).with_context(|| {
                let tree = tree.display();
                format!("{tree} was changed by something else: remove it, and it is unpacked again")
            })?;
        }
        for patch in self.list.iter().skip(same) {
            say(&format!("applying {}", patch.name));
            patch.change(tree, Direction::Forth).with_context(|| {
                let path = self.folder.join(&patch.name);
                format!(
                    "{} does not fit this kernel source: mend it, or give an unpacked tree with --kernel-source, which is not patched",
                    path.display()
                )
            })?;
        }
        for (file, (content, time)) in before {
            let same = |(now, _): &(Vec<u8>, SystemTime)| *now == content;
            if content_and_time(&file).as_ref().is_some_and(same) {
                File::options()
                    .write(true)
                    .open(&file)
                    .and_then(|opened| opened.set_modified(time))
                    .with_context(|| format!("cannot set the time of {}", file.display()))?;
            }
        }
        Ok(())
    }
}

fn content_and_time(file: &Path) -> Option<(Vec<u8>, SystemTime)> {
    let time = fs::metadata(file).and_then(|metadata| metadata.modified());
    Some((fs::read(file).ok()?, time.ok()?))
}

/// Whether a tree was left in the midst of a change.
pub(crate) fn is_half_changed(tree: &Path) -> bool {
    tree.join(APPLIED).join(CHANGING).exists()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forth,
    Back,
}

impl Patch {
    /// The files that it changes or makes, relative to the tree.
    fn files(&self) -> impl Iterator<Item = PathBuf> {
        let lines = self.text.split(|&byte| byte == b'\n');
        lines.filter_map(|line| {
            let name = line.strip_prefix(b"+++ b/")?;
            let name = String::from_utf8_lossy(name.split(|&byte| byte == b'\t').next()?);
            Some(PathBuf::from(name.into_owned()))
        })
    }

    /// Applies it to `tree` or takes it back, as a whole or not at all, and notes that.
    fn change(&self, tree: &Path, direction: Direction) -> anyhow::Result<()> {
        self.run(tree, direction, true)?;
        let applied = tree.join(APPLIED);
        let changing = applied.join(CHANGING);
        let copy = applied.join(&self.name);
        fs::create_dir_all(&applied)
            .and_then(|()| fs::write(&changing, ""))
            .with_context(|| format!("cannot write {}", changing.display()))?;
        self.run(tree, direction, false)?;
        match direction {
            Direction::Forth => fs::write(&copy, &self.text),
            Direction::Back => fs::remove_file(&copy),
        }
        .and_then(|()| fs::remove_file(&changing))
        .with_context(|| format!("cannot note in {} what was done", applied.display()))
    }

    fn run(&self, tree: &Path, direction: Direction, try_only: bool) -> anyhow::Result<()> {
        let mut command = Command::new("patch");
        command
            .args(["--strip=1", "--batch", "--no-backup-if-mismatch"])
            .args(["--reject-file=-", "--directory"])
            .arg(tree)
            .arg(match direction {
                Direction::Forth => "--forward",
                Direction::Back => "--reverse",
            })
            .args(try_only.then_some("--dry-run"))
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot run patch")?;
        // It reads all of its input before it says much, and a write to one that has ended fails.
        let written = child
            .stdin
            .take()
            .map_or(Ok(()), |mut input| input.write_all(&self.text));
        let output = child.wait_with_output().context("cannot run patch")?;
        if output.status.success() {
            return written.context("cannot write to patch");
        }
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        match failed_file(&said) {
            Some(file) => bail!("it does not apply to {file}"),
            None => bail!("patch failed ({}): {}", output.status, said.trim_end()),
        }
    }
}

/// The first file for which a part of the patch failed, from what `patch` says.
fn failed_file(said: &str) -> Option<&str> {
    let mut file = None;
    for line in said.lines() {
        let named = ["checking file ", "patching file "];
        if let Some(name) = named.iter().find_map(|word| line.strip_prefix(word)) {
            file = Some(name);
        } else if line.starts_with("Hunk #") && line.contains("FAILED")
            || line.starts_with("Reversed (or previously applied) patch detected")
        {
            return file;
        } else if let Some(name) = line.strip_prefix("|--- a/") {
            // What follows "can't find file to patch".
            return Some(name.split('\t').next().unwrap_or(name));
        }
    }
    None
}

#[cfg(test)]
#[path = "patches_test.rs"]
mod tests;
