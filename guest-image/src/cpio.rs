//! A writer of "newc" archives, the format in which Linux takes its first root file system
//! (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! What an archive says depends on its entries alone: every file belongs to root, was changed at
//! the epoch, and has an inode number counted from 1; entries come in the order of their names,
//! so that a folder precedes what is in it.
//!
//! The content of a large file begins at a page, so that our kernel need not copy it
//! (`kernel/patches`): the name before it has as many zeros more as that takes. Other readers of such
//! archives end a name at the first zero.

use std::collections::BTreeMap;

/// Size of a page: files with at least as much content begin at one.
const PAGE: usize = 4096;
/// Length of a header.
const HEADER: usize = 110;
/// Longest name that Linux reads, with its zeros (PATH_MAX).
const LONGEST_NAME: usize = 4096;

/// What one name in the archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A folder, with its permission bits.
    Directory {
        /// Permission bits, at most 0o7777.
        mode: u32,
    },
    /// A regular file, with its permission bits and content.
    File {
        /// Permission bits, at most 0o7777.
        mode: u32,
        /// The content, less than 4 GiB.
        content: Vec<u8>,
    },
    /// A character device.
    CharacterDevice {
        /// Permission bits, at most 0o7777.
        mode: u32,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// Why an archive cannot be written.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArchiveError {
    /// A name is not a relative path of plain components.
    #[error(
        "{0:?} is no name for an archive: it must be relative, without empty, \".\" or \"..\" parts, NUL or newline"
    )]
    Name(String),
    /// A name's folder is not in the archive, so that unpacking would fail.
    #[error("{name:?} is in no folder of the archive: {folder:?} must be added first")]
    NoFolder {
        /// The entry.
        name: String,
        /// Its folder.
        folder: String,
    },
    /// The format has 32 bits for a file's size.
    #[error("{name:?} is too large for the format: {size} bytes, and 4294967295 is the most")]
    TooLarge {
        /// The entry.
        name: String,
        /// Its size.
        size: usize,
    },
}

/// Names and what they are, ready to be written.
#[derive(Debug, Default)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// Adds or replaces the entry called `name`.
    ///
    /// # Errors
    /// Fails if `name` is no plain relative path.
    pub fn add(&mut self, name: &str, entry: Entry) -> Result<(), ArchiveError> {
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        if !name.split('/').all(plain) || name.contains(['\0', '\n']) {
            return Err(ArchiveError::Name(name.to_owned()));
        }
        self.entries.insert(name.to_owned(), entry);
        Ok(())
    }

    /// The archive's bytes.
    ///
    /// # Errors
    /// Fails if an entry's folder is missing, or a file is too large.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ArchiveError> {
        let mut out = Vec::new();
        for (index, (name, entry)) in (1_u32..).zip(&self.entries) {
            if let Some((folder, _)) = name.rsplit_once('/')
                && !matches!(self.entries.get(folder), Some(Entry::Directory { .. }))
            {
                return Err(ArchiveError::NoFolder {
                    name: name.clone(),
                    folder: folder.to_owned(),
                });
            }
            let (mode, links, device, content): (_, _, _, &[u8]) = match entry {
                Entry::Directory { mode } => (0o040_000 | mode, 2, (0, 0), &[]),
                Entry::File { mode, content } => (0o100_000 | mode, 1, (0, 0), content),
                Entry::CharacterDevice { mode, major, minor } => {
                    (0o020_000 | mode, 1, (*major, *minor), &[])
                }
            };
            let size = u32::try_from(content.len()).map_err(|_| ArchiveError::TooLarge {
                name: name.clone(),
                size: content.len(),
            })?;
            write_header(&mut out, index, mode, links, size, device, name);
            out.extend_from_slice(content);
            pad(&mut out, 4);
        }
        write_header(&mut out, 0, 0, 1, 0, (0, 0), "TRAILER!!!");
        pad(&mut out, 512);
        Ok(out)
    }
}

/// How many bytes `name` takes with the zeros behind it, in an entry that begins at `at`.
fn name_size(name: &str, at: usize, content: u32) -> usize {
    let shortest = name.len() + 1;
    if (content as usize) < PAGE {
        return shortest;
    }
    let begin = at + HEADER;
    let aligned = (begin + shortest).next_multiple_of(PAGE) - begin;
    // Without it the file is copied, no more.
    if aligned > LONGEST_NAME {
        shortest
    } else {
        aligned
    }
}

/// Appends a header and the name behind it. Its thirteen numbers are, in order: inode, mode, uid,
/// gid, links, mtime, size, device (two), the file's own device number (two), the length of the
/// name with its NUL, and a checksum that this variant of the format leaves at zero.
fn write_header(
    out: &mut Vec<u8>,
    inode: u32,
    mode: u32,
    links: u32,
    size: u32,
    (major, minor): (u32, u32),
    name: &str,
) {
    let name_size = name_size(name, out.len(), size);
    let name_end = out.len() + HEADER + name_size;
    out.extend_from_slice(b"070701");
    for field in [
        inode,
        mode,
        0,
        0,
        links,
        0,
        size,
        0,
        0,
        major,
        minor,
        name_size as u32,
        0,
    ] {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.resize(name_end, 0);
    pad(out, 4);
}

/// Fills up with zeros to a multiple of `unit`.
fn pad(out: &mut Vec<u8>, unit: usize) {
    out.resize(out.len().next_multiple_of(unit), 0);
}

#[cfg(test)]
#[path = "cpio_test.rs"]
mod tests;
