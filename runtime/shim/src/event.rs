//! What containerd is told about tasks, and its form on the wire.

use std::time::{SystemTime, UNIX_EPOCH};

use containerd_shim_protos::events::task as events;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::topics;
use containerd_shim_protos::types::mount::Mount;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;

use crate::process::{Exit, ProcessKey};
use crate::stdio::StdioPaths;

/// Something that happened to a task.
#[derive(Debug, Clone)]
pub(crate) enum TaskEvent {
    /// A container was created.
    Created {
        /// The container.
        id: String,
        /// Its bundle.
        bundle: String,
        /// The mounts of its root file system.
        rootfs: Vec<Mount>,
        /// Its standard streams.
        stdio: StdioPaths,
        /// Process id of the init process.
        pid: u32,
    },
    /// The init process runs.
    Started {
        /// The container.
        id: String,
        /// Process id of the init process.
        pid: u32,
    },
    /// An exec was registered.
    ExecAdded(ProcessKey),
    /// An exec runs.
    ExecStarted(ProcessKey, u32),
    /// The memory limit killed a process of this container.
    OutOfMemory(String),
    /// The processes of this container stand still.
    Paused(String),
    /// They go on.
    Resumed(String),
    /// A process ended.
    Exited(ProcessKey, u32, Exit),
    /// A container is gone.
    Deleted {
        /// The container.
        id: String,
        /// Process id of the init process.
        pid: u32,
        /// How the init process ended.
        exit: Exit,
    },
}

impl TaskEvent {
    /// The topic under which containerd publishes the event.
    pub(crate) fn topic(&self) -> &'static str {
        match self {
            Self::Created { .. } => topics::TASK_CREATE_EVENT_TOPIC,
            Self::Started { .. } => topics::TASK_START_EVENT_TOPIC,
            Self::ExecAdded(_) => topics::TASK_EXEC_ADDED_EVENT_TOPIC,
            Self::ExecStarted(..) => topics::TASK_EXEC_STARTED_EVENT_TOPIC,
            Self::OutOfMemory(_) => topics::TASK_OOM_EVENT_TOPIC,
            Self::Paused(_) => topics::TASK_PAUSED_EVENT_TOPIC,
            Self::Resumed(_) => topics::TASK_RESUMED_EVENT_TOPIC,
            Self::Exited(..) => topics::TASK_EXIT_EVENT_TOPIC,
            Self::Deleted { .. } => topics::TASK_DELETE_EVENT_TOPIC,
        }
    }

    /// The event as containerd's Forward call carries it.
    pub(crate) fn envelope(&self, namespace: &str, at: SystemTime) -> Envelope {
        let mut envelope = Envelope::new();
        envelope.timestamp = Some(timestamp(at)).into();
        namespace.clone_into(&mut envelope.namespace);
        self.topic().clone_into(&mut envelope.topic);
        envelope.event = Some(self.payload()).into();
        envelope
    }

    fn payload(&self) -> Any {
        match self {
            Self::Created {
                id,
                bundle,
                rootfs,
                stdio,
                pid,
            } => {
                let mut event = events::TaskCreate::new();
                event.container_id.clone_from(id);
                event.bundle.clone_from(bundle);
                event.rootfs.clone_from(rootfs);
                event.pid = *pid;
                let mut io = events::TaskIO::new();
                io.stdin.clone_from(&stdio.stdin);
                io.stdout.clone_from(&stdio.stdout);
                io.stderr.clone_from(&stdio.stderr);
                io.terminal = stdio.terminal;
                event.io = Some(io).into();
                any("containerd.events.TaskCreate", &event)
            }
            Self::Started { id, pid } => {
                let mut event = events::TaskStart::new();
                event.container_id.clone_from(id);
                event.pid = *pid;
                any("containerd.events.TaskStart", &event)
            }
            Self::ExecAdded(key) => {
                let mut event = events::TaskExecAdded::new();
                event.container_id.clone_from(&key.container);
                event.exec_id.clone_from(&key.exec);
                any("containerd.events.TaskExecAdded", &event)
            }
            Self::ExecStarted(key, pid) => {
                let mut event = events::TaskExecStarted::new();
                event.container_id.clone_from(&key.container);
                event.exec_id.clone_from(&key.exec);
                event.pid = *pid;
                any("containerd.events.TaskExecStarted", &event)
            }
            Self::OutOfMemory(id) => {
                let mut event = events::TaskOOM::new();
                event.container_id.clone_from(id);
                any("containerd.events.TaskOOM", &event)
            }
            Self::Paused(id) => {
                let mut event = events::TaskPaused::new();
                event.container_id.clone_from(id);
                any("containerd.events.TaskPaused", &event)
            }
            Self::Resumed(id) => {
                let mut event = events::TaskResumed::new();
                event.container_id.clone_from(id);
                any("containerd.events.TaskResumed", &event)
            }
            Self::Exited(key, pid, exit) => {
                let mut event = events::TaskExit::new();
                event.container_id.clone_from(&key.container);
                // The id of an exit is the exec's, or the container's for its init process.
                event.id.clone_from(if key.exec.is_empty() {
                    &key.container
                } else {
                    &key.exec
                });
                event.pid = *pid;
                event.exit_status = exit.status;
                event.exited_at = Some(timestamp(exit.at)).into();
                any("containerd.events.TaskExit", &event)
            }
            Self::Deleted { id, pid, exit } => {
                let mut event = events::TaskDelete::new();
                event.container_id.clone_from(id);
                event.pid = *pid;
                event.exit_status = exit.status;
                event.exited_at = Some(timestamp(exit.at)).into();
                any("containerd.events.TaskDelete", &event)
            }
        }
    }
}

/// A message with its bare full name as type URL, as containerd's typeurl package writes it. The
/// name is given, since asking the message for it would load a description of every message there
/// is: half a megabyte in each shim.
pub(crate) fn any(name: &str, message: &impl Message) -> Any {
    let mut any = Any::new();
    name.clone_into(&mut any.type_url);
    // Writing to memory can fail only for a message over 2 GiB, which nothing here comes near.
    any.value = message.write_to_bytes().unwrap_or_default();
    any
}

/// A time on the wire; before 1970 becomes 1970.
pub(crate) fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut timestamp = Timestamp::new();
    timestamp.seconds = since.as_secs().cast_signed();
    timestamp.nanos = since.subsec_nanos().cast_signed();
    timestamp
}

#[cfg(test)]
#[path = "event_test.rs"]
mod tests;
