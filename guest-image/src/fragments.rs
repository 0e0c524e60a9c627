//! The fragments in `guest-image/kernel`, which together say what the guest kernel is.
//!
//! A fragment is a file of groups with an empty line between them. A group starts with a comment
//! that says why its options are there; the options follow, one a line.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::kconfig::{Config, parse_line};

/// Why the fragments cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FragmentError {
    /// The folder or a file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The folder or file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// There is nothing to configure a kernel from.
    #[error("no *.config file in {0}: is it the checkout's guest-image/kernel folder?")]
    Empty(PathBuf),
    /// A line is neither an option, nor a comment, nor empty.
    #[error("{place}: {line:?} sets no option: write CONFIG_X=value or \"# CONFIG_X is not set\"")]
    Line {
        /// File and line number.
        place: String,
        /// The line.
        line: String,
    },
    /// A group's first line is an option.
    #[error("{place}: {name} begins a group without a comment that says why it is there")]
    NoComment {
        /// File and line number.
        place: String,
        /// The option.
        name: String,
    },
    /// An option is set twice.
    #[error("{place}: {name} is set here and at {earlier}: keep one of the two")]
    Twice {
        /// File and line number.
        place: String,
        /// The option.
        name: String,
        /// Where it was set before.
        earlier: String,
    },
}

/// All fragments of a folder, checked and put together.
#[derive(Debug)]
pub struct Fragments {
    /// The text that the kernel's configuration program reads.
    pub text: String,
    /// The options asked for.
    pub config: Config,
}

impl Fragments {
    /// Reads `*.config` in `folder`, in the order of their names.
    ///
    /// # Errors
    /// Fails if a file cannot be read or breaks the rules above.
    pub fn read(folder: &Path) -> Result<Self, FragmentError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| FragmentError::Read { path, source }
        };
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed(folder))? {
            let path = entry.map_err(failed(folder))?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "config")
            {
                paths.push(path);
            }
        }
        if paths.is_empty() {
            return Err(FragmentError::Empty(folder.to_owned()));
        }
        paths.sort();
        let mut files = Vec::new();
        for path in paths {
            let text = fs::read_to_string(&path).map_err(failed(&path))?;
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            files.push((name, text));
        }
        Self::merge(&files)
    }

    /// Checks files, given as name and text, and puts them together.
    ///
    /// # Errors
    /// Fails if a file breaks the rules above.
    pub fn merge(files: &[(String, String)]) -> Result<Self, FragmentError> {
        let mut places: BTreeMap<String, String> = BTreeMap::new();
        let mut text = String::new();
        for (file, content) in files {
            let mut group_is_explained = false;
            for (number, line) in (1..).zip(content.lines()) {
                let place = format!("{file}:{number}");
                if let Some((name, _)) = parse_line(line) {
                    if !group_is_explained {
                        return Err(FragmentError::NoComment {
                            place,
                            name: name.to_owned(),
                        });
                    }
                    if let Some(earlier) = places.insert(name.to_owned(), place.clone()) {
                        return Err(FragmentError::Twice {
                            place,
                            name: name.to_owned(),
                            earlier,
                        });
                    }
                } else if line.trim().is_empty() {
                    group_is_explained = false;
                } else if line.starts_with('#') {
                    group_is_explained = true;
                } else {
                    return Err(FragmentError::Line {
                        place,
                        line: line.to_owned(),
                    });
                }
            }
            text.push_str(content);
            text.push('\n');
        }
        let config = Config::parse(&text);
        Ok(Self { text, config })
    }
}

#[cfg(test)]
#[path = "fragments_test.rs"]
mod tests;
