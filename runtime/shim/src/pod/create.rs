//! Creating a container, and with the first one the virtual machine.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use caisson_sandbox::{
    Config, ContainerLimits, CreateContainer, ErrorKind, PodPlace, ProcessStreams, RootMount,
    SandboxError, SandboxOptions, VmEndKind, VmSize,
};
use containerd_shim_protos::types::mount::Mount;
use oci_spec::runtime::{LinuxNamespaceType, Process as ProcessSpec, Spec};
use tokio::sync::oneshot;

use super::{Pod, Slot, host_namespaces};
use crate::args::is_identifier;
use crate::bundle::Bundle;
use crate::container::Container;
use crate::error::TaskError;
use crate::event::TaskEvent;
use crate::fail_point::Point;
use crate::group::{Group, Role};
use crate::hooks::Hooks;
use crate::host_cgroup::{GroupPath, HostCgroup};
use crate::options::Options;
use crate::process::{Process, ProcessKey};
use crate::stdio::{Stdio, StdioPaths};
use crate::vm::{self, Vm};

/// File in the bundle for a configuration that came with the request.
const CONFIG_BODY: &str = "caisson.toml";

/// What containerd asks for.
#[derive(Debug)]
pub(crate) struct CreateRequest {
    /// The container.
    pub(crate) id: String,
    /// Its bundle.
    pub(crate) bundle: PathBuf,
    /// What makes its root file system.
    pub(crate) rootfs: Vec<Mount>,
    /// Where its streams go.
    pub(crate) stdio: StdioPaths,
    /// Runtime options.
    pub(crate) options: Options,
}

/// A container that can be created.
struct NewContainer<'a> {
    request: &'a CreateRequest,
    spec: Spec,
    bundle: Bundle,
    place: PodPlace,
    stdio: Stdio,
}

/// The name of a container under creation; free again when dropped.
struct Reservation<'a> {
    pod: &'a Pod,
    id: String,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut table = self.pod.table();
        if let Some(Slot::Creating) = table.get(&self.id) {
            table.remove(&self.id);
        }
    }
}

impl Pod {
    /// Creates a container and returns the process id for containerd. What was made for it is
    /// undone when that fails.
    ///
    /// # Errors
    /// [`TaskError::Exists`] for an id in use; whatever is wrong with the request, the bundle, the
    /// machine or the image.
    pub(crate) async fn create(self: Arc<Self>, request: CreateRequest) -> Result<u32, TaskError> {
        self.used.send_replace(true);
        self.phases.reached(&request.id, "create-request");
        let reservation = self.reserve(&request.id)?;
        let result = self.create_reserved(&request).await;
        drop(reservation);
        match result {
            Ok(pid) => {
                self.phases.reached(&request.id, "container-created");
                self.fail_points.pass(Point::CreateBeforeAnswer).await?;
                Ok(pid)
            }
            Err(error) => {
                tracing::error!(id = request.id, "create failed: {error}");
                self.stop_unused_vm().await;
                Err(error)
            }
        }
    }

    fn reserve(&self, id: &str) -> Result<Reservation<'_>, TaskError> {
        if !is_identifier(id) {
            return Err(TaskError::Invalid(format!(
                "container id {id:?} is not an identifier: use 1 to 255 letters, digits, dots, \
                 dashes and underscores, not starting with a dot"
            )));
        }
        let mut table = self.table();
        if table.contains_key(id) {
            return Err(TaskError::Exists(ProcessKey::new(id, "")));
        }
        table.insert(id.to_owned(), Slot::Creating);
        Ok(Reservation {
            pod: self,
            id: id.to_owned(),
        })
    }

    async fn create_reserved(self: &Arc<Self>, request: &CreateRequest) -> Result<u32, TaskError> {
        let bundle = Bundle::new(&request.bundle);
        let spec = bundle
            .spec()
            .map_err(|error| TaskError::Invalid(error.to_string()))?;
        if let Some(annotations) = spec.annotations() {
            self.fail_points
                .arm(annotations, bundle.path())
                .map_err(|error| TaskError::Invalid(error.to_string()))?;
        }
        self.fail_points.pass(Point::CreateBeforeVm).await?;
        let config = configuration(&request.options, &bundle)?;
        let mounts = self.host_mounts.get().cloned();
        let hooks = Hooks::of(&request.id, &bundle, &spec, mounts)
            .map_err(|error| TaskError::Invalid(error.to_string()))?;
        let group = self.group_of(&request.id, &spec)?;
        host_namespaces::check(&spec, &group.place)?;
        // Both take time and neither needs the other. Neither may be dropped half way.
        let (stdio, vm) = tokio::join!(
            Stdio::open(&request.stdio, &self.options.namespace, &request.id),
            self.vm_for(&request.id, &group, &spec, &config),
        );
        let (vm, stdio) = (
            vm?,
            stdio.map_err(|error| TaskError::Precondition(error.to_string()))?,
        );
        self.fail_points.pass(Point::CreateAfterVm).await?;
        self.set_oom_score(&*vm, &spec)?;
        let new = NewContainer {
            request,
            spec,
            bundle,
            place: group.place,
            stdio,
        };
        let container = self.create_in(&*vm, new, hooks).await?;
        self.table()
            .insert(request.id.clone(), Slot::Ready(Arc::clone(&container)));
        let process = Arc::clone(&container.init);
        let pid = process.pid;
        self.publisher.publish(&TaskEvent::Created {
            id: request.id.clone(),
            bundle: request.bundle.display().to_string(),
            rootfs: request.rootfs.clone(),
            stdio: request.stdio.clone(),
            pid,
        });
        tokio::spawn(Arc::clone(self).watch(Arc::clone(&vm), container, process));
        if let Err(error) = self.fit_machine(&*vm).await {
            // Its limits are kept nevertheless; what it lacks is what others use at the same time.
            tracing::warn!(id = request.id, "{error}");
        }
        Ok(pid)
    }

    /// Creates the container in a running machine, with its hooks before: what they change in the
    /// places that are mounted into the container is there when it is made.
    async fn create_in(
        &self,
        vm: &dyn Vm,
        new: NewContainer<'_>,
        hooks: Hooks,
    ) -> Result<Arc<Container>, TaskError> {
        let pid = vm.pid();
        let limits = ContainerLimits::of_spec(&new.spec);
        let created = async {
            tokio::select! {
                done = hooks.creating(pid) => {
                    done.map_err(|error| {
                        TaskError::Precondition(format!("OCI runtime create failed: {error}"))
                    })?;
                }
                end = vm.ended() => return Err(vm::gone(&end).into()),
            }
            self.create_in_guest(
                vm,
                new.place,
                new.spec,
                &new.bundle,
                new.request,
                &new.stdio,
            )
            .await
        };
        match created.await {
            Ok(streams) => {
                let id = &new.request.id;
                let io = new.stdio.connect(streams, Some(self.timed_output(id)));
                let key = ProcessKey::new(id, "");
                let init = Process::init(key, new.request.stdio.clone(), pid, io);
                let container = Container::new(new.bundle, Arc::new(init), hooks, limits);
                Ok(Arc::new(container))
            }
            Err(error) => {
                hooks.stopped().await;
                Err(error)
            }
        }
    }

    async fn create_in_guest(
        &self,
        vm: &dyn Vm,
        place: PodPlace,
        mut spec: Spec,
        bundle: &Bundle,
        request: &CreateRequest,
        stdio: &Stdio,
    ) -> Result<ProcessStreams, TaskError> {
        self.add_pod_files(&mut spec);
        let create = CreateContainer {
            id: request.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.iter().map(root_mount).collect(),
            spec,
            place,
            terminal: request.stdio.terminal,
            stdin: stdio.has_stdin(),
            stdout: stdio.has_stdout(),
            stderr: stdio.has_stderr(),
        };
        let streams = vm::alive(vm, vm.create_container(create))
            .await
            .map_err(|error| TaskError::oci("create", &error))?;
        let passed = self.fail_points.pass(Point::CreateAfterContainer).await;
        // `delete` needs it when this process is gone; without it clients get a wrong pid.
        let recorded = passed.and_then(|()| {
            bundle.write_init_pid(vm.pid()).map_err(|error| {
                let bundle = request.bundle.display();
                TaskError::Internal(format!("cannot write init.pid into {bundle}: {error}"))
            })
        });
        if let Err(error) = recorded {
            undo(vm, &ProcessKey::new(&request.id, "")).await;
            return Err(error);
        }
        Ok(streams)
    }

    /// Gives the machine the highest OOM score of its containers: in a Kubernetes pod the first
    /// one, which only holds the pod, is always protected, and says nothing about the others.
    fn set_oom_score(&self, vm: &dyn Vm, spec: &Spec) -> Result<(), TaskError> {
        let process = spec.process().as_ref();
        let Some(score) = process.and_then(ProcessSpec::oom_score_adj) else {
            return Ok(());
        };
        let mut highest = self
            .oom_score
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if highest.is_none_or(|highest| score > highest) {
            vm.set_oom_score(score)?;
            *highest = Some(score);
        }
        Ok(())
    }

    /// The group of a container. In a pod of the sandbox service every one is a member, whatever its
    /// annotations say: who asks this shim for it means this pod.
    fn group_of(&self, id: &str, spec: &Spec) -> Result<Group, TaskError> {
        if self.is_sandbox() {
            let pod = self.options.id.clone();
            return Ok(Group {
                key: pod.clone(),
                role: Role::Member,
                place: PodPlace::Member { pod },
            });
        }
        Group::of_spec(id, spec).map_err(|error| TaskError::Invalid(error.to_string()))
    }

    /// The pod's virtual machine, started for its owner's container if there is none.
    async fn vm_for(
        self: &Arc<Self>,
        id: &str,
        group: &Group,
        spec: &Spec,
        config: &Config,
    ) -> Result<Arc<dyn Vm>, TaskError> {
        if self.is_sandbox() {
            return self.ready_vm();
        }
        if group.role == Role::Member && !self.vm.initialized() {
            return Err(TaskError::Precondition(format!(
                "the pod {:?} of container {id:?} has no virtual machine: create its sandbox \
                 container first",
                group.key
            )));
        }
        let vm = self
            .vm
            .get_or_try_init(|| async {
                if let PodPlace::Sandbox { .. } = group.place
                    && let Some(path) = cgroups_path(spec)?
                {
                    self.enter_cgroup(&path)?;
                }
                let size = VmSize::for_spec(spec, config);
                let launched = self.launch(size, network_namespace(spec), config).await;
                launched.map_err(TaskError::from)
            })
            .await?;
        if let Some(end) = &*self.end.borrow() {
            return Err(vm::gone(end).into());
        }
        Ok(Arc::clone(vm))
    }

    /// Moves this process into the pod's control group, before there are others to move.
    pub(super) fn enter_cgroup(&self, path: &GroupPath) -> Result<(), TaskError> {
        let entered =
            HostCgroup::enter(path).map_err(|error| TaskError::Precondition(error.to_string()))?;
        *self.cgroup.lock().unwrap_or_else(PoisonError::into_inner) = Some(entered);
        Ok(())
    }

    pub(super) async fn launch(
        self: &Arc<Self>,
        size: VmSize,
        netns: Option<PathBuf>,
        config: &Config,
    ) -> Result<Arc<dyn Vm>, SandboxError> {
        let most = size.most(config);
        let options = SandboxOptions {
            id: self.options.id.clone(),
            namespace: self.options.namespace.clone(),
            state_dir: self.options.state_dir.clone(),
            size,
            most,
            netns,
        };
        let vm = self.launcher.launch(config, options).await?;
        for (name, at_ns) in vm.phases() {
            self.phases.reached_at(&name, at_ns);
        }
        tracing::info!(
            id = self.options.id,
            "virtual machine runs: pid {}, {} of {} vCPUs, {} of {} MiB, kernel {}",
            vm.pid(),
            size.vcpus,
            most.vcpus,
            size.memory_mib,
            most.memory_mib,
            vm.guest_kernel()
        );
        let (pod, watched) = (Arc::clone(self), Arc::clone(&vm));
        tokio::spawn(async move {
            let end = watched.ended().await;
            let id = &pod.options.id;
            match end.kind {
                VmEndKind::Stopped => tracing::info!(id, "virtual machine stopped"),
                _ => tracing::error!(id, "virtual machine ended: {}", end.description),
            }
            let kind = end.kind;
            pod.end.send_replace(Some(end));
            pod.machine_ended(kind);
        });
        Ok(vm)
    }

    /// Told when the container first says something, which is a phase.
    fn timed_output(&self, id: &str) -> oneshot::Sender<()> {
        let (sender, receiver) = oneshot::channel();
        let (phases, id) = (Arc::clone(&self.phases), id.to_owned());
        tokio::spawn(async move {
            if receiver.await.is_ok() {
                phases.reached(&id, "output");
            }
        });
        sender
    }

    /// Ends a virtual machine in which no container came to be.
    async fn stop_unused_vm(&self) {
        if !self.table().is_empty() || self.is_sandbox() {
            return;
        }
        if let Some(vm) = self.vm.get() {
            vm.stop().await;
        }
    }
}

/// Removes a container whose creation failed after the guest had made it.
async fn undo(vm: &dyn Vm, key: &ProcessKey) {
    let id = key.id();
    // The end of the virtual machine, which follows for the first container, does the rest.
    let _ = vm::alive(vm, vm.signal(&id, 9, true)).await;
    let _ = vm::alive(vm, vm.wait_process(&id)).await;
    let _ = vm.delete_process(&id).await;
}

pub(super) fn configuration(options: &Options, bundle: &Bundle) -> Result<Config, TaskError> {
    let body = (!options.config_body.is_empty()).then(|| bundle.path().join(CONFIG_BODY));
    if let Some(path) = &body {
        bundle
            .write(CONFIG_BODY, &options.config_body)
            .map_err(|error| {
                TaskError::Internal(format!("cannot write {}: {error}", path.display()))
            })?;
    }
    let named = (!options.config_path.is_empty()).then(|| Path::new(&options.config_path));
    Config::load(body.as_deref().or(named)).map_err(|error| TaskError::Sandbox {
        kind: ErrorKind::InvalidArgument,
        message: error.to_string(),
    })
}

fn root_mount(mount: &Mount) -> RootMount {
    RootMount {
        kind: mount.type_.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    }
}

/// The control group of the configuration, if it names one.
fn cgroups_path(spec: &Spec) -> Result<Option<GroupPath>, TaskError> {
    let linux = spec.linux().as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path().as_ref());
    path.map(|path| GroupPath::parse(path))
        .transpose()
        .map_err(|error| TaskError::Invalid(error.to_string()))
}

/// The network namespace of the configuration, if it names one that exists.
fn network_namespace(spec: &Spec) -> Option<PathBuf> {
    let namespaces = spec.linux().as_ref()?.namespaces().as_ref()?;
    namespaces
        .iter()
        .find(|namespace| namespace.typ() == LinuxNamespaceType::Network)?
        .path()
        .clone()
        .filter(|path| !path.as_os_str().is_empty())
}
