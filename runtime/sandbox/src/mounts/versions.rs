//! Volumes that the kubelet updates.
//!
//! It fills a volume of a ConfigMap, a Secret, the downward API or several of these with versions: a
//! directory whose name begins with two dots and holds the files, a link `..data` to it, and links
//! with the names of the files to `..data/NAME`. An update makes a new directory and exchanges `..data`.
//!
//! Whoever can write elsewhere on the host may have made what is read here; it is bounded, and goes
//! nowhere but to the guest.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Dir, FileType};
use rustix::io::Errno;

const DATA: &str = "..data";
/// Most links: each is a file or a directory of a ConfigMap. What has more is left to the file server.
const MAX_NAMES: usize = 1024;

/// What a volume consists of at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    /// The directory with the files.
    pub(crate) directory: String,
    /// The links, in order.
    pub(crate) names: Vec<String>,
}

impl Version {
    /// What the volume that `directory` is open on consists of, if it is one that the kubelet updates.
    pub(super) fn read(directory: &OwnedFd) -> io::Result<Option<Self>> {
        let Some(version) = link(directory, DATA)? else {
            return Ok(None);
        };
        if !version.starts_with("..") || version.len() < 3 || version.contains('/') {
            return Ok(None);
        }
        let mut names = Vec::new();
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else {
                return Ok(None);
            };
            if name.starts_with("..") || name == "." {
                continue;
            }
            // Anything else would be lost.
            let is_link = [FileType::Symlink, FileType::Unknown].contains(&entry.file_type());
            if !is_link
                || link(directory, name)? != Some(format!("{DATA}/{name}"))
                || names.len() == MAX_NAMES
            {
                return Ok(None);
            }
            names.push(name.to_owned());
        }
        names.sort_unstable();
        Ok(Some(Self {
            directory: version,
            names,
        }))
    }
}

/// Where a link leads, if it is one, and to a name that can be told.
fn link(directory: &OwnedFd, name: &str) -> io::Result<Option<String>> {
    match rustix::fs::readlinkat(directory, name, Vec::new()) {
        Ok(target) => Ok(target.into_string().ok()),
        Err(Errno::NOENT | Errno::INVAL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
#[path = "versions_test.rs"]
mod tests;
