//! A file descriptor on the event loop: socket, pipe or terminal, with one set of operations.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::pipe::SpliceFlags;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// A descriptor that never blocks the agent.
#[derive(Debug)]
pub struct Descriptor(AsyncFd<OwnedFd>);

impl Descriptor {
    /// Puts a descriptor on the event loop. Its open file description becomes non-blocking, so it
    /// must not be shared with a process of a container.
    ///
    /// # Errors
    /// What `fcntl(2)` or `epoll_ctl(2)` answers; regular files cannot be polled.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Self::register(fd, Interest::READABLE | Interest::WRITABLE)
    }

    fn register(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        // SAFETY: an `OwnedFd` always is the same descriptor, and it is closed only with the
        // `AsyncFd` that owns it, after that has been taken off the event loop.
        Ok(Self(unsafe {
            AsyncFd::register_with_interest(fd, interest)
        }?))
    }

    /// Watches a kernel file, such as `cgroup.events`, that tells of its changes by EPOLLPRI.
    ///
    /// # Errors
    /// What `epoll_ctl(2)` answers.
    pub fn watch_changes(fd: OwnedFd) -> io::Result<Self> {
        Self::register(fd, Interest::PRIORITY)
    }

    /// Answers when a file of [`Self::watch_changes`] has changed since the last answer.
    ///
    /// # Errors
    /// When the event loop ends.
    pub async fn changed(&self) -> io::Result<()> {
        self.0.ready(Interest::PRIORITY).await?.clear_ready();
        Ok(())
    }

    /// Does something that may have to wait for the descriptor to become readable.
    ///
    /// # Errors
    /// What `operation` answers, other than that it would block.
    pub async fn when_readable<T>(
        &self,
        mut operation: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        self.0
            .async_io(Interest::READABLE, |fd| operation(fd.as_fd()))
            .await
    }

    /// As [`Self::when_readable`], for futures that are written by hand.
    pub fn poll_when_readable<T>(
        &self,
        context: &mut Context<'_>,
        mut operation: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            if let Ok(result) = guard.try_io(|fd| operation(fd.as_fd())) {
                return Poll::Ready(result);
            }
        }
    }

    /// Reads what is there, waiting for at least one byte; 0 is the end.
    ///
    /// # Errors
    /// What `read(2)` answers.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.when_readable(|fd| Ok(rustix::io::read(fd, &mut *buffer)?))
            .await
    }

    /// Writes all of `data`.
    ///
    /// # Errors
    /// What `write(2)` answers.
    pub async fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let count = self
                .0
                .async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, data)?))
                .await?;
            data = data.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    /// Moves up to `limit` bytes from this pipe to `to` without copying them through the agent;
    /// waits until at least one byte moved. 0 is the end of the pipe.
    ///
    /// # Errors
    /// What `splice(2)` answers.
    pub async fn splice(&self, to: &Self, limit: usize) -> io::Result<usize> {
        loop {
            let mut readable = self.0.readable().await?;
            let mut writable = to.0.writable().await?;
            match rustix::pipe::splice(&self.0, None, &to.0, None, limit, SpliceFlags::NONBLOCK) {
                Ok(count) => return Ok(count),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    // It does not say which side was not ready. Only a side that is seen not to be
                    // ready now may be waited for: its next edge comes later than this look.
                    if !is_ready(&to.0, PollFlags::OUT)? {
                        writable.clear_ready();
                    }
                    if !is_ready(&self.0, PollFlags::IN)? {
                        readable.clear_ready();
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Answers when the other side of a pipe is gone, so that writing can never succeed again.
    pub async fn broken(&self) {
        // An error here means that the event loop ends; waiting longer would be no better.
        let _ = self.0.ready(Interest::ERROR).await;
    }

    /// Tells the other side of a socket that nothing more comes (a half-close).
    pub fn shutdown_write(&self) {
        // The only failure is that the other side is gone already.
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Write);
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

fn is_ready(fd: &AsyncFd<OwnedFd>, events: PollFlags) -> io::Result<bool> {
    let mut fds = [PollFd::new(fd, events)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    Ok(rustix::event::poll(&mut fds, Some(&now))? > 0)
}

impl AsyncRead for Descriptor {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = ready!(self.poll_when_readable(context, |fd| {
            Ok(rustix::io::read(fd, buffer.initialize_unfilled())?)
        }))?;
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Descriptor {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            if let Ok(result) = guard.try_io(|fd| Ok(rustix::io::write(fd, data)?)) {
                return Poll::Ready(result);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shutdown_write();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
#[path = "descriptor_test.rs"]
mod tests;
