//! An overlay of many layers.
//!
//! mount(2) takes one page of options, in which the paths of some forty layers find room. A mount that is
//! built up with fsconfig(2) takes each layer by itself (`lowerdir+`, Linux 6.7), and 500 of them.

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
};

/// Longest value that fsconfig(2) takes, without its terminating zero.
const MAX_VALUE: usize = 255;
/// Longest message of the kernel about a mount that is being built.
const MAX_MESSAGE: usize = 512;
/// Most of them: the kernel keeps eight.
const MESSAGES: usize = 8;

/// What of a mount's flags is for the whole file system, by the names that fsconfig(2) knows.
const OF_FILE_SYSTEM: [(MountFlags, &str); 4] = [
    (MountFlags::RDONLY, "ro"),
    (MountFlags::SYNCHRONOUS, "sync"),
    (MountFlags::DIRSYNC, "dirsync"),
    (MountFlags::LAZYTIME, "lazytime"),
];

/// What an overlay is made of.
#[derive(Debug)]
pub(super) struct Overlay<'a> {
    /// The directories of its layers, the uppermost first.
    pub(super) lower: Vec<PathBuf>,
    /// The directory to which is written, and one beside it for work.
    pub(super) written: Option<(PathBuf, PathBuf)>,
    /// Other options, as mount(2) takes them.
    pub(super) options: &'a [String],
}

impl Overlay<'_> {
    /// Mounts it on `place`, with those of `flags` that are for the whole file system.
    ///
    /// # Errors
    /// What the kernel answers, with its words if it has any; for a path that is too long, a sentence.
    pub(super) fn mount(&self, place: &Path, flags: MountFlags) -> io::Result<()> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let mount = self
            .configure(&context, flags)
            .and_then(|()| {
                let attributes = MountAttrFlags::empty();
                Ok(fsmount(
                    &context,
                    FsMountFlags::FSMOUNT_CLOEXEC,
                    attributes,
                )?)
            })
            .map_err(|error| in_words(&context, error))?;
        let from_itself = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        Ok(move_mount(mount, "", CWD, place, from_itself)?)
    }

    fn configure(&self, context: &OwnedFd, flags: MountFlags) -> io::Result<()> {
        fsconfig_set_string(context, "source", "overlay")?;
        for (flag, name) in OF_FILE_SYSTEM {
            if flags.contains(flag) {
                fsconfig_set_flag(context, name)?;
            }
        }
        for layer in &self.lower {
            set(context, "lowerdir+", layer.display())?;
        }
        if let Some((upper, work)) = &self.written {
            set(context, "upperdir", upper.display())?;
            set(context, "workdir", work.display())?;
        }
        for option in self.options {
            match option.split_once('=') {
                Some((name, value)) => set(context, name, value)?,
                None => fsconfig_set_flag(context, option.as_str())?,
            }
        }
        Ok(fsconfig_create(context)?)
    }
}

fn set(context: &OwnedFd, name: &str, value: impl Display) -> io::Result<()> {
    let value = value.to_string();
    if value.len() > MAX_VALUE {
        return Err(io::Error::other(format!(
            "its {name} has {} bytes, {MAX_VALUE} are possible",
            value.len()
        )));
    }
    Ok(fsconfig_set_string(context, name, value)?)
}

/// The error, with what the kernel says about it: such messages are for the one who mounts and not in its
/// log.
fn in_words(context: impl AsFd, error: io::Error) -> io::Error {
    let mut said = Vec::new();
    let mut message = [0; MAX_MESSAGE];
    while said.len() < MESSAGES
        && let Ok(length) = rustix::io::read(&context, &mut message)
    {
        let text = String::from_utf8_lossy(message.get(..length).unwrap_or_default());
        // The first letter tells errors, warnings and notes apart.
        let text = text.get(2..).unwrap_or_default().trim_end();
        said.push(text.to_owned());
    }
    match said.is_empty() {
        true => error,
        false => io::Error::new(error.kind(), format!("{error}: {}", said.join("; "))),
    }
}
