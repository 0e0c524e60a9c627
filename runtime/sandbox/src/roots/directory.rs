//! Directories that a mount wants to have made first: `X-containerd.mkdir.path=` (containerd,
//! docs/mounts.md).

use super::Form;
use crate::{ErrorKind, SandboxError};

/// `PATH[:MODE[:UID:GID]]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NewDirectory<'a> {
    pub(crate) path: &'a str,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl<'a> NewDirectory<'a> {
    /// Reads one. What is not said is 0700, of root.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`].
    pub(crate) fn parse(form: &Form<'_>, text: &'a str) -> Result<Self, SandboxError> {
        Self::read(text).ok_or_else(|| {
            let problem = format!("X-containerd.mkdir.path={text} is not PATH[:MODE[:UID:GID]]");
            form.error(ErrorKind::InvalidArgument, &problem)
        })
    }

    fn read(text: &'a str) -> Option<Self> {
        let words: Vec<&str> = text.split(':').collect();
        let (path, mode, uid, gid) = match words[..] {
            [path] => (path, "700", "0", "0"),
            [path, mode] => (path, mode, "0", "0"),
            [path, mode, uid, gid] => (path, mode, uid, gid),
            _ => return None,
        };
        let mode = u32::from_str_radix(mode, 8).ok()?;
        Some(Self {
            path,
            mode: (mode <= 0o777).then_some(mode)?,
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
        })
    }
}
