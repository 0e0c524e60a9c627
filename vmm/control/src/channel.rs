//! Whole messages and their files over a `SOCK_SEQPACKET` socket.

use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest message in bytes. A command line and a console tail fit many times over.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// Most files that may travel with one message: those of a disk of [`crate::MAX_DISK_PARTS`] files, or of a
/// boot. (Linux lets 253 travel: `SCM_MAX_FD`.)
pub const MAX_FILES: usize = 160;

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other side closed its end.
    #[error("the other side closed the control channel")]
    Closed,
    /// The socket failed.
    #[error("control channel: {0}")]
    Io(#[from] io::Error),
    /// The message is larger than [`MAX_MESSAGE`] or carries more files than [`MAX_FILES`].
    #[error("control message of {bytes} bytes and {files} files is over the limit")]
    TooLarge {
        /// Bytes of the message.
        bytes: usize,
        /// Files beside it.
        files: usize,
    },
    /// The message is not what the protocol says.
    #[error("control message not understood: {0}")]
    Malformed(#[from] serde_json::Error),
}

impl From<Errno> for ChannelError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// One end of the control socketpair.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Makes a connected pair of blocking channels, close-on-exec.
    ///
    /// # Errors
    /// Fails when the process has no descriptors left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self(a), Self(b)))
    }

    /// Sends one message with its files. Blocks while the socket is full, unless it was made
    /// non-blocking; then the error is [`io::ErrorKind::WouldBlock`] and nothing was sent.
    ///
    /// # Errors
    /// See [`ChannelError`].
    pub fn send<T: Serialize>(
        &self,
        message: &T,
        files: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MAX_MESSAGE || files.len() > MAX_FILES {
            return Err(ChannelError::TooLarge {
                bytes: bytes.len(),
                files: files.len(),
            });
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(files));
        }
        loop {
            match rustix::net::sendmsg(
                &self.0,
                &[IoSlice::new(&bytes)],
                &mut ancillary,
                SendFlags::NOSIGNAL,
            ) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(ChannelError::Closed),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Receives one message and its files. Blocks until one comes, unless the socket was made
    /// non-blocking; then the error is [`io::ErrorKind::WouldBlock`].
    ///
    /// # Errors
    /// See [`ChannelError`].
    pub fn receive<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), ChannelError> {
        let mut buffer = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match rustix::net::recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut buffer)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Ok(received) => break received,
                // The other side went without having read all that we sent. That is told once, and
                // before its own last messages: the end comes behind them.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(errno) => return Err(errno.into()),
            }
        };
        let files: Vec<OwnedFd> = ancillary
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(files) => Some(files),
                _ => None,
            })
            .flatten()
            .collect();
        if received
            .flags
            .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
        {
            return Err(ChannelError::TooLarge {
                bytes: received.bytes,
                files: files.len(),
            });
        }
        let Some(bytes) = buffer
            .get(..received.bytes)
            .filter(|bytes| !bytes.is_empty())
        else {
            return Err(ChannelError::Closed);
        };
        Ok((serde_json::from_slice(bytes)?, files))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

#[cfg(test)]
#[path = "channel_test.rs"]
mod tests;
