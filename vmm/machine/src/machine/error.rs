//! Why a machine, or a device of it, cannot be made.

use std::io;

use caisson_control::{RefusalKind, VERSION};
use vm_memory::GuestMemoryError;

use super::devices::DeviceError;
use super::files::FilesError;
use super::{MIN_GUEST_CID, MIN_MEMORY_MIB};
use crate::boot::command_line::CommandLineError;
use crate::boot::elf::KernelError;
use crate::boot::initrd::InitrdError;
use crate::memory::MemoryError;
use crate::pci::root::BusFull;
use crate::vcpu::MAX_VCPUS;
use crate::vcpu::registers::RegisterError;
use crate::vm::VmError;

/// Why a machine was not built. Whatever had been made for it is gone again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    /// Shim and VMM do not belong together.
    #[error(
        "the shim speaks version {0} of the control protocol and caisson-vmm version {VERSION}: \
         install both from the same release"
    )]
    Version(u32),
    /// The number of vCPUs is out of range.
    #[error("{0} vCPUs: there can be 1 to {MAX_VCPUS}")]
    Vcpus(u8),
    /// Too little memory.
    #[error("{0} MiB of memory: {MIN_MEMORY_MIB} is the least")]
    Memory(u32),
    /// The context id is reserved.
    #[error("guest context id {0}: {MIN_GUEST_CID} is the smallest")]
    GuestCid(u32),
    /// The files do not fit the request.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The command line cannot be used.
    #[error(transparent)]
    CommandLine(#[from] CommandLineError),
    /// The kernel cannot be booted.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The initrd cannot be loaded.
    #[error(transparent)]
    Initrd(#[from] InitrdError),
    /// The console cannot be written.
    #[error("the console file cannot be used: {0}")]
    Console(io::Error),
    /// No guest memory.
    #[error(transparent)]
    Ram(#[from] MemoryError),
    /// The tables for the kernel do not fit.
    #[error("cannot write the tables for the kernel: {0}")]
    Tables(#[from] GuestMemoryError),
    /// KVM refused.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// KVM refused the state of a vCPU.
    #[error("vcpu{index}: {source}")]
    Registers {
        /// Which vCPU.
        index: u8,
        /// What was refused.
        source: RegisterError,
    },
    /// KVM refused the CPUID leaves.
    #[error("vcpu{index}: CPUID: {message}")]
    Cpuid {
        /// Which vCPU.
        index: u8,
        /// What was refused.
        message: String,
    },
    /// The greatest number of vCPUs is below the first.
    #[error(
        "at most {most} vCPUs, but {first} from the start: there can be {first} to {MAX_VCPUS}"
    )]
    MaxVcpus {
        /// The greatest number.
        most: u8,
        /// The number at first.
        first: u8,
    },
    /// More vCPUs than the machine was made for.
    #[error("{wanted} vCPUs: this machine was made for 1 to {most}")]
    MoreVcpus {
        /// How many were asked for.
        wanted: u8,
        /// The greatest number.
        most: u8,
    },
    /// There is no memory to plug.
    #[error(
        "this machine has no hot-plug memory: say at boot how much there can be \
         (hotplug_memory_mib)"
    )]
    NoHotplugMemory,
    /// There is nothing by which the guest could do it.
    #[error("this machine has no {0} yet: plug it first")]
    NotPlugged(&'static str),
    /// More memory than can be plugged.
    #[error("{wanted} MiB of hot-plug memory: this machine was made for at most {most}")]
    MoreMemory {
        /// How much was asked for.
        wanted: u32,
        /// The most.
        most: u64,
    },
    /// The balloon would take all memory.
    #[error("a balloon of {wanted} MiB: it must be smaller than the memory, {memory} MiB")]
    Balloon {
        /// How much was asked for.
        wanted: u32,
        /// What the guest has.
        memory: u64,
    },
    /// A device cannot be made.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// No room on the bus.
    #[error(transparent)]
    BusFull(#[from] BusFull),
    /// No descriptor or thread left.
    #[error("{what}: {source}")]
    Resources {
        /// What was being made.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl BootError {
    /// The kind of refusal for the shim.
    pub(crate) fn kind(&self) -> RefusalKind {
        match self {
            Self::Version(_)
            | Self::Vcpus(_)
            | Self::MaxVcpus { .. }
            | Self::MoreVcpus { .. }
            | Self::Memory(_)
            | Self::GuestCid(_)
            | Self::Files(_)
            | Self::CommandLine(_)
            | Self::Console(_)
            | Self::NoHotplugMemory
            | Self::NotPlugged(_)
            | Self::MoreMemory { .. }
            | Self::Balloon { .. }
            | Self::Ram(MemoryError::HotplugSize(_)) => RefusalKind::Invalid,
            Self::Kernel(_) | Self::Initrd(_) | Self::Tables(_) => RefusalKind::Kernel,
            Self::Ram(_) | Self::Resources { .. } => RefusalKind::Resources,
            Self::Vm(_) | Self::Registers { .. } | Self::Cpuid { .. } => RefusalKind::Kvm,
            Self::Device(error) => error.kind(),
            Self::BusFull(_) => RefusalKind::Device,
        }
    }
}
