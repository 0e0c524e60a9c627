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
//!
//! Files that are only read, the layers of images, are put on a disk together: all that a container
//! wants and the pod does not have yet.
//!
//! ```text
//!   first container:  a.erofs, b.erofs, c.erofs ──▶ one disk ──▶ guest: vda1, vda2, vda3
//!   second container: a.erofs, b.erofs ──────────▶ (has them)
//!                     d.erofs, e.erofs ──────────▶ one disk ──▶ guest: vdb1, vdb2
//! ```
//!
//! An image may have 127 layers, and a bus has 32 slots; and what a device costs when it is plugged, some 1.9
//! million instructions of the guest, comes once. Eight functions in each slot would cost that for each layer,
//! as would a disk each; loop devices with offsets would have every page twice, in the cache of the disk and
//! in that of the file system. The disk has no partition table: the guest's agent is told where the files are.

mod host;
#[cfg(test)]
#[path = "../../tests/sandbox/loop_device.rs"]
mod loop_device;
mod named;
mod number;
mod plugged;
mod source;

use std::mem;
use std::sync::{Arc, Weak};

use caisson_control::{DeviceConfig, DiskConfig, Limits, MAX_QUEUES, Reply, Request, lay_out};
use caisson_protocol::agent::{AddDiskRequest, DiskNumber, DiskPart, DiskRequest};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::timeout;

use self::host::HostDisk;
pub(crate) use self::named::{WantedDisk, named, renumber, rules, wanted};
pub(crate) use self::number::DeviceNumber;
use self::plugged::{NewDisk, Plugged};
use self::source::Lock;
pub(crate) use self::source::{DiskKey, DiskSource};
use crate::agent::{Agent, LONG};
use crate::machine::Machine;
use crate::{ErrorKind, SandboxError, connection, guest_text};

// What the VMM makes one disk of, the agent takes apart.
const _: () = assert!(caisson_protocol::MAX_DISK_PARTS == caisson_control::MAX_DISK_PARTS);

/// The disks of a pod.
pub(crate) struct Disks {
    machine: Arc<Machine>,
    agent: Agent,
    /// Of each disk.
    queues: u8,
    /// Those that are plugged. Locked while that changes.
    plugged: Mutex<Plugged>,
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

impl Order {
    /// An error about it.
    fn failed(&self, error: &SandboxError) -> SandboxError {
        SandboxError::new(error.kind(), format!("{}: {error}", self.what))
    }
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
        for (index, one) in wanted.iter().enumerate() {
            match self.take_one(&mut plugged, one, wanted, index).await {
                Ok(in_guest) => held.push((one.source.key(), in_guest)),
                Err(error) => {
                    for (key, _) in held {
                        self.release_one(&mut plugged, key).await;
                    }
                    return Err(error);
                }
            }
        }
        Ok(HeldDisks {
            disks: Arc::downgrade(self),
            held,
        })
    }

    /// The number in the guest of `one`, which is `wanted[index]`; has it plugged, if it is not, and with it
    /// those of the others that can be on the same disk.
    async fn take_one(
        &self,
        plugged: &mut Plugged,
        one: &Order,
        wanted: &[Order],
        index: usize,
    ) -> Result<DeviceNumber, SandboxError> {
        let key = one.source.key();
        if let Some(found) = plugged.take(key, one.writable) {
            return found.map_err(|error| one.failed(&error));
        }
        plugged.check_room().map_err(|error| one.failed(&error))?;
        let after = wanted.get(index..).unwrap_or_default();
        let together = plugged.together(after, wanted);
        let disk = self.plug(&together).await?;
        plugged.add(disk);
        match plugged.take(key, one.writable) {
            Some(found) => found.map_err(|error| one.failed(&error)),
            None => Err(one.failed(&failed("it is not on its disk"))),
        }
    }

    /// Has a disk plugged that is made of all of these, of which there is one or more.
    async fn plug(&self, orders: &[&Order]) -> Result<NewDisk, SandboxError> {
        let opened = open(orders).await?;
        let (first, others) = match orders {
            [first, others @ ..] => (*first, others.len()),
            [] => return Err(failed("a disk of nothing")),
        };
        let about = |error: SandboxError| match others {
            0 => first.failed(&error),
            _ => {
                let text = format!("{}, and {others} more on its disk: {error}", first.what);
                SandboxError::new(error.kind(), text)
            }
        };
        let disk = self.plug_opened(first.source.key(), opened).await;
        let (slot, numbers, locks) = disk.map_err(about)?;
        let keys = orders.iter().map(|order| order.source.key());
        Ok(NewDisk {
            slot,
            writable: first.writable,
            places: keys.zip(numbers).collect(),
            locks,
        })
    }

    /// Has a disk of open files plugged; `key` is what tells the first apart. Its slot, what the guest calls
    /// each of them, and the locks.
    async fn plug_opened(
        &self,
        key: DiskKey,
        opened: Vec<HostDisk>,
    ) -> Result<(u8, Vec<DeviceNumber>, Vec<Lock>), SandboxError> {
        let parts = match opened.len() {
            1 => Vec::new(),
            _ => {
                let sizes: Vec<u64> = opened.iter().map(|file| file.bytes).collect();
                lay_out(&sizes).ok_or_else(|| failed("they are larger than a disk can be"))?
            }
        };
        let count = opened.len();
        let config = DeviceConfig::Disk(DiskConfig {
            id: key.serial(),
            read_only: opened.iter().all(|file| file.read_only),
            direct: opened.iter().any(|file| file.direct),
            queues: self.queues,
            limits: Limits::default(),
            parts: parts.clone(),
        });
        let (files, locks): (Vec<_>, Vec<_>) = opened
            .into_iter()
            .map(|file| (file.file, file.lock))
            .unzip();
        let refused = "the pod's machine does not take it";
        let slot = connection::plug(&self.machine, config, files, refused).await?;
        match self.find(slot, &parts, count).await {
            Ok(numbers) => Ok((slot, numbers, locks.into_iter().flatten().collect())),
            Err(error) => {
                self.unplug(slot).await;
                Err(error)
            }
        }
    }

    /// Asks the agent for the numbers of a disk's `count` files.
    async fn find(
        &self,
        slot: u8,
        parts: &[caisson_control::DiskPart],
        count: usize,
    ) -> Result<Vec<DeviceNumber>, SandboxError> {
        let part = |part: &caisson_control::DiskPart| DiskPart {
            offset: part.offset,
            bytes: part.bytes,
            ..Default::default()
        };
        let request = AddDiskRequest {
            slot: slot.into(),
            parts: parts.iter().map(part).collect(),
            ..Default::default()
        };
        let answer = self
            .agent
            .call("AddDisk", LONG, async move |agent, context| {
                agent.add_disk(context, &request).await
            })
            .await?;
        numbers(&answer.disks, count).map_err(|text| SandboxError::new(ErrorKind::Internal, text))
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

    async fn release_one(&self, plugged: &mut Plugged, key: DiskKey) {
        // The locks are kept until the VMM has let go of it.
        let Some((slot, _locks)) = plugged.release(key) else {
            return;
        };
        if self.machine.has_ended() {
            return;
        }
        let request = DiskRequest {
            slot: slot.into(),
            ..Default::default()
        };
        let removed = self
            .agent
            .call("RemoveDisk", LONG, async move |agent, context| {
                agent.remove_disk(context, &request).await
            })
            .await;
        if let Err(error) = removed {
            tracing::warn!("{key}: in the guest: {error}");
        }
        self.unplug(slot).await;
    }

    /// Takes a disk off the bus, which closes the device when what was asked of it is done.
    async fn unplug(&self, slot: u8) {
        let request = Request::Unplug { slot };
        let problem = match connection::ask_vmm(&self.machine, request, Vec::new()).await {
            Ok(Reply::Done) => return,
            Ok(Reply::Refused { message, .. }) => guest_text::line(&message),
            Ok(reply) => connection::unexpected(&self.machine, &reply)
                .await
                .to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!("the files of the disk in slot {slot} may still be open: {problem}");
    }
}

/// Opens what is to be a disk, or files of one. Which of them fails is in the error.
async fn open(orders: &[&Order]) -> Result<Vec<HostDisk>, SandboxError> {
    let wanted: Vec<_> = orders
        .iter()
        .map(|order| (order.source.clone(), order.writable, order.what.clone()))
        .collect();
    let opening = tokio::task::spawn_blocking(move || {
        let open = |(source, writable, what): (DiskSource, bool, String)| {
            let opened = source.open(writable);
            opened.map_err(|error| failed(format!("{what}: {error}")))
        };
        wanted.into_iter().map(open).collect::<Result<Vec<_>, _>>()
    });
    let opened = timeout(LONG, opening).await.map_err(|_| {
        let what = orders.first().map_or("", |order| order.what.as_str());
        failed(format!(
            "{what}: it did not open within {} s",
            LONG.as_secs()
        ))
    })?;
    opened.map_err(|error| internal(&error))?
}

/// What the guest says that its devices are, if it names `count` and each can be one.
pub(crate) fn numbers(said: &[DiskNumber], count: usize) -> Result<Vec<DeviceNumber>, String> {
    if said.len() != count {
        return Err(format!(
            "the guest has {} block devices for a disk of {count}",
            said.len()
        ));
    }
    let number = |said: &DiskNumber| {
        let number = DeviceNumber::new(said.major.into(), said.minor.into());
        number.ok_or_else(|| {
            format!(
                "the guest calls it {}:{}, which is no device",
                said.major, said.minor
            )
        })
    };
    said.iter().map(number).collect()
}

fn failed(message: impl Into<String>) -> SandboxError {
    SandboxError::new(ErrorKind::FailedPrecondition, message)
}

fn internal(error: &tokio::task::JoinError) -> SandboxError {
    SandboxError::new(ErrorKind::Internal, error.to_string())
}
