//! File system device (virtio 1.3 §5.11), served by another process over vhost-user.
//!
//! The queues belong to the file server from activation to stop: it maps guest memory, waits for
//! the notifications and raises the interrupts itself. This module sets that up and watches over
//! the connection. The server is not trusted more than the guest that talks to it: what it says is
//! bounded by the protocol, it has a limited time to say it, and when it is gone the device stops.

#![allow(unsafe_code)]

mod conversation;

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use caisson_control::MAX_TAG;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use self::conversation::{Conversation, Request, state};
use crate::memory::GuestRam;
use crate::virtio::config::SharedConfig;
use crate::virtio::device::{
    ActivateResult, Activation, Counters, Device, DeviceFault, DeviceKind, Interest, QueuePosition,
    Running, Stopped, Watch,
};
use crate::virtio::queue::DeviceQueue;

/// The high priority queue, and one request queue. Linux sends at most as many pages with one
/// request as that queue has descriptors, less a few; 512 leaves room for the 256 pages that are
/// its maximum anyway.
const QUEUE_SIZES: [u16; 2] = [64, 512];

/// `VHOST_USER_F_PROTOCOL_FEATURES`, which is between the VMM and the server only.
const PROTOCOL_FEATURES: u64 = 1 << 30;
/// `VHOST_USER_PROTOCOL_F_MQ`, without which there would be one queue, and
/// `VHOST_USER_PROTOCOL_F_REPLY_ACK`, with which no failure goes unnoticed.
const NEEDED: u64 = 1 | 1 << 3;

/// How long the server may take to answer all messages of an activation or a stop. It answers
/// within microseconds, after a start of its own of some ten milliseconds; a stop may have to wait
/// for one request to a slow disk.
const PATIENCE: Duration = if cfg!(test) {
    Duration::from_secs(1)
} else {
    Duration::from_secs(10)
};

/// Why a file system device cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileSystemError {
    /// The tag is empty, too long or has a NUL in it.
    #[error("mount tag {0:?} is not 1 to {MAX_TAG} bytes without NUL")]
    Tag(String),
}

/// The file system device before activation.
#[derive(Debug)]
pub(crate) struct FileSystem {
    config: SharedConfig,
    /// The connection, until it is lost.
    server: Option<Server>,
}

/// The connection to the file server.
#[derive(Debug)]
struct Server {
    socket: UnixStream,
    /// SET_OWNER may be sent only once in the life of a connection.
    owned: bool,
}

impl FileSystem {
    /// A device that the guest knows as `tag`, served over `socket`.
    ///
    /// # Errors
    /// Fails when `tag` does not fit into the configuration of the device.
    pub(crate) fn new(tag: &str, socket: UnixStream) -> Result<Self, FileSystemError> {
        if tag.is_empty() || tag.len() > MAX_TAG || tag.contains('\0') {
            return Err(FileSystemError::Tag(tag.to_owned()));
        }
        let mut config = tag.as_bytes().to_vec();
        config.resize(MAX_TAG, 0);
        config.extend(1u32.to_le_bytes());
        Ok(Self {
            config: SharedConfig::new(config),
            server: Some(Server {
                socket,
                owned: false,
            }),
        })
    }
}

impl Device for FileSystem {
    fn kind(&self) -> DeviceKind {
        DeviceKind::FileSystem
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        0
    }

    fn config(&self) -> SharedConfig {
        self.config.clone()
    }

    fn activate(mut self: Box<Self>, activation: Activation) -> ActivateResult {
        let mut queues = Vec::with_capacity(QUEUE_SIZES.len());
        for (index, queue) in activation.queues.into_iter().enumerate() {
            match queue {
                Some(queue) => queues.push(queue),
                None => return Err((self, DeviceFault::QueueMissing(index))),
            }
        }
        let Some(mut server) = self.server.take() else {
            let gone = io::Error::from(io::ErrorKind::NotConnected);
            return Err((self, host("the file server is gone", gone)));
        };
        match server.start(activation.features, &activation.memory, &queues) {
            Ok(()) => Ok(Box::new(RunningFileSystem {
                config: self.config,
                server,
                queues,
            })),
            Err(source) => {
                // It may have got half of the queues; the end of the connection takes them away.
                server.give_up();
                Err((self, host("set-up of the file server", source)))
            }
        }
    }
}

fn host(what: &'static str, source: io::Error) -> DeviceFault {
    DeviceFault::Host { what, source }
}

impl Server {
    /// Hands memory and queues over.
    fn start(
        &mut self,
        features: u64,
        memory: &GuestRam,
        queues: &[DeviceQueue],
    ) -> io::Result<()> {
        let talk = Conversation::new(&self.socket, PATIENCE);
        negotiate(&talk, features, self.owned)?;
        share_memory(&talk, memory)?;
        for (index, queue) in (0..).zip(queues) {
            hand_over(&talk, memory, index, queue)?;
        }
        self.owned = true;
        Ok(())
    }

    /// Takes the queues back; returns the positions of those that it still told.
    fn stop(&self, count: usize) -> io::Result<Vec<QueuePosition>> {
        let talk = Conversation::new(&self.socket, PATIENCE);
        (0..count)
            .zip(0..)
            .map(|(index, number)| {
                let base = talk.ask_position(number)?;
                let next = u16::try_from(base)
                    .map_err(|_| io::Error::other(format!("queue index {base}")))?;
                // Nothing is under way in a stopped queue: what was taken was also used.
                Ok(QueuePosition {
                    index,
                    next_avail: next,
                    next_used: next,
                })
            })
            .collect()
    }

    /// Cuts the connection, upon which the server ends.
    fn give_up(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

fn negotiate(talk: &Conversation<'_>, features: u64, owned: bool) -> io::Result<()> {
    let offered = talk.ask(Request::GetFeatures)?;
    let wanted = features | PROTOCOL_FEATURES;
    if wanted & !offered != 0 {
        return Err(io::Error::other(format!(
            "it lacks features {:#x}",
            wanted & !offered
        )));
    }
    let offered = talk.ask(Request::GetProtocolFeatures)?;
    if NEEDED & !offered != 0 {
        return Err(io::Error::other(format!(
            "it lacks protocol features {:#x}",
            NEEDED & !offered
        )));
    }
    // The last that is not answered.
    talk.say(Request::SetProtocolFeatures, &NEEDED.to_le_bytes())?;
    let queues = talk.ask(Request::GetQueueCount)?;
    if queues < QUEUE_SIZES.len() as u64 {
        return Err(io::Error::other(format!("it has only {queues} queues")));
    }
    if !owned {
        talk.tell(Request::SetOwner, &[], &[])?;
    }
    talk.tell(Request::SetFeatures, &wanted.to_le_bytes(), &[])
}

fn share_memory(talk: &Conversation<'_>, memory: &GuestRam) -> io::Result<()> {
    let (mut table, mut files) = (Vec::new(), Vec::new());
    for region in memory.iter() {
        let place = region
            .file_offset()
            .ok_or_else(|| io::Error::other("the guest's memory is private"))?;
        for number in [
            region.start_addr().raw_value(),
            region.len(),
            region.as_ptr().addr() as u64,
            place.start(),
        ] {
            table.extend(number.to_le_bytes());
        }
        files.push(place.file().as_fd());
    }
    let count = u32::try_from(files.len()).map_err(io::Error::other)?;
    let body = [&state(count, 0)[..], &table].concat();
    talk.tell(Request::SetMemoryTable, &body, &files)
}

fn hand_over(
    talk: &Conversation<'_>,
    memory: &GuestRam,
    index: u32,
    queue: &DeviceQueue,
) -> io::Result<()> {
    let settings = queue.settings();
    // The server is told where things are in our address space, and knows from the memory table
    // what that is in its own.
    let here = |address| {
        memory
            .get_host_address(GuestAddress(address))
            .map(|pointer| pointer.addr() as u64)
            .map_err(io::Error::other)
    };
    let mut addresses = state(index, 0).to_vec();
    for address in [
        here(settings.desc)?,
        here(settings.device)?,
        here(settings.driver)?,
        // Where it would log what it writes.
        0,
    ] {
        addresses.extend(address.to_le_bytes());
    }
    let size = state(index, settings.size.into());
    let position = state(index, queue.position().next_avail.into());
    let number = u64::from(index).to_le_bytes();
    talk.tell(Request::SetQueueSize, &size, &[])?;
    talk.tell(Request::SetQueueAddresses, &addresses, &[])?;
    talk.tell(Request::SetQueuePosition, &position, &[])?;
    talk.tell(
        Request::SetCall,
        &number,
        &[borrowed(queue.interrupt().event_fd())],
    )?;
    talk.tell(Request::SetKick, &number, &[borrowed(queue.kick())])?;
    talk.tell(Request::SetQueueEnabled, &state(index, 1), &[])
}

/// The descriptor of an event, whose type has no safe way to it.
fn borrowed(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the event owns the descriptor and is borrowed for as long as the result.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// The file system device at work, in the server's hands.
struct RunningFileSystem {
    config: SharedConfig,
    server: Server,
    queues: Vec<DeviceQueue>,
}

impl Running for RunningFileSystem {
    fn watches(&self) -> Vec<Watch> {
        // The server never speaks first. When there is something to read, it is the end.
        vec![Watch {
            fd: self.server.socket.as_raw_fd(),
            token: 0,
            readable: true,
            writable: false,
        }]
    }

    fn on_queue(&mut self, _index: usize) -> Result<Interest, DeviceFault> {
        Ok(Interest::Same)
    }

    fn on_ready(&mut self, _token: u32) -> Result<Interest, DeviceFault> {
        self.server.give_up();
        Err(host(
            "the file server",
            io::Error::new(io::ErrorKind::ConnectionReset, "it ended the connection"),
        ))
    }

    fn stop(self: Box<Self>) -> Stopped {
        let (positions, server) = match self.server.stop(self.queues.len()) {
            Ok(positions) => (positions, Some(self.server)),
            // Whether it still works on the queues is not known. Without a connection it ends.
            Err(_) => {
                self.server.give_up();
                let positions = self.queues.iter().map(DeviceQueue::position);
                (positions.collect(), None)
            }
        };
        let device = FileSystem {
            config: self.config,
            server,
        };
        Stopped {
            device: Box::new(device),
            positions,
        }
    }

    /// The server counts for itself.
    fn counters(&self) -> Counters {
        Counters::default()
    }

    fn serves_queues(&self) -> bool {
        false
    }
}

#[cfg(test)]
#[path = "fs_test.rs"]
mod tests;
