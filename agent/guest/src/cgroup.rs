//! A container's control group: made, watched, killed and removed through the files of cgroup v2
//! (kernel documentation: admin-guide/cgroup-v2.rst).

pub mod devices;
pub mod limits;
pub mod stats;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::timeout;

use crate::descriptor::Descriptor;
use crate::error::{AgentError, Doing};
use crate::kernel_file;

/// Where the hierarchy is mounted.
pub const ROOT: &str = "/sys/fs/cgroup";

/// The parent of all containers' groups, relative to [`ROOT`]. Identifiers below it cannot collide
/// with the kernel's own directories, and one file shows what all containers of the pod use.
pub const PARENT: &str = "containers";

/// Processes and threads that containers leave to the agent: for itself, and for those by which it makes
/// one more process in a container.
const OF_AGENT: u64 = 128;

/// How long processes may take to stand still. One that is in the kernel must leave it first, which
/// is soon unless it waits for a device or a file system; runc gives them as long.
const FREEZING: Duration = Duration::from_secs(10);

/// Makes the parent of all containers' groups and gives it every controller there is.
///
/// # Errors
/// When the hierarchy is not mounted or not writable.
pub fn prepare() -> io::Result<()> {
    let root = Path::new(ROOT);
    enable_controllers(root)?;
    let parent = root.join(PARENT);
    create_directory(&parent)?;
    hold_back_processes(&parent, Path::new("/proc/sys/kernel"));
    enable_controllers(&parent)
}

/// Keeps containers without a limit from taking all processes that the kernel can have: who wants to look
/// at one or put an end to it may need one.
fn hold_back_processes(containers: &Path, kernel: &Path) {
    let number = |file: &str| -> Option<u64> {
        let text = fs::read_to_string(kernel.join(file)).ok()?;
        text.trim().parse().ok()
    };
    let Some(all) = [number("threads-max"), number("pid_max")]
        .into_iter()
        .flatten()
        .min()
    else {
        return;
    };
    // Without the controller there is no such file, and `boot::kernel` has said so.
    let most = all.saturating_sub(OF_AGENT).max(1).to_string();
    let _ = kernel_file::set(&containers.join("pids.max"), &most);
}

/// Passes every controller a group has on to its children.
fn enable_controllers(group: &Path) -> io::Result<()> {
    let controllers = fs::read_to_string(group.join("cgroup.controllers"))?;
    let wanted: Vec<String> = controllers
        .split_whitespace()
        .map(|name| format!("+{name}"))
        .collect();
    let file = group.join("cgroup.subtree_control");
    if wanted.is_empty() || fs::write(&file, wanted.join(" ")).is_ok() {
        return Ok(());
    }
    // All or nothing, so one at a time: a controller that cannot be passed on must not keep back
    // the others. A limit that needs it fails by name later.
    for controller in wanted {
        let _ = fs::write(&file, controller);
    }
    Ok(())
}

fn create_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// One container's group. Dropping it does not remove it.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes the group of a container.
    ///
    /// # Errors
    /// [`AgentError::Internal`] when the kernel refuses.
    pub fn create(id: &str) -> Result<Self, AgentError> {
        let group = Self {
            path: Path::new(ROOT).join(PARENT).join(id),
        };
        create_directory(&group.path).doing(format_args!("make the cgroup of {id}"))?;
        Ok(group)
    }

    /// A group that exists already.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The directory of the group.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads an interface file; `None` when this kernel or group does not have it.
    fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.path.join(file)).ok()
    }

    /// Writes an interface file, which must exist.
    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        kernel_file::set(&self.path.join(file), value)
    }

    /// The processes in the group and in groups that the container made below it.
    ///
    /// # Errors
    /// [`AgentError::Internal`] when the group is gone.
    pub fn processes(&self) -> Result<Vec<u32>, AgentError> {
        let mut pids = Vec::new();
        let mut groups = vec![self.path.clone()];
        while let Some(group) = groups.pop() {
            let list = match fs::read_to_string(group.join("cgroup.procs")) {
                // The container may remove its groups while they are read.
                Err(error) if error.kind() == io::ErrorKind::NotFound && group != self.path => {
                    continue;
                }
                // A threaded group has no list of processes; they are in its parent's.
                Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {
                    continue;
                }
                result => result.doing("read the processes of a cgroup")?,
            };
            pids.extend(
                list.lines()
                    .filter_map(|line| line.parse::<u32>().ok())
                    .filter(|pid| *pid > 0),
            );
            groups.extend(children(&group));
        }
        Ok(pids)
    }

    /// Kills every process of the group at once, including any that are just being forked.
    ///
    /// # Errors
    /// [`AgentError::Internal`] when the group is gone.
    pub fn kill(&self) -> Result<(), AgentError> {
        self.write("cgroup.kill", "1")
            .doing("kill the processes of a cgroup")
    }

    /// Stops every process of the group, between two instructions, and answers when all stand
    /// still. Undoes it when they do not.
    ///
    /// # Errors
    /// [`AgentError::FailedPrecondition`] when the last process ends first;
    /// [`AgentError::Internal`] when one cannot be stopped, or the group is gone.
    pub async fn freeze(&self) -> Result<(), AgentError> {
        self.write("cgroup.freeze", "1").doing("freeze a cgroup")?;
        let frozen = timeout(FREEZING, self.frozen()).await.unwrap_or_else(|_| {
            Err(AgentError::Internal(format!(
                "a process waits for a device or a file system and could not be stopped within \
                 {} s",
                FREEZING.as_secs()
            )))
        });
        if frozen.is_err() {
            // The first error is the one to tell.
            let _ = self.thaw();
        }
        frozen
    }

    async fn frozen(&self) -> Result<(), AgentError> {
        let frozen = self
            .until(|events| {
                let value = |key| stats::flat_value(events, key);
                // An empty group counts as frozen.
                match (value("populated"), value("frozen")) {
                    (Some(1), Some(1)) => Some(true),
                    (Some(1), _) => None,
                    _ => Some(false),
                }
            })
            .await?;
        if frozen {
            return Ok(());
        }
        Err(AgentError::FailedPrecondition(
            "the container ended before it could be paused".to_owned(),
        ))
    }

    /// Lets the processes of a frozen group go on.
    ///
    /// # Errors
    /// [`AgentError::Internal`] when the group is gone.
    pub fn thaw(&self) -> Result<(), AgentError> {
        self.write("cgroup.freeze", "0").doing("thaw a cgroup")
    }

    /// Answers when no process is left. Zombies count as long as nobody collects them.
    ///
    /// # Errors
    /// [`AgentError::Internal`] when the group is gone.
    pub async fn emptied(&self) -> Result<(), AgentError> {
        self.until(|events| (stats::flat_value(events, "populated") != Some(1)).then_some(()))
            .await
    }

    /// Watches `cgroup.events` until `decide` has an answer.
    async fn until<T>(&self, decide: impl Fn(&str) -> Option<T>) -> Result<T, AgentError> {
        let file = fs::File::open(self.path.join("cgroup.events")).doing("watch a cgroup")?;
        let watch = Descriptor::watch_changes(file.into()).doing("watch a cgroup")?;
        loop {
            let events = self.read("cgroup.events").unwrap_or_default();
            if let Some(answer) = decide(&events) {
                return Ok(answer);
            }
            watch.changed().await.doing("watch a cgroup")?;
        }
    }

    /// Removes the group and the groups the container made below it. It must be empty.
    ///
    /// # Errors
    /// [`AgentError::Internal`] when a process is left.
    pub fn remove(&self) -> Result<(), AgentError> {
        remove_tree(&self.path).doing("remove a cgroup")
    }

    /// Whether the container's memory limit killed a process.
    #[must_use]
    pub fn oom_killed(&self) -> bool {
        self.read("memory.events")
            .and_then(|events| stats::flat_value(&events, "oom_kill"))
            .is_some_and(|count| count > 0)
    }
}

fn children(group: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(group) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Removes directories only: the files of a cgroup go with it.
fn remove_tree(group: &Path) -> io::Result<()> {
    // Depth first without recursion: the container decides how deep it is.
    let mut order = vec![group.to_path_buf()];
    let mut next = 0;
    while let Some(directory) = order.get(next) {
        let below = children(directory);
        order.extend(below);
        next += 1;
    }
    for directory in order.iter().rev() {
        match fs::remove_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "cgroup_test.rs"]
mod tests;
