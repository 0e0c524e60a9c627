//! What one of containerd's mounts is.

use super::template::{self, Part};
use crate::{ErrorKind, RootMount, SandboxError};

/// What containerd 2.2 and later write before the type of a mount that something is to be done for
/// (docs/mounts.md): fill in where other mounts are, and make directories. What is to be done is also
/// in the mount itself.
const PREPARATIONS: [&str; 2] = ["format", "mkdir"];

/// The kinds of mounts that root file systems are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// On a disk.
    Ext4,
    /// On one or more disks, read-only.
    Erofs,
    /// Of directories.
    Overlay,
    /// Of a directory.
    Bind,
}

impl Kind {
    /// The type of mount(2).
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Erofs => "erofs",
            Self::Overlay => "overlay",
            Self::Bind => "bind",
        }
    }

    /// Whether it is on a disk.
    pub(crate) fn is_disk(self) -> bool {
        matches!(self, Self::Ext4 | Self::Erofs)
    }
}

/// A mount and what it is.
#[derive(Debug)]
pub(crate) struct Form<'a> {
    pub(crate) mount: &'a RootMount,
    pub(crate) kind: Kind,
}

impl<'a> Form<'a> {
    /// Looks at a mount.
    ///
    /// # Errors
    /// [`ErrorKind::Unimplemented`] for a type that neither host nor guest mounts.
    pub(crate) fn of(mount: &'a RootMount) -> Result<Self, SandboxError> {
        let mut name = mount.kind.as_str();
        while let Some((preparation, rest)) = name.split_once('/')
            && PREPARATIONS.contains(&preparation)
        {
            name = rest;
        }
        let kind = match name {
            // The guest's driver for ext4 mounts these too.
            "ext4" | "ext3" | "ext2" => Kind::Ext4,
            "erofs" => Kind::Erofs,
            "overlay" => Kind::Overlay,
            "bind" => Kind::Bind,
            _ => return Err(unsupported(mount)),
        };
        Ok(Self { mount, kind })
    }

    /// Whether it is an overlay that writes to a directory of the host.
    pub(crate) fn has_host_upper(&self) -> bool {
        let options = self.mount.options.iter();
        let mut upper = options.filter_map(|option| option.strip_prefix("upperdir="));
        self.kind == Kind::Overlay && upper.any(|upper| !upper.contains("{{"))
    }

    /// Whether it names other mounts.
    pub(crate) fn has_templates(&self) -> bool {
        let RootMount {
            source, options, ..
        } = self.mount;
        source.contains("{{") || options.iter().any(|option| option.contains("{{"))
    }

    /// What it is to people; errors begin with it.
    pub(crate) fn name(&self) -> String {
        name(self.mount)
    }

    /// An error about it.
    pub(crate) fn error(&self, kind: ErrorKind, problem: &str) -> SandboxError {
        SandboxError::new(kind, format!("{}: {problem}", self.name()))
    }

    /// The parts of one of its paths; see [`template::parts`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn parts(&self, text: &str) -> Result<Vec<Part>, SandboxError> {
        template::parts(self, text)
    }
}

fn name(mount: &RootMount) -> String {
    format!("root file system: {} mount of {}", mount.kind, mount.source)
}

fn unsupported(mount: &RootMount) -> SandboxError {
    SandboxError::new(
        ErrorKind::Unimplemented,
        format!(
            "{}: this type is not supported: use a snapshotter that gives overlay or bind mounts \
             (overlayfs, native), ext4 (devmapper and blockfile with fs_type \"ext4\") or erofs",
            name(mount)
        ),
    )
}
