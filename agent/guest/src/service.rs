//! The agent's ttrpc service: requests in, answers and codes out.
//!
//! A ttrpc server drops a request's future when the client goes away or its time is up. What
//! changes something therefore runs in a task of its own, which ends in any case.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use caisson_protocol::{agent, agent_ttrpc};
use tokio::sync::Notify;
use ttrpc::r#async::TtrpcContext;
use ttrpc::r#async::transport::Listener as TtrpcListener;

use crate::bus;
use crate::cpus;
use crate::disk;
use crate::error::AgentError;
use crate::identifier;
use crate::network;
use crate::pod::Pod;
use crate::process::Process;
use crate::signal::MAX_SIGNAL;
use crate::socket::Listener;

/// The service for one pod.
#[derive(Debug, Clone)]
pub struct Service {
    pod: Arc<Pod>,
    shutdown: Arc<Notify>,
}

impl Service {
    /// A service that notifies `shutdown` when the host wants the machine to end.
    #[must_use]
    pub fn new(pod: Arc<Pod>, shutdown: Arc<Notify>) -> Self {
        Self { pod, shutdown }
    }

    /// Serves the connections of a listener.
    ///
    /// # Errors
    /// When ttrpc cannot start.
    pub async fn serve(self, listener: Listener) -> ttrpc::Result<ttrpc::r#async::Server> {
        let mut server = ttrpc::r#async::Server::new()
            .add_listener(TtrpcListener::new(listener))
            .register_service(agent_ttrpc::create_agent(Arc::new(self)));
        server.start().await?;
        Ok(server)
    }

    fn process(&self, request: &agent::ProcessRequest) -> Result<Arc<Process>, AgentError> {
        self.pod
            .container(&request.container_id)?
            .process(&request.exec_id)
    }

    async fn start_process(self, request: agent::ProcessRequest) -> Result<i32, AgentError> {
        let container = self.pod.container(&request.container_id)?;
        if request.exec_id.is_empty() {
            container.start().await
        } else {
            container.start_exec(&request.exec_id).await
        }
    }

    async fn delete_process(self, request: agent::ProcessRequest) -> Result<(), AgentError> {
        if request.exec_id.is_empty() {
            self.pod.delete(&request.container_id).await
        } else {
            self.pod
                .container(&request.container_id)?
                .delete_exec(&request.exec_id)
        }
    }

    fn signal_process(&self, request: &agent::SignalRequest) -> Result<(), AgentError> {
        let number = i32::try_from(request.signal)
            .ok()
            .filter(|n| (1..=MAX_SIGNAL).contains(n));
        let number = number.ok_or_else(|| {
            AgentError::InvalidArgument(format!(
                "{} is not a signal number (1 to 64)",
                request.signal
            ))
        })?;
        let container = self.pod.container(&request.container_id)?;
        if request.all {
            if !request.exec_id.is_empty() {
                return Err(AgentError::InvalidArgument(
                    "a signal goes to one process or to all, not to both".to_owned(),
                ));
            }
            return container.signal_all(number);
        }
        container
            .process(&request.exec_id)?
            .signal(&self.pod.tools().reaper, number)
    }
}

/// Runs a change to its end, whether or not the client waits for it.
async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, AgentError>> + Send + 'static,
) -> ttrpc::Result<T> {
    match tokio::spawn(change).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(AgentError::Internal(format!("a request failed: {error}")).into()),
    }
}

/// Runs what may block on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AgentError> + Send + 'static,
) -> Result<T, AgentError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(AgentError::Internal(format!("a request failed: {error}"))),
    }
}

fn process_response(pid: i32) -> agent::ProcessResponse {
    agent::ProcessResponse {
        pid: u32::try_from(pid).unwrap_or_default(),
        ..Default::default()
    }
}

/// Terminal sizes are 16 bits wide.
fn cells(count: u32) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

#[async_trait]
impl agent_ttrpc::Agent for Service {
    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: agent::CreateContainerRequest,
    ) -> ttrpc::Result<agent::ProcessResponse> {
        let pod = Arc::clone(&self.pod);
        to_the_end(async move {
            let pid = pod.create(request).await?.process("")?.pid();
            Ok(process_response(pid.unwrap_or_default()))
        })
        .await
    }

    async fn create_exec(
        &self,
        _: &TtrpcContext,
        request: agent::CreateExecRequest,
    ) -> ttrpc::Result<agent::Empty> {
        identifier::check(&request.exec_id)?;
        let container = self.pod.container(&request.container_id)?;
        container.create_exec(request.exec_id, &request.process, &request.stdio)?;
        Ok(agent::Empty::new())
    }

    async fn start(
        &self,
        _: &TtrpcContext,
        request: agent::ProcessRequest,
    ) -> ttrpc::Result<agent::ProcessResponse> {
        let pid = to_the_end(self.clone().start_process(request)).await?;
        Ok(process_response(pid))
    }

    async fn wait(
        &self,
        _: &TtrpcContext,
        request: agent::ProcessRequest,
    ) -> ttrpc::Result<agent::WaitResponse> {
        let outcome = self.process(&request)?.wait().await?;
        Ok(agent::WaitResponse {
            exit_status: outcome.exit.status,
            exited_at_ns: outcome.exit.at_ns,
            oom_killed: outcome.oom_killed,
            ..Default::default()
        })
    }

    async fn signal(
        &self,
        _: &TtrpcContext,
        request: agent::SignalRequest,
    ) -> ttrpc::Result<agent::Empty> {
        self.signal_process(&request)?;
        Ok(agent::Empty::new())
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: agent::ProcessRequest,
    ) -> ttrpc::Result<agent::Empty> {
        to_the_end(self.clone().delete_process(request)).await?;
        Ok(agent::Empty::new())
    }

    async fn resize_terminal(
        &self,
        _: &TtrpcContext,
        request: agent::ResizeTerminalRequest,
    ) -> ttrpc::Result<agent::Empty> {
        let process = self
            .pod
            .container(&request.container_id)?
            .process(&request.exec_id)?;
        process.resize(cells(request.width), cells(request.height))?;
        Ok(agent::Empty::new())
    }

    async fn close_stdin(
        &self,
        _: &TtrpcContext,
        request: agent::ProcessRequest,
    ) -> ttrpc::Result<agent::Empty> {
        // The host half-closes the stream, and the end of the stream closes the process's input
        // behind the last byte. Closing here could overtake that byte.
        self.process(&request)?;
        Ok(agent::Empty::new())
    }

    async fn list_processes(
        &self,
        _: &TtrpcContext,
        request: agent::ContainerRequest,
    ) -> ttrpc::Result<agent::ListProcessesResponse> {
        let pids = self.pod.container(&request.container_id)?.processes()?;
        Ok(agent::ListProcessesResponse {
            pids,
            ..Default::default()
        })
    }

    async fn stats(
        &self,
        _: &TtrpcContext,
        request: agent::ContainerRequest,
    ) -> ttrpc::Result<agent::StatsResponse> {
        if request.container_id.is_empty() {
            return Ok(Pod::stats());
        }
        Ok(self.pod.container(&request.container_id)?.stats()?)
    }

    async fn pause(
        &self,
        _: &TtrpcContext,
        request: agent::ContainerRequest,
    ) -> ttrpc::Result<agent::Empty> {
        let container = self.pod.container(&request.container_id)?;
        to_the_end(async move { container.pause().await }).await?;
        Ok(agent::Empty::new())
    }

    async fn resume(
        &self,
        _: &TtrpcContext,
        request: agent::ContainerRequest,
    ) -> ttrpc::Result<agent::Empty> {
        let container = self.pod.container(&request.container_id)?;
        to_the_end(async move { container.resume().await }).await?;
        Ok(agent::Empty::new())
    }

    async fn update(
        &self,
        _: &TtrpcContext,
        request: agent::UpdateRequest,
    ) -> ttrpc::Result<agent::Empty> {
        let container = self.pod.container(&request.container_id)?;
        // Lowering a limit of memory may take a while, in which the agent must answer others.
        to_the_end(blocking(move || container.update(&request.resources))).await?;
        Ok(agent::Empty::new())
    }

    async fn update_volume(
        &self,
        _: &TtrpcContext,
        request: agent::UpdateVolumeRequest,
    ) -> ttrpc::Result<agent::Empty> {
        let container = self.pod.container(&request.container_id)?;
        // The files come from the host's file server, which may take its time.
        let update = move || container.update_volume(&request.volume);
        to_the_end(blocking(update)).await?;
        Ok(agent::Empty::new())
    }

    async fn set_cpus(
        &self,
        _: &TtrpcContext,
        request: agent::SetCpusRequest,
    ) -> ttrpc::Result<agent::Empty> {
        to_the_end(blocking(move || cpus::set_online(request.count))).await?;
        Ok(agent::Empty::new())
    }

    async fn set_interfaces(
        &self,
        _: &TtrpcContext,
        request: agent::SetInterfacesRequest,
    ) -> ttrpc::Result<agent::Empty> {
        to_the_end(blocking(move || network::set(&request.interfaces))).await?;
        Ok(agent::Empty::new())
    }

    async fn set_up_pod(
        &self,
        _: &TtrpcContext,
        request: agent::SetUpPodRequest,
    ) -> ttrpc::Result<agent::Empty> {
        Pod::set_up(&request)?;
        Ok(agent::Empty::new())
    }

    async fn add_disk(
        &self,
        _: &TtrpcContext,
        request: agent::AddDiskRequest,
    ) -> ttrpc::Result<agent::AddDiskResponse> {
        let disks = to_the_end(blocking(move || disk::add(&request))).await?;
        Ok(agent::AddDiskResponse {
            disks,
            ..Default::default()
        })
    }

    async fn remove_disk(
        &self,
        _: &TtrpcContext,
        request: agent::DiskRequest,
    ) -> ttrpc::Result<agent::Empty> {
        to_the_end(blocking(move || disk::remove(request.slot))).await?;
        Ok(agent::Empty::new())
    }

    async fn scan_bus(&self, _: &TtrpcContext, _: agent::Empty) -> ttrpc::Result<agent::Empty> {
        to_the_end(blocking(|| bus::rescan(Path::new(bus::PCI)))).await?;
        Ok(agent::Empty::new())
    }

    async fn shutdown(&self, _: &TtrpcContext, _: agent::Empty) -> ttrpc::Result<agent::Empty> {
        self.pod.kill_all();
        self.shutdown.notify_one();
        Ok(agent::Empty::new())
    }
}
