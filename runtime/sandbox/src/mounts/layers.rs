//! What is mounted only for an overlay to be made of it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode};

use super::tree;
use crate::roots::{Form, Part};
use crate::{ErrorKind, SandboxError};

/// Mounts in directories of `staging`, undone when this is dropped: an overlay keeps what it is made of.
pub(super) struct Layers<'a> {
    staging: BorrowedFd<'a>,
    name: &'a str,
    /// Each open on what is mounted there.
    tops: Vec<OwnedFd>,
}

impl<'a> Layers<'a> {
    /// None yet, for the container `name`.
    pub(super) fn new(staging: BorrowedFd<'a>, name: &'a str) -> Self {
        Self {
            staging,
            name,
            tops: Vec::new(),
        }
    }

    /// Has one more mounted on a directory.
    ///
    /// # Errors
    /// When there can be no such directory; inside, what `mount` answers. It is removed then.
    pub(super) fn add(
        &mut self,
        mount: impl FnOnce(BorrowedFd<'_>) -> Result<(), SandboxError>,
    ) -> io::Result<Result<(), SandboxError>> {
        let place = self.place(self.tops.len());
        rustix::fs::mkdirat(self.staging, &place, Mode::RWXU)?;
        let opened = tree::open_directory(self.staging, &place);
        let mounted = match opened.map(|directory| mount(directory.as_fd())) {
            Ok(Ok(())) => tree::open_directory(self.staging, &place),
            Ok(Err(refused)) => {
                self.remove(&place);
                return Ok(Err(refused));
            }
            Err(error) => Err(error),
        };
        match mounted {
            Ok(top) => {
                self.tops.push(top);
                Ok(Ok(()))
            }
            Err(error) => {
                let _ = tree::unmount_at(self.staging, &place);
                self.remove(&place);
                Err(error)
            }
        }
    }

    /// Fills in where the mounts are that a path names, or several paths with colons between.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a mount that is not there or a path below one, on which
    /// there might be a link.
    pub(super) fn fill(&self, form: &Form<'_>, text: &str) -> Result<String, SandboxError> {
        let mut filled = Vec::new();
        for part in form.parts(text)? {
            let place = match part {
                Part::OnHost(path) => {
                    filled.push(path);
                    continue;
                }
                Part::Place(place) => place,
            };
            let top = self.tops.get(place.mount).filter(|_| place.path.is_empty());
            let top = top.ok_or_else(|| {
                let problem = format!("{text:?} is not the place of a mount before it");
                form.error(ErrorKind::InvalidArgument, &problem)
            })?;
            filled.push(format!("/proc/self/fd/{}", top.as_raw_fd()));
        }
        Ok(filled.join(":"))
    }

    /// No container's name begins with a dot.
    fn place(&self, number: usize) -> String {
        format!(".{}.{number}", self.name)
    }

    fn remove(&self, place: &str) {
        if let Err(error) = rustix::fs::unlinkat(self.staging, place, AtFlags::REMOVEDIR) {
            tracing::warn!("staging directory {place}: {error}");
        }
    }
}

impl Drop for Layers<'_> {
    fn drop(&mut self) {
        while self.tops.pop().is_some() {
            let place = self.place(self.tops.len());
            if let Err(error) = tree::unmount_at(self.staging, &place) {
                tracing::warn!("{place}: {error}");
            }
            self.remove(&place);
        }
    }
}
