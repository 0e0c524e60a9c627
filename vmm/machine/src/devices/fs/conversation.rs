//! What is said to a file server: requests of the vhost-user protocol, each with its answer, within
//! a time that the server cannot stretch. No thread holds the watch, because none may be started by
//! the threads that come here.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

/// Bytes of a message's header: request, flags and size of the body.
const HEADER: usize = 12;
/// Flags: version 1; an answer; and that one is wanted.
const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;
/// Most regions of memory that are told at once (vhost-user, "Memory regions description").
pub(super) const MAX_REGIONS: usize = 8;

/// A request, by its number in the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Request {
    GetFeatures = 1,
    SetFeatures = 2,
    SetOwner = 3,
    SetMemoryTable = 5,
    SetQueueSize = 8,
    SetQueueAddresses = 9,
    SetQueuePosition = 10,
    GetQueuePosition = 11,
    SetKick = 12,
    SetCall = 13,
    GetProtocolFeatures = 15,
    SetProtocolFeatures = 16,
    GetQueueCount = 17,
    SetQueueEnabled = 18,
}

/// A stretch of talk over a connection.
#[derive(Debug)]
pub(super) struct Conversation<'a> {
    socket: &'a UnixStream,
    deadline: Instant,
}

impl<'a> Conversation<'a> {
    /// All of it has to be over after `patience`.
    pub(super) fn new(socket: &'a UnixStream, patience: Duration) -> Self {
        Self {
            socket,
            deadline: Instant::now() + patience,
        }
    }

    /// Asks for a number.
    ///
    /// # Errors
    /// Fails when the connection does, the server answers something else, or not in time.
    pub(super) fn ask(&self, request: Request) -> io::Result<u64> {
        self.send(request, 0, &[], &[])?;
        self.answer(request).map(u64::from_le_bytes)
    }

    /// Asks where queue `index` stands, which also stops it.
    ///
    /// # Errors
    /// As [`Conversation::ask`].
    pub(super) fn ask_position(&self, index: u32) -> io::Result<u32> {
        let body = state(index, 0);
        self.send(Request::GetQueuePosition, 0, &body, &[])?;
        let [_, _, _, _, position @ ..] = self.answer(Request::GetQueuePosition)?;
        Ok(u32::from_le_bytes(position))
    }

    /// Says something that has no answer.
    ///
    /// # Errors
    /// Fails when the connection does, or the server does not take it in time.
    pub(super) fn say(&self, request: Request, body: &[u8]) -> io::Result<()> {
        self.send(request, 0, body, &[])
    }

    /// Says something and waits until the server has done it.
    ///
    /// # Errors
    /// As [`Conversation::ask`], and when the server could not do it.
    pub(super) fn tell(
        &self,
        request: Request,
        body: &[u8],
        files: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        self.send(request, NEED_REPLY, body, files)?;
        match self.answer(request).map(u64::from_le_bytes)? {
            0 => Ok(()),
            code => Err(io::Error::other(format!(
                "it answered {request:?} with error {code}"
            ))),
        }
    }

    fn send(
        &self,
        request: Request,
        flags: u32,
        body: &[u8],
        files: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let size = u32::try_from(body.len()).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(HEADER + body.len());
        for word in [request as u32, VERSION | flags, size] {
            message.extend(word.to_le_bytes());
        }
        message.extend(body);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_REGIONS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(io::Error::other("too many files for one message"));
        }
        let mut rest = &message[..];
        while !rest.is_empty() {
            self.wait(PollFlags::OUT)?;
            let sent = rustix::net::sendmsg(
                self.socket,
                &[IoSlice::new(rest)],
                &mut ancillary,
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            );
            match sent {
                Ok(count) => {
                    rest = rest.get(count..).unwrap_or_default();
                    // They went with the first byte.
                    ancillary.clear();
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// The answer to `request`: all that we ask for have eight bytes.
    fn answer(&self, request: Request) -> io::Result<[u8; 8]> {
        let mut header = [0; HEADER];
        self.receive(&mut header)?;
        let mut expected = [0; HEADER];
        let words = [request as u32, VERSION | REPLY, 8];
        for (place, word) in expected.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        if header != expected {
            return Err(io::Error::other(format!(
                "it answered {request:?} with {header:02x?}"
            )));
        }
        let mut body = [0; 8];
        self.receive(&mut body)?;
        Ok(body)
    }

    /// Files that come along are dropped by the kernel, because there is no room for them.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            self.wait(PollFlags::IN)?;
            let received = rustix::net::recvmsg(
                self.socket,
                &mut [IoSliceMut::new(rest)],
                &mut RecvAncillaryBuffer::default(),
                RecvFlags::DONTWAIT,
            );
            match received.map(|received| received.bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn wait(&self, flags: PollFlags) -> io::Result<()> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            let mut watched = [PollFd::new(self.socket, flags)];
            match rustix::event::poll(&mut watched, Some(&left)) {
                Ok(0) => return Err(ErrorKind::TimedOut.into()),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// The body of most requests about a queue: its index and a number.
pub(super) fn state(index: u32, number: u32) -> [u8; 8] {
    let mut body = [0; 8];
    let (first, second) = body.split_at_mut(4);
    first.copy_from_slice(&index.to_le_bytes());
    second.copy_from_slice(&number.to_le_bytes());
    body
}
