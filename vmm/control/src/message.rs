//! What the two sides say to each other.

use serde::{Deserialize, Serialize};

use crate::device::DeviceConfig;
use crate::metrics::Metrics;

/// Version of this protocol. The shim and the VMM are installed together, so a difference means a
/// half-finished installation and is refused.
pub const VERSION: u32 = 4;

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
    /// The message carries one file for each entry of [`BootConfig::files`], in that order, then
    /// those of [`BootConfig::devices`].
    Boot(BootConfig),
    /// Open a vsock connection to `port` in the guest. The message carries one end of a connected
    /// stream socket, which becomes the host's end of that connection. Answered by
    /// [`Reply::Connected`] when the guest accepted, [`RefusalKind::ConnectionRefused`] otherwise.
    ConnectGuest {
        /// Port on which the guest listens.
        port: u32,
    },
    /// Stop the vCPUs between two instructions and the devices after the requests in flight.
    /// Nothing is lost; the guest's clock goes on. Pausing a paused machine changes nothing.
    Pause,
    /// Go on after a pause. Resuming a running machine changes nothing.
    Resume,
    /// Put a device on the bus. The message carries its files. The guest sees it when its agent
    /// scans the bus. Answered by [`Reply::Plugged`].
    Plug(DeviceConfig),
    /// Take the device in this slot off the bus; one that came with [`Request::Plug`] or
    /// [`BootConfig::devices`], but not the memory device. The guest's agent removes it first, or its
    /// driver loses it.
    Unplug {
        /// Its slot, from [`Reply::Plugged`] or, for those that were there from the start,
        /// [`Reply::Booted`].
        slot: u8,
    },
    /// Make vCPUs so that there are at least `count`, at most [`BootConfig::max_vcpus`]. The
    /// guest's agent brings them online. A vCPU that the guest takes offline stays and sleeps.
    SetVcpus {
        /// How many there shall be.
        count: u8,
    },
    /// Ask the guest to plug this much memory beyond what it was booted with, or to unplug down to
    /// it; rounded up to 2 MiB, at most [`BootConfig::hotplug_memory_mib`]. The guest follows as far
    /// as it can; [`Request::Metrics`] tells how far it has come. It needs the memory device,
    /// [`DeviceConfig::Memory`].
    SetHotplugMemory {
        /// How much, in MiB.
        mib: u32,
    },
    /// Ask the guest to give this much memory back through its balloon. It takes memory back by
    /// itself when it would otherwise have to kill a process ([`Event::MemoryPressure`]). It needs
    /// the balloon, [`DeviceConfig::Balloon`].
    SetBalloon {
        /// How much the balloon shall hold, in MiB; less than the memory of the machine.
        mib: u32,
    },
    /// Report counters of the vCPUs, the memory and the devices.
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
    /// Number of vCPUs at first, 1 to 32.
    pub vcpus: u8,
    /// Number of vCPUs that there can be later, `vcpus` to 32. The guest is told of all of them:
    /// its command line must say `maxcpus=` with the number at first.
    pub max_vcpus: u8,
    /// Guest memory in MiB, 64 or more.
    pub memory_mib: u32,
    /// Most memory that can be plugged later, in MiB; a multiple of 128, 0 for none.
    pub hotplug_memory_mib: u32,
    /// Whether there is a console device beside the serial port, for output only: `hvc0` to a
    /// kernel whose command line says `console=hvc0`. Both are written to the same file.
    #[serde(default)]
    pub virtio_console: bool,
    /// Kernel command line. The VMM appends nothing to it.
    pub cmdline: String,
    /// vsock context id of the guest, 3 or more.
    pub guest_cid: u32,
    /// What each file that came with the message is, in order.
    pub files: Vec<FileRole>,
    /// Devices beside those that every machine has. Their files follow the others.
    pub devices: Vec<DeviceConfig>,
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
    /// sizes and maps shared; the tmpfs has room for [`BootConfig::memory_mib`] and
    /// [`BootConfig::hotplug_memory_mib`] together. At most one. Without it the VMM makes a memfd
    /// if a file server needs to share the RAM; but only on a tmpfs mounted with `huge=advise` does
    /// the kernel back it with huge pages, whatever the host's setting for memfds, and that halves
    /// the time to boot.
    Memory,
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
    Booted {
        /// The slots of [`BootConfig::devices`], in order.
        slots: Vec<u8>,
    },
    /// The guest accepted the connection.
    Connected,
    /// The device is on the bus.
    Plugged {
        /// Its slot: the guest finds it as `0000:00:SLOT.0`.
        slot: u8,
    },
    /// What was asked is done: the machine is paused, resumed, a device is off the bus.
    Done,
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
    /// The guest, short of memory, took some back from its balloon.
    MemoryPressure {
        /// What the balloon holds now, in MiB.
        balloon_mib: u32,
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
