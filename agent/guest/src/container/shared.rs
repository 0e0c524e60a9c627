//! What a container sees of the pod's volumes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use caisson_protocol::agent::UpdatedVolume;

use super::{Container, Tools};
use crate::error::{AgentError, Doing};
use crate::mirror::Mirror;
use crate::specification::Adapted;
use crate::volumes::{VolumeUse, Volumes};

/// Name of the directory of the volumes that are kept for a container, next to that of its state.
pub(super) fn directory_name(name: &str) -> String {
    format!("{name}-volumes")
}

/// A container's volumes.
#[derive(Debug)]
pub(super) struct Shared {
    /// Those that the host updates, by their place among the mounts, or why they are not kept.
    updated: HashMap<u32, Result<Mutex<Mirror>, String>>,
    _used: VolumeUse,
}

/// See [`Shared::enter`]; on a thread that may wait.
pub(super) async fn enter(
    tools: &Tools,
    name: &str,
    mut adapted: Adapted,
    updated: Vec<UpdatedVolume>,
) -> Result<(Shared, Adapted), AgentError> {
    let volumes = tools.volumes.clone();
    let directory = tools.state.join(directory_name(name));
    tokio::task::spawn_blocking(move || {
        let shared = Shared::enter(&volumes, &mut adapted, &updated, &directory);
        (shared, adapted)
    })
    .await
    .map_err(|error| AgentError::Internal(format!("volumes: {error}")))
}

impl Container {
    /// Makes a volume what the host says that it is now; see [`crate::mirror`]. Blocks.
    ///
    /// # Errors
    /// [`AgentError::FailedPrecondition`] if the guest does not keep that volume.
    pub fn update_volume(&self, volume: &UpdatedVolume) -> Result<(), AgentError> {
        let shared = self.lock_shared().clone();
        match shared {
            Some(shared) => shared.update(volume),
            None => Err(self.wrong_state("is being deleted")),
        }
    }

    pub(super) fn lock_shared(&self) -> MutexGuard<'_, Option<Arc<Shared>>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Enters the volumes of a container that is to be made, and keeps those that the host updates
    /// in `directory`, where the container is to see them. Blocks on the host's file server.
    fn enter(
        volumes: &Volumes,
        adapted: &mut Adapted,
        updated: &[UpdatedVolume],
        directory: &Path,
    ) -> Self {
        let used = volumes.enter(adapted.volumes());
        let updated = updated
            .iter()
            .map(|volume| {
                (
                    volume.mount,
                    keep(adapted, volume, directory).map(Mutex::new),
                )
            })
            .collect();
        Self {
            updated,
            _used: used,
        }
    }

    /// Makes a volume that is kept what the host says that it is now.
    ///
    /// # Errors
    /// [`AgentError::FailedPrecondition`] if it is not kept; [`AgentError::Internal`] if it cannot
    /// be updated.
    fn update(&self, volume: &UpdatedVolume) -> Result<(), AgentError> {
        match self.updated.get(&volume.mount) {
            Some(Ok(mirror)) => mirror
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .update(volume)
                .doing(format_args!("update the volume to {}", volume.version)),
            Some(Err(reason)) => Err(AgentError::FailedPrecondition(reason.clone())),
            None => Err(AgentError::FailedPrecondition(format!(
                "the container has no mount {} that is updated",
                volume.mount
            ))),
        }
    }
}

/// Keeps a volume and has the container see what is kept.
fn keep(adapted: &mut Adapted, volume: &UpdatedVolume, directory: &Path) -> Result<Mirror, String> {
    let place = directory.join(volume.mount.to_string());
    let source = adapted
        .exchange_source(volume.mount, place.clone())
        .ok_or_else(|| format!("the configuration has no mount {}", volume.mount))?;
    Mirror::make(&source, &place, volume).map_err(|error| {
        adapted.exchange_source(volume.mount, source);
        format!("the volume is not kept in the guest: {error}")
    })
}
