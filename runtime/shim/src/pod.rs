//! A pod: one virtual machine and the containers in it, as containerd's task service sees them.

mod change;
mod create;
mod end;
mod host_namespaces;
mod run;
mod sandbox;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use caisson_sandbox::VmEnd;
use tokio::sync::{OnceCell, watch};

use crate::container::Container;
use crate::error::TaskError;
use crate::fail_point::FailPoints;
use crate::hooks::HostMounts;
use crate::host_cgroup::HostCgroup;
use crate::phases::Phases;
use crate::process::{Exit, Process, ProcessKey, State};
use crate::publisher::Publisher;
use crate::vm::{self, Launcher, Vm};

pub(crate) use create::CreateRequest;
pub(crate) use run::ExecRequest;
pub(crate) use sandbox::{Running, SandboxRequest, SandboxState};

/// How long after its end a process's output is waited for. What still holds the stream then is a
/// process it left behind; containerd's own shim waits as long.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// What is fixed for the life of a pod.
#[derive(Debug, Clone)]
pub(crate) struct PodOptions {
    /// The container that the shim was started for; also the name of the sandbox.
    pub(crate) id: String,
    /// containerd's namespace.
    pub(crate) namespace: String,
    /// Directory for the sandbox's files; made and removed by the sandbox.
    pub(crate) state_dir: PathBuf,
}

/// A pod.
pub(crate) struct Pod {
    options: PodOptions,
    publisher: Publisher,
    phases: Arc<Phases>,
    launcher: Box<dyn Launcher>,
    /// Where hooks run, if not in the mount namespace of this process.
    host_mounts: OnceLock<HostMounts>,
    fail_points: FailPoints,
    vm: OnceCell<Arc<dyn Vm>>,
    /// The control group that this process has entered for the pod.
    cgroup: Mutex<Option<HostCgroup>>,
    /// The highest OOM score that a container brought, which is the machine's.
    oom_score: Mutex<Option<i32>>,
    /// Why the virtual machine is gone, once it is.
    end: watch::Sender<Option<VmEnd>>,
    containers: Mutex<HashMap<String, Slot>>,
    /// What containerd's sandbox service has made of it.
    sandbox: watch::Sender<SandboxState>,
    /// Changes of the machine's size take turns; taken by nothing else.
    sizing: tokio::sync::Mutex<()>,
    /// Whether a container or a sandbox was ever created or asked for.
    used: watch::Sender<bool>,
    over: watch::Sender<bool>,
}

/// An entry of the task table.
enum Slot {
    /// Create is under way: the name is taken, and nobody else sees it yet.
    Creating,
    /// Created and not deleted.
    Ready(Arc<Container>),
}

/// What State answers.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// The process.
    pub(crate) process: Arc<Process>,
    /// Its state at that moment.
    pub(crate) state: State,
    /// The bundle of its container.
    pub(crate) bundle: PathBuf,
}

impl Pod {
    /// A pod without a virtual machine; the first container or the sandbox service brings it.
    pub(crate) fn new(
        options: PodOptions,
        publisher: Publisher,
        launcher: Box<dyn Launcher>,
    ) -> Arc<Self> {
        let phases = Phases::new(&options.id, options.state_dir.clone());
        Arc::new(Self {
            options,
            publisher,
            phases: Arc::new(phases),
            launcher,
            host_mounts: OnceLock::new(),
            fail_points: FailPoints::default(),
            vm: OnceCell::new(),
            cgroup: Mutex::default(),
            oom_score: Mutex::default(),
            end: watch::Sender::new(None),
            containers: Mutex::default(),
            sandbox: watch::Sender::new(SandboxState::Unused),
            sizing: tokio::sync::Mutex::default(),
            used: watch::Sender::new(false),
            over: watch::Sender::new(false),
        })
    }

    /// Has the hooks of containers run in the mount namespace `host`.
    pub(crate) fn run_hooks_in(&self, host: HostMounts) {
        // The first one holds; there is only one.
        let _ = self.host_mounts.set(host);
    }

    /// The state of a process. Never waits.
    ///
    /// # Errors
    /// [`TaskError::Unknown`].
    pub(crate) fn state(&self, key: &ProcessKey) -> Result<Snapshot, TaskError> {
        let container = self.container(&key.container)?;
        let process = container.process(&key.exec)?;
        let state = match (process.state(), container.init.state()) {
            // A container stands still as a whole.
            (State::Running, State::Paused) => State::Paused,
            (state, _) => state,
        };
        Ok(Snapshot {
            state,
            process,
            bundle: container.bundle.path().to_owned(),
        })
    }

    /// The processes of a container that containerd knows of: init, even when it has ended, and
    /// the running execs. Never waits.
    ///
    /// # Errors
    /// [`TaskError::Unknown`].
    pub(crate) fn processes(&self, container: &str) -> Result<Vec<Arc<Process>>, TaskError> {
        let container = self.container(container)?;
        let mut processes = vec![Arc::clone(&container.init)];
        processes.extend(container.running_execs());
        Ok(processes)
    }

    /// Waits for the end of a process and of its output.
    ///
    /// # Errors
    /// [`TaskError::Unknown`].
    pub(crate) async fn wait(&self, key: &ProcessKey) -> Result<Exit, TaskError> {
        let process = self.process(key)?;
        Ok(process.wait().await)
    }

    /// Ends the standard input of a process.
    ///
    /// # Errors
    /// [`TaskError::Unknown`].
    pub(crate) fn close_stdin(&self, key: &ProcessKey) -> Result<(), TaskError> {
        self.process(key)?.close_stdin();
        Ok(())
    }

    /// Sets the size of a terminal, at once or when its process starts; without a terminal does
    /// nothing.
    ///
    /// # Errors
    /// [`TaskError::Unknown`], [`TaskError::Finished`], or the sandbox's.
    pub(crate) async fn resize(
        &self,
        key: &ProcessKey,
        width: u32,
        height: u32,
    ) -> Result<(), TaskError> {
        let process = self.process(key)?;
        if !process.stdio.terminal {
            return Ok(());
        }
        match process.state() {
            State::Added => {
                process.set_size(width, height);
                Ok(())
            }
            State::Created | State::Running | State::Paused => {
                let vm = self.running_vm(key)?;
                let id = key.id();
                Ok(vm::alive(&*vm, vm.resize(&id, width, height)).await?)
            }
            State::Stopped(_) | State::Deleted(_) => Err(TaskError::Finished(key.clone())),
        }
    }

    /// Returns when the shim has nothing left to do.
    pub(crate) async fn over(&self) {
        // The sender is a field of `self`, so it is not gone.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// Returns when a container or a sandbox was asked for.
    pub(crate) async fn used(&self) {
        let _ = self.used.subscribe().wait_for(|used| *used).await;
    }

    /// The phases of its start.
    pub(crate) fn phases(&self) -> &Phases {
        &self.phases
    }

    /// The queue of events.
    pub(crate) fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    fn container(&self, id: &str) -> Result<Arc<Container>, TaskError> {
        match self.table().get(id) {
            Some(Slot::Ready(container)) => Ok(Arc::clone(container)),
            _ => Err(TaskError::Unknown(ProcessKey::new(id, ""))),
        }
    }

    /// Those that were created and not deleted.
    fn created(&self) -> Vec<Arc<Container>> {
        let table = self.table();
        let ready = table.values().filter_map(|slot| match slot {
            Slot::Ready(container) => Some(Arc::clone(container)),
            Slot::Creating => None,
        });
        ready.collect()
    }

    fn process(&self, key: &ProcessKey) -> Result<Arc<Process>, TaskError> {
        self.container(&key.container)?.process(&key.exec)
    }

    /// The virtual machine of a container that was created; as long as that exists, so does the
    /// virtual machine or the reason why it is gone.
    fn running_vm(&self, key: &ProcessKey) -> Result<Arc<dyn Vm>, TaskError> {
        let vm = self.vm.get().map(Arc::clone);
        vm.ok_or_else(|| TaskError::Unknown(key.clone()))
    }

    fn vm_is_gone(&self) -> bool {
        self.end.borrow().is_some()
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "pod/hooks_test.rs"]
mod hooks_tests;
#[cfg(test)]
#[path = "pod/sandbox_test.rs"]
mod sandbox_tests;
#[cfg(test)]
#[path = "pod_test.rs"]
mod tests;
