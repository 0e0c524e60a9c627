//! A Caisson pod on the host: its virtual machine, its file server and the agent in it.
//!
//! [`Sandbox::start`] starts `caisson-fs` and `caisson-vmm`, boots the guest and waits for its
//! agent; the other methods of [`Sandbox`] create, run and end containers in it, and
//! [`Sandbox::stop`] removes all that was made. The crate knows the OCI runtime specification and
//! nothing of containerd.
//!
//! What comes out of the guest and out of the VMM is hostile: it is bounded, checked and never
//! part of a path on the host.

mod agent;
mod boot;
mod config;
mod connection;
mod container;
mod disks;
mod error;
mod growth;
mod guest_memory;
mod guest_text;
mod identifier;
mod kernel_check;
mod late_devices;
mod limits;
mod machine;
mod mounts;
mod netns;
mod network;
mod pod;
mod pod_process;
mod request;
mod roots;
mod sandbox;
mod sizing;
mod spec;
mod updates;
mod vm_end;

pub use config::{
    CONFIG_VARIABLE, Config, ConfigError, DEFAULT_CONFIG, Ids, MAX_MEMORY_MIB, MAX_VCPUS,
    MIN_MEMORY_MIB,
};
pub use error::{ErrorKind, SandboxError};
pub use mounts::enter_mount_namespace;
pub use request::{
    CreateContainer, CreateExec, PodPlace, PodSetUp, ProcessExit, ProcessId, ProcessStreams,
    RootMount, SandboxOptions,
};
pub use sandbox::{Sandbox, clean_up};
pub use sizing::{ContainerLimits, VmSize};
pub use spec::is_joined;
pub use vm_end::{VmEnd, VmEndKind};
