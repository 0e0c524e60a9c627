//! containerd's task service: requests to the pod, answers and codes back.
//!
//! The ttrpc server drops a call when its client's deadline passes or its connection closes. What
//! changes something therefore runs in a task of its own and finishes either way; the client that
//! asks again finds it done.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::{EnumOrUnknown, MessageField};
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::shim_async::{Task, create_task};
use oci_spec::runtime::{LinuxResources, Process as ProcessSpec};
use protobuf::well_known_types::any::Any;
use ttrpc::r#async::{Service, TtrpcContext};

use crate::error::TaskError;
use crate::event::{any, timestamp};
use crate::metrics::Hierarchy;
use crate::options::Options;
use crate::pod::{CreateRequest, ExecRequest, Pod};
use crate::process::{ProcessKey, State};
use crate::sandbox_service;
use crate::socket;
use crate::stdio::StdioPaths;

/// The names under which the same service is offered: 1.6, 1.7 and CRI-O know the first, 2.x asks
/// for the one that `start` announced. Their messages are the same.
const VERSIONS: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/// The type of what Update carries, at the end of its URL.
const RESOURCES: &str = "/LinuxResources";

/// The task service of one shim.
#[derive(Clone)]
pub(crate) struct TaskService {
    pod: Arc<Pod>,
    /// Our socket, which is gone before the last answer is given.
    socket: PathBuf,
    /// The form in which this host's clients expect statistics.
    hierarchy: Hierarchy,
}

/// The services to register with the server.
pub(crate) fn services(pod: &Arc<Pod>, socket: PathBuf) -> HashMap<String, Service> {
    let sandbox = sandbox_service::services(pod, socket.clone());
    let service = TaskService {
        pod: Arc::clone(pod),
        socket,
        hierarchy: Hierarchy::of_host(),
    };
    VERSIONS
        .into_iter()
        .filter_map(|name| {
            let generated = create_task(Arc::new(service.clone()));
            let service = generated.into_values().next()?;
            Some((name.to_owned(), service))
        })
        .chain(sandbox)
        .collect()
}

/// Runs `work` to its end even when the caller goes away.
pub(crate) async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, TaskError>> + Send + 'static,
) -> ttrpc::Result<T> {
    match tokio::spawn(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(TaskError::Internal(format!("the shim failed: {error}")).into()),
    }
}

/// The limits in an Update request.
fn resources(any: Option<&Any>) -> Result<LinuxResources, TaskError> {
    let Some(any) = any else {
        return Err(TaskError::Invalid(
            "the update names no resources: say which limits to change".to_owned(),
        ));
    };
    if !any.type_url.ends_with(RESOURCES) {
        return Err(TaskError::Invalid(format!(
            "an update with {:?} is not known, only one with LinuxResources of the OCI runtime \
             specification",
            any.type_url
        )));
    }
    serde_json::from_slice(&any.value)
        .map_err(|error| TaskError::Invalid(format!("the resources are not valid: {error}")))
}

#[async_trait]
impl Task for TaskService {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: api::CreateTaskRequest,
    ) -> ttrpc::Result<api::CreateTaskResponse> {
        if !request.checkpoint.is_empty() {
            return Err(TaskError::Unimplemented(
                "restoring a container from a checkpoint is not supported",
            )
            .into());
        }
        let options = Options::from_any(request.options.as_ref()).map_err(TaskError::Invalid)?;
        let create = CreateRequest {
            id: request.id,
            bundle: request.bundle.into(),
            rootfs: request.rootfs,
            stdio: StdioPaths {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
            options,
        };
        let mut response = api::CreateTaskResponse::new();
        response.pid = detached(Arc::clone(&self.pod).create(create)).await?;
        Ok(response)
    }

    async fn start(
        &self,
        _: &TtrpcContext,
        request: api::StartRequest,
    ) -> ttrpc::Result<api::StartResponse> {
        let key = ProcessKey::new(&request.id, &request.exec_id);
        let mut response = api::StartResponse::new();
        response.pid = detached(Arc::clone(&self.pod).start(key)).await?;
        Ok(response)
    }

    async fn state(
        &self,
        _: &TtrpcContext,
        request: api::StateRequest,
    ) -> ttrpc::Result<api::StateResponse> {
        let key = ProcessKey::new(&request.id, &request.exec_id);
        let snapshot = self.pod.state(&key)?;
        let process = snapshot.process;
        let mut response = api::StateResponse::new();
        response.id = request.id;
        response.exec_id = request.exec_id;
        response.bundle = snapshot.bundle.display().to_string();
        // No process id tells containerd that an exec was not started.
        response.pid = match snapshot.state {
            State::Added => 0,
            _ => process.pid,
        };
        response.status = EnumOrUnknown::new(match snapshot.state {
            State::Added | State::Created => api::Status::CREATED,
            State::Running => api::Status::RUNNING,
            State::Paused => api::Status::PAUSED,
            State::Stopped(_) | State::Deleted(_) => api::Status::STOPPED,
        });
        response.stdin.clone_from(&process.stdio.stdin);
        response.stdout.clone_from(&process.stdio.stdout);
        response.stderr.clone_from(&process.stdio.stderr);
        response.terminal = process.stdio.terminal;
        if let Some(exit) = snapshot.state.exit() {
            response.exit_status = exit.status;
            response.exited_at = MessageField::some(timestamp(exit.at));
        }
        Ok(response)
    }

    async fn wait(
        &self,
        _: &TtrpcContext,
        request: api::WaitRequest,
    ) -> ttrpc::Result<api::WaitResponse> {
        // Changes nothing: a caller that goes away takes its waiting with it.
        let key = ProcessKey::new(&request.id, &request.exec_id);
        let exit = self.pod.wait(&key).await?;
        let mut response = api::WaitResponse::new();
        response.exit_status = exit.status;
        response.exited_at = MessageField::some(timestamp(exit.at));
        Ok(response)
    }

    async fn kill(&self, _: &TtrpcContext, request: api::KillRequest) -> ttrpc::Result<api::Empty> {
        let pod = Arc::clone(&self.pod);
        detached(async move {
            let key = ProcessKey::new(&request.id, &request.exec_id);
            pod.kill(&key, request.signal, request.all).await
        })
        .await?;
        Ok(api::Empty::new())
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: api::DeleteRequest,
    ) -> ttrpc::Result<api::DeleteResponse> {
        let key = ProcessKey::new(&request.id, &request.exec_id);
        let (pid, exit) = detached(Arc::clone(&self.pod).delete(key)).await?;
        let mut response = api::DeleteResponse::new();
        response.pid = pid;
        response.exit_status = exit.status;
        response.exited_at = MessageField::some(timestamp(exit.at));
        Ok(response)
    }

    async fn exec(
        &self,
        _: &TtrpcContext,
        request: api::ExecProcessRequest,
    ) -> ttrpc::Result<api::Empty> {
        let key = ProcessKey::new(&request.id, &request.exec_id);
        let spec: ProcessSpec = serde_json::from_slice(&request.spec.value).map_err(|error| {
            TaskError::Invalid(format!("the process of {key} is not valid: {error}"))
        })?;
        self.pod.exec(ExecRequest {
            key,
            spec,
            stdio: StdioPaths {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
        })?;
        Ok(api::Empty::new())
    }

    async fn pids(
        &self,
        _: &TtrpcContext,
        request: api::PidsRequest,
    ) -> ttrpc::Result<api::PidsResponse> {
        let mut response = api::PidsResponse::new();
        for process in self.pod.processes(&request.id)? {
            let mut info = api::ProcessInfo::new();
            info.pid = process.pid;
            if !process.key.is_init() {
                let mut details = ProcessDetails::new();
                details.exec_id.clone_from(&process.key.exec);
                info.info = MessageField::some(any("containerd.runc.v1.ProcessDetails", &details));
            }
            response.processes.push(info);
        }
        Ok(response)
    }

    async fn close_io(
        &self,
        _: &TtrpcContext,
        request: api::CloseIORequest,
    ) -> ttrpc::Result<api::Empty> {
        let key = ProcessKey::new(&request.id, &request.exec_id);
        if request.stdin {
            self.pod.close_stdin(&key)?;
        } else {
            self.pod.state(&key)?;
        }
        Ok(api::Empty::new())
    }

    async fn resize_pty(
        &self,
        _: &TtrpcContext,
        request: api::ResizePtyRequest,
    ) -> ttrpc::Result<api::Empty> {
        let pod = Arc::clone(&self.pod);
        detached(async move {
            let key = ProcessKey::new(&request.id, &request.exec_id);
            pod.resize(&key, request.width, request.height).await
        })
        .await?;
        Ok(api::Empty::new())
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        request: api::ConnectRequest,
    ) -> ttrpc::Result<api::ConnectResponse> {
        let mut response = api::ConnectResponse::new();
        response.shim_pid = std::process::id();
        // A shim without this task yet is still the one to talk to.
        if let Ok(snapshot) = self.pod.state(&ProcessKey::new(&request.id, "")) {
            response.task_pid = snapshot.process.pid;
        }
        env!("CARGO_PKG_VERSION").clone_into(&mut response.version);
        Ok(response)
    }

    async fn stats(
        &self,
        _: &TtrpcContext,
        request: api::StatsRequest,
    ) -> ttrpc::Result<api::StatsResponse> {
        let stats = self.pod.stats(&request.id).await?;
        let mut response = api::StatsResponse::new();
        response.stats = MessageField::some(self.hierarchy.metrics(&stats));
        Ok(response)
    }

    async fn shutdown(
        &self,
        _: &TtrpcContext,
        request: api::ShutdownRequest,
    ) -> ttrpc::Result<api::Empty> {
        let service = self.clone();
        detached(async move {
            if Arc::clone(&service.pod).shutdown(request.now).await
                && let Err(error) = socket::remove(&service.socket)
            {
                tracing::warn!("{error}");
            }
            Ok(())
        })
        .await?;
        Ok(api::Empty::new())
    }

    async fn pause(
        &self,
        _: &TtrpcContext,
        request: api::PauseRequest,
    ) -> ttrpc::Result<api::Empty> {
        detached(Arc::clone(&self.pod).pause(request.id)).await?;
        Ok(api::Empty::new())
    }

    async fn resume(
        &self,
        _: &TtrpcContext,
        request: api::ResumeRequest,
    ) -> ttrpc::Result<api::Empty> {
        detached(Arc::clone(&self.pod).resume(request.id)).await?;
        Ok(api::Empty::new())
    }

    async fn update(
        &self,
        _: &TtrpcContext,
        request: api::UpdateTaskRequest,
    ) -> ttrpc::Result<api::Empty> {
        let resources = resources(request.resources.as_ref())?;
        detached(Arc::clone(&self.pod).update(request.id, resources)).await?;
        Ok(api::Empty::new())
    }

    async fn checkpoint(
        &self,
        _: &TtrpcContext,
        _: api::CheckpointTaskRequest,
    ) -> ttrpc::Result<api::Empty> {
        Err(TaskError::Unimplemented("checkpointing a container is not supported").into())
    }
}

#[cfg(test)]
#[path = "service_test.rs"]
mod tests;

#[cfg(test)]
#[path = "flood_test.rs"]
mod flood;
