//! What the two sides say to each other.

use serde::{Deserialize, Serialize};

/// Version of this protocol. The shim and the VMM are installed together, so a difference means a
/// half-finished installation and is refused.
pub const VERSION: u32 = 1;

/// A numbered request from the shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToVmm {
    /// Chosen by the shim; repeated in the reply.
    pub id: u64,
    /// What is asked.
    pub request: Request,
}

/// What the shim can ask of the VMM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Build the machine and run it. Must be the first request and may come only once.
    /// The message carries one file for each entry of [`BootConfig::files`], in that order.
    Boot(BootConfig),
    /// Open a vsock connection to `port` in the guest. The message carries one end of a connected
    /// stream socket, which becomes the host's end of that connection. Answered by
    /// [`Reply::Connected`] when the guest accepted, [`RefusalKind::ConnectionRefused`] otherwise.
    ConnectGuest {
        /// Port on which the guest listens.
        port: u32,
    },
    /// Report counters of the vCPUs and the devices.
    Metrics,
    /// Stop the vCPUs and the devices and exit with [`ExitReason::Stopped`].
    Stop,
}

/// The machine to build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootConfig {
    /// Must be [`VERSION`].
    pub version: u32,
    /// Number of vCPUs, 1 to 32.
    pub vcpus: u8,
    /// Guest memory in MiB, 64 or more.
    pub memory_mib: u32,
    /// Kernel command line. The VMM appends nothing to it.
    pub cmdline: String,
    /// vsock context id of the guest, 3 or more.
    pub guest_cid: u32,
    /// What each file that came with the message is, in order.
    pub files: Vec<FileRole>,
}

/// What a file that arrives with [`Request::Boot`] is used for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FileRole {
    /// `/dev/kvm`, opened read-write. Exactly one.
    Kvm,
    /// The guest kernel: an uncompressed x86-64 ELF with a PVH note or a 64-bit entry. Exactly one.
    Kernel,
    /// The initial RAM file system. At most one.
    Initrd,
    /// Where the guest's serial console is written, byte for byte. At most one. The VMM never
    /// blocks on it: what does not fit is dropped.
    Console,
    /// What the guest's RAM is made of: an empty file of a tmpfs, opened read-write, which the VMM
    /// sizes and maps shared. At most one. Without it the VMM makes a memfd if a file server needs
    /// to share the RAM; but only on a tmpfs mounted with `huge=advise` does the kernel back it
    /// with huge pages, whatever the host's setting for memfds, and that halves the time to boot.
    Memory,
    /// A connected vhost-user socket of a file server, shown to the guest as a virtio-fs device.
    FileServer {
        /// The mount tag the guest sees, 1 to 36 bytes (virtio 1.3 §5.11.4).
        tag: String,
    },
}

/// What the VMM says: the reply to a request, or an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FromVmm {
    /// The answer to request number `id`.
    Reply {
        /// The number of the request.
        id: u64,
        /// The answer.
        reply: Reply,
    },
    /// Something happened.
    Event(Event),
}

/// Answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// The machine runs.
    Booted,
    /// The guest accepted the connection.
    Connected,
    /// Counters.
    Metrics(Metrics),
    /// The machine is stopped; an [`Event::Exit`] follows.
    Stopped,
    /// The request was not carried out and changed nothing.
    Refused {
        /// Why, for programs.
        kind: RefusalKind,
        /// Why, for people: names what was wrong and, where it can, how to mend it.
        message: String,
    },
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The request itself is wrong: out of range, out of order, missing or surplus files.
    Invalid,
    /// The kernel file cannot be booted.
    Kernel,
    /// KVM refused something or lacks a capability.
    Kvm,
    /// No memory, descriptor or other resource left.
    Resources,
    /// The guest refused the connection, or too many are open.
    ConnectionRefused,
    /// A device could not be set up.
    Device,
}

/// Things that happen unasked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// The guest connects to `port` of the host. The message carries the host's end, a stream
    /// socket. A shim that does not want it closes it, which the guest sees as a reset.
    GuestConnected {
        /// Port to which the guest connects.
        port: u32,
    },
    /// A phase of the start was reached.
    Phase {
        /// Which.
        phase: Phase,
        /// When: `CLOCK_MONOTONIC` of the host in nanoseconds.
        at_ns: u64,
    },
    /// A device broke the rules of its queue and waits for a reset by its driver. Sent once for
    /// each time a device stops.
    DeviceFault {
        /// The device, for example `vsock`.
        device: String,
        /// What was wrong.
        message: String,
    },
    /// The machine is gone. The last message; the process exits after it.
    Exit(Exit),
}

/// Phases of the start in the order in which they are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The VMM's `main` began.
    VmmStarted,
    /// Memory, kernel, devices and vCPUs are set up; the first instruction follows.
    VcpuEntered,
    /// The guest kernel started the agent (its first act is a write to the phase port).
    AgentStarted,
}

/// How the machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Why.
    pub reason: ExitReason,
    /// The last lines of the guest's console, at most 4 KiB, invalid UTF-8 replaced. Guest data:
    /// show it, never act on it.
    pub console: String,
}

/// Why the machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    /// The guest reset or shut itself down.
    Shutdown,
    /// The guest's kernel panicked.
    Panic,
    /// The shim asked with [`Request::Stop`].
    Stopped,
    /// The VMM or KVM could not go on.
    Failed {
        /// What happened.
        message: String,
    },
}

/// Counters since the start of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    /// Exits from guest mode to the VMM (not those KVM handled in the kernel), one entry per vCPU.
    pub vcpu_exits: Vec<u64>,
    /// Devices in the order in which they sit on the bus.
    pub devices: Vec<DeviceStatistics>,
}

/// Counters of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatistics {
    /// The device, for example `vsock`.
    pub device: String,
    /// Descriptor chains completed.
    pub requests: u64,
    /// Times the device stopped because of a fault.
    pub faults: u64,
}
