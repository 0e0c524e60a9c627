//! The device side of vhost-user, for one connection.
//!
//! One thread does everything, in turn: messages of the VMM and requests of the guest. That keeps
//! the process small, and a queue that is being stopped has no request under way.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use vhost_fs::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost_fs::vhost_user::{
    Backend, BackendReqHandler, Error as ProtocolError, GpuBackend, Result as ProtocolResult,
    VhostUserBackendReqHandlerMut, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use virtio_queue_fs::{DescriptorChain, QueueT};
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::server::Server;
use vm_memory_fs::{GuestAddress, GuestRegionMmap};

use crate::private_roots::PrivateRoots;
use crate::ring::{GuestRam, Ring, RingError};

/// The queue for FORGET and INTERRUPT, and one for everything else (virtio 1.3 §5.11.2).
const QUEUES: usize = 2;
/// Largest queue (virtio 1.3 §2.7).
const MAX_QUEUE_SIZE: u16 = 32768;

/// VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX and VIRTIO_F_VERSION_1.
const INDIRECT_DESC: u64 = 1 << 28;
const EVENT_IDX: u64 = 1 << 29;
const VERSION_1: u64 = 1 << 32;
const FEATURES: u64 =
    INDIRECT_DESC | EVENT_IDX | VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// Why serving ended, other than by the VMM closing the connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    /// The VMM sent something that cannot be carried out.
    #[error("vhost-user request of the VMM failed: {0}")]
    Protocol(ProtocolError),
    /// The guest broke the rules.
    #[error("queue {index}: {source}")]
    Ring {
        /// Which queue.
        index: usize,
        /// What was wrong.
        source: RingError,
    },
    /// Waiting failed.
    #[error("cannot wait for the VMM: {0}")]
    Wait(Errno),
}

/// Serves until the VMM closes the connection.
///
/// # Errors
/// See [`DeviceError`].
pub(crate) fn serve(socket: UnixStream, file_system: PrivateRoots) -> Result<(), DeviceError> {
    let waiter = socket
        .try_clone()
        .map_err(|error| DeviceError::Wait(Errno::from_io_error(&error).unwrap_or(Errno::BADF)))?;
    let device = Arc::new(Mutex::new(Device::new(Server::new(file_system))?));
    let mut messages = BackendReqHandler::from_stream(socket, Arc::clone(&device));
    let mut more = [false; QUEUES];
    loop {
        let ready = wait(&waiter, &lock(&device), more)?;
        if ready.message {
            match messages.handle_request() {
                Ok(()) => {}
                Err(
                    ProtocolError::Disconnected
                    | ProtocolError::PartialMessage
                    | ProtocolError::SocketBroken(_),
                ) => return Ok(()),
                Err(error) => return Err(DeviceError::Protocol(error)),
            }
        }
        let mut device = lock(&device);
        for (index, (more, ready)) in more.iter_mut().zip(ready.rings).enumerate() {
            if ready || *more {
                *more = device
                    .serve_ring(index)
                    .map_err(|source| DeviceError::Ring { index, source })?;
            }
        }
    }
}

fn lock(device: &Mutex<Device>) -> MutexGuard<'_, Device> {
    // There is one thread: nobody else can have left it in pieces.
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What can be done without waiting.
struct Ready {
    message: bool,
    rings: [bool; QUEUES],
}

/// Waits until there is something to do; only looks when one of the queues has more already.
fn wait(socket: &UnixStream, device: &Device, more: [bool; QUEUES]) -> Result<Ready, DeviceError> {
    let mut fds = vec![PollFd::new(socket, PollFlags::IN)];
    let mut rings = Vec::with_capacity(QUEUES);
    for (index, ring) in device.rings.iter().enumerate() {
        if let Some(kick) = ring.kick() {
            fds.push(PollFd::new(kick, PollFlags::IN));
            rings.push(index);
        }
    }
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let timeout = more.contains(&true).then_some(&now);
    match rustix::event::poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(DeviceError::Wait(error)),
    }
    let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
    let message = ready.next().unwrap_or(false);
    let mut result = Ready {
        message,
        rings: [false; QUEUES],
    };
    for (index, ready) in rings.into_iter().zip(ready) {
        if let Some(entry) = result.rings.get_mut(index) {
            *entry = ready;
        }
    }
    Ok(result)
}

/// A region of the VMM's address space, in which it tells addresses of queues.
struct Mapping {
    vmm: u64,
    guest: u64,
    length: u64,
}

struct Device {
    server: Server<PrivateRoots>,
    memory: GuestRam,
    mappings: Vec<Mapping>,
    rings: [Ring; QUEUES],
}

impl Device {
    fn new(server: Server<PrivateRoots>) -> Result<Self, DeviceError> {
        let ring =
            |index| Ring::new(MAX_QUEUE_SIZE).map_err(|source| DeviceError::Ring { index, source });
        Ok(Self {
            server,
            memory: GuestRam::new(),
            mappings: Vec::new(),
            rings: [ring(0)?, ring(1)?],
        })
    }

    fn serve_ring(&mut self, index: usize) -> Result<bool, RingError> {
        let Some(ring) = self.rings.get_mut(index) else {
            return Ok(false);
        };
        if ring.kick().is_none() {
            return Ok(false);
        }
        let (server, memory) = (&self.server, &self.memory);
        ring.serve(memory, |chain| answer(server, memory, chain))
    }

    fn ring(&mut self, index: u32) -> ProtocolResult<&mut Ring> {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.rings.get_mut(index))
            .ok_or(ProtocolError::InvalidParam)
    }

    fn guest_address(&self, vmm: u64) -> ProtocolResult<u64> {
        self.mappings
            .iter()
            .find_map(|mapping| {
                let offset = vmm.checked_sub(mapping.vmm)?;
                if offset < mapping.length {
                    mapping.guest.checked_add(offset)
                } else {
                    None
                }
            })
            .ok_or(ProtocolError::InvalidParam)
    }
}

/// Bytes that every answer begins with (`fuse_out_header` of linux/fuse.h).
const ANSWER_HEADER: usize = 16;
/// Requests without an answer: FUSE_FORGET and FUSE_BATCH_FORGET.
const UNANSWERED: [u32; 2] = [2, 42];

/// Answers one FUSE request; returns the number of bytes written.
fn answer(
    server: &Server<PrivateRoots>,
    memory: &GuestRam,
    chain: DescriptorChain<&GuestRam>,
) -> Result<u32, RingError> {
    crate::confinement::refresh_record()?;
    let request = |error: &dyn std::fmt::Display| RingError::Request(error.to_string());
    let reader = Reader::new(memory, chain.clone()).map_err(|error| request(&error))?;
    let mut head = reader.clone();
    let writer = Writer::new(memory, chain).map_err(|error| request(&error))?;
    // The library takes it for granted that there is room.
    if writer.available_bytes() < ANSWER_HEADER {
        let _length: u32 = head.read_obj().map_err(|error| request(&error))?;
        let operation: u32 = head.read_obj().map_err(|error| request(&error))?;
        if !UNANSWERED.contains(&operation) {
            return Err(request(&"no room for an answer"));
        }
    }
    let written = server
        .handle_message(reader, writer, None::<&mut Backend>)
        .map_err(|error| request(&error))?;
    u32::try_from(written).map_err(|error| request(&error))
}

fn handler_error(error: impl std::error::Error + Send + Sync + 'static) -> ProtocolError {
    ProtocolError::ReqHandlerError(io::Error::other(error))
}

const UNSUPPORTED: ProtocolError = ProtocolError::InvalidOperation("not offered");

impl VhostUserBackendReqHandlerMut for Device {
    fn set_owner(&mut self) -> ProtocolResult<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> ProtocolResult<()> {
        Ok(())
    }

    fn reset_device(&mut self) -> ProtocolResult<()> {
        Err(UNSUPPORTED)
    }

    fn get_features(&mut self) -> ProtocolResult<u64> {
        Ok(FEATURES)
    }

    fn set_features(&mut self, features: u64) -> ProtocolResult<()> {
        if features & !FEATURES != 0 {
            return Err(ProtocolError::FeatureMismatch);
        }
        let protocol = features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() != 0;
        for ring in &mut self.rings {
            ring.queue.set_event_idx(features & EVENT_IDX != 0);
            // Without the protocol features there is no message to enable a queue.
            ring.enabled |= !protocol;
        }
        Ok(())
    }

    fn get_protocol_features(&mut self) -> ProtocolResult<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK)
    }

    fn set_protocol_features(&mut self, _features: u64) -> ProtocolResult<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> ProtocolResult<u64> {
        Ok(QUEUES as u64)
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
    ) -> ProtocolResult<()> {
        let mut mapped = Vec::with_capacity(regions.len());
        let mut mappings = Vec::with_capacity(regions.len());
        for (region, file) in regions.iter().zip(files) {
            // The message is packed: fields are copied before they are used.
            let guest = region.guest_phys_addr;
            let mapping = Mapping {
                vmm: region.user_addr,
                guest,
                length: region.memory_size,
            };
            let memory = GuestRegionMmap::new(region.mmap_region(file)?, GuestAddress(guest))
                .ok_or(ProtocolError::InvalidParam)?;
            mapped.push(memory);
            mappings.push(mapping);
        }
        self.memory = GuestRam::from_regions(mapped).map_err(handler_error)?;
        self.mappings = mappings;
        Ok(())
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> ProtocolResult<()> {
        let size = u16::try_from(num).map_err(|_| ProtocolError::InvalidParam)?;
        self.ring(index)?
            .queue
            .try_set_size(size)
            .map_err(handler_error)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> ProtocolResult<()> {
        let descriptors = self.guest_address(descriptor)?;
        let available = self.guest_address(available)?;
        let used = self.guest_address(used)?;
        let memory = self.memory.clone();
        self.ring(index)?
            .set_addresses(&memory, descriptors, available, used)
            .map_err(handler_error)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> ProtocolResult<()> {
        let base = u16::try_from(base).map_err(|_| ProtocolError::InvalidParam)?;
        self.ring(index)?.queue.set_next_avail(base);
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> ProtocolResult<VhostUserVringState> {
        let base = self.ring(index)?.stop();
        Ok(VhostUserVringState::new(index, base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> ProtocolResult<()> {
        let memory = self.memory.clone();
        let ring = self.ring(index.into())?;
        ring.start(fd);
        // The VMM has checked the addresses. If they are wrong all the same, better now than at
        // the first request.
        if ring.queue.ready() && !ring.queue.is_valid(&memory) {
            ring.stop();
            return Err(ProtocolError::InvalidParam);
        }
        Ok(())
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> ProtocolResult<()> {
        self.ring(index.into())?.set_call(fd);
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, _fd: Option<File>) -> ProtocolResult<()> {
        // Errors end the connection, which says more.
        self.ring(index.into()).map(|_| ())
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> ProtocolResult<()> {
        self.ring(index)?.enabled = enable;
        Ok(())
    }

    // What follows belongs to protocol features that are not offered.

    fn get_config(
        &mut self,
        _offset: u32,
        _size: u32,
        _flags: VhostUserConfigFlags,
    ) -> ProtocolResult<Vec<u8>> {
        Err(UNSUPPORTED)
    }

    fn set_config(
        &mut self,
        _offset: u32,
        _buf: &[u8],
        _flags: VhostUserConfigFlags,
    ) -> ProtocolResult<()> {
        Err(UNSUPPORTED)
    }

    fn set_gpu_socket(&mut self, _gpu_backend: GpuBackend) -> ProtocolResult<()> {
        Err(UNSUPPORTED)
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> ProtocolResult<File> {
        Err(UNSUPPORTED)
    }

    fn get_inflight_fd(
        &mut self,
        _inflight: &VhostUserInflight,
    ) -> ProtocolResult<(VhostUserInflight, File)> {
        Err(UNSUPPORTED)
    }

    fn set_inflight_fd(
        &mut self,
        _inflight: &VhostUserInflight,
        _file: File,
    ) -> ProtocolResult<()> {
        Err(UNSUPPORTED)
    }

    fn get_max_mem_slots(&mut self) -> ProtocolResult<u64> {
        Err(UNSUPPORTED)
    }

    fn add_mem_region(
        &mut self,
        _region: &VhostUserSingleMemoryRegion,
        _fd: File,
    ) -> ProtocolResult<()> {
        Err(UNSUPPORTED)
    }

    fn remove_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion) -> ProtocolResult<()> {
        Err(UNSUPPORTED)
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _fd: File,
    ) -> ProtocolResult<Option<File>> {
        Err(UNSUPPORTED)
    }

    fn check_device_state(&mut self) -> ProtocolResult<()> {
        Err(UNSUPPORTED)
    }

    fn get_shmem_config(&mut self) -> ProtocolResult<VhostUserShMemConfig> {
        Err(UNSUPPORTED)
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> ProtocolResult<()> {
        Err(UNSUPPORTED)
    }
}

#[cfg(test)]
mod fuzz;
