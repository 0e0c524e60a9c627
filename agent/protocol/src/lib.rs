//! What the shim and the guest agent say to each other.
//!
//! - The agent listens on vsock port [`AGENT_PORT`] for ttrpc ([`agent_ttrpc`]) and on
//!   [`STREAM_PORT`] for the standard streams of processes.
//! - When it is ready it connects to [`HELLO_PORT`] of the host and writes one [`Hello`].
//! - A stream is a vsock connection whose first line is its number ([`StreamId`]). The end of the
//!   data is a half-close, backpressure is the credit of vsock.

mod dial;
mod hello;
mod name;
mod stream;

pub use dial::{DIAL_HEADER, DialHeader, DialHeaderError};
pub use hello::{Hello, HelloError, MAX_HELLO};
pub use name::{NAME_HEADER, NAME_SERVICE, NameHeader, NameHeaderError, Transport};
pub use stream::{MAX_STREAM_HEADER, StreamHeaderError, StreamId};

/// What `build.rs` makes of `proto/agent.proto`: messages, ttrpc client and server.
#[allow(warnings, clippy::all, clippy::pedantic, clippy::restriction)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}

pub use generated::{agent, agent_ttrpc};

/// Port in the guest on which the agent serves ttrpc.
pub const AGENT_PORT: u32 = 1024;
/// Port in the guest on which the agent takes the standard streams of processes.
pub const STREAM_PORT: u32 = 1025;
/// Port in the guest on which the agent takes connections to the guest's loopback addresses. It says
/// one byte when it is connected.
pub const DIAL_PORT: u32 = 1026;
/// Port in the guest on which the agent takes one connection for the name server of the pod's namespace
/// ([`NameHeader`]).
pub const NAME_PORT: u32 = 1027;
/// Port of the host to which the agent says [`Hello`].
pub const HELLO_PORT: u32 = 1024;
/// Context id of the host (virtio 1.3 §5.10.4).
pub const HOST_CID: u32 = 2;
/// Most parts that a disk has: as many files as the VMM makes one of.
pub const MAX_DISK_PARTS: usize = 128;
/// Most mounts of which a root file system is made: 128 layers (Docker and containerd's snapshotters stop at
/// 127), a file system to write to, and what puts them together.
pub const MAX_ROOT_MOUNTS: usize = 130;
/// Most directories that a mount has made.
pub const MAX_NEW_DIRECTORIES: usize = 16;
/// The tag of the virtio-fs device that carries everything the pod may see of the host.
pub const SHARED_TAG: &str = "caisson";
/// Where the agent mounts that device.
pub const SHARED_PATH: &str = "/run/caisson/shared";
/// Where the volumes are in there, by number. No container has such a name.
pub const VOLUMES: &str = ".volumes";
/// I/O port to which the agent writes one byte as its first act, so that the VMM can time the
/// kernel's part of the start.
pub const PHASE_PORT: u16 = 0x3f0;
/// Version of this protocol; a shim and a guest image that differ are refused.
pub const VERSION: u32 = 7;
