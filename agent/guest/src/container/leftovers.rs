//! What a container leaves behind in the guest.

use std::fs;
use std::path::PathBuf;

use super::shared;
use crate::cgroup::Cgroup;
use crate::error::{AgentError, Doing};
use crate::launch::create::bundle_name;
use crate::root::{self, Root};

/// What a container leaves behind.
pub(super) struct Leftovers {
    pub(super) state: PathBuf,
    pub(super) name: String,
    pub(super) cgroup: Cgroup,
    /// The root file system, if the guest has mounted it.
    pub(super) root: Option<Root>,
}

impl Leftovers {
    /// Removes as much as possible.
    pub(super) async fn clear(self) -> Result<(), AgentError> {
        let mut result = Ok(());
        if self.cgroup.path().exists() {
            // Anything that is in there is not a process anyone knows.
            let _ = self.cgroup.kill();
            let _ = self.cgroup.emptied().await;
            result = self.cgroup.remove();
        }
        for directory in [
            self.state.join(&self.name),
            self.state.join(bundle_name(&self.name)),
            self.state.join(shared::directory_name(&self.name)),
        ] {
            match fs::remove_dir_all(&directory) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound && result.is_ok() => {
                    result = Err(error).doing("remove the state of a container");
                }
                _ => {}
            }
        }
        // Nothing that could use it runs any more.
        result.and(root::unmount(self.root).await)
    }
}
