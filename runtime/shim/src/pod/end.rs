//! Signals, deleting, and the end of the pod.

use std::sync::{Arc, PoisonError};

use caisson_sandbox::ErrorKind;
use tokio::time::timeout;

use super::{DRAIN_TIMEOUT, Pod};
use crate::container::Container;
use crate::error::TaskError;
use crate::event::TaskEvent;
use crate::fail_point::Point;
use crate::process::{Exit, Process, ProcessKey, State};
use crate::vm;

/// Highest signal number of Linux.
const MAX_SIGNAL: u32 = 64;
/// SIGKILL.
const SIGKILL: u32 = 9;

impl Pod {
    /// Sends a signal to a process, or with `all` to every process of its container. When the guest
    /// does not answer to the SIGKILL of a container, its virtual machine is stopped.
    ///
    /// # Errors
    /// [`TaskError::Unknown`]; [`TaskError::Finished`] when it has ended, with or without its
    /// virtual machine; [`TaskError::State`] for an exec that was not started.
    pub(crate) async fn kill(
        &self,
        key: &ProcessKey,
        signal: u32,
        all: bool,
    ) -> Result<(), TaskError> {
        let process = self.process(key)?;
        if !(1..=MAX_SIGNAL).contains(&signal) {
            return Err(TaskError::Invalid(format!(
                "{signal} is not a signal: they are 1 to {MAX_SIGNAL}"
            )));
        }
        match process.state() {
            State::Added => return Err(process.refused("signal", State::Added)),
            State::Stopped(_) | State::Deleted(_) => {
                return Err(TaskError::Finished(key.clone()));
            }
            State::Created | State::Running | State::Paused => {}
        }
        self.fail_points.pass(Point::Kill).await?;
        let vm = self.running_vm(key)?;
        let id = key.id();
        match vm::alive(&*vm, vm.signal(&id, signal, all && key.is_init())).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound || self.vm_is_gone() => {
                Err(TaskError::Finished(key.clone()))
            }
            // A guest that does not even kill any more holds up the end of the pod for ever.
            Err(error)
                if error.kind() == ErrorKind::Unavailable && signal == SIGKILL && key.is_init() =>
            {
                tracing::error!("the virtual machine is stopped: {error}");
                vm.stop().await;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes an ended process, or a container that was created and never started.
    ///
    /// # Errors
    /// [`TaskError::Unknown`], also for the second time; [`TaskError::Running`], or
    /// [`TaskError::State`] when it is paused; the sandbox's when it could not clean up, and then
    /// it can be tried again.
    pub(crate) async fn delete(self: Arc<Self>, key: ProcessKey) -> Result<(u32, Exit), TaskError> {
        let container = self.container(&key.container)?;
        let process = container.process(&key.exec)?;
        if process.state() == State::Created {
            self.kill_created(&process).await?;
        }
        let turn = process.turn.lock().await;
        match process.state() {
            State::Added => {}
            State::Stopped(_) => {
                self.remove_stopped(&process).await?;
                if key.is_init() {
                    container.hooks.stopped().await;
                }
            }
            state => return Err(process.undeletable(state)),
        }
        self.fail_points.pass(Point::DeleteAfterGuest).await?;
        let exit = process.set_deleted()?;
        self.forget(&container, &process, exit);
        drop(turn);
        Ok((process.pid, exit))
    }

    /// Kills an init process that waits for its start, and waits for its end to be recorded.
    async fn kill_created(&self, process: &Process) -> Result<(), TaskError> {
        match self.kill(&process.key, SIGKILL, true).await {
            Ok(()) | Err(TaskError::Finished(_)) => {
                process.ended().await;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn remove_stopped(&self, process: &Process) -> Result<(), TaskError> {
        if timeout(DRAIN_TIMEOUT, process.drained()).await.is_err() {
            tracing::warn!("{} is deleted, its output is cut off", process.key);
        }
        process.cut();
        self.fail_points.pass(Point::DeleteBeforeGuest).await?;
        let vm = self.running_vm(&process.key)?;
        match vm.delete_process(&process.key.id()).await {
            Ok(()) => Ok(()),
            // An exec that could not be started is not in the guest.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) if self.vm_is_gone() => {
                tracing::warn!("{} is deleted after its machine: {error}", process.key);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn forget(&self, container: &Container, process: &Process, exit: Exit) {
        if !process.key.is_init() {
            container.remove(&process.key.exec);
            return;
        }
        let id = &process.key.container;
        self.table().remove(id);
        for exec in container.close() {
            // Nobody finds it any more, but somebody may still wait for it.
            let _ = exec.set_deleted();
        }
        self.publisher.publish(&TaskEvent::Deleted {
            id: id.clone(),
            pid: process.pid,
            exit,
        });
    }

    /// Leaves the pod's control group, which nothing of the pod is in any more, and removes it.
    pub(crate) fn leave_cgroup(&self) {
        let entered = self
            .cgroup
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(entered) = entered {
            entered.leave();
        }
    }

    /// Ends the virtual machine and the shim when no container is left, or at once with `now`.
    /// Otherwise nothing happens, and neither in a pod of the sandbox service, which lives without
    /// containers. Returns whether the shim ends.
    pub(crate) async fn shutdown(self: Arc<Self>, now: bool) -> bool {
        if !now && (self.is_sandbox() || !self.table().is_empty()) {
            return false;
        }
        if let Err(error) = self.fail_points.pass(Point::Shutdown).await {
            tracing::error!("{error}");
            return false;
        }
        if let Some(vm) = self.vm.get() {
            vm.stop().await;
        }
        for container in self.created() {
            // Their watchers see the end of the machine; who waits gets an answer before we go.
            let _ = timeout(DRAIN_TIMEOUT, container.init.ended()).await;
        }
        self.over.send_replace(true);
        true
    }
}
