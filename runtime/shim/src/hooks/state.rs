//! The state of a container as its hooks get it (OCI runtime specification, "State").

use std::path::Path;

use oci_spec::runtime::{ContainerState, Spec, State};

/// The state of container `id` when it is stopped: there is no process then.
pub(super) fn of(id: &str, bundle: &Path, spec: &Spec) -> State {
    let mut state = State::default();
    state
        .set_version(spec.version().clone())
        .set_id(id.to_owned())
        .set_status(ContainerState::Stopped)
        .set_bundle(bundle.to_owned())
        .set_annotations(spec.annotations().clone());
    state
}

/// The state when it has a process.
pub(super) fn with(state: &State, status: ContainerState, pid: u32) -> State {
    let mut state = state.clone();
    state.set_status(status).set_pid(i32::try_from(pid).ok());
    state
}
