//! The guest's part: devices on its bus, and what its agent is told of them.

use std::sync::Arc;

use caisson_control::{DeviceConfig, Request};
use caisson_protocol::agent::{Interface, SetInterfacesRequest};

use super::{Device, Network};
use crate::agent::{Agent, LONG};
use crate::machine::Machine;
use crate::{ErrorKind, SandboxError, connection};

impl Network {
    /// Notes in which slots the devices are that the machine was booted with.
    pub(crate) fn plugged(&self, places: impl IntoIterator<Item = (u32, u8)>) {
        let mut wires = self.0.wires();
        for (index, slot) in places {
            if let Some(wire) = wires.iter_mut().find(|wire| wire.index == index) {
                wire.interface.slot = slot.into();
            }
        }
    }

    /// Tells the agent what it does not know yet.
    ///
    /// # Errors
    /// The agent's own.
    pub(crate) async fn tell(&self, agent: &Agent) -> Result<(), SandboxError> {
        let news: Vec<Interface> = {
            let wires = self.0.wires();
            let news = wires.iter().filter(|wire| !wire.is_told());
            news.map(|wire| wire.interface.clone()).collect()
        };
        if news.is_empty() {
            return Ok(());
        }
        let request = SetInterfacesRequest {
            interfaces: news.clone(),
            ..Default::default()
        };
        agent
            .call("SetInterfaces", LONG, async move |agent, context| {
                agent.set_interfaces(context, &request).await
            })
            .await
            .map_err(|error| {
                SandboxError::new(
                    error.kind(),
                    format!("the pod's network: in the guest: {error}"),
                )
            })?;
        let mut wires = self.0.wires();
        for told in news {
            let slot = told.slot;
            if let Some(wire) = wires.iter_mut().find(|wire| wire.interface.slot == slot) {
                wire.told = Some(told);
            }
        }
        Ok(())
    }

    /// Gives the guest what has come into the namespace since the machine was booted, interfaces and a
    /// name server: docker and hooks fill it between Create and Start. Does so once. It goes on when the returned future is
    /// dropped.
    ///
    /// # Errors
    /// See [`Network::connect`]; [`ErrorKind::Unavailable`] when the machine cannot take one more
    /// interface; the agent's own. What is new is undone then.
    pub(crate) async fn complete(
        &self,
        machine: &Arc<Machine>,
        agent: &Agent,
    ) -> Result<(), SandboxError> {
        let (network, machine, agent) = (self.clone(), Arc::clone(machine), agent.clone());
        let completion = tokio::spawn(async move {
            let mut complete = network.0.complete.lock().await;
            if *complete {
                return Ok(());
            }
            let result = network.plug_new(&machine, &agent).await;
            match &result {
                Ok(()) => {
                    *complete = true;
                    if let Err(error) = network.lead_to_names(&machine).await {
                        tracing::warn!(
                            "the name server of the pod's namespace cannot be reached from it: {error}"
                        );
                    }
                }
                Err(_) => network.unplug_untold(&machine).await,
            }
            result
        });
        completion
            .await
            .map_err(|error| SandboxError::new(ErrorKind::Internal, error.to_string()))?
    }

    async fn plug_new(&self, machine: &Machine, agent: &Agent) -> Result<(), SandboxError> {
        for device in self.connect().await? {
            let index = device.index;
            let slot = plug(machine, device).await?;
            self.plugged([(index, slot)]);
        }
        self.tell(agent).await
    }

    /// Takes the devices away that the guest was never told of.
    async fn unplug_untold(&self, machine: &Machine) {
        let untold: Vec<_> = {
            let mut wires = self.0.wires();
            wires.extract_if(.., |wire| wire.told.is_none()).collect()
        };
        for wire in &untold {
            let slot = wire.interface.slot;
            if let Some(slot) = u8::try_from(slot).ok().filter(|slot| *slot > 0) {
                let unplug = Request::Unplug { slot };
                // The first error is the one to tell.
                let _ = connection::ask_vmm(machine, unplug, Vec::new()).await;
            }
        }
        self.disconnect_these(untold).await;
    }
}

async fn plug(machine: &Machine, device: Device) -> Result<u8, SandboxError> {
    let refused = "the pod's network: the machine takes no more interfaces";
    let config = DeviceConfig::Net(device.config);
    connection::plug(machine, config, vec![device.tap], refused).await
}
