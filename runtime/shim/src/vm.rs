//! The virtual machine behind the task service, as a trait: the service is tested without one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use caisson_protocol::agent::StatsResponse;
use caisson_sandbox::{
    Config, CreateContainer, CreateExec, ErrorKind, PodSetUp, ProcessExit, ProcessId,
    ProcessStreams, Sandbox, SandboxError, SandboxOptions, VmEnd, VmSize,
};
use oci_spec::runtime::LinuxResources;
use tokio::time::timeout;

/// How long after a call failed for want of the virtual machine its end is waited for: the end
/// carries the reason, which the failed call does not know.
const END_REPORT: Duration = Duration::from_secs(2);

/// Starts virtual machines.
#[async_trait]
pub(crate) trait Launcher: Send + Sync {
    /// Starts one; see [`Sandbox::start`].
    async fn launch(
        &self,
        config: &Config,
        options: SandboxOptions,
    ) -> Result<Arc<dyn Vm>, SandboxError>;
}

/// A virtual machine with its agent; the methods are those of [`Sandbox`].
#[async_trait]
pub(crate) trait Vm: Send + Sync {
    /// See [`Sandbox::pid`].
    fn pid(&self) -> u32;
    /// See [`Sandbox::set_oom_score`].
    fn set_oom_score(&self, score: i32) -> Result<(), SandboxError>;
    /// See [`Sandbox::guest_kernel`].
    fn guest_kernel(&self) -> String;
    /// See [`Sandbox::phases`].
    fn phases(&self) -> Vec<(String, u64)>;
    /// See [`Sandbox::boot_size`].
    fn boot_size(&self) -> VmSize;
    /// See [`Sandbox::ended`].
    async fn ended(&self) -> VmEnd;
    /// See [`Sandbox::set_up_pod`].
    async fn set_up_pod(&self, pod: PodSetUp) -> Result<(), SandboxError>;
    /// See [`Sandbox::pod_stats`].
    async fn pod_stats(&self) -> Result<StatsResponse, SandboxError>;
    /// See [`Sandbox::create_container`].
    async fn create_container(
        &self,
        request: CreateContainer,
    ) -> Result<ProcessStreams, SandboxError>;
    /// See [`Sandbox::create_exec`].
    async fn create_exec(&self, request: CreateExec) -> Result<ProcessStreams, SandboxError>;
    /// See [`Sandbox::start_process`].
    async fn start_process(&self, process: &ProcessId) -> Result<(), SandboxError>;
    /// See [`Sandbox::wait_process`].
    async fn wait_process(&self, process: &ProcessId) -> Result<ProcessExit, SandboxError>;
    /// See [`Sandbox::signal`].
    async fn signal(&self, process: &ProcessId, signal: u32, all: bool)
    -> Result<(), SandboxError>;
    /// See [`Sandbox::delete_process`].
    async fn delete_process(&self, process: &ProcessId) -> Result<(), SandboxError>;
    /// See [`Sandbox::resize`].
    async fn resize(
        &self,
        process: &ProcessId,
        width: u32,
        height: u32,
    ) -> Result<(), SandboxError>;
    /// See [`Sandbox::stats`].
    async fn stats(&self, container: &str) -> Result<StatsResponse, SandboxError>;
    /// See [`Sandbox::pause_container`].
    async fn pause(&self, container: &str) -> Result<(), SandboxError>;
    /// See [`Sandbox::resume_container`].
    async fn resume(&self, container: &str) -> Result<(), SandboxError>;
    /// See [`Sandbox::update_container`].
    async fn update(&self, container: &str, resources: LinuxResources) -> Result<(), SandboxError>;
    /// See [`Sandbox::resize_machine`].
    async fn resize_machine(&self, size: VmSize) -> Result<(), SandboxError>;
    /// See [`Sandbox::stop`].
    async fn stop(&self);
}

/// Runs a call to the guest, which fails with the reason when the virtual machine ends first.
pub(crate) async fn alive<T>(
    vm: &dyn Vm,
    call: impl Future<Output = Result<T, SandboxError>> + Send,
) -> Result<T, SandboxError> {
    let result = tokio::select! {
        biased;
        result = call => result,
        end = vm.ended() => return Err(gone(&end)),
    };
    match result {
        Err(error) if error.kind() == ErrorKind::Unavailable => {
            match timeout(END_REPORT, vm.ended()).await {
                Ok(end) => Err(gone(&end)),
                Err(_) => Err(error),
            }
        }
        other => other,
    }
}

/// The error of every call to a virtual machine that ended.
pub(crate) fn gone(end: &VmEnd) -> SandboxError {
    SandboxError::new(
        ErrorKind::Unavailable,
        format!("the pod's virtual machine is gone: {}", end.description),
    )
}

/// Starts real virtual machines.
pub(crate) struct KvmLauncher;

#[async_trait]
impl Launcher for KvmLauncher {
    async fn launch(
        &self,
        config: &Config,
        options: SandboxOptions,
    ) -> Result<Arc<dyn Vm>, SandboxError> {
        let sandbox = Sandbox::start(config, options).await?;
        Ok(Arc::new(KvmVm(sandbox)))
    }
}

/// A real virtual machine.
struct KvmVm(Arc<Sandbox>);

#[async_trait]
impl Vm for KvmVm {
    fn pid(&self) -> u32 {
        self.0.pid()
    }
    fn set_oom_score(&self, score: i32) -> Result<(), SandboxError> {
        self.0.set_oom_score(score)
    }
    fn guest_kernel(&self) -> String {
        self.0.guest_kernel().to_owned()
    }
    fn phases(&self) -> Vec<(String, u64)> {
        self.0.phases()
    }
    fn boot_size(&self) -> VmSize {
        self.0.boot_size()
    }
    async fn ended(&self) -> VmEnd {
        self.0.ended().await
    }
    async fn set_up_pod(&self, pod: PodSetUp) -> Result<(), SandboxError> {
        self.0.set_up_pod(pod).await
    }
    async fn pod_stats(&self) -> Result<StatsResponse, SandboxError> {
        self.0.pod_stats().await
    }
    async fn create_container(
        &self,
        request: CreateContainer,
    ) -> Result<ProcessStreams, SandboxError> {
        self.0.create_container(request).await
    }
    async fn create_exec(&self, request: CreateExec) -> Result<ProcessStreams, SandboxError> {
        self.0.create_exec(request).await
    }
    async fn start_process(&self, process: &ProcessId) -> Result<(), SandboxError> {
        self.0.start_process(process).await
    }
    async fn wait_process(&self, process: &ProcessId) -> Result<ProcessExit, SandboxError> {
        self.0.wait_process(process).await
    }
    async fn signal(
        &self,
        process: &ProcessId,
        signal: u32,
        all: bool,
    ) -> Result<(), SandboxError> {
        self.0.signal(process, signal, all).await
    }
    async fn delete_process(&self, process: &ProcessId) -> Result<(), SandboxError> {
        self.0.delete_process(process).await
    }
    async fn resize(
        &self,
        process: &ProcessId,
        width: u32,
        height: u32,
    ) -> Result<(), SandboxError> {
        self.0.resize(process, width, height).await
    }
    async fn stats(&self, container: &str) -> Result<StatsResponse, SandboxError> {
        self.0.stats(container).await
    }
    async fn pause(&self, container: &str) -> Result<(), SandboxError> {
        self.0.pause_container(container).await
    }
    async fn resume(&self, container: &str) -> Result<(), SandboxError> {
        self.0.resume_container(container).await
    }
    async fn update(&self, container: &str, resources: LinuxResources) -> Result<(), SandboxError> {
        self.0.update_container(container, resources).await
    }
    async fn resize_machine(&self, size: VmSize) -> Result<(), SandboxError> {
        self.0.resize_machine(size).await
    }
    async fn stop(&self) {
        self.0.stop().await;
    }
}
