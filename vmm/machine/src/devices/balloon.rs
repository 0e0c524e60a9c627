//! Traditional memory balloon device (virtio 1.3 §5.5): the guest's memory on its way back to the
//! host.
//!
//! It comes back in two ways. What the guest frees it reports by itself, in large pieces, and uses
//! again without asking (free page reporting, §5.5.6.7). And the host can ask for memory that the
//! guest must make free first ([`BalloonControl::set_target`]); the guest takes it back when it
//! would otherwise have to kill a process, of which the host hears by
//! [`BalloonEvents::memory_pressure`].
//!
//! Pages that a driver names are only ever given back, so one that lies about them loses its own
//! memory and nothing else.

use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::memory::{DiscardError, GuestRam, PAGE};
use crate::virtio::chain::Chain;
use crate::virtio::config::SharedConfig;
use crate::virtio::device::{
    ActivateResult, Activation, Counters, Device, DeviceFault, DeviceKind, Interest, Running,
    Stopped, Watch,
};
use crate::virtio::queue::{DeviceQueue, QueueError};
use crate::virtio::runner::DriverLine;

/// Queue indices. Those of features that are not on offer do not exist, and the next take their
/// numbers: so do Linux and QEMU, and virtio 1.3 §5.5.2 can be read like that.
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const REPORTING: usize = 2;

/// Linux sends one request at a time in each. To report free pages it wants room for 32 buffers.
const QUEUE_SIZES: [u16; 3] = [32, 32, 32];

/// `VIRTIO_BALLOON_F_DEFLATE_ON_OOM`.
const FEATURE_DEFLATE_ON_OOM: u64 = 1 << 2;
/// `VIRTIO_BALLOON_F_REPORTING`.
const FEATURE_REPORTING: u64 = 1 << 5;

/// Where the fields are in the configuration: what the balloon shall hold, and what it holds, in
/// pages.
const CONFIG_TARGET: usize = 0;
const CONFIG_ACTUAL: usize = 4;
const CONFIG_LENGTH: usize = 8;

/// Most pages taken of one request; Linux names 256. What a longer one names beyond that stays
/// where it is, which the driver cannot tell.
const MAX_PAGES: usize = 1024;

/// Pages of a MiB.
const PAGES_PER_MIB: u32 = 256;

/// Tokens of the watched descriptors.
const TARGET_CHANGED: u32 = 0;
const ACTUAL_WRITTEN: u32 = 1;

/// What the device tells the host. Called on the io thread: must not block.
pub(crate) trait BalloonEvents: Send + Sync {
    /// The guest took memory out of its balloon without having been asked to; it holds this much
    /// now. Told once for each time that the guest had filled it as far as it should.
    fn memory_pressure(&self, balloon_mib: u32);
}

/// Says how much the balloon shall hold, from any thread.
#[derive(Clone)]
pub(crate) struct BalloonControl(Arc<Shared>);

/// What the device and the host's handle have in common.
struct Shared {
    config: SharedConfig,
    target: Mutex<Target>,
    /// The device shall tell its driver.
    target_changed: EventFd,
    /// The driver wrote what the balloon holds.
    actual_written: Arc<EventFd>,
}

/// What the balloon shall hold.
#[derive(Debug, Clone, Copy, Default)]
struct Target {
    pages: u32,
    /// Whether it has held that much since the target was set.
    reached: bool,
}

impl Shared {
    fn target(&self) -> MutexGuard<'_, Target> {
        // A panic elsewhere leaves a number that was right.
        self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pages that the balloon holds, as far as the driver is to be believed.
    fn actual(&self) -> u32 {
        let mut bytes = [0; 4];
        self.config.read(CONFIG_ACTUAL, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Whether the guest took memory back that it had given.
    fn has_fallen(&self) -> bool {
        let mut target = self.target();
        let enough = self.actual() >= target.pages;
        let fallen = target.reached && !enough;
        target.reached = enough;
        fallen
    }
}

impl BalloonControl {
    /// Asks the guest to keep this much memory in its balloon.
    pub(crate) fn set_target(&self, mib: u32) {
        let pages = mib.saturating_mul(PAGES_PER_MIB);
        let mut target = self.0.target();
        *target = Target {
            pages,
            reached: self.0.actual() >= pages,
        };
        self.0.config.set(CONFIG_TARGET, &pages.to_le_bytes());
        drop(target);
        // Only fails when the counter is full, and then the io thread is woken anyway.
        let _ = self.0.target_changed.write(1);
    }

    /// MiB that the balloon holds. The driver says so: it can be any number.
    pub(crate) fn held(&self) -> u32 {
        self.0.actual() / PAGES_PER_MIB
    }
}

/// The balloon device before activation.
pub(crate) struct Balloon {
    shared: Arc<Shared>,
    events: Arc<dyn BalloonEvents>,
    /// What earlier activations did.
    counters: Counters,
}

impl Balloon {
    /// Makes the device, with an empty balloon, and the way to fill it.
    ///
    /// # Errors
    /// Fails when the process has no descriptors left.
    pub(crate) fn new(events: Arc<dyn BalloonEvents>) -> io::Result<(Self, BalloonControl)> {
        let actual_written = Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
        let config = SharedConfig::with_writable(
            vec![0; CONFIG_LENGTH],
            CONFIG_ACTUAL..CONFIG_LENGTH,
            Arc::clone(&actual_written),
        );
        let shared = Arc::new(Shared {
            config,
            target: Mutex::default(),
            target_changed: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            actual_written,
        });
        let device = Self {
            shared: Arc::clone(&shared),
            events,
            counters: Counters::default(),
        };
        Ok((device, BalloonControl(shared)))
    }
}

impl Device for Balloon {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Balloon
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        FEATURE_DEFLATE_ON_OOM | FEATURE_REPORTING
    }

    fn config(&self) -> SharedConfig {
        self.shared.config.clone()
    }

    fn activate(self: Box<Self>, activation: Activation) -> ActivateResult {
        let mut queues = activation.queues.into_iter();
        let mut next = || queues.next().flatten();
        let (inflate, deflate, reporting) = (next(), next(), next());
        let Some(inflate) = inflate else {
            return Err((self, DeviceFault::QueueMissing(INFLATE)));
        };
        let Some(deflate) = deflate else {
            return Err((self, DeviceFault::QueueMissing(DEFLATE)));
        };
        Ok(Box::new(RunningBalloon {
            device: *self,
            inflate,
            deflate,
            // There only if the driver wants to report.
            reporting,
            memory: activation.memory,
            driver: activation.driver,
        }))
    }

    fn reset(&mut self) {
        // What the balloon held is the guest's again.
        self.shared.target().reached = false;
        self.shared.config.set(CONFIG_ACTUAL, &0u32.to_le_bytes());
    }
}

/// The balloon device at work.
struct RunningBalloon {
    device: Balloon,
    inflate: DeviceQueue,
    deflate: DeviceQueue,
    reporting: Option<DeviceQueue>,
    memory: Arc<GuestRam>,
    driver: DriverLine,
}

impl RunningBalloon {
    fn queues(&self) -> impl Iterator<Item = &DeviceQueue> {
        [&self.inflate, &self.deflate]
            .into_iter()
            .chain(&self.reporting)
    }
}

/// Gives the pages back that the chains of a queue name.
fn give_back(
    queue: &mut DeviceQueue,
    memory: &GuestRam,
    named: impl Fn(&Chain) -> Result<Vec<Range<u64>>, QueueError>,
) -> Result<(), DeviceFault> {
    let index = queue.index();
    let mut failed: Option<DiscardError> = None;
    let result = queue.serve(|chain| {
        for range in named(chain)? {
            failed = memory.discard(range).err().or(failed.take());
        }
        Ok(0)
    });
    result.map_err(|error: QueueError| error.on(index))?;
    match failed {
        Some(error) => Err(DeviceFault::Host {
            what: "pages of the balloon",
            source: io::Error::other(error),
        }),
        None => Ok(()),
    }
}

/// The memory of a request to inflate the balloon: a list of page numbers (virtio 1.3 §5.5.6).
/// Numbers of pages that are not memory have no effect.
fn inflated(chain: &Chain, memory: &GuestRam) -> Result<Vec<Range<u64>>, QueueError> {
    let mut reader = chain.reader();
    let mut bytes = [0; 4 * MAX_PAGES];
    let count = (reader.left() / 4).min(MAX_PAGES);
    let bytes = bytes.get_mut(..4 * count).unwrap_or_default();
    reader.read_exact(bytes)?;
    let (numbers, _) = bytes.as_chunks();
    let pages = numbers
        .iter()
        .map(|number| u64::from(u32::from_le_bytes(*number)) * PAGE)
        .filter(|page| memory.address_in_range(GuestAddress(*page)))
        .collect();
    Ok(joined(pages))
}

/// The ranges that pages make up. Linux names them in any order, but they often lie together: then
/// there is one call of the kernel instead of hundreds, and a huge page is not taken apart in order
/// to lose its parts one by one.
fn joined(mut pages: Vec<u64>) -> Vec<Range<u64>> {
    pages.sort_unstable();
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for page in pages {
        match ranges.last_mut() {
            Some(last) if page <= last.end => last.end = last.end.max(page + PAGE),
            _ => ranges.push(page..page + PAGE),
        }
    }
    ranges
}

/// The memory of a report: the buffers themselves are what is free (virtio 1.3 §5.5.6.7). Of one
/// that does not begin and end with a page, the whole pages within it.
fn reported(chain: &Chain) -> Vec<Range<u64>> {
    let whole_pages = |buffer: Range<u64>| {
        let start = buffer.start.next_multiple_of(PAGE);
        let end = buffer.end / PAGE * PAGE;
        (start < end).then_some(start..end)
    };
    chain.writable_ranges().filter_map(whole_pages).collect()
}

impl Running for RunningBalloon {
    fn watches(&self) -> Vec<Watch> {
        let shared = &self.device.shared;
        let watch = |fd, token| Watch {
            fd,
            token,
            readable: true,
            writable: false,
        };
        vec![
            watch(shared.target_changed.as_raw_fd(), TARGET_CHANGED),
            watch(shared.actual_written.as_raw_fd(), ACTUAL_WRITTEN),
        ]
    }

    fn on_queue(&mut self, index: usize) -> Result<Interest, DeviceFault> {
        let memory = &*self.memory;
        match (index, &mut self.reporting) {
            (INFLATE, _) => give_back(&mut self.inflate, memory, |chain| inflated(chain, memory))?,
            // The guest uses these pages again, and gets new ones as it touches them.
            (DEFLATE, _) => give_back(&mut self.deflate, memory, |_| Ok(Vec::new()))?,
            (REPORTING, Some(queue)) => give_back(queue, memory, |chain| Ok(reported(chain)))?,
            _ => {}
        }
        Ok(Interest::Same)
    }

    fn on_ready(&mut self, token: u32) -> Result<Interest, DeviceFault> {
        let shared = &self.device.shared;
        // Reading only fails when there is nothing to read.
        if token == TARGET_CHANGED {
            let _ = shared.target_changed.read();
            self.driver.config_changed();
        } else {
            let _ = shared.actual_written.read();
            if shared.has_fallen() {
                let held = shared.actual() / PAGES_PER_MIB;
                self.device.events.memory_pressure(held);
            }
        }
        Ok(Interest::Same)
    }

    fn stop(mut self: Box<Self>) -> Stopped {
        self.device.counters = self.counters();
        Stopped {
            positions: self.queues().map(DeviceQueue::position).collect(),
            device: Box::new(self.device),
        }
    }

    fn counters(&self) -> Counters {
        self.device.counters.with_requests_of(self.queues())
    }
}

#[cfg(test)]
#[path = "balloon_test.rs"]
mod tests;
