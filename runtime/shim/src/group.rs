//! Which containers share a shim, and so a virtual machine.

use std::collections::HashMap;

use caisson_sandbox::PodPlace;
use oci_spec::runtime::Spec;

use crate::args::is_identifier;

/// The group that containerd's own shim knows; no Kubernetes needed.
const RUNC_GROUP: &str = "io.containerd.runc.v2.group";
/// The pod, as containerd's CRI plugin and CRI-O name it.
const SANDBOX_IDS: [&str; 2] = [
    "io.kubernetes.cri.sandbox-id",
    "io.kubernetes.cri-o.SandboxID",
];
/// `sandbox` for the container that holds the pod, `container` for the others.
const CONTAINER_TYPES: [&str; 2] = [
    "io.kubernetes.cri.container-type",
    "io.kubernetes.cri-o.ContainerType",
];

/// A container's place in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The virtual machine is started for it.
    Owner,
    /// It lives in the virtual machine of an existing pod and must not start one.
    Member,
}

/// The group of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    /// Containers with the same key share a shim.
    pub(crate) key: String,
    /// The container's place in it.
    pub(crate) role: Role,
    /// Its place in a Kubernetes pod.
    pub(crate) place: PodPlace,
}

/// A group key that cannot be part of a socket's name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "annotation {annotation} of the container is {value:?}, which is not an identifier: use \
     letters, digits, dots, dashes and underscores"
)]
pub(crate) struct GroupError {
    annotation: &'static str,
    value: String,
}

impl Group {
    /// The group of the container `id` with these annotations: itself when none names another.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub(crate) fn of(id: &str, annotations: &HashMap<String, String>) -> Result<Self, GroupError> {
        let keys = [RUNC_GROUP].into_iter().chain(SANDBOX_IDS);
        let mut key = id.to_owned();
        for annotation in keys {
            if let Some(value) = annotations
                .get(annotation)
                .filter(|value| !value.is_empty())
            {
                if !is_identifier(value) {
                    return Err(GroupError {
                        annotation,
                        value: value.clone(),
                    });
                }
                key.clone_from(value);
                break;
            }
        }
        let is = |kind: &str| {
            CONTAINER_TYPES
                .into_iter()
                .any(|annotation| annotations.get(annotation).is_some_and(|v| v == kind))
        };
        let pod = key.clone();
        let (role, place) = if is("container") && key != id {
            (Role::Member, PodPlace::Member { pod })
        } else if is("sandbox") && key == id {
            (Role::Owner, PodPlace::Sandbox { pod })
        } else {
            (Role::Owner, PodPlace::Outside)
        };
        Ok(Self { key, role, place })
    }

    /// The group of a container with an OCI configuration.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub(crate) fn of_spec(id: &str, spec: &Spec) -> Result<Self, GroupError> {
        match spec.annotations() {
            Some(annotations) => Self::of(id, annotations),
            None => Self::of(id, &HashMap::new()),
        }
    }
}

#[cfg(test)]
#[path = "group_test.rs"]
mod tests;
