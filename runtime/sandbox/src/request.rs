//! What a caller of [`Sandbox`](crate::Sandbox) asks for and what it gets.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::SystemTime;

use oci_spec::runtime::{Process, Spec};
use tokio::net::UnixStream;

use crate::VmSize;

/// The sandbox to start.
#[derive(Debug, Clone)]
pub struct SandboxOptions {
    /// Identifier: 1 to 255 characters of `[A-Za-z0-9._-]`, not beginning with a dot.
    pub id: String,
    /// containerd namespace; used in log lines only.
    pub namespace: String,
    /// Directory for this sandbox alone, made with mode 0700 and removed at the end. Its parent
    /// and the parent of that belong to the runtime too and are removed when they are empty:
    /// `/run/caisson/<namespace>/<id>`.
    pub state_dir: PathBuf,
    /// The size with which the machine is booted.
    pub size: VmSize,
    /// The most to which it can grow; see [`VmSize::most`].
    pub most: VmSize,
    /// Network namespace of the pod on the host, to be joined; without one, a new one is made. The
    /// guest gets the interfaces in it, and those that are there when its first container starts.
    pub netns: Option<PathBuf>,
}

/// What a pod that no container holds has for all its containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodSetUp {
    /// Host name; empty for the guest's.
    pub hostname: String,
    /// Kernel parameters of the pod.
    pub sysctls: HashMap<String, String>,
}

/// A process in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// The container.
    pub container: String,
    /// The exec; empty for the container's init process.
    pub exec: String,
}

/// A container's place in a Kubernetes pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PodPlace {
    /// It is in none; what shares a machine is a group of equals.
    #[default]
    Outside,
    /// It holds the pod: what it has for itself is the pod's.
    Sandbox {
        /// Its id.
        pod: String,
    },
    /// It is one of the pod's containers.
    Member {
        /// The id of the container that holds the pod, or of the pod if none does.
        pod: String,
    },
}

impl PodPlace {
    /// The id of the pod, if there is one.
    #[must_use]
    pub fn pod(&self) -> Option<&str> {
        match self {
            Self::Outside => None,
            Self::Sandbox { pod } | Self::Member { pod } => Some(pod),
        }
    }
}

/// A container to create.
#[derive(Debug)]
pub struct CreateContainer {
    /// Identifier: 1 to 255 characters of `[A-Za-z0-9._-]`, not beginning with a dot.
    pub id: String,
    /// The OCI bundle: relative paths of the configuration are relative to it.
    pub bundle: PathBuf,
    /// Mounts that make the root file system, in order. Without any, `root.path` of the
    /// configuration is a directory where it is already mounted.
    pub rootfs: Vec<RootMount>,
    /// The OCI configuration as containerd wrote it.
    pub spec: Spec,
    /// Its place in a Kubernetes pod.
    pub place: PodPlace,
    /// Whether the process gets a terminal; standard error is then part of standard output.
    pub terminal: bool,
    /// Whether standard input is wanted; `/dev/null` otherwise.
    pub stdin: bool,
    /// Whether standard output is wanted.
    pub stdout: bool,
    /// Whether standard error is wanted.
    pub stderr: bool,
}

/// One mount of a root file system, as in containerd's task Create request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootMount {
    /// File system type: `overlay`, `bind`, `ext4` or `erofs`, after what containerd's mount manager
    /// writes before it (`format/mkdir/overlay`).
    pub kind: String,
    /// What is mounted: for `bind` a path of the host, for `ext4` and `erofs` a block device or file.
    pub source: String,
    /// Directory below the root file system; empty for the root itself.
    pub target: String,
    /// Options as on the command line of mount(8).
    pub options: Vec<String>,
}

/// One more process for a container.
#[derive(Debug)]
pub struct CreateExec {
    /// Container and name of the exec, both not empty.
    pub process: ProcessId,
    /// The OCI process object.
    pub spec: Process,
    /// Whether standard input is wanted; `/dev/null` otherwise.
    pub stdin: bool,
    /// Whether standard output is wanted.
    pub stdout: bool,
    /// Whether standard error is wanted; ignored with a terminal.
    pub stderr: bool,
}

/// The host's ends of the standard streams of a process; what was not asked for is `None`.
///
/// Shutting down the write half of `stdin` is the end of the process's input. The end of the
/// data on `stdout` and `stderr` comes when the last process that holds them is gone.
#[derive(Debug, Default)]
pub struct ProcessStreams {
    /// Standard input; write to it.
    pub stdin: Option<UnixStream>,
    /// Standard output, or what the terminal shows; read from it.
    pub stdout: Option<UnixStream>,
    /// Standard error; read from it. `None` with a terminal.
    pub stderr: Option<UnixStream>,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessExit {
    /// Exit code, or 128 plus the number of the signal.
    pub status: u32,
    /// When, by the clock of the guest.
    pub exited_at: SystemTime,
    /// The memory limit of the container killed at least one of its processes.
    pub oom_killed: bool,
}
