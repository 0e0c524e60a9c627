//! What is done to a container that exists: pausing it, changing its limits, measuring it.

use std::sync::Arc;
use std::time::Duration;

use caisson_protocol::agent::StatsResponse;
use caisson_sandbox::{ContainerLimits, ErrorKind, SandboxError, VmSize};
use oci_spec::runtime::LinuxResources;
use tokio::time::timeout;

use super::Pod;
use crate::error::TaskError;
use crate::event::TaskEvent;
use crate::process::State;
use crate::vm::{self, Vm};

/// containerd asks for the statistics of all tasks and gives each of them 2 s
/// (`io.containerd.timeout.metrics.shimstats`); an answer that says why is better than none.
const STATS: Duration = Duration::from_millis(1500);

impl Pod {
    /// Stops every process of a container between two instructions.
    ///
    /// # Errors
    /// [`TaskError::Unknown`]; [`TaskError::State`] unless it runs; the guest's, when a process
    /// cannot be stopped, and then all of them run on.
    pub(crate) async fn pause(self: Arc<Self>, id: String) -> Result<(), TaskError> {
        let container = self.container(&id)?;
        let init = &container.init;
        // Its end is recorded after this turn, so the events come in order.
        let _turn = init.turn.lock().await;
        let state = init.state();
        if state != State::Running {
            return Err(init.refused("pause", state));
        }
        let vm = self.running_vm(&init.key)?;
        vm::alive(&*vm, vm.pause(&id)).await?;
        init.set_paused()?;
        self.publisher.publish(&TaskEvent::Paused(id));
        Ok(())
    }

    /// Lets a paused container go on.
    ///
    /// # Errors
    /// [`TaskError::Unknown`]; [`TaskError::State`] unless it is paused; the guest's.
    pub(crate) async fn resume(self: Arc<Self>, id: String) -> Result<(), TaskError> {
        let container = self.container(&id)?;
        let init = &container.init;
        let _turn = init.turn.lock().await;
        let state = init.state();
        if state != State::Paused {
            return Err(init.refused("resume", state));
        }
        let vm = self.running_vm(&init.key)?;
        vm::alive(&*vm, vm.resume(&id)).await?;
        init.set_resumed()?;
        self.publisher.publish(&TaskEvent::Resumed(id));
        Ok(())
    }

    /// Changes the limits of a container; what `resources` does not name stays as it is. If one is
    /// refused, none is changed.
    ///
    /// # Errors
    /// [`TaskError::Unknown`]; [`TaskError::State`] when it has ended; the sandbox's for a value
    /// that cannot be, or when the machine cannot grow to it.
    pub(crate) async fn update(
        self: Arc<Self>,
        id: String,
        resources: LinuxResources,
    ) -> Result<(), TaskError> {
        let container = self.container(&id)?;
        let init = &container.init;
        let _turn = container.updating.lock().await;
        let state = init.state();
        if state.exit().is_some() {
            return Err(init.refused("update", state));
        }
        let vm = self.running_vm(&init.key)?;
        let after = container.limits().changed(ContainerLimits::of(&resources));
        let needed = self.needed_size(&*vm);
        let before = container.set_limits(after);
        // What the limits promise is there before they allow to use it.
        let result = match self.fit_machine(&*vm).await {
            Err(error) if self.needed_size(&*vm).exceeds(needed) => Err(error),
            // It was too small before, and who made it so was told.
            _ => vm::alive(&*vm, vm.update(&id, resources)).await,
        };
        let Err(error) = result else { return Ok(()) };
        container.set_limits(before);
        // The first error is the one to tell.
        let _ = self.fit_machine(&*vm).await;
        Err(error.into())
    }

    /// Makes the machine as large as the limits of its containers together say. Does nothing when
    /// it is.
    pub(super) async fn fit_machine(&self, vm: &dyn Vm) -> Result<(), SandboxError> {
        // Of two changes at once, the one that is made later must know of both.
        let _turn = self.sizing.lock().await;
        let size = self.needed_size(vm);
        vm::alive(vm, vm.resize_machine(size)).await
    }

    fn needed_size(&self, vm: &dyn Vm) -> VmSize {
        let containers = self.created();
        let limits: Vec<_> = containers.iter().map(|one| one.limits()).collect();
        vm.boot_size().for_containers(&limits)
    }

    /// Resource usage of a container.
    ///
    /// # Errors
    /// [`TaskError::Unknown`]; [`TaskError::Finished`] when it has ended; the sandbox's, also when
    /// the guest does not answer in time.
    pub(crate) async fn stats(&self, id: &str) -> Result<StatsResponse, TaskError> {
        let init = Arc::clone(&self.container(id)?.init);
        if init.state().exit().is_some() {
            return Err(TaskError::Finished(init.key.clone()));
        }
        let vm = self.running_vm(&init.key)?;
        match timeout(STATS, vm::alive(&*vm, vm.stats(id))).await {
            Ok(stats) => Ok(stats?),
            Err(_) => Err(TaskError::Sandbox {
                kind: ErrorKind::Unavailable,
                message: format!("the guest did not say what {} uses in time", init.key),
            }),
        }
    }
}
