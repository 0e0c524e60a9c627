//! The pod as containerd's sandbox service has it: made, started and stopped by itself, and not with
//! a container that holds it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use caisson_protocol::agent::StatsResponse;
use caisson_sandbox::{Config, PodSetUp, VmEndKind, VmSize};
use oci_spec::runtime::Spec;
use tokio::time::timeout;

use super::create::configuration;
use super::{DRAIN_TIMEOUT, Pod, host_namespaces};
use crate::bundle::Bundle;
use crate::error::TaskError;
use crate::fail_point::Point;
use crate::host_cgroup::GroupPath;
use crate::pod_config::PodConfig;
use crate::pod_files;
use crate::process::{Exit, KILLED};
use crate::vm::{self, Vm};

/// What containerd 2.x gives the pause container of a pod unless it is told not to
/// (`enable_unprivileged_ports`, `enable_unprivileged_icmp`), and does not tell a shim.
const SYSCTLS: [(&str, &str); 2] = [
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("net.ipv4.ping_group_range", "0 2147483647"),
];

/// What containerd asks for.
#[derive(Debug)]
pub(crate) struct SandboxRequest {
    /// The pod.
    pub(crate) id: String,
    /// Its bundle, without a configuration.
    pub(crate) bundle: PathBuf,
    /// Its network namespace; empty for one to be made.
    pub(crate) netns: PathBuf,
    /// Its configuration, from CRI.
    pub(crate) config: Option<PodConfig>,
}

/// A pod that can be started.
#[derive(Debug)]
pub(crate) struct Prepared {
    bundle: Bundle,
    netns: Option<PathBuf>,
    pod: PodConfig,
    cgroup: Option<GroupPath>,
    config: Config,
}

/// What the sandbox service has made of the pod.
#[derive(Debug, Clone)]
pub(crate) enum SandboxState {
    /// Nothing: it is a pod of tasks.
    Unused,
    /// Created, and not started.
    Created(Arc<Prepared>),
    /// The machine boots.
    Starting,
    /// It runs.
    Ready(Running),
    /// It has ended, or was never started and will not be.
    Stopped(Option<Running>, Exit),
}

/// A pod that was started.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    /// Its process on the host.
    pub(crate) pid: u32,
    /// When its machine was up.
    pub(crate) since: SystemTime,
    prepared: Arc<Prepared>,
}

impl SandboxState {
    fn name(&self) -> &'static str {
        match self {
            Self::Unused => "unknown",
            Self::Created(_) => "created",
            Self::Starting => "starting",
            Self::Ready(_) => "running",
            Self::Stopped(..) => "stopped",
        }
    }
}

impl Pod {
    /// Takes over what the pod is to be. Nothing of it runs yet.
    ///
    /// # Errors
    /// [`TaskError::SandboxExists`] for the second time; [`TaskError::Precondition`] when there are
    /// containers; what is wrong with the configuration.
    pub(crate) fn create_sandbox(&self, request: SandboxRequest) -> Result<(), TaskError> {
        self.used.send_replace(true);
        if self.is_sandbox() {
            return Err(TaskError::SandboxExists(self.options.id.clone()));
        }
        if request.id != self.options.id {
            return Err(TaskError::Invalid(format!(
                "this shim was started for pod {:?} and not for {:?}",
                self.options.id, request.id
            )));
        }
        if !self.table().is_empty() {
            return Err(TaskError::Precondition(
                "a pod cannot become a sandbox when it has containers already".to_owned(),
            ));
        }
        let prepared = Arc::new(self.prepare(request)?);
        let mut exists = false;
        self.sandbox.send_if_modified(|state| {
            exists = !matches!(state, SandboxState::Unused);
            if !exists {
                *state = SandboxState::Created(prepared);
            }
            !exists
        });
        if exists {
            return Err(TaskError::SandboxExists(self.options.id.clone()));
        }
        Ok(())
    }

    fn prepare(&self, request: SandboxRequest) -> Result<Prepared, TaskError> {
        let bundle = Bundle::new(request.bundle);
        let invalid = |error: &dyn ToString| TaskError::Invalid(error.to_string());
        let internal = |what: &str, error: &std::io::Error| {
            let bundle = bundle.path().display();
            TaskError::Internal(format!("cannot {what} {bundle}: {error}"))
        };
        let options = bundle.runtime_options().map_err(|error| invalid(&error))?;
        let config = configuration(&options, &bundle)?;
        let pod = request.config;
        let mut cgroup = None;
        if let Some(pod) = &pod {
            host_namespaces::check_pod(pod.host)?;
            self.fail_points
                .arm(&pod.annotations, bundle.path())
                .map_err(|error| invalid(&error))?;
            if !pod.cgroup_parent.is_empty() {
                let path = GroupPath::of_pod(&pod.cgroup_parent, &request.id);
                cgroup = Some(path.map_err(|error| invalid(&error))?);
            }
            pod_files::write(bundle.path(), pod)
                .map_err(|error| internal("write the files of the pod into", &error))?;
        }
        bundle
            .mark_pod(cgroup.as_ref())
            .map_err(|error| internal("write into", &error))?;
        Ok(Prepared {
            netns: Some(request.netns).filter(|path| !path.as_os_str().is_empty()),
            bundle,
            pod: pod.unwrap_or_default(),
            cgroup,
            config,
        })
    }

    /// Boots the pod's machine, as large as its limits say.
    ///
    /// # Errors
    /// [`TaskError::Precondition`] when it was not created, or was started before; what prevents
    /// the boot, and then it counts as stopped.
    pub(crate) async fn start_sandbox(self: Arc<Self>, id: String) -> Result<Running, TaskError> {
        let mut prepared = Err(self.sandbox_refused("start", &id));
        self.sandbox.send_if_modified(|state| {
            if let SandboxState::Created(created) = state
                && id == self.options.id
            {
                prepared = Ok(Arc::clone(created));
                *state = SandboxState::Starting;
            }
            prepared.is_ok()
        });
        let prepared = prepared?;
        match self.boot(&prepared).await {
            Ok(vm) => {
                let running = Running {
                    pid: vm.pid(),
                    since: SystemTime::now(),
                    prepared,
                };
                // It may have ended already, and whoever waits was told.
                let ready = self.sandbox.send_if_modified(|state| {
                    let starting = matches!(state, SandboxState::Starting);
                    if starting {
                        *state = SandboxState::Ready(running.clone());
                    }
                    starting
                });
                match &*self.end.borrow() {
                    Some(end) if !ready => Err(vm::gone(end).into()),
                    _ => Ok(running),
                }
            }
            Err(error) => {
                tracing::error!(id, "the pod did not start: {error}");
                if let Some(vm) = self.vm.get() {
                    vm.stop().await;
                }
                self.sandbox_ended(Exit::now(KILLED));
                Err(error)
            }
        }
    }

    async fn boot(self: &Arc<Self>, prepared: &Prepared) -> Result<Arc<dyn Vm>, TaskError> {
        self.fail_points.pass(Point::CreateBeforeVm).await?;
        let Prepared { pod, config, .. } = prepared;
        let size = VmSize::for_limits(pod.limits, config);
        let vm = self
            .vm
            .get_or_try_init(|| async {
                if let Some(path) = &prepared.cgroup {
                    self.enter_cgroup(path)?;
                }
                let launched = self.launch(size, prepared.netns.clone(), config).await;
                launched.map_err(TaskError::from)
            })
            .await?;
        self.fail_points.pass(Point::CreateAfterVm).await?;
        let mut sysctls: HashMap<_, _> = SYSCTLS
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        sysctls.extend(pod.sysctls.clone());
        let set_up = PodSetUp {
            hostname: pod.hostname.clone(),
            sysctls,
        };
        vm::alive(&**vm, vm.set_up_pod(set_up)).await?;
        // `delete` needs it when this process is gone.
        prepared.bundle.write_init_pid(vm.pid()).map_err(|error| {
            let bundle = prepared.bundle.path().display();
            TaskError::Internal(format!("cannot write init.pid into {bundle}: {error}"))
        })?;
        Ok(Arc::clone(vm))
    }

    /// Ends the pod's machine with all that runs in it. The shim lives on.
    ///
    /// # Errors
    /// [`TaskError::NoSandbox`].
    pub(crate) async fn stop_sandbox(self: Arc<Self>, id: String) -> Result<(), TaskError> {
        self.check_sandbox(&id)?;
        // A boot ends by itself, and there is nothing to stop before it has.
        let mut states = self.sandbox.subscribe();
        // The sender is a field of `self`, so it is not gone.
        let _ = states
            .wait_for(|state| !matches!(state, SandboxState::Starting))
            .await;
        if let Some(vm) = self.vm.get() {
            vm.stop().await;
        }
        for container in self.created() {
            // Their watchers see the end of the machine.
            let _ = timeout(DRAIN_TIMEOUT, container.init.ended()).await;
        }
        self.sandbox_ended(Exit::now(0));
        Ok(())
    }

    /// Returns when the pod has ended.
    ///
    /// # Errors
    /// [`TaskError::NoSandbox`].
    pub(crate) async fn wait_sandbox(&self, id: &str) -> Result<Exit, TaskError> {
        self.check_sandbox(id)?;
        let mut states = self.sandbox.subscribe();
        let stopped = states
            .wait_for(|state| matches!(state, SandboxState::Stopped(..)))
            .await;
        match stopped.as_deref() {
            Ok(SandboxState::Stopped(_, exit)) => Ok(*exit),
            // The sender is a field of `self`, so it is not gone.
            _ => Err(TaskError::Internal("the pod is gone".to_owned())),
        }
    }

    /// Its state. Never waits.
    ///
    /// # Errors
    /// [`TaskError::NoSandbox`].
    pub(crate) fn sandbox_state(&self, id: &str) -> Result<SandboxState, TaskError> {
        self.check_sandbox(id)?;
        Ok(self.sandbox.borrow().clone())
    }

    /// The release of the guest's kernel, once there was a guest.
    pub(crate) fn guest_kernel(&self) -> Option<String> {
        self.vm.get().map(|vm| vm.guest_kernel())
    }

    /// Whether it runs.
    ///
    /// # Errors
    /// [`TaskError::NoSandbox`]; [`TaskError::Precondition`] when it does not.
    pub(crate) fn ping_sandbox(&self, id: &str) -> Result<(), TaskError> {
        self.check_sandbox(id)?;
        self.ready_vm().map(drop)
    }

    /// Resource usage of all its containers together.
    ///
    /// # Errors
    /// As [`Pod::ping_sandbox`], and the guest's.
    pub(crate) async fn sandbox_stats(&self, id: &str) -> Result<StatsResponse, TaskError> {
        self.check_sandbox(id)?;
        let vm = self.ready_vm()?;
        Ok(vm::alive(&*vm, vm.pod_stats()).await?)
    }

    /// Ends the pod, if it has not, and the shim.
    pub(crate) async fn shutdown_sandbox(self: Arc<Self>, id: String) -> bool {
        if self.is_sandbox() {
            // An unknown name is none for this shim, which ends all the same.
            let own = self.options.id.clone();
            if let Err(error) = Arc::clone(&self).stop_sandbox(own).await {
                tracing::warn!(id, "{error}");
            }
        }
        self.shutdown(true).await
    }

    /// Whether the sandbox service has made this pod.
    pub(super) fn is_sandbox(&self) -> bool {
        !matches!(*self.sandbox.borrow(), SandboxState::Unused)
    }

    /// The machine of a pod of the sandbox service.
    ///
    /// # Errors
    /// [`TaskError::Precondition`] unless it runs.
    pub(super) fn ready_vm(&self) -> Result<Arc<dyn Vm>, TaskError> {
        if let Some(end) = &*self.end.borrow() {
            return Err(TaskError::Precondition(vm::gone(end).to_string()));
        }
        let ready = matches!(*self.sandbox.borrow(), SandboxState::Ready(_));
        let vm = self.vm.get().filter(|_| ready).map(Arc::clone);
        vm.ok_or_else(|| self.sandbox_refused("use", &self.options.id))
    }

    /// Gives a container what it has of its pod, if that is one of the sandbox service.
    pub(super) fn add_pod_files(&self, spec: &mut Spec) {
        if let SandboxState::Ready(running) = &*self.sandbox.borrow() {
            pod_files::add_to(spec, running.prepared.bundle.path());
        }
    }

    /// Notes that the machine is gone.
    pub(super) fn machine_ended(&self, kind: VmEndKind) {
        self.sandbox_ended(Exit::now(match kind {
            VmEndKind::Stopped => 0,
            _ => KILLED,
        }));
    }

    fn sandbox_ended(&self, exit: Exit) {
        self.sandbox.send_if_modified(|state| {
            let running = match state {
                SandboxState::Unused | SandboxState::Stopped(..) => return false,
                SandboxState::Created(_) | SandboxState::Starting => None,
                SandboxState::Ready(running) => Some(running.clone()),
            };
            *state = SandboxState::Stopped(running, exit);
            true
        });
    }

    fn check_sandbox(&self, id: &str) -> Result<(), TaskError> {
        if self.is_sandbox() && id == self.options.id {
            return Ok(());
        }
        Err(TaskError::NoSandbox(id.to_owned()))
    }

    fn sandbox_refused(&self, action: &str, id: &str) -> TaskError {
        let state = self.sandbox.borrow().name();
        TaskError::Precondition(format!("cannot {action} pod {id:?} while it is {state}"))
    }
}
