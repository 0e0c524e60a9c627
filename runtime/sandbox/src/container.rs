//! Containers and their processes in a sandbox.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use caisson_protocol::StreamId;
use caisson_protocol::agent::{
    ContainerRequest, CreateContainerRequest, CreateExecRequest, ProcessRequest,
    ResizeTerminalRequest, SignalRequest, StatsResponse, Stdio, WaitResponse,
};

use crate::agent::{LONG, SHORT};
use crate::disks::{HeldDisks, Order};
use crate::mounts::{ContainerDir, RootSource};
use crate::sandbox::Container;
use crate::{
    CreateContainer, CreateExec, ErrorKind, ProcessExit, ProcessId, ProcessStreams, Sandbox,
    SandboxError, connection, identifier, roots, spec,
};

/// Most signals Linux knows (SIGRTMAX).
const MAX_SIGNAL: u32 = 64;

impl Sandbox {
    /// Prepares the root file system, the bind mounts and the disks, opens the streams and has the agent
    /// create the container; its init process waits for [`Sandbox::start_process`]. Undoes
    /// everything on failure.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] for a second container of that id;
    /// [`ErrorKind::InvalidArgument`] or [`ErrorKind::Unimplemented`] for a configuration that
    /// cannot run; what the agent says for a program that does not exist or cannot be run.
    pub async fn create_container(
        &self,
        request: CreateContainer,
    ) -> Result<ProcessStreams, SandboxError> {
        identifier::check("container", &request.id)?;
        let id = request.id.clone();
        let name = NewContainer::claim(self, &id)?;
        let mut guest = spec::for_guest(
            request.spec,
            &id,
            &request.bundle,
            &request.place,
            request.terminal,
        )?;
        if self.default_filter {
            guest.add_default_filter();
        }
        let process_namespace_of = guest.process_namespace_of.take();

        let state = self.state_dir().await?;
        let prepared = tokio::task::spawn_blocking({
            let (id, agent, updates) = (id.clone(), self.agent.clone(), self.updates.clone());
            move || {
                let guest_root = roots::plan(&request.rootfs)?;
                let mut orders: Vec<Order> = guest.disks.iter().map(Order::from).collect();
                let root = match &guest_root {
                    Some(guest_root) => {
                        orders.extend(guest_root.orders()?);
                        RootSource::Guest
                    }
                    None if request.rootfs.is_empty() => RootSource::At(&guest.host_root),
                    None => RootSource::Mounts(&request.rootfs),
                };
                let directory = ContainerDir::prepare(&state, &id, root, &guest.binds)?;
                guest.set_sources(directory.volumes());
                let updated = updates.watch(&agent, &id, guest.updated(directory.volumes()));
                Ok::<_, SandboxError>((directory, guest, guest_root, orders, updated))
            }
        });
        let (directory, guest, guest_root, orders, updated) = prepared
            .await
            .map_err(|error| SandboxError::new(ErrorKind::Internal, error.to_string()))??;
        let disks = match self.disks.take(orders).await {
            Ok(disks) => disks,
            Err(error) => {
                discard(directory).await;
                return Err(error);
            }
        };

        let streams = self.streams(
            request.stdin,
            request.stdout,
            request.stderr && !request.terminal,
        );
        let (in_pod_processes, process_namespace_of) = match process_namespace_of {
            Some(_) if self.holds_pod.load(Ordering::Relaxed) => (true, String::new()),
            of => (false, of.unwrap_or_default()),
        };
        // Those of the configuration came first.
        let (devices, of_root) = disks
            .held()
            .split_at(guest.disks.len().min(disks.held().len()));
        let numbers = of_root.iter().map(|(_, in_guest)| *in_guest);
        let root_mounts = guest_root.map_or_else(Vec::new, |root| root.mounts(numbers));
        let create = CreateContainerRequest {
            container_id: id.clone(),
            config: to_json(&guest.with_disks(devices))?,
            root_mounts,
            in_pod_processes,
            process_namespace_of,
            updated,
            stdio: Some(streams.numbers()).into(),
            ..Default::default()
        };
        let created = self
            .agent
            .call("CreateContainer", LONG, async move |agent, context| {
                agent.create_container(context, &create).await
            });
        match tokio::try_join!(streams.open(self), created) {
            Ok((streams, _)) => {
                name.keep(directory, disks);
                self.updates.created(&id);
                Ok(streams)
            }
            Err(error) => {
                // If a stream failed, the agent may have a container; NOT_FOUND is fine.
                let init = ProcessId {
                    container: id.clone(),
                    exec: String::new(),
                };
                let _ = self.delete_in_guest(&init).await;
                disks.release().await;
                discard(directory).await;
                Err(error)
            }
        }
    }

    /// Registers one more process for a container; it runs at [`Sandbox::start_process`].
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without such a container, [`ErrorKind::FailedPrecondition`] when
    /// its init has ended, [`ErrorKind::AlreadyExists`] for a second exec of that name.
    pub async fn create_exec(&self, request: CreateExec) -> Result<ProcessStreams, SandboxError> {
        let process = request.process;
        identifier::check("container", &process.container)?;
        identifier::check("exec", &process.exec)?;
        self.check_known(&process.container)?;
        let terminal = request.spec.terminal().unwrap_or(false);
        let spec = spec::process_for_guest(request.spec)?;
        let streams = self.streams(request.stdin, request.stdout, request.stderr && !terminal);
        let create = CreateExecRequest {
            container_id: process.container.clone(),
            exec_id: process.exec.clone(),
            process: to_json(&spec)?,
            stdio: Some(streams.numbers()).into(),
            ..Default::default()
        };
        let created = self
            .agent
            .call("CreateExec", SHORT, async move |agent, context| {
                agent.create_exec(context, &create).await
            });
        match tokio::try_join!(streams.open(self), created) {
            Ok((streams, _)) => Ok(streams),
            // The agent did not register it, or another of that name is registered.
            Err(error) if error.kind() != ErrorKind::Unavailable => Err(error),
            Err(error) => {
                let _ = self.delete_in_guest(&process).await;
                Err(error)
            }
        }
    }

    /// Runs a created process. The first time, the guest gets what has come into the pod's network
    /// namespace since the start of the machine.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] or [`ErrorKind::FailedPrecondition`].
    pub async fn start_process(&self, process: &ProcessId) -> Result<(), SandboxError> {
        self.check_known(&process.container)?;
        self.network.complete(&self.machine, &self.agent).await?;
        let request = process_request(process);
        self.agent
            .call("Start", LONG, async move |agent, context| {
                agent.start(context, &request).await
            })
            .await?;
        self.late_devices.container_runs();
        Ok(())
    }

    /// Waits until a process has ended; returns at once if it already has.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown process, [`ErrorKind::Unavailable`] when the
    /// machine ends first.
    pub async fn wait_process(&self, process: &ProcessId) -> Result<ProcessExit, SandboxError> {
        self.check_known(&process.container)?;
        let request = process_request(process);
        let answer = self
            .agent
            .call_without_limit(async |agent, context| agent.wait(context, &request).await)
            .await?;
        Ok(self.exit(&answer))
    }

    fn exit(&self, answer: &WaitResponse) -> ProcessExit {
        let since_epoch = Duration::from_nanos(u64::try_from(answer.exited_at_ns).unwrap_or(0));
        // The guest may have set its clock to anything; the process ended between then and now.
        let now = SystemTime::now();
        let exited_at = SystemTime::UNIX_EPOCH
            .checked_add(since_epoch)
            .unwrap_or(now)
            .max(self.started_at)
            .min(now);
        ProcessExit {
            status: answer.exit_status,
            exited_at,
            oom_killed: answer.oom_killed,
        }
    }

    /// Sends a signal (1 to 64) to a process, or with `all` to every process of its container.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when it has ended, [`ErrorKind::FailedPrecondition`] for an exec
    /// that was not started.
    pub async fn signal(
        &self,
        process: &ProcessId,
        signal: u32,
        all: bool,
    ) -> Result<(), SandboxError> {
        self.check_known(&process.container)?;
        if !(1..=MAX_SIGNAL).contains(&signal) {
            return Err(SandboxError::new(
                ErrorKind::InvalidArgument,
                format!("signal {signal} does not exist, 1 to {MAX_SIGNAL} do"),
            ));
        }
        let request = SignalRequest {
            container_id: process.container.clone(),
            // Of all processes there is none in particular.
            exec_id: if all {
                String::new()
            } else {
                process.exec.clone()
            },
            signal,
            all,
            ..Default::default()
        };
        self.agent
            .call("Signal", SHORT, async move |agent, context| {
                agent.signal(context, &request).await
            })
            .await
            .map(drop)
    }

    /// Forgets an ended process. For a container's init it also ends what is left of the
    /// container, undoes its mounts on the host and takes away its disks, even when the machine is
    /// gone.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], or [`ErrorKind::FailedPrecondition`] while it runs.
    pub async fn delete_process(&self, process: &ProcessId) -> Result<(), SandboxError> {
        self.check_known(&process.container)?;
        let deleted = self.delete_in_guest(process).await;
        if !process.exec.is_empty() {
            return deleted;
        }
        match deleted {
            Ok(()) => {}
            // The host knows it and the guest does not: there is only the host's part left.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let removed = self.containers().remove(&process.container);
        match removed {
            Some(Container::Created(directory, disks)) => {
                self.updates.forget(&process.container);
                disks.release().await;
                discard(directory).await;
                Ok(())
            }
            // Somebody else was quicker.
            Some(Container::Creating) | None => Err(unknown(&process.container)),
        }
    }

    /// Deletes in the guest; without a machine there is nothing to delete.
    async fn delete_in_guest(&self, process: &ProcessId) -> Result<(), SandboxError> {
        let request = process_request(process);
        let deleted = self
            .agent
            .call("Delete", LONG, async move |agent, context| {
                agent.delete(context, &request).await
            })
            .await;
        match deleted {
            Err(error) if error.kind() == ErrorKind::Unavailable && self.machine.has_ended() => {
                Ok(())
            }
            deleted => deleted.map(drop),
        }
    }

    /// Sets the size of a process's terminal in characters; without a terminal does nothing.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown process.
    pub async fn resize(
        &self,
        process: &ProcessId,
        width: u32,
        height: u32,
    ) -> Result<(), SandboxError> {
        self.check_known(&process.container)?;
        let request = ResizeTerminalRequest {
            container_id: process.container.clone(),
            exec_id: process.exec.clone(),
            width,
            height,
            ..Default::default()
        };
        self.agent
            .call("ResizeTerminal", SHORT, async move |agent, context| {
                agent.resize_terminal(context, &request).await
            })
            .await
            .map(drop)
    }

    /// Tells the agent that no more input follows what was already sent.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown process.
    pub async fn close_stdin(&self, process: &ProcessId) -> Result<(), SandboxError> {
        self.check_known(&process.container)?;
        let request = process_request(process);
        self.agent
            .call("CloseStdin", SHORT, async move |agent, context| {
                agent.close_stdin(context, &request).await
            })
            .await
            .map(drop)
    }

    /// The processes of a container as the guest numbers them.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown container.
    pub async fn list_processes(&self, container_id: &str) -> Result<Vec<u32>, SandboxError> {
        self.check_known(container_id)?;
        let request = container_request(container_id);
        self.agent
            .call("ListProcesses", SHORT, async move |agent, context| {
                agent.list_processes(context, &request).await
            })
            .await
            .map(|answer| answer.pids)
    }

    /// Resource usage of a container.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown container.
    pub async fn stats(&self, container_id: &str) -> Result<StatsResponse, SandboxError> {
        self.check_known(container_id)?;
        let request = container_request(container_id);
        self.agent
            .call("Stats", SHORT, async move |agent, context| {
                agent.stats(context, &request).await
            })
            .await
    }

    pub(crate) fn check_known(&self, container: &str) -> Result<(), SandboxError> {
        match self.containers().get(container) {
            Some(Container::Created(..)) => Ok(()),
            Some(Container::Creating) | None => Err(unknown(container)),
        }
    }

    fn streams(&self, stdin: bool, stdout: bool, stderr: bool) -> StreamNumbers {
        let number = |wanted: bool| {
            wanted
                .then(|| StreamId::new(self.stream_number()))
                .flatten()
        };
        StreamNumbers {
            stdin: number(stdin),
            stdout: number(stdout),
            stderr: number(stderr),
        }
    }
}

/// The streams of a process to be.
#[derive(Debug, Clone, Copy)]
struct StreamNumbers {
    stdin: Option<StreamId>,
    stdout: Option<StreamId>,
    stderr: Option<StreamId>,
}

impl StreamNumbers {
    fn numbers(self) -> Stdio {
        let number = |id: Option<StreamId>| id.map_or(0, StreamId::get);
        Stdio {
            stdin: number(self.stdin),
            stdout: number(self.stdout),
            stderr: number(self.stderr),
            ..Default::default()
        }
    }

    /// Opens them, all at once.
    async fn open(self, sandbox: &Sandbox) -> Result<ProcessStreams, SandboxError> {
        let open = async |id: Option<StreamId>| match id {
            Some(id) => connection::open_stream(&sandbox.machine, id)
                .await
                .map(Some),
            None => Ok(None),
        };
        let (stdin, stdout, stderr) =
            tokio::try_join!(open(self.stdin), open(self.stdout), open(self.stderr))?;
        Ok(ProcessStreams {
            stdin,
            stdout,
            stderr,
        })
    }
}

/// A name that is taken for a container being created, and free again when this is dropped.
struct NewContainer<'a> {
    sandbox: &'a Sandbox,
    id: &'a str,
    kept: bool,
}

impl<'a> NewContainer<'a> {
    fn claim(sandbox: &'a Sandbox, id: &'a str) -> Result<Self, SandboxError> {
        let mut containers = sandbox.containers();
        if containers.contains_key(id) {
            return Err(SandboxError::new(
                ErrorKind::AlreadyExists,
                format!("container {id} exists"),
            ));
        }
        containers.insert(id.to_owned(), Container::Creating);
        Ok(Self {
            sandbox,
            id,
            kept: false,
        })
    }

    fn keep(mut self, directory: ContainerDir, disks: HeldDisks) {
        self.kept = true;
        self.sandbox
            .containers()
            .insert(self.id.to_owned(), Container::Created(directory, disks));
    }
}

impl Drop for NewContainer<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.sandbox.updates.forget(self.id);
            self.sandbox.containers().remove(self.id);
        }
    }
}

/// Undoes the mounts without holding up the other tasks.
async fn discard(directory: ContainerDir) {
    if let Err(error) = tokio::task::spawn_blocking(move || drop(directory)).await {
        tracing::warn!("files of a container: {error}");
    }
}

fn process_request(process: &ProcessId) -> ProcessRequest {
    ProcessRequest {
        container_id: process.container.clone(),
        exec_id: process.exec.clone(),
        ..Default::default()
    }
}

pub(crate) fn container_request(container_id: &str) -> ContainerRequest {
    ContainerRequest {
        container_id: container_id.to_owned(),
        ..Default::default()
    }
}

fn unknown(container: &str) -> SandboxError {
    let shown: String = container.escape_debug().take(255).collect();
    SandboxError::new(
        ErrorKind::NotFound,
        format!("container {shown} does not exist"),
    )
}

pub(crate) fn to_json(value: &impl serde::Serialize) -> Result<Vec<u8>, SandboxError> {
    serde_json::to_vec(value).map_err(|error| {
        SandboxError::new(
            ErrorKind::InvalidArgument,
            format!("configuration for the guest: {error}"),
        )
    })
}
