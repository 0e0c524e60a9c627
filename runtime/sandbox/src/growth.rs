//! A machine that grows and shrinks while it runs.
//!
//! CPUs are made by the VMM and brought online by the agent. Memory is offered by the VMM; the
//! driver in the guest's kernel takes it, block by block, and puts it to use by itself.

use std::time::Duration;

use caisson_control::{Reply, Request};
use caisson_protocol::agent::SetCpusRequest;
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::agent::LONG;
use crate::{ErrorKind, Sandbox, SandboxError, VmSize, connection};

/// How long the guest may take to put memory to use: a GiB takes a tenth of a second on hardware.
/// containerd's clients should get our reason before they give up, which is after two minutes.
const PLUGGING: Duration = Duration::from_secs(60);
/// The VMM says how far the guest is only when it is asked.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// The size of a machine: at boot, at most, and now.
#[derive(Debug)]
pub(crate) struct Growth {
    boot: VmSize,
    most: VmSize,
    /// What it was last asked to have. Locked while that changes.
    now: Mutex<VmSize>,
}

impl Growth {
    pub(crate) fn new(boot: VmSize, most: VmSize) -> Self {
        Self {
            boot,
            most,
            now: Mutex::new(boot),
        }
    }

    fn check(&self, wanted: VmSize) -> Result<(), SandboxError> {
        let most = self.most;
        let (what, key) = if wanted.vcpus > most.vcpus {
            (
                format!("{} vCPUs, and it can have {}", wanted.vcpus, most.vcpus),
                "max_vcpus",
            )
        } else if wanted.memory_mib > most.memory_mib {
            (
                format!(
                    "{} MiB of memory, and it can have {}",
                    wanted.memory_mib, most.memory_mib
                ),
                "max_memory_mib",
            )
        } else {
            return Ok(());
        };
        Err(SandboxError::new(
            ErrorKind::FailedPrecondition,
            format!(
                "with these limits the pod's machine would need {what}: set `{key}` in section \
                 [vm] of the configuration file for pods to come"
            ),
        ))
    }
}

impl Sandbox {
    /// The size with which the machine was booted. It never has less.
    #[must_use]
    pub fn boot_size(&self) -> VmSize {
        self.growth.boot
    }

    /// Makes the machine larger or smaller. What it grows by is usable when this returns; what it
    /// shrinks by, the guest gives back as far and as soon as it can.
    ///
    /// # Errors
    /// [`ErrorKind::FailedPrecondition`] for more than it can have; [`ErrorKind::Unavailable`] when
    /// the host has no more or the guest does not take it. The machine then has the size it had.
    pub async fn resize_machine(&self, wanted: VmSize) -> Result<(), SandboxError> {
        let boot = self.growth.boot;
        let wanted = VmSize {
            vcpus: wanted.vcpus.max(boot.vcpus),
            memory_mib: wanted.memory_mib.max(boot.memory_mib),
        };
        self.growth.check(wanted)?;
        let mut now = self.growth.now.lock().await;
        if *now == wanted {
            return Ok(());
        }
        let before = *now;
        let result = self.change_size(before, wanted).await;
        *now = match result {
            Ok(()) => wanted,
            Err(_) => {
                // The first error is the one to tell.
                let _ = self.change_size(wanted, before).await;
                before
            }
        };
        result
    }

    async fn change_size(&self, from: VmSize, to: VmSize) -> Result<(), SandboxError> {
        if to.vcpus > from.vcpus {
            let count = to.vcpus;
            self.order("vCPUs", Request::SetVcpus { count }).await?;
        }
        if to.vcpus != from.vcpus {
            let request = SetCpusRequest {
                count: to.vcpus.into(),
                ..Default::default()
            };
            self.agent
                .call("SetCpus", LONG, async move |agent, context| {
                    agent.set_cpus(context, &request).await
                })
                .await?;
        }
        if to.memory_mib != from.memory_mib {
            let mib = to.memory_mib - self.growth.boot.memory_mib;
            if to.memory_mib > from.memory_mib {
                self.late_devices.need_memory().await?;
            }
            self.order("memory", Request::SetHotplugMemory { mib })
                .await?;
            if to.memory_mib > from.memory_mib {
                self.plugged(mib).await?;
            }
        }
        Ok(())
    }

    /// Waits until the guest has plugged this much.
    async fn plugged(&self, mib: u32) -> Result<(), SandboxError> {
        let mut plugged = 0;
        let all = async {
            loop {
                let reply =
                    connection::ask_vmm(&self.machine, Request::Metrics, Vec::new()).await?;
                let Reply::Metrics(metrics) = reply else {
                    return Err(connection::unexpected(&self.machine, &reply).await);
                };
                plugged = metrics.memory.plugged_mib;
                if plugged >= mib {
                    return Ok(());
                }
                sleep(ASK_AGAIN).await;
            }
        };
        self.machine.within(PLUGGING, all).await.unwrap_or_else(|| {
            Err(SandboxError::new(
                ErrorKind::Unavailable,
                format!(
                    "the guest put {plugged} of {mib} MiB of memory to use within {} s",
                    PLUGGING.as_secs()
                ),
            ))
        })
    }

    /// Asks the VMM for something that it does or refuses.
    async fn order(&self, what: &str, request: Request) -> Result<(), SandboxError> {
        match connection::ask_vmm(&self.machine, request, Vec::new()).await? {
            Reply::Done => Ok(()),
            Reply::Refused { message, .. } => Err(connection::refusal(
                &format!("no more {what} for the pod's machine"),
                &message,
            )),
            reply => Err(connection::unexpected(&self.machine, &reply).await),
        }
    }
}
