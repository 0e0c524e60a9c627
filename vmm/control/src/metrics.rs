//! Counters of a machine.

use serde::{Deserialize, Serialize};

/// Counters since the start of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    /// Exits from guest mode to the VMM (not those KVM handled in the kernel), one entry per vCPU.
    pub vcpu_exits: Vec<u64>,
    /// The guest's memory.
    pub memory: MemoryStatistics,
    /// Devices in the order of their slots on the bus.
    pub devices: Vec<DeviceStatistics>,
}

/// The guest's memory, in MiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStatistics {
    /// What the machine was booted with.
    pub boot_mib: u32,
    /// What the guest has plugged beyond that.
    pub plugged_mib: u32,
    /// What the guest's balloon holds, and has given back to the host.
    pub balloon_mib: u32,
}

/// Counters of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatistics {
    /// Its slot on the PCI bus: the guest knows it as `0000:00:SLOT.0`.
    pub slot: u8,
    /// The device, for example `vsock`.
    pub device: String,
    /// Descriptor chains completed.
    pub requests: u64,
    /// Bytes of data that the guest handed to the device.
    pub bytes_from_guest: u64,
    /// Bytes of data that the guest received from the device.
    pub bytes_to_guest: u64,
    /// Times the device paused because of a rate limit.
    pub throttled: u64,
    /// Packets of a network interface that were lost: they were malformed, the link was down, or
    /// the guest had no room for them.
    #[serde(default)]
    pub dropped: u64,
    /// Times the device stopped because of a fault.
    pub faults: u64,
}
