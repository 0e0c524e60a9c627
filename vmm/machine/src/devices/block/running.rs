//! The block device at work.

use std::collections::BTreeMap;

use virtio_bindings::bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;

use super::Block;
use super::engine::{CAPACITY, Call, Done, Engine, TURN_BYTES, Tag};
use super::request::{self, Request, Status};
use super::task::{Step, Task};
use super::vectors::Durability;
use crate::rate_limit::RateLimiter;
use crate::virtio::chain::Chain;
use crate::virtio::device::{Activation, Counters, DeviceFault, Interest, Running, Stopped, Watch};
use crate::virtio::queue::{DeviceQueue, QueueError};

/// The token of the engine's completions.
const COMPLETIONS: u32 = 0;
/// The token of the rate limit's timer.
const TIMER: u32 = 1;

/// The block device at work.
pub(super) struct RunningBlock {
    device: Block,
    lanes: Vec<Option<Lane>>,
    /// The queue that is come back to first, another one each time.
    first: usize,
    /// The requests in flight.
    tasks: BTreeMap<Tag, Task>,
    /// Made on the first request that needs it.
    engine: Option<Box<dyn Engine>>,
    /// Whether the engine was made since the io thread last asked what to watch.
    engine_is_new: bool,
    durability: Durability,
}

/// A queue.
struct Lane {
    queue: DeviceQueue,
    held: Option<Held>,
}

/// Why a queue is left alone although there may be something in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// As many requests are in flight as can be.
    Full,
    /// The rate limit has to recover.
    Throttled,
}

impl RunningBlock {
    /// Begins.
    pub(super) fn new(device: Block, activation: Activation) -> Self {
        let lane = |queue: Option<DeviceQueue>| {
            let queue = queue?;
            Some(Lane { queue, held: None })
        };
        // A driver that cannot flush takes a write for stable when it is done (virtio 1.3 §5.2.6.2).
        let durability = match activation.features & 1 << VIRTIO_BLK_F_FLUSH {
            0 => Durability::Stable,
            _ => Durability::Volatile,
        };
        Self {
            device,
            lanes: activation.queues.into_iter().map(lane).collect(),
            first: 0,
            tasks: BTreeMap::new(),
            engine: None,
            engine_is_new: false,
            durability,
        }
    }

    /// Takes requests from a queue until it is empty, or something keeps them from being served.
    fn take(&mut self, index: usize) -> Result<(), DeviceFault> {
        let Some(Some(lane)) = self.lanes.get_mut(index) else {
            return Ok(());
        };
        let on = |error: QueueError| error.on(index);
        lane.held = None;
        lane.queue.disable_notification().map_err(on)?;
        let mut requests = lane.queue.settings().size;
        let mut bytes: u64 = 0;
        loop {
            let Some(Some(lane)) = self.lanes.get_mut(index) else {
                return Ok(());
            };
            if requests == 0 || bytes >= TURN_BYTES as u64 {
                lane.ring();
                return Ok(());
            }
            if self.tasks.len() >= CAPACITY {
                lane.held = Some(Held::Full);
                return Ok(());
            }
            let Some(chain) = lane.queue.pop().map_err(on)? else {
                match lane.queue.enable_notification().map_err(on)? {
                    true => continue,
                    false => return Ok(()),
                }
            };
            if let Some(limiter) = &mut self.device.limiter
                && !limiter.may_pass()
            {
                lane.held = Some(Held::Throttled);
                return lane.queue.put_back(chain).map_err(on);
            }
            requests -= 1;
            bytes = bytes.saturating_add(self.begin(index, chain)?);
        }
    }

    /// Begins with what a chain asks for; returns the bytes of data it is about.
    fn begin(&mut self, index: usize, chain: Chain) -> Result<u64, DeviceFault> {
        if chain.writable_len() == 0 {
            return Err(DeviceFault::Request("a block request without a status"));
        }
        let disk = &self.device.disk;
        let parsed = request::parse(&chain, disk.geometry()).and_then(|request| match request {
            Request::Read(extent) if disk.files().place(extent).is_err() => Err(Status::IoError),
            request => Ok(request),
        });
        let cost = parsed.as_ref().map_or(0, Request::cost);
        if let Some(limiter) = &mut self.device.limiter {
            limiter.charge(1, cost);
        }
        let request = match parsed {
            Ok(Request::Identify) => {
                let written = identify(&chain, &self.device.id).map_err(|error| error.on(index))?;
                self.finish(index, chain, Status::Ok, written)?;
                return Ok(cost);
            }
            Ok(request) => request,
            Err(status) => {
                self.finish(index, chain, status, 0)?;
                return Ok(cost);
            }
        };
        let tag = Tag {
            queue: u16::try_from(index).unwrap_or(u16::MAX),
            head: chain.head(),
        };
        let (task, step) =
            Task::new(chain, request, self.durability).map_err(|error| error.on(index))?;
        match step {
            Step::Done(status) => self.end(tag, task, status)?,
            Step::Call(call) => {
                self.tasks.insert(tag, task);
                self.start(tag, call)?;
            }
        }
        Ok(cost)
    }

    /// Hands a call to the engine.
    fn start(&mut self, tag: Tag, call: Call) -> Result<(), DeviceFault> {
        let engine = self.engine.get_or_insert_with(|| {
            self.engine_is_new = true;
            (self.device.engine)(&self.device.disk)
        });
        if engine.start(tag, call).is_ok() {
            return Ok(());
        }
        // Only a mistake of ours can bring this about; the request ends here.
        match self.tasks.remove(&tag) {
            Some(task) => self.end(tag, task, Status::IoError),
            None => Ok(()),
        }
    }

    /// Begins what was taken, and ends what is done.
    fn work(&mut self) -> Result<Interest, DeviceFault> {
        if let Some(engine) = &mut self.engine {
            engine.turn();
        }
        loop {
            if let Some(engine) = &mut self.engine {
                engine.submit().map_err(|source| DeviceFault::Host {
                    what: "submitting to io_uring",
                    source,
                })?;
            }
            if !self.reap()? {
                break;
            }
        }
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            if let Some(lane) = lane {
                lane.queue.signal_used().map_err(|error| error.on(index))?;
            }
        }
        if self.tasks.len() < CAPACITY {
            self.release(Held::Full);
        }
        if self
            .engine
            .as_ref()
            .is_some_and(|engine| engine.wants_turn())
            && let Some(lane) = self.lanes.iter().flatten().next()
        {
            lane.ring();
        }
        Ok(match std::mem::take(&mut self.engine_is_new) {
            true => Interest::Changed,
            false => Interest::Same,
        })
    }

    /// Ends the requests whose last call is done and starts the next calls of the others; whether
    /// there was anything to do. All that is done is taken, whatever happens on the way.
    fn reap(&mut self) -> Result<bool, DeviceFault> {
        let mut any = false;
        let mut outcome = Ok(());
        while let Some(done) = self.engine.as_mut().and_then(|engine| engine.take_done()) {
            any = true;
            outcome = outcome.and(self.advance(done));
        }
        outcome.map(|()| any)
    }

    fn advance(&mut self, done: Done) -> Result<(), DeviceFault> {
        let Done { tag, call, result } = done;
        let Some(task) = self.tasks.get_mut(&tag) else {
            return Ok(());
        };
        match task.advance(&self.device.disk, call, result) {
            Step::Call(call) => self.start(tag, call),
            Step::Done(status) => match self.tasks.remove(&tag) {
                Some(task) => self.end(tag, task, status),
                None => Ok(()),
            },
        }
    }

    /// Ends a request.
    fn end(&mut self, tag: Tag, task: Task, status: Status) -> Result<(), DeviceFault> {
        let (given, taken) = (task.bytes_to_guest(), task.bytes_from_guest());
        let counters = &mut self.device.counters;
        counters.bytes_to_guest = counters.bytes_to_guest.saturating_add(given.into());
        counters.bytes_from_guest = counters.bytes_from_guest.saturating_add(taken.into());
        self.finish(tag.queue.into(), task.into_chain(), status, given)
    }

    /// Answers a request of whose writable part the first `filled` bytes are written.
    fn finish(
        &mut self,
        index: usize,
        chain: Chain,
        status: Status,
        filled: u32,
    ) -> Result<(), DeviceFault> {
        let Some(Some(lane)) = self.lanes.get_mut(index) else {
            return Ok(());
        };
        answer(&chain, status)
            .and_then(|()| {
                // The status is behind the data, and only bytes without a gap count (virtio 1.3
                // §2.7.8.2).
                let data = chain.writable_len().saturating_sub(1);
                let written = match filled < data {
                    true => filled,
                    false => chain.writable_len(),
                };
                lane.queue.complete(chain, written)
            })
            .map_err(|error| error.on(index))
    }

    /// Comes back to the queues that were left for this reason.
    fn release(&mut self, reason: Held) {
        self.first = (self.first + 1) % self.lanes.len().max(1);
        let (later, sooner) = self.lanes.split_at_mut(self.first);
        for lane in sooner.iter_mut().chain(later).flatten() {
            if lane.held == Some(reason) {
                lane.held = None;
                lane.ring();
            }
        }
    }

    /// Waits for everything in flight. Faults no longer matter.
    fn drain(&mut self) {
        let _ = self.work();
        while !self.tasks.is_empty()
            && let Some(engine) = &mut self.engine
            && engine.wait().is_ok()
        {
            let before = self.tasks.len();
            let reaped = self.reap();
            // Nothing to wait for, and yet not done, cannot be; it must not be waited for either.
            if matches!(reaped, Ok(false)) && self.tasks.len() == before {
                break;
            }
        }
        for lane in self.lanes.iter_mut().flatten() {
            let _ = lane.queue.signal_used();
        }
    }
}

impl Lane {
    /// Notifies the queue as its driver would.
    fn ring(&self) {
        self.queue.notify_itself();
    }
}

impl Running for RunningBlock {
    fn watches(&self) -> Vec<Watch> {
        let watch = |fd, token| Watch {
            fd,
            token,
            readable: true,
            writable: false,
        };
        let completions = self.engine.as_ref().and_then(|engine| engine.completions());
        let timer = self.device.limiter.as_ref().map(RateLimiter::timer);
        let completions = completions.map(|fd| watch(fd, COMPLETIONS));
        let timer = timer.map(|fd| watch(fd, TIMER));
        completions.into_iter().chain(timer).collect()
    }

    fn on_queue(&mut self, index: usize) -> Result<Interest, DeviceFault> {
        self.take(index)?;
        self.work()
    }

    fn on_ready(&mut self, token: u32) -> Result<Interest, DeviceFault> {
        if token == TIMER {
            if let Some(limiter) = &mut self.device.limiter {
                limiter.on_timer();
            }
            self.release(Held::Throttled);
        }
        self.work()
    }

    fn stop(mut self: Box<Self>) -> Stopped {
        self.drain();
        self.device.counters = self.counters();
        let lanes = self.lanes.iter().flatten();
        Stopped {
            positions: lanes.map(|lane| lane.queue.position()).collect(),
            device: Box::new(self.device),
        }
    }

    fn counters(&self) -> Counters {
        let queues = self.lanes.iter().flatten().map(|lane| &lane.queue);
        let limiter = self.device.limiter.as_ref();
        Counters {
            // The limiter counts from the start of the machine.
            throttled: limiter.map_or(0, RateLimiter::throttled),
            ..self.device.counters.with_requests_of(queues)
        }
    }
}

/// Writes the id; returns its length.
fn identify(chain: &Chain, id: &[u8]) -> Result<u32, QueueError> {
    chain.writer().write_all(id)?;
    Ok(u32::try_from(id.len()).unwrap_or(0))
}

/// Writes the status, the last byte of the chain.
fn answer(chain: &Chain, status: Status) -> Result<(), QueueError> {
    let mut writer = chain.writer();
    writer.skip(writer.left().saturating_sub(1))?;
    writer.write_all(&[status.byte()])
}
