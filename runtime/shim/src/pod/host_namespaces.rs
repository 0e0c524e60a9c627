//! What a virtual machine cannot share with its host.

use caisson_sandbox::PodPlace;
use oci_spec::runtime::{LinuxNamespaceType as Type, Spec};

use crate::error::TaskError;

/// Refuses a container that is to use the host's network, processes or IPC: one that is kept apart
/// from the host, but not there. A configuration with nothing but a mount namespace asks for nothing
/// in particular; so does one outside of a Kubernetes pod that leaves out processes or IPC.
///
/// # Errors
/// [`TaskError::Invalid`].
pub(super) fn check(spec: &Spec, place: &PodPlace) -> Result<(), TaskError> {
    let linux = spec.linux().as_ref();
    let listed = linux.and_then(|linux| linux.namespaces().as_ref());
    let has = |wanted: Type| {
        listed
            .into_iter()
            .flatten()
            .any(|namespace| namespace.typ() == wanted)
    };
    let others = [Type::Network, Type::Pid, Type::Ipc, Type::Uts, Type::Cgroup];
    if !others.into_iter().any(has) {
        return Ok(());
    }
    let of_a_pod = place.pod().is_some();
    let shared = if !has(Type::Network) {
        ("network", "network", "hostNetwork")
    } else if of_a_pod && !has(Type::Pid) {
        ("processes", "pid", "hostPID")
    } else if of_a_pod && !has(Type::Ipc) {
        ("IPC", "ipc", "hostIPC")
    } else {
        return Ok(());
    };
    let (what, namespace, field) = shared;
    Err(TaskError::Invalid(format!(
        "the container is to use the host's {what} (config.json has no {namespace} namespace), \
         which a virtual machine cannot: run it without {field}"
    )))
}

#[cfg(test)]
#[path = "host_namespaces_test.rs"]
mod tests;
