//! The pod's network namespace on the host.
//!
//! A CNI plug-in made it before (containerd's CRI, `ctr --cni`), and the configuration names it;
//! or nobody did, and docker or a hook will furnish the one that is made here.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use tokio::sync::oneshot;

use crate::{ErrorKind, SandboxError};

/// A network namespace, kept alive by this value.
#[derive(Debug)]
pub(crate) struct NetworkNamespace(OwnedFd);

/// One that is on its way.
#[derive(Debug)]
pub(crate) struct Opening {
    path: Option<PathBuf>,
    result: oneshot::Receiver<io::Result<OwnedFd>>,
}

impl NetworkNamespace {
    /// Opens the namespace at `path`, or makes a new one, on a thread of its own: that the kernel
    /// builds a network stack takes about as long as a program's start, and other work goes on
    /// meanwhile.
    ///
    /// # Errors
    /// Fails when there can be no thread.
    pub(crate) fn open(path: Option<PathBuf>) -> Result<Opening, SandboxError> {
        let (sender, result) = oneshot::channel();
        let wanted = path.clone();
        // The thread moves into the namespace, which proves that it is one of networks and may be
        // entered, and ends there.
        thread::Builder::new()
            .name("netns".into())
            .spawn(move || sender.send(enter(wanted.as_deref())))
            .map_err(|error| {
                SandboxError::new(
                    ErrorKind::Internal,
                    format!("no thread for the network namespace: {error}"),
                )
            })?;
        Ok(Opening { path, result })
    }
}

impl Opening {
    /// The namespace, once it is there.
    ///
    /// # Errors
    /// [`ErrorKind::FailedPrecondition`] for a path that is no network namespace,
    /// [`ErrorKind::Internal`] when none can be made.
    pub(crate) async fn opened(self) -> Result<NetworkNamespace, SandboxError> {
        let result = self
            .result
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the thread for it ended")));
        result.map(NetworkNamespace).map_err(|error| {
            let (kind, message) = match self.path {
                Some(path) => (
                    ErrorKind::FailedPrecondition,
                    format!(
                        "network namespace {} cannot be entered: {error}; it must be made before \
                         the pod that the configuration puts into it",
                        path.display()
                    ),
                ),
                None => (
                    ErrorKind::Internal,
                    format!("no network namespace can be made for the pod: {error}"),
                ),
            };
            SandboxError::new(kind, message)
        })
    }
}

impl AsFd for NetworkNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Moves the calling thread into a network namespace and opens that.
fn enter(path: Option<&Path>) -> io::Result<OwnedFd> {
    match path {
        Some(path) => {
            let namespace = File::open(path)?;
            rustix::thread::move_into_link_name_space(
                namespace.as_fd(),
                Some(LinkNameSpaceType::Network),
            )?;
        }
        // SAFETY: only the network namespace becomes the thread's own; the table of descriptors
        // stays shared.
        None => unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?,
    }
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

#[cfg(test)]
#[path = "netns_test.rs"]
mod tests;
