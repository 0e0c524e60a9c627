//! epoll with typed tokens.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::virtio::device::Watch;

/// Events taken at a time.
const BATCH: usize = 32;

/// Why the thread woke up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// A command waits.
    Command,
    /// The driver notified a queue.
    Queue {
        /// Place of the device.
        place: u16,
        /// Index of the queue.
        index: u16,
    },
    /// A descriptor that a device watches is ready.
    Device {
        /// Place of the device.
        place: u16,
        /// The device's own token.
        token: u32,
    },
}

const COMMAND: u64 = 0;
const QUEUE: u64 = 1;
const DEVICE: u64 = 2;

impl Token {
    /// As the 64 bits that epoll keeps: kind, place, value.
    fn to_bits(self) -> u64 {
        match self {
            Self::Command => COMMAND,
            Self::Queue { place, index } => QUEUE << 48 | u64::from(place) << 32 | u64::from(index),
            Self::Device { place, token } => {
                DEVICE << 48 | u64::from(place) << 32 | u64::from(token)
            }
        }
    }

    fn from_bits(bits: u64) -> Self {
        let place = (bits >> 32 & 0xffff) as u16;
        match bits >> 48 {
            QUEUE => Self::Queue {
                place,
                index: (bits & 0xffff) as u16,
            },
            DEVICE => Self::Device {
                place,
                token: (bits & 0xffff_ffff) as u32,
            },
            _ => Self::Command,
        }
    }
}

/// A set of descriptors to wait for.
pub(super) struct WaitContext {
    epoll: Epoll,
    events: [EpollEvent; BATCH],
}

impl WaitContext {
    /// An empty set.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new()?,
            events: [EpollEvent::default(); BATCH],
        })
    }

    /// Waits until `fd` can be read.
    pub(super) fn add(&self, fd: &impl AsRawFd, token: Token) -> io::Result<()> {
        self.set(fd.as_raw_fd(), EventSet::IN, token)
    }

    /// Waits for what `watch` says, instead of what its descriptor was watched for before.
    pub(super) fn watch(&self, place: u16, watch: &Watch) -> io::Result<()> {
        let mut set = EventSet::empty();
        set.set(EventSet::IN, watch.readable);
        set.set(EventSet::OUT, watch.writable);
        let token = watch.token;
        self.set(watch.fd, set, Token::Device { place, token })
    }

    /// Waits for `fd` no longer. It may be closed already, or watched by nobody.
    pub(super) fn remove(&self, fd: RawFd) {
        let _ = self
            .epoll
            .ctl(ControlOperation::Delete, fd, EpollEvent::default());
    }

    /// Waits until something is ready and adds the tokens to `ready`.
    pub(super) fn wait(&mut self, ready: &mut Vec<Token>) -> io::Result<()> {
        let count = match self.epoll.wait(-1, &mut self.events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        let events = self.events.iter().take(count);
        ready.extend(events.map(|event| Token::from_bits(event.data())));
        Ok(())
    }

    fn set(&self, fd: RawFd, set: EventSet, token: Token) -> io::Result<()> {
        let event = EpollEvent::new(set, token.to_bits());
        match self.epoll.ctl(ControlOperation::Modify, fd, event) {
            // The descriptor is new, or its number belonged to one that was closed.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                self.epoll.ctl(ControlOperation::Add, fd, event)
            }
            result => result,
        }
    }
}

#[cfg(test)]
#[path = "wait_context_test.rs"]
mod tests;
