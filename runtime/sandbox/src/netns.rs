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

    /// The same namespace once more.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Does something in the namespace, on a thread of its own.
    ///
    /// # Errors
    /// When there can be no thread, or it panics.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let namespace = self.0.try_clone()?;
        let (sender, result) = oneshot::channel();
        thread::Builder::new().name("netns".into()).spawn(move || {
            // Without a receiver nobody wants to know any more.
            drop(sender.send(join(namespace.as_fd()).map(|()| work())));
        })?;
        result
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the thread in it ended")))
    }

    /// Like [`NetworkNamespace::run`], but blocks.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn run_blocking<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        run_in(self.0.as_fd(), work)
    }

    /// Does something in the namespace at `path`, on a thread of its own, and blocks meanwhile.
    ///
    /// # Errors
    /// When the namespace is not there, and as [`NetworkNamespace::run`].
    pub(crate) fn in_path<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        run_in(File::open(path)?.as_fd(), work)
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

fn run_in<T: Send>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".into());
        let running = thread.spawn_scoped(scope, || join(namespace).map(|()| work()))?;
        running
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread in it panicked")))
    })
}

/// Moves the calling thread into a network namespace.
fn join(namespace: BorrowedFd<'_>) -> io::Result<()> {
    let kind = Some(LinkNameSpaceType::Network);
    Ok(rustix::thread::move_into_link_name_space(namespace, kind)?)
}

/// Moves the calling thread into a network namespace and opens that.
fn enter(path: Option<&Path>) -> io::Result<OwnedFd> {
    match path {
        Some(path) => join(File::open(path)?.as_fd())?,
        // SAFETY: only the network namespace becomes the thread's own; the table of descriptors
        // stays shared.
        None => unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?,
    }
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

#[cfg(test)]
#[path = "netns_test.rs"]
mod tests;
