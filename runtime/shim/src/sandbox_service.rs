//! containerd's sandbox service (`containerd.runtime.sandbox.v1.Sandbox`): a pod without a pause
//! container. Requests to the pod, answers and codes back, as in the task service beside it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::sandbox_api as api;
use containerd_shim_protos::sandbox_async::{Sandbox, create_sandbox};
use serde_json::json;
use ttrpc::r#async::{Service, TtrpcContext};

use crate::error::TaskError;
use crate::event::timestamp;
use crate::metrics::Hierarchy;
use crate::pod::{Pod, Running, SandboxRequest, SandboxState};
use crate::pod_config::PodConfig;
use crate::process::Exit;
use crate::service::detached;
use crate::socket;

/// The states that CRI knows.
const READY: &str = "SANDBOX_READY";
const NOT_READY: &str = "SANDBOX_NOTREADY";

/// The service of one shim.
#[derive(Clone)]
struct SandboxService {
    pod: Arc<Pod>,
    /// Our socket, which is gone before the last answer is given.
    socket: PathBuf,
}

/// The service to register with the server.
pub(crate) fn services(pod: &Arc<Pod>, socket: PathBuf) -> HashMap<String, Service> {
    let pod = Arc::clone(pod);
    create_sandbox(Arc::new(SandboxService { pod, socket }))
}

/// What architectures are called in images (GOARCH).
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What `crictl inspectp` shows; the process id and the state also by themselves, where containerd's
/// tests of shims look for them.
fn info(state: &str, running: &Running, kernel: Option<&str>) -> HashMap<String, String> {
    let info = json!({"pid": running.pid, "guestKernel": kernel});
    HashMap::from([
        ("info".to_owned(), info.to_string()),
        ("pid".to_owned(), running.pid.to_string()),
        ("state".to_owned(), state.to_owned()),
    ])
}

#[async_trait]
impl Sandbox for SandboxService {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::CreateSandboxRequest,
    ) -> ttrpc::Result<api::CreateSandboxResponse> {
        let config = PodConfig::from_any(request.options.as_ref()).map_err(TaskError::Invalid)?;
        self.pod.create_sandbox(SandboxRequest {
            id: request.sandbox_id,
            bundle: request.bundle_path.into(),
            netns: request.netns_path.into(),
            config,
        })?;
        Ok(api::CreateSandboxResponse::new())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::StartSandboxRequest,
    ) -> ttrpc::Result<api::StartSandboxResponse> {
        let running = detached(Arc::clone(&self.pod).start_sandbox(request.sandbox_id)).await?;
        let mut response = api::StartSandboxResponse::new();
        response.pid = running.pid;
        response.created_at = MessageField::some(timestamp(running.since));
        Ok(response)
    }

    async fn platform(
        &self,
        _: &TtrpcContext,
        request: api::PlatformRequest,
    ) -> ttrpc::Result<api::PlatformResponse> {
        self.pod.sandbox_state(&request.sandbox_id)?;
        let mut response = api::PlatformResponse::new();
        let platform = response.platform.mut_or_insert_default();
        "linux".clone_into(&mut platform.os);
        architecture().clone_into(&mut platform.architecture);
        Ok(response)
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::StopSandboxRequest,
    ) -> ttrpc::Result<api::StopSandboxResponse> {
        // Who wants containers to end by themselves stops them before; there is nothing else in a
        // pod that a time would be of use to.
        detached(Arc::clone(&self.pod).stop_sandbox(request.sandbox_id)).await?;
        Ok(api::StopSandboxResponse::new())
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::WaitSandboxRequest,
    ) -> ttrpc::Result<api::WaitSandboxResponse> {
        // Changes nothing: a caller that goes away takes its waiting with it.
        let exit = self.pod.wait_sandbox(&request.sandbox_id).await?;
        let mut response = api::WaitSandboxResponse::new();
        response.exit_status = exit.status;
        response.exited_at = MessageField::some(timestamp(exit.at));
        Ok(response)
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: api::SandboxStatusRequest,
    ) -> ttrpc::Result<api::SandboxStatusResponse> {
        let (state, running, exit): (_, _, Option<Exit>) =
            match self.pod.sandbox_state(&request.sandbox_id)? {
                SandboxState::Ready(running) => (READY, Some(running), None),
                SandboxState::Stopped(running, exit) => (NOT_READY, running, Some(exit)),
                _ => (NOT_READY, None, None),
            };
        let mut response = api::SandboxStatusResponse::new();
        response.sandbox_id = request.sandbox_id;
        state.clone_into(&mut response.state);
        if let Some(running) = &running {
            response.pid = running.pid;
            response.created_at = MessageField::some(timestamp(running.since));
            if request.verbose {
                response.info = info(state, running, self.pod.guest_kernel().as_deref());
            }
        }
        if let Some(exit) = exit {
            response.exited_at = MessageField::some(timestamp(exit.at));
        }
        Ok(response)
    }

    async fn ping_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::PingRequest,
    ) -> ttrpc::Result<api::PingResponse> {
        self.pod.ping_sandbox(&request.sandbox_id)?;
        Ok(api::PingResponse::new())
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::ShutdownSandboxRequest,
    ) -> ttrpc::Result<api::ShutdownSandboxResponse> {
        let service = self.clone();
        detached(async move {
            if Arc::clone(&service.pod)
                .shutdown_sandbox(request.sandbox_id)
                .await
                && let Err(error) = socket::remove(&service.socket)
            {
                tracing::warn!("{error}");
            }
            Ok(())
        })
        .await?;
        Ok(api::ShutdownSandboxResponse::new())
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        request: api::SandboxMetricsRequest,
    ) -> ttrpc::Result<api::SandboxMetricsResponse> {
        let stats = self.pod.sandbox_stats(&request.sandbox_id).await?;
        let mut response = api::SandboxMetricsResponse::new();
        let metric = response.metrics.mut_or_insert_default();
        metric.timestamp = MessageField::some(timestamp(SystemTime::now()));
        metric.id = request.sandbox_id;
        metric.data = MessageField::some(Hierarchy::of_host().metrics(&stats));
        Ok(response)
    }
}

#[cfg(test)]
#[path = "sandbox_service_test.rs"]
mod tests;
