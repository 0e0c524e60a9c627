//! File system device (virtio 1.3 §5.11), served by another process over vhost-user.
//!
//! The queues belong to the file server from activation to stop: it maps guest memory, waits for
//! the notifications and raises the interrupts itself. This module sets that up and watches over
//! the connection. The server is not trusted more than the guest that talks to it: what it says is
//! bounded by the protocol, it has a limited time to say it, and when it is gone the device stops.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use caisson_control::MAX_TAG;
use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::{
    Frontend, VhostUserFrontend, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{GuestAddress, GuestMemoryBackend};

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
const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

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
            Ok(frontend) => Ok(Box::new(RunningFileSystem {
                config: self.config,
                server,
                frontend,
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
    ) -> io::Result<Frontend> {
        let socket = self.socket.try_clone()?;
        let mut frontend = Frontend::from_stream(socket, queues.len() as u64);
        let owned = self.owned;
        self.within_patience(|| {
            negotiate(&mut frontend, features, owned)?;
            share_memory(&frontend, memory)?;
            for queue in queues {
                hand_over(&mut frontend, memory, queue)?;
            }
            Ok(())
        })?;
        self.owned = true;
        Ok(frontend)
    }

    /// Takes the queues back; returns the positions of those that it still told.
    fn stop(&self, frontend: &Frontend, count: usize) -> io::Result<Vec<QueuePosition>> {
        self.within_patience(|| {
            (0..count)
                .map(|index| {
                    let base = frontend.get_vring_base(index).map_err(protocol)?;
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
        })
    }

    /// Runs `talk`, and cuts the connection when that takes longer than [`PATIENCE`].
    ///
    /// The library's calls wait for the server without limit; a closed connection is what ends
    /// them. So somebody else has to hold the watch.
    fn within_patience<T>(&self, talk: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        std::thread::scope(|scope| {
            let (done, watch) = channel::<()>();
            let socket = &self.socket;
            std::thread::Builder::new()
                .name("fs-patience".to_owned())
                .stack_size(64 * 1024)
                .spawn_scoped(scope, move || {
                    if watch.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                        let _ = socket.shutdown(Shutdown::Both);
                    }
                })?;
            let result = talk();
            drop(done);
            result
        })
    }

    /// Cuts the connection, upon which the server ends.
    fn give_up(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

fn protocol(error: vhost::Error) -> io::Error {
    io::Error::other(error)
}

fn negotiate(frontend: &mut Frontend, features: u64, owned: bool) -> io::Result<()> {
    let offered = frontend.get_features().map_err(protocol)?;
    let wanted = features | PROTOCOL_FEATURES;
    if wanted & !offered != 0 {
        return Err(io::Error::other(format!(
            "it lacks features {:#x}",
            wanted & !offered
        )));
    }
    let needed = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
    let offered = frontend.get_protocol_features().map_err(protocol)?;
    if !offered.contains(needed) {
        return Err(io::Error::other(format!(
            "it lacks protocol features {:#x}",
            needed.difference(offered).bits()
        )));
    }
    frontend.set_protocol_features(needed).map_err(protocol)?;
    // From here on every message is answered, so that no failure goes unnoticed.
    frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    let queues = frontend.get_queue_num().map_err(protocol)?;
    if queues < QUEUE_SIZES.len() as u64 {
        return Err(io::Error::other(format!("it has only {queues} queues")));
    }
    if !owned {
        frontend.set_owner().map_err(protocol)?;
    }
    frontend.set_features(wanted).map_err(protocol)
}

fn share_memory(frontend: &Frontend, memory: &GuestRam) -> io::Result<()> {
    let regions = memory
        .iter()
        .map(VhostUserMemoryRegionInfo::from_guest_region)
        .collect::<Result<Vec<_>, _>>()
        .map_err(protocol)?;
    frontend.set_mem_table(&regions).map_err(protocol)?;
    Ok(())
}

fn hand_over(frontend: &mut Frontend, memory: &GuestRam, queue: &DeviceQueue) -> io::Result<()> {
    let index = queue.index();
    let settings = queue.settings();
    // The server is told where things are in our address space, and knows from the memory table
    // what that is in its own.
    let here = |address| {
        memory
            .get_host_address(GuestAddress(address))
            .map(|pointer| pointer.addr() as u64)
            .map_err(io::Error::other)
    };
    let addresses = VringConfigData {
        queue_max_size: settings.size,
        queue_size: settings.size,
        flags: 0,
        desc_table_addr: here(settings.desc)?,
        avail_ring_addr: here(settings.driver)?,
        used_ring_addr: here(settings.device)?,
        log_addr: None,
    };
    let base = queue.position().next_avail;
    let mut tell = || -> vhost::Result<()> {
        frontend.set_vring_num(index, settings.size)?;
        frontend.set_vring_addr(index, &addresses)?;
        frontend.set_vring_base(index, base)?;
        frontend.set_vring_call(index, queue.interrupt().event_fd())?;
        frontend.set_vring_kick(index, queue.kick())?;
        frontend.set_vring_enable(index, true)
    };
    tell().map_err(protocol)
}

/// The file system device at work, in the server's hands.
struct RunningFileSystem {
    config: SharedConfig,
    server: Server,
    frontend: Frontend,
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
        let (positions, server) = match self.server.stop(&self.frontend, self.queues.len()) {
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
