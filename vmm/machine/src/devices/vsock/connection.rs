//! One stream between a host socket and the guest.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec};
use vm_memory::VolatileSlice;
use zerocopy::little_endian::{U16, U32, U64};

use super::credit::Credit;
use super::packet::{HOST_CID, Header, Ports, STREAM, op, shutdown};
use super::socket;
use crate::virtio::chain::Reader;
use crate::virtio::device::Watch;
use crate::virtio::queue::QueueError;

/// Most receive buffers of the guest that are filled by one call.
const MAX_BATCH: usize = 32;

/// Bytes that wait for the host to take them.
///
/// It grows no further than the window granted to the guest, which [`Credit::receive`] sees to, and
/// gives its memory back as soon as it is empty.
#[derive(Debug, Default)]
pub(super) struct Backlog(VecDeque<u8>);

impl Backlog {
    fn append(&mut self, slice: &VolatileSlice<'_>) {
        let mut block = [0; 4096];
        let mut done = 0;
        while let Ok(rest) = slice.offset(done)
            && !rest.is_empty()
        {
            let count = rest.copy_to(&mut block);
            self.0.extend(block.get(..count).unwrap_or_default());
            done += count;
        }
    }

    /// Writes as much as `stream` takes; returns how much. An error means that the host will
    /// never take more.
    fn flush(&mut self, stream: &UnixStream) -> std::io::Result<usize> {
        let mut flushed = 0;
        while !self.0.is_empty() {
            let (first, second) = self.0.as_mut_slices();
            let slices = [VolatileSlice::from(first), VolatileSlice::from(second)];
            match socket::send(stream, &slices) {
                Ok(count) => {
                    self.0.drain(..count);
                    flushed += count;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if self.0.is_empty() {
            self.0 = VecDeque::new();
        }
        Ok(flushed)
    }
}

/// What a connection wants to send to the guest next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing.
    Nothing,
    /// A packet without data: operation and flags.
    Control(u16, u32),
    /// Up to this many bytes from the host.
    Data(u32),
}

/// What became of a connection through a packet from the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It goes on.
    Open,
    /// It goes on, and the guest accepted this request of the host.
    Accepted(u64),
    /// The guest ended it.
    Gone,
    /// The guest broke the protocol: it is to be reset.
    Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The host asks; its request number, and whether the REQUEST was sent.
    Connecting { request: u64, asked: bool },
    /// The guest asked; the RESPONSE is to be sent.
    Accepting,
    /// Both sides agreed.
    Open,
}

/// A connection and the host's end of it.
#[derive(Debug)]
pub(super) struct Connection {
    ports: Ports,
    stream: UnixStream,
    phase: Phase,
    credit: Credit,
    backlog: Backlog,
    /// SHUTDOWN flags the guest sent.
    guest_shutdown: u32,
    /// SHUTDOWN flags sent to the guest.
    told_shutdown: u32,
    /// The host can be read, as far as we know.
    readable: bool,
    /// The host sent end of file.
    eof: bool,
    /// The host takes no more data.
    deaf: bool,
    /// The host closed its end, so there is nothing to wait for.
    hung_up: bool,
    /// The guest asked for a CREDIT_UPDATE.
    update_asked: bool,
    /// Receive buffers to fill by one call: doubled while the host has more than fits, and halved
    /// when it had less, but no fewer than one more than it had something for, so that as much
    /// again shows to be all.
    batch: usize,
    /// In the list of connections that have something to send.
    pub(super) queued: bool,
    /// What the io thread waits for at present: readable and writable.
    pub(super) watched: Option<(bool, bool)>,
}

impl Connection {
    /// A connection that the host asked for by `request`.
    pub(super) fn connecting(ports: Ports, stream: UnixStream, window: u32, request: u64) -> Self {
        let phase = Phase::Connecting {
            request,
            asked: false,
        };
        Self::new(ports, stream, window, phase)
    }

    /// A connection that the guest asked for with `header`.
    pub(super) fn accepting(
        ports: Ports,
        stream: UnixStream,
        window: u32,
        header: &Header,
    ) -> Self {
        let mut connection = Self::new(ports, stream, window, Phase::Accepting);
        connection.credit.learn(header);
        connection
    }

    fn new(ports: Ports, stream: UnixStream, window: u32, phase: Phase) -> Self {
        Self {
            ports,
            stream,
            phase,
            credit: Credit::new(window),
            backlog: Backlog::default(),
            guest_shutdown: 0,
            told_shutdown: 0,
            readable: false,
            eof: false,
            deaf: false,
            hung_up: false,
            update_asked: false,
            batch: 1,
            queued: false,
            watched: None,
        }
    }

    pub(super) fn ports(&self) -> Ports {
        self.ports
    }

    /// The request of the host that the guest has not answered yet.
    pub(super) fn unanswered(&self) -> Option<u64> {
        match self.phase {
            Phase::Connecting { request, .. } => Some(request),
            Phase::Accepting | Phase::Open => None,
        }
    }

    /// Handles a packet of the guest whose data `data` still holds, `header.len` bytes of it.
    ///
    /// # Errors
    /// Fails when the data is not where the descriptors say.
    pub(super) fn on_packet(
        &mut self,
        header: &Header,
        data: Reader<'_>,
    ) -> Result<Outcome, QueueError> {
        self.credit.learn(header);
        match (header.op.get(), self.phase) {
            (op::RST, _) => return Ok(Outcome::Gone),
            (op::RESPONSE, Phase::Connecting { request, .. }) => {
                self.phase = Phase::Open;
                return Ok(Outcome::Accepted(request));
            }
            (_, Phase::Connecting { .. }) => return Ok(Outcome::Broken),
            (op::RW, _) => {
                if self.guest_shutdown & shutdown::SEND != 0
                    || !self.credit.receive(header.len.get())
                {
                    return Ok(Outcome::Broken);
                }
                self.pass_on(data, header.len.get())?;
            }
            (op::SHUTDOWN, _) => self.on_shutdown(header.flags.get() & shutdown::BOTH),
            (op::CREDIT_UPDATE, _) => {}
            (op::CREDIT_REQUEST, _) => self.update_asked = true,
            _ => return Ok(Outcome::Broken),
        }
        Ok(Outcome::Open)
    }

    /// Passes data on to the host: directly while the socket takes it, the rest later.
    fn pass_on(&mut self, mut data: Reader<'_>, len: u32) -> Result<(), QueueError> {
        let mut left = usize::try_from(len).unwrap_or(usize::MAX);
        if self.backlog.0.is_empty() && !self.deaf {
            let slices = data.clone().slices(left)?;
            match socket::send(&self.stream, &slices) {
                Ok(count) => {
                    data.skip(count)?;
                    left = left.saturating_sub(count);
                    self.credit.forward(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.deaf = true,
            }
        }
        if self.deaf {
            // Nobody will read it. The guest learns by a SHUTDOWN that sending is of no use.
            self.credit.forward(left);
            return Ok(());
        }
        for slice in data.slices(left)? {
            self.backlog.append(&slice);
        }
        Ok(())
    }

    fn on_shutdown(&mut self, flags: u32) {
        self.guest_shutdown |= flags;
        if self.guest_shutdown & shutdown::RECEIVE != 0 {
            self.eof = true;
            self.readable = false;
            // Errors only say that the host closed already.
            let _ = self.stream.shutdown(Shutdown::Read);
        }
        self.pass_on_eof();
    }

    /// Tells the host that no more data comes, once it has everything.
    fn pass_on_eof(&self) {
        if self.guest_shutdown & shutdown::SEND != 0 && self.backlog.0.is_empty() {
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }

    /// Looks at the socket after the io thread was woken for it. False when a connection that the
    /// guest has not answered is to be given up, because the host closed its end.
    pub(super) fn on_ready(&mut self) -> bool {
        let ready = readiness(&self.stream);
        if ready.intersects(PollFlags::HUP | PollFlags::ERR) {
            if self.unanswered().is_some() {
                return false;
            }
            self.hung_up = true;
            self.give_up_backlog();
        } else if ready.contains(PollFlags::OUT) && !self.backlog.0.is_empty() {
            self.flush();
        }
        if ready.intersects(PollFlags::IN | PollFlags::HUP) && !self.eof {
            self.readable = true;
        }
        true
    }

    fn flush(&mut self) {
        match self.backlog.flush(&self.stream) {
            Ok(count) => {
                self.credit.forward(count);
                self.pass_on_eof();
            }
            Err(_) => self.give_up_backlog(),
        }
    }

    fn give_up_backlog(&mut self) {
        self.deaf = true;
        self.credit.forward(self.backlog.0.len());
        self.backlog = Backlog::default();
    }

    /// Whether both sides are through with it, so that the guest waits for a RST.
    pub(super) fn is_finished(&self) -> bool {
        self.guest_shutdown == shutdown::BOTH && self.backlog.0.is_empty()
    }

    /// What there is to send to the guest.
    pub(super) fn next(&self) -> Next {
        match self.phase {
            Phase::Connecting { asked: false, .. } => return Next::Control(op::REQUEST, 0),
            Phase::Connecting { asked: true, .. } => return Next::Nothing,
            Phase::Accepting => return Next::Control(op::RESPONSE, 0),
            Phase::Open => {}
        }
        // Without room it waits for the guest to tell, which Linux does by itself when its program
        // has read most of what was sent, or all. Asked, it would answer at once that there is next
        // to nothing, and be sent that little.
        let room = self.credit.room();
        if self.readable && room > 0 {
            return Next::Data(room);
        }
        let shutdown = self.shutdown_to_tell();
        if shutdown != self.told_shutdown {
            return Next::Control(op::SHUTDOWN, shutdown);
        }
        let sends = self.guest_shutdown & shutdown::SEND == 0;
        if self.update_asked || sends && self.credit.wants_update() {
            return Next::Control(op::CREDIT_UPDATE, 0);
        }
        Next::Nothing
    }

    fn shutdown_to_tell(&self) -> u32 {
        let mut flags = self.told_shutdown;
        // When the guest said first that it receives no more, there is nothing to tell it, unless
        // the host is gone altogether.
        if self.eof && (self.guest_shutdown & shutdown::RECEIVE == 0 || self.hung_up) {
            flags |= shutdown::SEND;
        }
        if self.deaf {
            flags |= shutdown::RECEIVE;
        }
        flags
    }

    /// The header of a packet that is about to be sent; what it says counts as told.
    pub(super) fn header(&mut self, guest_cid: u64, op: u16, flags: u32, len: u32) -> Header {
        match op {
            op::REQUEST => {
                if let Phase::Connecting { request, .. } = self.phase {
                    self.phase = Phase::Connecting {
                        request,
                        asked: true,
                    };
                }
            }
            op::RESPONSE => self.phase = Phase::Open,
            op::SHUTDOWN => self.told_shutdown = flags,
            _ => {}
        }
        self.credit.send(len);
        self.update_asked = false;
        Header {
            src_cid: U64::new(HOST_CID),
            dst_cid: U64::new(guest_cid),
            src_port: U32::new(self.ports.host),
            dst_port: U32::new(self.ports.guest),
            len: U32::new(len),
            kind: U16::new(STREAM),
            op: U16::new(op),
            flags: U32::new(flags),
            buf_alloc: U32::new(self.credit.window()),
            fwd_cnt: U32::new(self.credit.advertise()),
        }
    }

    /// How many receive buffers of the guest to offer to [`Connection::read`].
    pub(super) fn batch(&self) -> usize {
        self.batch
    }

    /// Reads from the host into guest memory; returns how much came.
    pub(super) fn read(&mut self, slices: &[VolatileSlice<'_>]) -> usize {
        let room: usize = slices.iter().map(VolatileSlice::len).sum();
        match socket::receive(&self.stream, slices) {
            Ok(0) => {
                self.eof = true;
                self.readable = false;
                0
            }
            Ok(count) if count < room => {
                // The socket is empty. If it is not any more, the io thread is woken again; as much
                // may come then as now.
                self.readable = self.hung_up;
                let filled = spanned(slices, count);
                self.batch = (self.batch / 2).max(filled + 1).min(MAX_BATCH);
                count
            }
            Ok(count) => {
                self.batch = (self.batch * 2).min(MAX_BATCH);
                count
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                0
            }
            Err(_) => {
                self.eof = true;
                self.readable = false;
                self.hung_up = true;
                self.give_up_backlog();
                0
            }
        }
    }

    /// What the io thread is to wait for: readable and writable; `None` for nothing at all.
    ///
    /// Not for data that cannot be passed on yet, or a stalled guest would make the io thread spin.
    /// Neither set means only that the host's hanging up is of interest.
    pub(super) fn interest(&self) -> Option<(bool, bool)> {
        if self.hung_up {
            return None;
        }
        let read = self.phase == Phase::Open && !self.readable && !self.eof;
        Some((read, !self.backlog.0.is_empty()))
    }

    /// The entry for the io thread.
    pub(super) fn watch(&self, token: u32) -> Option<Watch> {
        let (readable, writable) = self.interest()?;
        Some(Watch {
            fd: self.stream.as_raw_fd(),
            token,
            readable,
            writable,
        })
    }

    /// Bytes that the host has not taken yet.
    #[cfg(test)]
    pub(super) fn backlog_length(&self) -> usize {
        self.backlog.0.len()
    }

    /// Ends the connection. What the host has not taken yet is left to be drained.
    pub(super) fn end(mut self) -> Option<Draining> {
        if !self.deaf && !self.backlog.0.is_empty() {
            self.flush();
        }
        if self.backlog.0.is_empty() {
            discard(&self.stream);
            return None;
        }
        Some(Draining {
            stream: self.stream,
            backlog: self.backlog,
        })
    }
}

/// A connection that the guest has finished with, but whose last data the host has not taken.
#[derive(Debug)]
pub(super) struct Draining {
    stream: UnixStream,
    backlog: Backlog,
}

impl Draining {
    /// Bytes that the host has not taken yet.
    #[cfg(test)]
    pub(super) fn backlog_length(&self) -> usize {
        self.backlog.0.len()
    }

    /// Writes what the socket takes; true when there is nothing left to do.
    pub(super) fn on_ready(&mut self) -> bool {
        let done = match self.backlog.flush(&self.stream) {
            Ok(_) => self.backlog.0.is_empty(),
            Err(_) => true,
        };
        if done {
            discard(&self.stream);
        }
        done
    }

    /// The entry for the io thread.
    pub(super) fn watch(&self, token: u32) -> Watch {
        Watch {
            fd: self.stream.as_raw_fd(),
            token,
            readable: false,
            writable: true,
        }
    }
}

/// Empties a socket before it is closed. Closing one with unread data makes its peer see an error
/// in place of the end of file.
fn discard(stream: &UnixStream) {
    let _ = stream.shutdown(Shutdown::Read);
    let mut block = [0; 4096];
    // The standard library would take recvfrom, for which there is no other use.
    while matches!(rustix::io::read(stream, &mut block), Ok(count) if count > 0) {}
}

/// How many of the slices `count` bytes reach into.
fn spanned(slices: &[VolatileSlice<'_>], count: usize) -> usize {
    let mut rest = count;
    let reached = slices.iter().take_while(|slice| {
        let reached = rest > 0;
        rest = rest.saturating_sub(slice.len());
        reached
    });
    reached.count()
}

fn readiness(stream: &UnixStream) -> PollFlags {
    let mut fds = [PollFd::new(stream, PollFlags::IN | PollFlags::OUT)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // An error leaves no flags: the level-triggered loop comes again.
    let _ = rustix::event::poll(&mut fds, Some(&now));
    fds.first().map_or(PollFlags::empty(), PollFd::revents)
}
