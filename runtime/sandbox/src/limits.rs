//! Pausing containers and changing their limits.

use caisson_protocol::agent::UpdateRequest;
use oci_spec::runtime::LinuxResources;

use crate::agent::{LONG, SHORT};
use crate::container::{container_request, to_json};
use crate::{Sandbox, SandboxError, spec};

impl Sandbox {
    /// Stops every process of a running container between two instructions.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown container,
    /// [`ErrorKind::FailedPrecondition`](crate::ErrorKind::FailedPrecondition) for one that does
    /// not run or is paused.
    pub async fn pause_container(&self, container_id: &str) -> Result<(), SandboxError> {
        self.check_known(container_id)?;
        let request = container_request(container_id);
        self.agent
            .call("Pause", SHORT, async move |agent, context| {
                agent.pause(context, &request).await
            })
            .await
            .map(drop)
    }

    /// Lets a paused container go on.
    ///
    /// # Errors
    /// As [`Sandbox::pause_container`], for one that is not paused.
    pub async fn resume_container(&self, container_id: &str) -> Result<(), SandboxError> {
        self.check_known(container_id)?;
        let request = container_request(container_id);
        self.agent
            .call("Resume", SHORT, async move |agent, context| {
                agent.resume(context, &request).await
            })
            .await
            .map(drop)
    }

    /// Changes the limits of a container in the guest; what `resources` does not name stays. If
    /// one is refused, none is changed.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown container,
    /// [`ErrorKind::FailedPrecondition`](crate::ErrorKind::FailedPrecondition) for one that has
    /// ended, [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a value that
    /// cannot be; the message names its field.
    pub async fn update_container(
        &self,
        container_id: &str,
        mut resources: LinuxResources,
    ) -> Result<(), SandboxError> {
        self.check_known(container_id)?;
        spec::resources_for_guest(&mut resources);
        let request = UpdateRequest {
            container_id: container_id.to_owned(),
            resources: to_json(&resources)?,
            ..Default::default()
        };
        // With less memory than it uses, the guest's kernel first looks for what to take away.
        self.agent
            .call("Update", LONG, async move |agent, context| {
                agent.update(context, &request).await
            })
            .await
            .map(drop)
    }
}
