//! The pod's network: what CNI, docker or a hook has put into its namespace on the host becomes the
//! guest's.
//!
//! ```text
//!   veth, macvlan … ── rule ──▶ tap ──▶ VMM ──▶ virtio-net      the pod's namespace │ the guest
//!   veth, macvlan … ◀── rule ── tap ◀── VMM ◀── virtio-net
//! ```
//!
//! Interfaces keep what they have on the host: CNI plug-ins look for it there, and nobody answers to
//! it, as every packet goes to the guest before the host's stack sees it. The guest chooses nothing:
//! what it gets is read here, and the VMM gets descriptors.

mod addresses;
mod guest;
mod localhost;
mod names;
mod record;
mod redirect;
mod routes;
mod steer;
mod survey;
mod tap;
mod wire;

use std::mem;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use caisson_control::{Limits, NetConfig};
use caisson_netlink::Netlink;
use caisson_protocol::agent::Interface;

pub(crate) use self::localhost::Localhost;
use self::names::Names;
use self::record::Record;
pub(crate) use self::record::undo_recorded;
use self::survey::Found;
use self::wire::WireError;
use crate::netns::NetworkNamespace;
use crate::{ErrorKind, SandboxError};

/// The pod's network. All of it is undone when the last handle is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Network(Arc<Wires>);

/// The interfaces that are connected, by the namespace they are in.
#[derive(Debug)]
struct Wires {
    namespace: NetworkNamespace,
    /// For a namespace that outlives the pod.
    record: Option<Record>,
    wires: Mutex<Vec<Wire>>,
    /// Whether it has been looked at as it is when a container starts. Locked while it is.
    complete: tokio::sync::Mutex<bool>,
    /// For a namespace with a name server of its own.
    names: OnceLock<Names>,
}

/// An interface that is connected.
#[derive(Debug)]
struct Wire {
    index: u32,
    /// What the guest is to know of it. Slot 0 is the bus's own: it has no device yet.
    interface: Interface,
    /// What the guest was told last.
    told: Option<Interface>,
}

impl Wire {
    fn is_told(&self) -> bool {
        self.told.as_ref() == Some(&self.interface)
    }
}

/// A device to be put into the virtual machine.
#[derive(Debug)]
pub(crate) struct Device {
    /// The interface that it belongs to.
    pub(crate) index: u32,
    /// For the VMM.
    pub(crate) config: NetConfig,
    /// Its file.
    pub(crate) tap: OwnedFd,
}

impl Device {
    fn new(found: &Found, tap: OwnedFd) -> Self {
        Self {
            index: found.index,
            config: NetConfig {
                mac: found.mac,
                mtu: u16::try_from(found.interface.mtu).ok(),
                queue_pairs: 1,
                receive: Limits::default(),
                transmit: Limits::default(),
            },
            tap,
        }
    }
}

impl Network {
    /// The network in `namespace`, which was there before the pod if it has a path.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when it cannot be written down in `state_dir`.
    pub(crate) fn new(
        namespace: NetworkNamespace,
        path: Option<&Path>,
        state_dir: &Path,
    ) -> Result<Self, SandboxError> {
        let record = path.map(|path| Record::begin(state_dir, path));
        let record = record.transpose().map_err(WireError::Record)?;
        Ok(Self(Arc::new(Wires {
            namespace,
            record,
            wires: Mutex::default(),
            complete: tokio::sync::Mutex::new(false),
            names: OnceLock::new(),
        })))
    }

    /// Connects the interfaces that were not there before. What has changed on the others is noticed
    /// too.
    ///
    /// # Errors
    /// [`ErrorKind::FailedPrecondition`], saying which interface and why; none of them is connected
    /// then.
    pub(crate) async fn connect(&self) -> Result<Vec<Device>, SandboxError> {
        let wires = Arc::clone(&self.0);
        let connected = self.0.namespace.run(move || wires.connect()).await;
        Ok(connected.map_err(WireError::Namespace)??)
    }

    /// Undoes everything.
    pub(crate) async fn disconnect(&self) {
        let wires = mem::take(&mut *self.0.wires());
        self.disconnect_these(wires).await;
    }

    async fn disconnect_these(&self, wires: Vec<Wire>) {
        if wires.is_empty() {
            return;
        }
        if let Err(error) = self.0.namespace.run(move || disconnect(&wires)).await {
            tracing::warn!("the pod's network namespace was not tidied: {error}");
        }
    }

    /// The namespace.
    pub(crate) fn namespace(&self) -> &NetworkNamespace {
        &self.0.namespace
    }
}

impl Wires {
    /// To be called in the namespace.
    fn connect(&self) -> Result<Vec<Device>, WireError> {
        let mut netlink = Netlink::open()?;
        let all = survey::survey(&mut netlink)?;
        let mut wires = self.wires();
        let before = wires.len();
        let mut devices = Vec::new();
        for found in all {
            if let Some(wire) = wires.iter_mut().find(|wire| wire.index == found.index) {
                let slot = wire.interface.slot;
                wire.interface = found.interface;
                wire.interface.slot = slot;
                continue;
            }
            let connected = wire::connect(&mut netlink, &found).and_then(|tap| {
                let recorded = self.record.as_ref().map(|record| record.add(found.index));
                recorded.transpose().map_err(|error| {
                    wire::disconnect(&mut netlink, found.index);
                    WireError::Record(error)
                })?;
                Ok(tap)
            });
            match connected {
                Ok(tap) => {
                    devices.push(Device::new(&found, tap));
                    wires.push(Wire {
                        index: found.index,
                        interface: found.interface,
                        told: None,
                    });
                }
                Err(error) => {
                    for wire in wires.drain(before..) {
                        wire::disconnect(&mut netlink, wire.index);
                    }
                    return Err(error);
                }
            }
        }
        Ok(devices)
    }

    fn wires(&self) -> MutexGuard<'_, Vec<Wire>> {
        self.wires.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        let wires = mem::take(&mut *self.wires());
        if wires.is_empty() {
            return;
        }
        if let Err(error) = self.namespace.run_blocking(|| disconnect(&wires)) {
            tracing::warn!("the pod's network namespace was not tidied: {error}");
        }
    }
}

/// To be called in the namespace.
fn disconnect(wires: &[Wire]) {
    match Netlink::open() {
        Ok(mut netlink) => {
            for wire in wires {
                wire::disconnect(&mut netlink, wire.index);
            }
        }
        Err(error) => tracing::warn!("the pod's network namespace was not tidied: {error}"),
    }
}

impl From<WireError> for SandboxError {
    fn from(error: WireError) -> Self {
        let kind = match &error {
            WireError::Record(_) => ErrorKind::Internal,
            _ => ErrorKind::FailedPrecondition,
        };
        Self::new(kind, format!("the pod's network: {error}"))
    }
}

#[cfg(test)]
mod test_namespace;
#[cfg(test)]
#[path = "network_test.rs"]
mod tests;
