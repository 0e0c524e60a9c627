//! A Kubernetes pod that no container holds, as containerd's sandbox service has it.

use std::sync::atomic::Ordering;

use caisson_protocol::agent::{SetUpPodRequest, StatsResponse};

use crate::agent::SHORT;
use crate::container::container_request;
use crate::{PodSetUp, Sandbox, SandboxError};

impl Sandbox {
    /// Makes the machine such a pod. To be called before the first container.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a host name or a
    /// kernel parameter that the guest's kernel refuses.
    pub async fn set_up_pod(&self, pod: PodSetUp) -> Result<(), SandboxError> {
        self.holds_pod.store(true, Ordering::Relaxed);
        let request = SetUpPodRequest {
            hostname: pod.hostname,
            sysctls: pod.sysctls,
            ..Default::default()
        };
        self.agent
            .call("SetUpPod", SHORT, async move |agent, context| {
                agent.set_up_pod(context, &request).await
            })
            .await
            .map(drop)
    }

    /// Resource usage of all containers together.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn pod_stats(&self) -> Result<StatsResponse, SandboxError> {
        let request = container_request("");
        self.agent
            .call("Stats", SHORT, async move |agent, context| {
                agent.stats(context, &request).await
            })
            .await
    }
}
