//! What a virtual machine cannot share with its host.

use caisson_sandbox::{PodPlace, is_joined};
use oci_spec::runtime::{LinuxNamespaceType as Type, Spec};

use crate::error::TaskError;
use crate::pod_config::HostNamespaces;

/// What is shared, the namespace that is missing, and the field of a Kubernetes pod that asks for it.
type Shared = (&'static str, &'static str, &'static str);
const NETWORK: Shared = ("network", "network", "hostNetwork");
const PROCESSES: Shared = ("processes", "pid", "hostPID");
const IPC: Shared = ("IPC", "ipc", "hostIPC");

/// Refuses a container that is to use the host's network, processes or IPC: one that is kept apart
/// from the host, but not there. A configuration with nothing but a mount namespace asks for nothing
/// in particular; so does one outside of a Kubernetes pod that leaves out processes or IPC. A container
/// that joins a pod has the pod's network, which was looked at before there was a pod: one that names
/// no network asks for nothing in particular either, as in the pods of containerd's tests of shims. Outside
/// of a pod there is nobody whose processes, IPC or host name could be shared (`docker run --pid container:`).
///
/// # Errors
/// [`TaskError::Invalid`].
pub(super) fn check(spec: &Spec, place: &PodPlace) -> Result<(), TaskError> {
    let linux = spec.linux().as_ref();
    let listed = linux.and_then(|linux| linux.namespaces().as_deref());
    let listed = listed.unwrap_or_default();
    let has = |wanted: Type| listed.iter().any(|namespace| namespace.typ() == wanted);
    let of_a_pod = place.pod().is_some();
    let elsewhere = listed.iter().find(|namespace| {
        let of_another = [Type::Pid, Type::Ipc, Type::Uts].contains(&namespace.typ());
        of_another && is_joined(namespace)
    });
    if !of_a_pod && let Some(joined) = elsewhere {
        let joined = joined.typ();
        return Err(TaskError::Invalid(format!(
            "the container is to join the {joined} namespace of another one, which is in a virtual \
             machine of its own: only the containers of one pod can share it"
        )));
    }
    let others = [Type::Network, Type::Pid, Type::Ipc, Type::Uts, Type::Cgroup];
    let has_joined = matches!(place, PodPlace::Member { .. });
    if !others.into_iter().any(has) || has_joined && !has(Type::Network) {
        return Ok(());
    }
    let shared = if !has(Type::Network) {
        NETWORK
    } else if of_a_pod && !has(Type::Pid) {
        PROCESSES
    } else if of_a_pod && !has(Type::Ipc) {
        IPC
    } else {
        return Ok(());
    };
    let (what, namespace, field) = shared;
    Err(TaskError::Invalid(format!(
        "the container is to use the host's {what} (config.json has no {namespace} namespace), \
         which a virtual machine cannot: run it without {field}"
    )))
}

/// Refuses a pod of the sandbox service for the same, before anything of it is made.
///
/// # Errors
/// [`TaskError::Invalid`].
pub(super) fn check_pod(host: HostNamespaces) -> Result<(), TaskError> {
    let (what, _, field) = if host.network {
        NETWORK
    } else if host.pid {
        PROCESSES
    } else if host.ipc {
        IPC
    } else if host.other_users {
        return Err(TaskError::Invalid(
            "the pod is to have a user namespace, which is not supported: a virtual machine keeps \
             its users apart from the host's already; run it with hostUsers: true"
                .to_owned(),
        ));
    } else {
        return Ok(());
    };
    Err(TaskError::Invalid(format!(
        "the pod is to use the host's {what}, which a virtual machine cannot: run it without {field}"
    )))
}

#[cfg(test)]
#[path = "host_namespaces_test.rs"]
mod tests;
