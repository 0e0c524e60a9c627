//! A machine: built from a [`BootConfig`], run, stopped.

mod files;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use caisson_control::{BootConfig, ExitReason, Metrics, RefusalKind, VERSION};
use kvm_ioctls::VcpuFd;
use vm_memory::GuestMemoryError;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use self::files::{Files, FilesError};
use crate::boot::command_line::CommandLineError;
use crate::boot::elf::KernelError;
use crate::boot::initrd::InitrdError;
use crate::boot::{Entry, command_line, elf, initrd, linux64, memory_map, mptable, pvh};
use crate::bus::Bus;
use crate::console::{Console, Tail};
use crate::devices::fs::{FileSystem, FileSystemError};
use crate::devices::rng::Rng;
use crate::devices::vsock::{Vsock, VsockConnector};
use crate::events::EventSender;
use crate::io_thread::IoThread;
use crate::memory::{Backing, GuestRam, MemoryError};
use crate::pci::host_bridge::HostBridge;
use crate::pci::msix::MessageRouter;
use crate::pci::posted::PostedWrites;
use crate::pci::pvpanic::{self, Pvpanic};
use crate::pci::root::{ADDRESS_PORT, BusFull, PciRoot};
use crate::serial::{self, SerialPort};
use crate::vcpu::cpuid::Template;
use crate::vcpu::registers::{self, RegisterError};
use crate::vcpu::run::Vcpus;
use crate::vcpu::{MAX_VCPUS, kick};
use crate::virtio::device::Device;
use crate::virtio::pci::{BAR_LENGTH, Environment, Transport, VirtioFunction};
use crate::vm::{Vm, VmError};

/// Smallest guest: a kernel with what containers need and room to start one.
const MIN_MEMORY_MIB: u32 = 64;
/// Context ids below this have a meaning of their own (virtio 1.3 §5.10.4).
const MIN_GUEST_CID: u32 = 3;

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
    /// A file server cannot be used.
    #[error("file server {tag:?}: {source}")]
    FileServer {
        /// Its tag.
        tag: String,
        /// What was wrong.
        source: FileSystemError,
    },
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
            | Self::Memory(_)
            | Self::GuestCid(_)
            | Self::Files(_)
            | Self::CommandLine(_)
            | Self::Console(_) => RefusalKind::Invalid,
            Self::Kernel(_) | Self::Initrd(_) | Self::Tables(_) => RefusalKind::Kernel,
            Self::Ram(_) | Self::Resources { .. } => RefusalKind::Resources,
            Self::Vm(_) | Self::Registers { .. } | Self::Cpuid { .. } => RefusalKind::Kvm,
            Self::BusFull(_) | Self::FileServer { .. } => RefusalKind::Device,
        }
    }
}

fn resources(what: &'static str) -> impl FnOnce(io::Error) -> BootError {
    move |source| BootError::Resources { what, source }
}

/// A machine whose vCPUs wait to enter the guest.
pub(crate) struct Machine {
    vcpus: Vcpus,
    bus: Arc<Bus>,
    io: Arc<IoThread>,
    vsock: VsockConnector,
    tail: Tail,
}

impl Machine {
    /// Builds the machine that `config` describes with the files that came with it.
    ///
    /// # Errors
    /// See [`BootError`].
    pub(crate) fn build(
        config: &BootConfig,
        files: Vec<OwnedFd>,
        events: &EventSender,
    ) -> Result<Self, BootError> {
        check(config)?;
        let mut files = Files::sort(&config.files, files)?;
        let backing = match files.memory.take() {
            Some(file) => Backing::File(file),
            // A file server maps the guest's memory too.
            None if !files.servers.is_empty() => Backing::Shared,
            None => Backing::Private,
        };
        let tail = Tail::default();
        let console =
            Console::new(files.console.take(), tail.clone()).map_err(BootError::Console)?;
        let memory = Arc::new(GuestRam::new(config.memory_mib.into(), backing)?);
        let entry = load(&memory, config, &mut files.kernel, files.initrd.take())?;
        let vm = Arc::new(Vm::new(
            files.kvm,
            config.vcpus,
            Arc::clone(&memory),
            events.clone(),
        )?);
        let vcpus = create_vcpus(&vm, config.vcpus, entry)?;

        let serial_interrupt =
            EventFd::new(EFD_NONBLOCK).map_err(resources("making the console's interrupt"))?;
        vm.connect_pin(&serial_interrupt, serial::INTERRUPT)?;

        let (vsock, connector) = Vsock::new(config.guest_cid, Arc::new(events.clone()))
            .map_err(resources("making the socket device"))?;
        let mut devices: Vec<Box<dyn Device>> = vec![Box::new(vsock), Box::new(Rng::new())];
        for (tag, socket) in files.servers {
            match FileSystem::new(&tag, UnixStream::from(socket)) {
                Ok(device) => devices.push(Box::new(device)),
                Err(source) => return Err(BootError::FileServer { tag, source }),
            }
        }
        let kinds = devices.iter().map(|device| device.kind()).collect();
        let io = Arc::new(IoThread::new(kinds, events.clone()));
        let environment = Environment {
            memory,
            runner: Arc::clone(&io) as _,
            doorbells: Arc::clone(&vm) as _,
            events: events.clone(),
        };
        let mut pci = populate(devices, &environment, &vm)?;
        if let Some(vcpu) = vcpus.first()
            && vm.post_writes(ADDRESS_PORT)?
        {
            let posted =
                PostedWrites::new(vcpu).map_err(resources("mapping the writes KVM keeps"))?;
            pci.set_posted(posted);
        }
        let serial = SerialPort::new(serial_interrupt, console);
        let bus = Arc::new(Bus::new(pci, serial, events.clone()));

        kick::install().map_err(resources("installing a signal handler"))?;
        let vcpus =
            Vcpus::start(vcpus, &bus, events).map_err(resources("starting a thread for a vCPU"))?;
        Ok(Self {
            vcpus,
            bus,
            io,
            vsock: connector,
            tail,
        })
    }

    /// Lets the vCPUs enter the guest.
    pub(crate) fn enter(&self) {
        self.vcpus.enter();
    }

    /// Opens a connection to `port` of the guest, numbered `request`.
    pub(crate) fn connect_guest(&self, request: u64, port: u32, stream: UnixStream) {
        self.vsock.connect(request, port, stream);
    }

    /// Counters.
    pub(crate) fn metrics(&self) -> Metrics {
        Metrics {
            vcpu_exits: self.vcpus.exits(),
            devices: self.io.statistics(),
        }
    }

    /// Stops the vCPUs, then the devices, which finish what they were asked for.
    pub(crate) fn stop(&mut self) {
        self.vcpus.stop();
        self.bus.pci().shut_down();
    }

    /// The end of the console output.
    pub(crate) fn console_tail(&self) -> String {
        self.tail.text()
    }

    /// The reason of an exit, corrected by what the console shows: a kernel that panics before it
    /// has found the pvpanic device only resets.
    pub(crate) fn explain(&self, reason: ExitReason) -> ExitReason {
        match reason {
            ExitReason::Shutdown if self.tail.shows_panic() => ExitReason::Panic,
            reason => reason,
        }
    }
}

fn check(config: &BootConfig) -> Result<(), BootError> {
    if config.version != VERSION {
        return Err(BootError::Version(config.version));
    }
    if config.vcpus == 0 || config.vcpus > MAX_VCPUS {
        return Err(BootError::Vcpus(config.vcpus));
    }
    if config.memory_mib < MIN_MEMORY_MIB {
        return Err(BootError::Memory(config.memory_mib));
    }
    if config.guest_cid < MIN_GUEST_CID {
        return Err(BootError::GuestCid(config.guest_cid));
    }
    Ok(())
}

/// Puts everything into guest memory that the kernel needs.
fn load(
    memory: &GuestRam,
    config: &BootConfig,
    kernel: &mut File,
    initrd: Option<File>,
) -> Result<Entry, BootError> {
    command_line::write(memory, &config.cmdline)?;
    let kernel = elf::load(memory, kernel)?;
    let initrd = match initrd {
        Some(mut file) => Some(initrd::load(memory, &mut file, kernel.end)?),
        None => None,
    };
    let ranges = memory_map::ranges(memory);
    match kernel.entry {
        Entry::Pvh(_) => pvh::write(memory, &ranges, initrd)?,
        Entry::Linux64(_) => linux64::write(memory, &ranges, initrd)?,
    }
    mptable::write(memory, config.vcpus)?;
    Ok(kernel.entry)
}

fn create_vcpus(vm: &Vm, count: u8, entry: Entry) -> Result<Vec<VcpuFd>, BootError> {
    let template = Template::new(vm.supported_cpuid(), count, vm.has_tsc_deadline());
    let xsave = template.xsave_components();
    (0..count)
        .map(|index| {
            let vcpu = vm.create_vcpu(index)?;
            let refused = |message| BootError::Cpuid { index, message };
            let leaves = template
                .for_vcpu(index)
                .map_err(|error| refused(format!("{error:?}")))?;
            vcpu.set_cpuid2(&leaves)
                .map_err(|error| refused(error.to_string()))?;
            let state = registers::set_common(&vcpu, xsave).and_then(|()| match index {
                0 => registers::set_entry(&vcpu, entry),
                // The others wait for the boot CPU to start them.
                _ => Ok(()),
            });
            state.map_err(|source| BootError::Registers { index, source })?;
            Ok(vcpu)
        })
        .collect()
}

/// Puts the functions on the bus, the virtio devices in order.
fn populate(
    devices: Vec<Box<dyn Device>>,
    environment: &Environment,
    vm: &Arc<Vm>,
) -> Result<PciRoot, BootError> {
    let mut pci = PciRoot::new();
    pci.add(Box::new(HostBridge::new()))?;
    let bar = pci.allocate_bar(pvpanic::BAR_LENGTH)?;
    pci.add(Box::new(Pvpanic::new(bar, environment.events.clone())))?;
    for (place, device) in devices.into_iter().enumerate() {
        let transport = Transport::new(device, place, environment.clone());
        let bar = pci.allocate_bar(BAR_LENGTH)?;
        let gsi = vm.allocate_gsis(transport.vectors());
        let router: Arc<dyn MessageRouter> = Arc::clone(vm) as _;
        let function = VirtioFunction::new(transport, bar, gsi, router)
            .map_err(resources("making the vectors of a device"))?;
        pci.add(Box::new(function))?;
    }
    Ok(pci)
}

#[cfg(test)]
#[path = "machine_test.rs"]
mod tests;
