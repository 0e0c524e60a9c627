//! The control protocol between the shim and `caisson-vmm`.
//!
//! The shim starts the VMM with one end of a `SOCK_SEQPACKET` socketpair as descriptor
//! [`CONTROL_FD`], the file that says who it is to be as [`IDENTITY_FD`], and nothing else. Each packet is one JSON message of at most
//! [`MAX_MESSAGE`] bytes; files travel beside it as `SCM_RIGHTS`. The VMM opens nothing by path:
//! whatever it may use arrives here.
//!
//! The first message is [`Request::Boot`]; its reply comes when the first instruction of the guest
//! is about to run. Requests are numbered by the shim and each gets exactly one [`Reply`] with the
//! same number; [`Event`]s come unasked. When the shim's end closes, the VMM exits.

mod channel;
mod device;
mod message;
mod metrics;

pub use channel::{Channel, ChannelError, MAX_FILES, MAX_MESSAGE};
pub use device::{
    DeviceConfig, DiskConfig, DiskPart, FileServerConfig, Limits, MAX_DISK_ID, MAX_DISK_PARTS,
    MAX_QUEUES, MAX_TAG, NetConfig, PART_ALIGNMENT, Rate, SECTOR, lay_out,
};
pub use message::{
    BootConfig, Event, Exit, ExitReason, FileRole, FromVmm, Phase, RefusalKind, Reply, Request,
    ToVmm, VERSION,
};
pub use metrics::{DeviceStatistics, MemoryStatistics, Metrics};

/// The descriptor number at which the VMM finds its end of the control socketpair.
pub const CONTROL_FD: i32 = 3;

/// The descriptor number at which the VMM finds a file that holds the number of the user and group
/// it is to be, in decimal. It keeps the file open as long as it lives: who locks it before (flock)
/// can tell by the lock whether the number is in use.
pub const IDENTITY_FD: i32 = 4;
