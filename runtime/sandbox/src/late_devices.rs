//! Devices that a machine starts without, since each costs the guest's start some millions of
//! instructions: the memory device is plugged when the machine first grows, the balloon when a
//! container has run for a while.
//!
//! ```text
//!   first growth ───────────────────▶ VMM: Plug(Memory)  ──▶ agent: ScanBus ──▶ then it grows
//!   first container ── [`BALLOON`] ─▶ VMM: Plug(Balloon) ──▶ agent: ScanBus
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use caisson_control::DeviceConfig;
use caisson_protocol::agent::Empty;
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::agent::{Agent, LONG};
use crate::machine::Machine;
use crate::{ErrorKind, SandboxError, connection};

/// How long the first container has run before the guest gets its balloon. Linux collects what is free
/// for two seconds before it reports it, so that a machine that lives no longer has no use for one.
const BALLOON: Duration = Duration::from_secs(2);

/// What a machine has of these devices.
pub(crate) struct LateDevices {
    machine: Arc<Machine>,
    agent: Agent,
    /// Locked while it is plugged.
    memory: Mutex<Place>,
    balloon_is_due: AtomicBool,
}

/// How far a device has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Nowhere,
    /// The guest has not looked for it yet.
    OnTheBus,
    WithItsDriver,
}

impl LateDevices {
    pub(crate) fn new(machine: Arc<Machine>, agent: Agent) -> Arc<Self> {
        Arc::new(Self {
            machine,
            agent,
            memory: Mutex::default(),
            balloon_is_due: AtomicBool::new(false),
        })
    }

    /// Sees to it that the guest has its memory device. Goes on when the returned future is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the machine does not take it; the agent's own.
    pub(crate) async fn need_memory(self: &Arc<Self>) -> Result<(), SandboxError> {
        let devices = Arc::clone(self);
        let plugging = tokio::spawn(async move {
            let mut place = devices.memory.lock().await;
            if *place == Place::Nowhere {
                devices.plug(DeviceConfig::Memory).await?;
                *place = Place::OnTheBus;
            }
            if *place == Place::OnTheBus {
                devices.scan().await?;
                *place = Place::WithItsDriver;
            }
            Ok(())
        });
        plugging
            .await
            .map_err(|error| SandboxError::new(ErrorKind::Internal, error.to_string()))?
    }

    /// A container runs: gives the guest its balloon after a while, once. Nobody waits for that, and
    /// a machine that ends meanwhile is not kept.
    pub(crate) fn container_runs(self: &Arc<Self>) {
        if self.balloon_is_due.swap(true, Ordering::Relaxed) {
            return;
        }
        let devices = Arc::downgrade(self);
        tokio::spawn(async move {
            sleep(BALLOON).await;
            let Some(devices) = devices.upgrade() else {
                return;
            };
            if devices.machine.has_ended() {
                return;
            }
            let plugged = async {
                devices.plug(DeviceConfig::Balloon).await?;
                devices.scan().await
            };
            if let Err(error) = plugged.await
                && !devices.machine.has_ended()
            {
                tracing::warn!("the pod gives back no memory that it frees: {error}");
            }
        });
    }

    async fn plug(&self, device: DeviceConfig) -> Result<(), SandboxError> {
        let refused = "the pod's machine takes no more devices";
        connection::plug(&self.machine, device, Vec::new(), refused)
            .await
            .map(drop)
    }

    /// Has the guest look for what is new on its bus.
    async fn scan(&self) -> Result<(), SandboxError> {
        self.agent
            .call("ScanBus", LONG, async move |agent, context| {
                agent.scan_bus(context, &Empty::new()).await
            })
            .await
            .map(drop)
    }
}
