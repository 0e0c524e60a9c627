//! Block devices of the host that the configuration of a container names, and block devices and files
//! with root file systems: disks of the pod's machine.
//!
//! ```text
//!   linux.devices: b 7:0 ──▶ opened by number ──▶ VMM: a disk in slot 9 ──▶ guest: vda, 254:0
//!                                                                             │
//!   container: b 254:0 at the path of the configuration ◀─────────────────────┘
//! ```
//!
//! A disk is plugged for the first container that names its device and unplugged after the last: two
//! containers of a pod that have the same device have the same disk, as they would on the host. The
//! VMM refuses what the configuration does not allow, whatever the guest does.

mod host;
#[cfg(test)]
#[path = "../../tests/sandbox/loop_device.rs"]
mod loop_device;
mod named;
mod number;
mod source;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::mem;
use std::sync::{Arc, Weak};

use caisson_control::{DeviceConfig, DiskConfig, Limits, MAX_QUEUES, Reply, Request};
use caisson_protocol::agent::DiskRequest;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::timeout;

pub(crate) use self::named::{WantedDisk, named, renumber, rules, wanted};
pub(crate) use self::number::DeviceNumber;
use self::source::Lock;
pub(crate) use self::source::{DiskKey, DiskSource};
use crate::agent::{Agent, LONG};
use crate::machine::Machine;
use crate::{ErrorKind, SandboxError, connection, guest_text};

/// Most disks of a pod: half of the slots of its bus.
const MOST: usize = 16;

/// The disks of a pod.
pub(crate) struct Disks {
    machine: Arc<Machine>,
    agent: Agent,
    /// Of each disk.
    queues: u8,
    /// Those that are plugged. Locked while that changes.
    plugged: Mutex<BTreeMap<DiskKey, Disk>>,
}

/// A disk that a container is to have.
#[derive(Debug)]
pub(crate) struct Order {
    /// What it is on the host.
    pub(crate) source: DiskSource,
    /// Whether the guest may write to it.
    pub(crate) writable: bool,
    /// What it is to people; errors begin with it.
    pub(crate) what: String,
}

impl From<&WantedDisk> for Order {
    fn from(wanted: &WantedDisk) -> Self {
        Self {
            source: DiskSource::Device(wanted.number),
            writable: wanted.writable,
            what: format!(
                "block device {} of the host, for {}",
                wanted.number,
                wanted.path.display()
            ),
        }
    }
}

/// A disk that is plugged.
#[derive(Debug)]
struct Disk {
    slot: u8,
    /// Its number in the guest: what the agent says, and of use for the guest only.
    in_guest: DeviceNumber,
    writable: bool,
    /// How many containers have it.
    users: usize,
    _lock: Option<Lock>,
}

impl std::fmt::Debug for Disks {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Disks")
            .field("plugged", &self.plugged)
            .finish_non_exhaustive()
    }
}

/// The disks that a container has. They are let go of when this is dropped, in the background.
#[derive(Debug, Default)]
pub(crate) struct HeldDisks {
    /// Nothing is to be done for a pod that is gone.
    disks: Weak<Disks>,
    held: Vec<(DiskKey, DeviceNumber)>,
}

impl HeldDisks {
    /// What tells each apart and its number in the guest, in the order in which they were wanted.
    pub(crate) fn held(&self) -> &[(DiskKey, DeviceNumber)] {
        &self.held
    }

    /// Lets go of them. When this returns, those that nobody else has are off the bus, and the VMM
    /// has closed them; an io_uring of the kernel may keep one open for a moment.
    pub(crate) async fn release(mut self) {
        if let Some((disks, keys)) = self.take() {
            disks.release(keys).await;
        }
    }

    fn take(&mut self) -> Option<(Arc<Disks>, Vec<DiskKey>)> {
        let held = mem::take(&mut self.held);
        let disks = self.disks.upgrade()?;
        let keys = held.into_iter().map(|(key, _)| key).collect();
        Some((disks, keys))
    }
}

impl Drop for HeldDisks {
    fn drop(&mut self) {
        if self.held.is_empty() {
            return;
        }
        if let Some((disks, keys)) = self.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move { disks.release(keys).await });
        }
    }
}

impl Disks {
    /// Of a machine that has so many vCPUs at first, and no disk yet.
    pub(crate) fn new(machine: Arc<Machine>, agent: Agent, vcpus: u8) -> Arc<Self> {
        Arc::new(Self {
            machine,
            agent,
            queues: vcpus.clamp(1, MAX_QUEUES),
            plugged: Mutex::default(),
        })
    }

    /// Gives a container its disks. Goes on when the returned future is dropped, and takes them away
    /// then.
    ///
    /// # Errors
    /// [`ErrorKind::FailedPrecondition`] for a device that the host does not have or not open, for
    /// more than fit, and for a disk that others of the pod have to read only;
    /// [`ErrorKind::Unavailable`] when the machine does not take it. The container has none then.
    pub(crate) async fn take(
        self: &Arc<Self>,
        wanted: Vec<Order>,
    ) -> Result<HeldDisks, SandboxError> {
        if wanted.is_empty() {
            return Ok(HeldDisks::default());
        }
        let disks = Arc::clone(self);
        let taken = tokio::spawn(async move { disks.take_all(&wanted).await });
        taken.await.map_err(|error| internal(&error))?
    }

    async fn take_all(self: &Arc<Self>, wanted: &[Order]) -> Result<HeldDisks, SandboxError> {
        let mut plugged = self.plugged.lock().await;
        let mut held = Vec::new();
        for one in wanted {
            match self.take_one(&mut plugged, one).await {
                Ok(in_guest) => held.push((one.source.key(), in_guest)),
                Err(error) => {
                    for (key, _) in held {
                        self.release_one(&mut plugged, key).await;
                    }
                    let text = format!("{}: {error}", one.what);
                    return Err(SandboxError::new(error.kind(), text));
                }
            }
        }
        Ok(HeldDisks {
            disks: Arc::downgrade(self),
            held,
        })
    }

    /// The number of the disk in the guest.
    async fn take_one(
        &self,
        plugged: &mut BTreeMap<DiskKey, Disk>,
        wanted: &Order,
    ) -> Result<DeviceNumber, SandboxError> {
        let count = plugged.len();
        match plugged.entry(wanted.source.key()) {
            Entry::Occupied(disk) if wanted.writable && !disk.get().writable => Err(failed(
                "another container of the pod has it, to read only, and one that writes must come \
                 first",
            )),
            Entry::Occupied(mut disk) => {
                disk.get_mut().users += 1;
                Ok(disk.get().in_guest)
            }
            Entry::Vacant(_) if count >= MOST => {
                Err(failed(format!("a pod can have {MOST} disks, and has them")))
            }
            Entry::Vacant(place) => {
                let disk = self.plug(wanted).await?;
                Ok(place.insert(disk).in_guest)
            }
        }
    }

    async fn plug(&self, wanted: &Order) -> Result<Disk, SandboxError> {
        let (source, writable) = (wanted.source.clone(), wanted.writable);
        let key = source.key();
        let opening = tokio::task::spawn_blocking(move || source.open(writable));
        let host = timeout(LONG, opening)
            .await
            .map_err(|_| failed(format!("it did not open within {} s", LONG.as_secs())))?
            .map_err(|error| internal(&error))?
            .map_err(|error| failed(error.to_string()))?;
        let config = DeviceConfig::Disk(DiskConfig {
            id: key.serial(),
            read_only: host.read_only,
            direct: host.direct,
            queues: self.queues,
            limits: Limits::default(),
            parts: Vec::new(),
        });
        let refused = "the pod's machine does not take it";
        let slot = connection::plug(&self.machine, config, vec![host.file], refused).await?;
        match self.find(slot).await {
            Ok(in_guest) => Ok(Disk {
                slot,
                in_guest,
                writable,
                users: 1,
                _lock: host.lock,
            }),
            Err(error) => {
                self.unplug(key, slot).await;
                Err(error)
            }
        }
    }

    /// Asks the agent for the number of a disk.
    async fn find(&self, slot: u8) -> Result<DeviceNumber, SandboxError> {
        let request = in_slot(slot);
        let answer = self
            .agent
            .call("AddDisk", LONG, async move |agent, context| {
                agent.add_disk(context, &request).await
            })
            .await?;
        DeviceNumber::new(answer.major.into(), answer.minor.into()).ok_or_else(|| {
            SandboxError::new(
                ErrorKind::Internal,
                format!(
                    "the guest calls it {}:{}, which is no device",
                    answer.major, answer.minor
                ),
            )
        })
    }

    /// Lets go of the disks of a container. Goes on when the returned future is dropped.
    async fn release(self: Arc<Self>, keys: Vec<DiskKey>) {
        let released = tokio::spawn(async move {
            let mut plugged = self.plugged.lock().await;
            for key in keys {
                self.release_one(&mut plugged, key).await;
            }
        });
        if let Err(error) = released.await {
            tracing::warn!("disks of a container: {error}");
        }
    }

    async fn release_one(&self, plugged: &mut BTreeMap<DiskKey, Disk>, key: DiskKey) {
        let Entry::Occupied(mut disk) = plugged.entry(key) else {
            return;
        };
        disk.get_mut().users -= 1;
        if disk.get().users > 0 {
            return;
        }
        // Its lock is kept until the VMM has let go of it.
        let disk = disk.remove();
        let slot = disk.slot;
        if self.machine.has_ended() {
            return;
        }
        let request = in_slot(slot);
        let removed = self
            .agent
            .call("RemoveDisk", LONG, async move |agent, context| {
                agent.remove_disk(context, &request).await
            })
            .await;
        if let Err(error) = removed {
            tracing::warn!("{key}: in the guest: {error}");
        }
        self.unplug(key, slot).await;
    }

    /// Takes a disk off the bus, which closes the device when what was asked of it is done.
    async fn unplug(&self, key: DiskKey, slot: u8) {
        let request = Request::Unplug { slot };
        let problem = match connection::ask_vmm(&self.machine, request, Vec::new()).await {
            Ok(Reply::Done) => return,
            Ok(Reply::Refused { message, .. }) => guest_text::line(&message),
            Ok(reply) => connection::unexpected(&self.machine, &reply)
                .await
                .to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!("{key} may still be open: {problem}");
    }
}

fn in_slot(slot: u8) -> DiskRequest {
    DiskRequest {
        slot: slot.into(),
        ..Default::default()
    }
}

fn failed(message: impl Into<String>) -> SandboxError {
    SandboxError::new(ErrorKind::FailedPrecondition, message)
}

fn internal(error: &tokio::task::JoinError) -> SandboxError {
    SandboxError::new(ErrorKind::Internal, error.to_string())
}
