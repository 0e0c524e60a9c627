//! The devices on the io thread, each in its place.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::wait_context::{Token, WaitContext};
use crate::events::EventSender;
use crate::virtio::device::{
    Counters, Device, DeviceFault, DeviceKind, Interest, Running, Stopped, Watch,
};
use crate::virtio::runner::{DriverLine, Job};

/// All places.
pub(super) struct Slots {
    slots: BTreeMap<usize, Slot>,
    wait: WaitContext,
    events: EventSender,
}

/// One place.
struct Slot {
    kind: DeviceKind,
    state: State,
    /// What its device did before its last stop.
    counters: Counters,
    faults: u64,
}

enum State {
    /// With the transport.
    Empty,
    /// At work.
    Running(Active),
    /// Stopped because of a fault; waits to be fetched.
    Faulted(Box<dyn Device>),
}

struct Active {
    device: Box<dyn Running>,
    kicks: Vec<Option<Arc<EventFd>>>,
    watches: Vec<Watch>,
    driver: DriverLine,
}

impl Slots {
    /// Nothing in any place.
    pub(super) fn new(events: EventSender, wait: WaitContext) -> Self {
        Self {
            slots: BTreeMap::new(),
            wait,
            events,
        }
    }

    /// Waits until something is ready.
    pub(super) fn wait(&mut self, ready: &mut Vec<Token>) -> io::Result<()> {
        self.wait.wait(ready)
    }

    /// Activates a device and begins to watch for it.
    pub(super) fn start(&mut self, job: Job) {
        let Job {
            place,
            device,
            activation,
        } = job;
        let kicks = activation.queues.iter().map(|queue| {
            let queue = queue.as_ref()?;
            Some(Arc::clone(queue.kick()))
        });
        let kicks = kicks.collect();
        let driver = activation.driver.clone();
        let slot = self.slots.entry(place).or_insert_with(|| Slot {
            kind: device.kind(),
            state: State::Empty,
            counters: Counters::default(),
            faults: 0,
        });
        match device.activate(activation) {
            Ok(device) => {
                let mut active = Active {
                    device,
                    kicks,
                    watches: Vec::new(),
                    driver,
                };
                let started = active
                    .watch_queues(&self.wait, place as u16)
                    .and_then(|()| active.watch_device(&self.wait, place as u16));
                slot.state = State::Running(active);
                if let Err(fault) = started {
                    self.fault(place, &fault);
                }
            }
            Err((device, fault)) => {
                slot.state = State::Faulted(device);
                slot.faults += 1;
                driver.fault();
                self.events
                    .device_fault(slot.kind.name(), fault.to_string());
            }
        }
    }

    /// Stops the device in `place` and gives it back. What its driver asked for before is done
    /// first, so that nothing is lost when a machine ends right after its last request.
    pub(super) fn stop(&mut self, place: usize) -> Option<Stopped> {
        for index in 0..self.kicked(place).len() {
            self.on_queue(place as u16, index as u16);
        }
        let slot = self.slots.get_mut(&place)?;
        match std::mem::replace(&mut slot.state, State::Empty) {
            State::Empty => None,
            State::Running(active) => {
                slot.counters = active.device.counters();
                Some(active.stop(&self.wait))
            }
            State::Faulted(device) => Some(Stopped {
                device,
                positions: Vec::new(),
            }),
        }
    }

    /// Forgets the counters of a place: another device will be there.
    pub(super) fn forget(&mut self, place: usize) {
        if let Some(Slot {
            state: State::Empty,
            ..
        }) = self.slots.get(&place)
        {
            self.slots.remove(&place);
        }
    }

    /// Serves a queue whose driver notified it.
    pub(super) fn on_queue(&mut self, place: u16, index: u16) {
        let Some(active) = self.active(place) else {
            return;
        };
        let index = usize::from(index);
        let Some(kick) = active.kicks.get(index).and_then(Option::as_ref) else {
            return;
        };
        // Nothing to read means that the notification was served together with an earlier one.
        if active.device.serves_queues() && kick.read().is_ok() {
            let result = active.device.on_queue(index);
            self.after(place, result);
        }
    }

    /// Tells a device that a descriptor it watches is ready.
    pub(super) fn on_ready(&mut self, place: u16, token: u32) {
        if let Some(active) = self.active(place) {
            let result = active.device.on_ready(token);
            self.after(place, result);
        }
    }

    /// Counters and faults of the devices that were ever started, by place.
    pub(super) fn statistics(&self) -> BTreeMap<usize, (Counters, u64)> {
        let statistics = |(place, slot): (&usize, &Slot)| {
            let counters = match &slot.state {
                State::Running(active) => active.device.counters(),
                State::Empty | State::Faulted(_) => slot.counters,
            };
            (*place, (counters, slot.faults))
        };
        self.slots.iter().map(statistics).collect()
    }

    fn active(&mut self, place: u16) -> Option<&mut Active> {
        match &mut self.slots.get_mut(&usize::from(place))?.state {
            State::Running(active) => Some(active),
            State::Empty | State::Faulted(_) => None,
        }
    }

    fn kicked(&self, place: usize) -> &[Option<Arc<EventFd>>] {
        match self.slots.get(&place).map(|slot| &slot.state) {
            Some(State::Running(active)) => &active.kicks,
            _ => &[],
        }
    }

    /// Does what follows from a call of a device.
    fn after(&mut self, place: u16, result: Result<Interest, DeviceFault>) {
        let wait = &self.wait;
        let result = match (result, self.slots.get_mut(&usize::from(place))) {
            (Ok(Interest::Changed), Some(slot)) => match &mut slot.state {
                State::Running(active) => active.watch_device(wait, place),
                State::Empty | State::Faulted(_) => Ok(()),
            },
            (result, _) => result.map(|_| ()),
        };
        if let Err(fault) = result {
            self.fault(place.into(), &fault);
        }
    }

    /// Stops a device whose driver broke the rules, and tells the driver.
    fn fault(&mut self, place: usize, fault: &DeviceFault) {
        let Some(slot) = self.slots.get_mut(&place) else {
            return;
        };
        slot.faults += 1;
        if let State::Running(active) = std::mem::replace(&mut slot.state, State::Empty) {
            slot.counters = active.device.counters();
            let driver = active.driver.clone();
            slot.state = State::Faulted(active.stop(&self.wait).device);
            driver.fault();
        }
        self.events
            .device_fault(slot.kind.name(), fault.to_string());
    }
}

impl Active {
    /// Waits for the notifications of the queues.
    fn watch_queues(&self, wait: &WaitContext, place: u16) -> Result<(), DeviceFault> {
        if !self.device.serves_queues() {
            return Ok(());
        }
        for (index, kick) in (0..).zip(&self.kicks) {
            if let Some(kick) = kick {
                wait.add(&**kick, Token::Queue { place, index })
                    .map_err(watching)?;
            }
        }
        Ok(())
    }

    /// Brings the watched descriptors into line with what the device wants now.
    fn watch_device(&mut self, wait: &WaitContext, place: u16) -> Result<(), DeviceFault> {
        let wanted = self.device.watches();
        for old in &self.watches {
            if wanted.iter().all(|watch| watch.fd != old.fd) {
                wait.remove(old.fd);
            }
        }
        for watch in &wanted {
            if !self.watches.contains(watch) {
                wait.watch(place, watch).map_err(watching)?;
            }
        }
        self.watches = wanted;
        Ok(())
    }

    /// Stops the device after nobody waits for it any more.
    fn stop(self, wait: &WaitContext) -> Stopped {
        for kick in self.kicks.iter().flatten() {
            wait.remove(kick.as_raw_fd());
        }
        for watch in &self.watches {
            wait.remove(watch.fd);
        }
        self.device.stop()
    }
}

fn watching(source: io::Error) -> DeviceFault {
    DeviceFault::Host {
        what: "watching a descriptor",
        source,
    }
}
