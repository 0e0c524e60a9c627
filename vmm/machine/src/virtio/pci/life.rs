//! Where a device is: with its registers, at work, or back again.
//!
//! ```text
//!                             Paused
//!                       pause ▲    │ resume
//!                             │    ▼
//!   Setup ──── DRIVER_OK ────▶ Active ─────┐
//!     ▲  │ a queue that cannot be          │ status 0: the runner stops the device
//!     │  └──────────▶ Broken ──┐           │ and gives it back
//!     └──────────── status 0 ──┴───────────┘
//! ```

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::queue_config::{QueueConfig, QueueView};
use super::transport::{Environment, NOTIFY_MULTIPLIER};
use crate::pci::msix::Msix;
use crate::virtio::device::{Activation, Device, DeviceFault, DeviceKind, QueuePosition, Stopped};
use crate::virtio::interrupt::QueueInterrupt;
use crate::virtio::queue::DeviceQueue;
use crate::virtio::runner::{DeviceFlags, DriverLine, Job};

/// What an access needs to know about the function around the registers.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    /// The vectors.
    pub(super) msix: &'a Msix,
    /// Guest address of the notification area at the moment.
    pub(super) notify: u64,
}

/// What the driver chose, beside the queues.
#[derive(Clone, Copy)]
pub(super) struct Chosen {
    /// The features.
    pub(super) features: u64,
    /// Whether VIRTIO_F_EVENT_IDX is among them.
    pub(super) event_idx: bool,
    /// MSI-X vector of configuration changes.
    pub(super) config_vector: u16,
}

/// A device and the way it runs.
pub(super) struct Life {
    environment: Environment,
    /// Where the device runs.
    place: usize,
    kind: DeviceKind,
    flags: Arc<DeviceFlags>,
    /// How often its driver set it up so that it could not run.
    refusals: u64,
    stage: Stage,
}

enum Stage {
    /// Here; the driver sets it up.
    Setup {
        device: Box<dyn Device>,
        queues: Vec<QueueConfig>,
    },
    /// With the runner.
    Active(Connected),
    /// Here until the machine goes on.
    Paused {
        stopped: Stopped,
        connected: Connected,
    },
    /// Here, because it could not be activated, or had stopped because of a fault before a pause.
    Broken {
        device: Box<dyn Device>,
        queues: Vec<QueueView>,
    },
    /// Nowhere: between two stages, or the runner has lost it.
    Gone,
}

/// What stays here while a device runs.
struct Connected {
    queues: Vec<QueueView>,
    doorbells: Vec<Doorbell>,
}

/// The notification address of a running queue.
struct Doorbell {
    index: usize,
    address: u64,
    kick: Arc<EventFd>,
}

impl Life {
    /// A device that the driver has not found yet.
    pub(super) fn new(device: Box<dyn Device>, place: usize, environment: Environment) -> Self {
        Self {
            environment,
            place,
            kind: device.kind(),
            flags: Arc::new(DeviceFlags::default()),
            refusals: 0,
            stage: Stage::setup(device),
        }
    }

    /// Kind of the device.
    pub(super) fn kind(&self) -> DeviceKind {
        self.kind
    }

    /// How often its driver set it up so that it could not run, which its runner never hears of.
    pub(super) fn refusals(&self) -> u64 {
        self.refusals
    }

    /// The registers that change while the device runs.
    pub(super) fn flags(&self) -> &DeviceFlags {
        &self.flags
    }

    /// Whether the driver is still setting the device up.
    pub(super) fn is_in_setup(&self) -> bool {
        matches!(self.stage, Stage::Setup { .. })
    }

    /// Number of queues.
    pub(super) fn queue_count(&self) -> usize {
        match &self.stage {
            Stage::Setup { queues, .. } => queues.len(),
            Stage::Active(connected) | Stage::Paused { connected, .. } => connected.queues.len(),
            Stage::Broken { queues, .. } => queues.len(),
            Stage::Gone => 0,
        }
    }

    /// What the registers of a queue show.
    pub(super) fn view(&self, index: usize) -> Option<QueueView> {
        match &self.stage {
            Stage::Setup { queues, .. } => queues.get(index).map(QueueConfig::view),
            Stage::Active(connected) | Stage::Paused { connected, .. } => {
                connected.queues.get(index).copied()
            }
            Stage::Broken { queues, .. } => queues.get(index).copied(),
            Stage::Gone => None,
        }
    }

    /// The registers of a queue, as long as there are any.
    pub(super) fn queue_config(&mut self, index: usize) -> Option<&mut QueueConfig> {
        match &mut self.stage {
            Stage::Setup { queues, .. } => queues.get_mut(index),
            _ => None,
        }
    }

    /// Wakes the device for a queue.
    pub(super) fn notify(&self, index: usize) {
        if let Stage::Active(connected) = &self.stage
            && let Some(doorbell) = connected.doorbells.iter().find(|bell| bell.index == index)
        {
            doorbell.ring();
        }
    }

    /// Consumes the queue registers and hands the device to its runner.
    pub(super) fn activate(&mut self, chosen: Chosen, surroundings: Surroundings<'_>) {
        let Stage::Setup { device, queues } = std::mem::replace(&mut self.stage, Stage::Gone)
        else {
            return;
        };
        let views: Vec<QueueView> = queues.iter().map(QueueConfig::view).collect();
        let queues = queues.into_iter().enumerate().map(|(index, queue)| {
            let interrupt = interrupt_of(surroundings.msix, queue.view().vector)?;
            queue
                .activate(index, chosen.event_idx, &self.environment.memory, interrupt)
                .map_err(|error| error.on(index))
        });
        let queues = match queues.collect::<Result<Vec<_>, _>>() {
            Ok(queues) => queues,
            Err(fault) => return self.break_down(device, views, &fault, chosen, surroundings.msix),
        };
        let doorbells: Vec<Doorbell> = queues
            .iter()
            .flatten()
            .map(|queue| Doorbell {
                index: queue.index(),
                address: surroundings.notify + queue.index() as u64 * u64::from(NOTIFY_MULTIPLIER),
                kick: Arc::clone(queue.kick()),
            })
            .collect();
        for doorbell in &doorbells {
            let bells = &self.environment.doorbells;
            bells.attach(doorbell.address, &doorbell.kick);
        }
        let connected = Connected {
            queues: views,
            doorbells,
        };
        self.start(device, queues, connected, chosen, surroundings.msix);
    }

    /// Stops the device and puts it back to where its driver begins.
    pub(super) fn reset(&mut self) {
        let device = match std::mem::replace(&mut self.stage, Stage::Gone) {
            Stage::Setup { device, .. } | Stage::Broken { device, .. } => Some(device),
            Stage::Paused { stopped, connected } => {
                self.disconnect(&connected);
                Some(stopped.device)
            }
            Stage::Active(connected) => {
                self.disconnect(&connected);
                let stopped = self.environment.runner.stop(self.place);
                stopped.map(|stopped| stopped.device)
            }
            Stage::Gone => None,
        };
        self.flags.clear();
        match device {
            Some(mut device) => {
                device.reset();
                self.stage = Stage::setup(device);
            }
            None => self.flags.break_for_good(),
        }
    }

    /// Stops the device where it is. The vCPUs stand still, so its driver does not notice.
    pub(super) fn pause(&mut self) {
        if !matches!(self.stage, Stage::Active(_)) {
            return;
        }
        if let Stage::Active(connected) = std::mem::replace(&mut self.stage, Stage::Gone) {
            match self.environment.runner.stop(self.place) {
                // Its driver has been told to reset it, and has to do that.
                Some(stopped) if self.flags.needs_reset() => {
                    self.disconnect(&connected);
                    self.stage = Stage::Broken {
                        device: stopped.device,
                        queues: connected.queues,
                    };
                }
                Some(stopped) => self.stage = Stage::Paused { stopped, connected },
                None => self.flags.break_for_good(),
            }
        }
    }

    /// Lets the device go on from where [`Life::pause`] stopped it.
    pub(super) fn resume(&mut self, chosen: Chosen, msix: &Msix) {
        if !matches!(self.stage, Stage::Paused { .. }) {
            return;
        }
        if let Stage::Paused { stopped, connected } =
            std::mem::replace(&mut self.stage, Stage::Gone)
        {
            match self.reconnect(&connected, &stopped.positions, chosen, msix) {
                Ok(queues) => {
                    self.start(stopped.device, queues, connected, chosen, msix);
                    // Whatever the driver notified while the device stopped is looked at now.
                    if let Stage::Active(connected) = &self.stage {
                        connected.doorbells.iter().for_each(Doorbell::ring);
                    }
                }
                Err(fault) => {
                    self.disconnect(&connected);
                    self.break_down(stopped.device, connected.queues, &fault, chosen, msix);
                }
            }
        }
    }

    /// Makes the queues again that a pause took apart.
    fn reconnect(
        &self,
        connected: &Connected,
        positions: &[QueuePosition],
        chosen: Chosen,
        msix: &Msix,
    ) -> Result<Vec<Option<DeviceQueue>>, DeviceFault> {
        let queue = |(index, view): (usize, &QueueView)| {
            let doorbell = connected.doorbells.iter().find(|bell| bell.index == index);
            let Some(doorbell) = doorbell else {
                return Ok(None);
            };
            let mut queue = DeviceQueue::new(
                index,
                view.settings(chosen.event_idx),
                &self.environment.memory,
                Arc::clone(&doorbell.kick),
                interrupt_of(msix, view.vector)?,
            )
            .map_err(|error| error.on(index))?;
            match positions.iter().find(|position| position.index == index) {
                Some(position) => queue.set_position(*position),
                None => return Err(DeviceFault::QueueMissing(index)),
            }
            Ok(Some(queue))
        };
        connected.queues.iter().enumerate().map(queue).collect()
    }

    /// Hands the device to its runner.
    fn start(
        &mut self,
        device: Box<dyn Device>,
        queues: Vec<Option<DeviceQueue>>,
        connected: Connected,
        chosen: Chosen,
        msix: &Msix,
    ) {
        let driver = match self.driver_line(chosen, msix) {
            Ok(driver) => driver,
            Err(fault) => {
                self.disconnect(&connected);
                return self.break_down(device, connected.queues, &fault, chosen, msix);
            }
        };
        self.stage = Stage::Active(connected);
        self.environment.runner.start(Job {
            place: self.place,
            device,
            activation: Activation {
                features: chosen.features,
                memory: Arc::clone(&self.environment.memory),
                queues,
                driver,
            },
        });
    }

    /// Keeps a device that cannot run until its driver resets it.
    fn break_down(
        &mut self,
        device: Box<dyn Device>,
        queues: Vec<QueueView>,
        fault: &DeviceFault,
        chosen: Chosen,
        msix: &Msix,
    ) {
        self.refusals = self.refusals.saturating_add(1);
        let events = &self.environment.events;
        events.device_fault(self.kind.name(), fault.to_string());
        self.stage = Stage::Broken { device, queues };
        match self.driver_line(chosen, msix) {
            Ok(driver) => driver.fault(),
            Err(_) => self.flags.break_for_good(),
        }
    }

    fn driver_line(&self, chosen: Chosen, msix: &Msix) -> Result<DriverLine, DeviceFault> {
        Ok(DriverLine {
            flags: Arc::clone(&self.flags),
            interrupt: interrupt_of(msix, chosen.config_vector)?,
        })
    }

    fn disconnect(&self, connected: &Connected) {
        for doorbell in &connected.doorbells {
            let bells = &self.environment.doorbells;
            bells.detach(doorbell.address, &doorbell.kick);
        }
    }
}

impl Doorbell {
    fn ring(&self) {
        // Fails only when the counter is full, and then the queue is notified anyway.
        let _ = self.kick.write(1);
    }
}

impl Stage {
    fn setup(device: Box<dyn Device>) -> Self {
        let queues = device
            .queue_sizes()
            .iter()
            .map(|size| QueueConfig::new(*size))
            .collect();
        Self::Setup { device, queues }
    }
}

/// The interrupt behind a vector; for [`super::transport::NO_VECTOR`] one that reaches nobody.
fn interrupt_of(msix: &Msix, vector: u16) -> Result<QueueInterrupt, DeviceFault> {
    msix.interrupt(vector)
        .map_or_else(QueueInterrupt::new, Ok)
        .map_err(|source| DeviceFault::Host {
            what: "making an interrupt",
            source,
        })
}
