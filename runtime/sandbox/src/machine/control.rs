//! The control channel without blocking.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use caisson_control::{Channel, ChannelError, FromVmm, ToVmm};
use rustix::fs::OFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The shim's end of the control channel.
#[derive(Debug)]
pub(super) struct Control(AsyncFd<Registered>);

#[derive(Debug)]
struct Registered(Channel);

impl AsRawFd for Registered {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Control {
    /// # Errors
    /// Fails when the channel cannot be watched.
    pub(super) fn new(channel: Channel) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&channel)?;
        rustix::fs::fcntl_setfl(&channel, flags | OFlags::NONBLOCK)?;
        // SAFETY: `Registered` owns the channel, never gives it away, and always names the one
        // descriptor it was made with, which is open until it is dropped.
        let watched = unsafe { AsyncFd::register(Registered(channel)) }?;
        Ok(Self(watched))
    }

    /// Waits until [`Control::try_send`] may succeed.
    pub(super) async fn writable(&self) -> io::Result<()> {
        self.0.writable().await?.retain_ready();
        Ok(())
    }

    /// Sends a message; `Ok(false)` if it must wait.
    pub(super) fn try_send(
        &self,
        message: &ToVmm,
        files: &[OwnedFd],
    ) -> Result<bool, ChannelError> {
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let sent = self.0.try_io(Interest::WRITABLE, |channel| {
            flatten(channel.0.send(message, &files))
        });
        unless_blocked(sent).map(|sent| sent.is_some())
    }

    /// Waits for a message of the VMM. May be cancelled without losing one.
    pub(super) async fn receive(&self) -> Result<(FromVmm, Vec<OwnedFd>), ChannelError> {
        loop {
            self.0.readable().await?.retain_ready();
            if let Some(message) = self.try_receive()? {
                return Ok(message);
            }
        }
    }

    fn try_receive(&self) -> Result<Option<(FromVmm, Vec<OwnedFd>)>, ChannelError> {
        let received = self
            .0
            .try_io(Interest::READABLE, |channel| flatten(channel.0.receive()));
        unless_blocked(received)
    }

    /// Takes a message that is in the socket now, also one that the runtime has not noticed yet.
    pub(super) fn take(&self) -> Option<(FromVmm, Vec<OwnedFd>)> {
        self.0.get_ref().0.receive().ok()
    }
}

/// Shows `try_io` the one error it must know, that the socket is not ready.
fn flatten<T>(result: Result<T, ChannelError>) -> io::Result<Result<T, ChannelError>> {
    match result {
        Err(ChannelError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
        result => Ok(result),
    }
}

fn unless_blocked<T>(
    result: io::Result<Result<T, ChannelError>>,
) -> Result<Option<T>, ChannelError> {
    match result {
        Ok(result) => result.map(Some),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error.into()),
    }
}
