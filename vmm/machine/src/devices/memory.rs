//! Memory device (virtio 1.3 §5.15): RAM that the guest plugs and unplugs while it runs.
//!
//! The device manages the hot-plug region of guest memory in blocks of 2 MiB. The host says how
//! much the guest shall have ([`HotplugMemory::set_requested`]), the driver plugs and unplugs
//! blocks until that is so. KVM knows of the slots in which at least one block is plugged
//! ([`HotplugSlots`]), and only of them.
//!
//! What is plugged stays plugged over a reset of the device (§5.15.6.2): the guest's kernel may be
//! running in it.
//!
//! A driver that keeps to nothing can use the rest of a slot in which it plugged one block, and let
//! other devices write anywhere in the region. The first is limited by the usable size, which grows
//! with what the guest is asked to have, the second by the region and by the cgroup of the pod.

mod blocks;
mod request;

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

pub(crate) use self::blocks::BLOCK;
use self::blocks::{Blocks, Run, State};
use self::request::{RESPONSE_SIZE, RawRequest, RawResponse, Response, kind};
use crate::memory::{DiscardError, GuestRam, HOTPLUG_ALIGNMENT, HOTPLUG_SLOT};
use crate::virtio::config::SharedConfig;
use crate::virtio::device::{
    ActivateResult, Activation, Counters, Device, DeviceFault, DeviceKind, Interest, Running,
    Stopped, Watch,
};
use crate::virtio::queue::{DeviceQueue, QueueError};
use crate::virtio::runner::DriverLine;

/// Linux sends one request at a time.
const QUEUE_SIZES: [u16; 1] = [16];

/// `VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE`: the driver must not even read what is not plugged. One
/// that does not know the feature and reads there reads ones, as from an empty bus.
const FEATURE_UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;

/// Where the sizes that change are in the configuration: usable, plugged, requested.
const CONFIG_SIZES: usize = 32;

/// From this much RAM on, the memory blocks of Linux may be larger than a slot, and it plugs only
/// whole ones of them.
const LARGE_GUEST: u64 = 64 << 30;

/// Gives parts of the hot-plug region to the guest and takes them away. Slot `index` begins
/// `index` times [`HOTPLUG_SLOT`] into the region.
pub(crate) trait HotplugSlots: Send + Sync {
    /// From now on the guest can access the slot, which it could not before.
    ///
    /// # Errors
    /// Fails when the host has no resources left.
    fn insert(&self, index: u32) -> io::Result<()>;
    /// Undoes `insert`.
    fn remove(&self, index: u32);
}

/// Says how much memory the guest shall plug, from any thread.
#[derive(Clone)]
pub(crate) struct HotplugMemory(Arc<Shared>);

/// What the device and the host's handle have in common.
struct Shared {
    config: SharedConfig,
    sizes: Mutex<Sizes>,
    region_bytes: u64,
    /// The usable size is a multiple of this.
    growth: u64,
    /// The device shall tell its driver.
    wake: EventFd,
}

/// The sizes in the configuration that change, in bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Sizes {
    /// The driver may use this much from the start of the region on.
    usable: u64,
    /// What is plugged.
    plugged: u64,
    /// What shall be plugged.
    requested: u64,
}

impl Shared {
    fn sizes(&self) -> MutexGuard<'_, Sizes> {
        // A panic elsewhere leaves numbers that were right.
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the sizes and shows them to the driver.
    fn change(&self, change: impl FnOnce(&mut Sizes)) {
        let mut sizes = self.sizes();
        change(&mut sizes);
        let shown = [sizes.usable, sizes.plugged, sizes.requested].map(u64::to_le_bytes);
        // Under the lock, so that two changes are not shown in the wrong order.
        self.config.set(CONFIG_SIZES, shown.as_flattened());
    }

    /// The usable size for a requested one.
    fn usable_for(&self, requested: u64) -> u64 {
        requested
            .next_multiple_of(self.growth)
            .min(self.region_bytes)
    }
}

impl HotplugMemory {
    /// Asks the guest to have this many bytes plugged, rounded up to whole blocks.
    pub(crate) fn set_requested(&self, bytes: u64) {
        let bytes = bytes.min(self.0.region_bytes).next_multiple_of(BLOCK);
        self.0.change(|sizes| {
            sizes.requested = bytes;
            // It shrinks only when all is unplugged (virtio 1.3 §5.15.6).
            sizes.usable = sizes.usable.max(self.0.usable_for(bytes));
        });
        // Only fails when the counter is full, and then the io thread is woken anyway.
        let _ = self.0.wake.write(1);
    }

    /// Bytes that the guest has plugged.
    pub(crate) fn plugged(&self) -> u64 {
        self.0.sizes().plugged
    }

    /// Most bytes that it can plug.
    pub(crate) fn most(&self) -> u64 {
        self.0.region_bytes
    }
}

/// The memory device before activation.
pub(crate) struct Memory {
    shared: Arc<Shared>,
    blocks: Blocks,
    slots: Arc<dyn HotplugSlots>,
    /// What earlier activations did.
    counters: Counters,
}

impl Memory {
    /// Makes the device for the hot-plug region of `memory`, and the way to ask for more and less;
    /// `None` if there is no such region.
    ///
    /// # Errors
    /// Fails when the process has no descriptors left.
    pub(crate) fn new(
        memory: &GuestRam,
        slots: Arc<dyn HotplugSlots>,
    ) -> io::Result<Option<(Self, HotplugMemory)>> {
        let Some(region) = memory.hotplug() else {
            return Ok(None);
        };
        let region_bytes = region.end - region.start;
        // Block size, node and padding, address, size of the region, and the sizes that change.
        let fields = [BLOCK, 0, region.start, region_bytes, 0, 0, 0].map(u64::to_le_bytes);
        let shared = Arc::new(Shared {
            config: SharedConfig::new(fields.concat()),
            sizes: Mutex::default(),
            region_bytes,
            growth: match memory.bytes() {
                ..LARGE_GUEST => HOTPLUG_SLOT,
                LARGE_GUEST.. => HOTPLUG_ALIGNMENT,
            },
            wake: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        });
        let device = Self {
            shared: Arc::clone(&shared),
            blocks: Blocks::new(region),
            slots,
            counters: Counters::default(),
        };
        Ok(Some((device, HotplugMemory(shared))))
    }

    /// Carries out a request. What is unplugged goes into `discarded`, to be given back.
    fn answer(&mut self, request: &RawRequest, memory: &GuestRam) -> (Response, Discarded) {
        let sizes = *self.shared.sizes();
        let run = || {
            let (address, count) = (request.address.get(), request.blocks.get());
            self.blocks.run(address, count, sizes.usable)
        };
        match (request.kind.get(), run()) {
            (kind::UNPLUG_ALL, _) => (Response::Acknowledged, self.unplug_all(memory)),
            (kind::PLUG, Some(run)) => (self.plug(run, sizes), Ok(())),
            (kind::UNPLUG, Some(run)) if self.blocks.state(run) == State::Plugged => {
                (Response::Acknowledged, self.unplug(run, memory))
            }
            (kind::STATE, Some(run)) => (Response::State(self.blocks.state(run)), Ok(())),
            _ => (Response::Error, Ok(())),
        }
    }

    fn plug(&mut self, run: Run, sizes: Sizes) -> Response {
        if self.blocks.state(run) != State::Unplugged {
            return Response::Error;
        }
        if run.bytes() > sizes.requested.saturating_sub(sizes.plugged) {
            return Response::Refused;
        }
        let mut inserted = Vec::new();
        for slot in self.blocks.empty_slots(run) {
            if self.slots.insert(slot).is_err() {
                inserted
                    .into_iter()
                    .for_each(|slot| self.slots.remove(slot));
                return Response::Busy;
            }
            inserted.push(slot);
        }
        self.blocks.plug(run);
        self.shared.change(|sizes| sizes.plugged += run.bytes());
        Response::Acknowledged
    }

    /// Unplugs blocks that are plugged.
    fn unplug(&mut self, run: Run, memory: &GuestRam) -> Discarded {
        self.blocks.unplug(run);
        self.shared.change(|sizes| {
            sizes.plugged = sizes.plugged.saturating_sub(run.bytes());
        });
        for slot in self.blocks.empty_slots(run) {
            self.slots.remove(slot);
        }
        memory.discard(self.blocks.range(run))
    }

    fn unplug_all(&mut self, memory: &GuestRam) -> Discarded {
        for slot in self.blocks.slots_in_use() {
            self.slots.remove(slot);
        }
        self.blocks.clear();
        self.shared.change(|sizes| {
            sizes.plugged = 0;
            sizes.usable = self.shared.usable_for(sizes.requested);
        });
        // The whole region: other devices may have written beside what was plugged.
        memory.hotplug().map_or(Ok(()), |all| memory.discard(all))
    }
}

/// Whether pages could be given back.
type Discarded = Result<(), DiscardError>;

impl Device for Memory {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Memory
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        FEATURE_UNPLUGGED_INACCESSIBLE
    }

    fn config(&self) -> SharedConfig {
        self.shared.config.clone()
    }

    fn activate(self: Box<Self>, activation: Activation) -> ActivateResult {
        match activation.queues.into_iter().next().flatten() {
            Some(queue) => Ok(Box::new(RunningMemory {
                device: *self,
                queue,
                memory: activation.memory,
                driver: activation.driver,
            })),
            None => Err((self, DeviceFault::QueueMissing(0))),
        }
    }
}

/// The memory device at work.
struct RunningMemory {
    device: Memory,
    queue: DeviceQueue,
    memory: Arc<GuestRam>,
    driver: DriverLine,
}

impl Running for RunningMemory {
    fn watches(&self) -> Vec<Watch> {
        vec![Watch {
            fd: self.device.shared.wake.as_raw_fd(),
            token: 0,
            readable: true,
            writable: false,
        }]
    }

    fn on_queue(&mut self, index: usize) -> Result<Interest, DeviceFault> {
        if index != 0 {
            return Ok(Interest::Same);
        }
        let Self { device, memory, .. } = self;
        let mut failed = None;
        let result = self.queue.serve(|chain| {
            let request = chain.reader().read_object()?;
            let mut writer = chain.writer();
            // Before anything is done that the driver would not learn of.
            writer.clone().skip(RESPONSE_SIZE)?;
            let (response, discarded) = device.answer(&request, memory);
            failed = discarded.err().or(failed.take());
            writer.write_object(&RawResponse::from(response))?;
            Ok(u32::try_from(RESPONSE_SIZE).unwrap_or(u32::MAX))
        });
        result.map_err(|error: QueueError| error.on(0))?;
        match failed {
            Some(error) => Err(DeviceFault::Host {
                what: "unplugged memory",
                source: io::Error::other(error),
            }),
            None => Ok(Interest::Same),
        }
    }

    fn on_ready(&mut self, _token: u32) -> Result<Interest, DeviceFault> {
        // Only fails when there is nothing to read.
        let _ = self.device.shared.wake.read();
        self.driver.config_changed();
        Ok(Interest::Same)
    }

    fn stop(mut self: Box<Self>) -> Stopped {
        self.device.counters = self.counters();
        Stopped {
            positions: vec![self.queue.position()],
            device: Box::new(self.device),
        }
    }

    fn counters(&self) -> Counters {
        self.device.counters.with_requests_of([&self.queue])
    }
}

#[cfg(test)]
#[path = "memory_test.rs"]
mod tests;
