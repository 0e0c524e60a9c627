//! A machine: built from a [`BootConfig`], run, stopped.

mod devices;
mod error;
mod files;
mod sizing;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use caisson_control::{
    BootConfig, DeviceConfig, DeviceStatistics, ExitReason, MemoryStatistics, Metrics, VERSION,
};
use kvm_ioctls::VcpuFd;
use rustix::rand::GetRandomFlags;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use self::devices::DeviceError;
pub(crate) use self::error::BootError;
use self::files::Files;
use self::sizing::Sizing;
use crate::boot::{Entry, command_line, elf, initrd, linux64, memory_map, mptable, pirq, pvh};
use crate::bus::Bus;
use crate::console::{Console, Tail};
use crate::devices::console::VirtioConsole;
use crate::devices::rng::Rng;
use crate::devices::vsock::{Vsock, VsockConnector};
use crate::events::EventSender;
use crate::io_thread::IoThread;
use crate::memory::{Backing, GuestRam};
use crate::pci::msix::MessageRouter;
use crate::pci::posted::PostedWrites;
use crate::pci::pvpanic::Pvpanic;
use crate::pci::root::{ADDRESS_PORT, PciRoot};
use crate::serial::{self, SerialPort};
use crate::vcpu::cpuid::Template;
use crate::vcpu::registers;
use crate::vcpu::run::Vcpus;
use crate::vcpu::{MAX_VCPUS, kick};
use crate::virtio::device::Device;
use crate::virtio::pci::{Environment, Transport, VirtioFunction};
use crate::vm::Vm;

/// Smallest guest: a kernel with what containers need and room to start one.
const MIN_MEMORY_MIB: u32 = 64;
/// Context ids below this have a meaning of their own (virtio 1.3 §5.10.4).
const MIN_GUEST_CID: u32 = 3;

fn resources(what: &'static str) -> impl FnOnce(io::Error) -> BootError {
    move |source| BootError::Resources { what, source }
}

/// A machine. Its vCPUs wait to enter the guest.
pub(crate) struct Machine {
    vcpus: Vcpus,
    /// What the vCPUs have in common, for those that come later.
    template: Template,
    entry: Entry,
    max_vcpus: u8,
    paused: bool,
    bus: Arc<Bus>,
    io: Arc<IoThread>,
    vm: Arc<Vm>,
    environment: Environment,
    vsock: VsockConnector,
    sizing: Sizing,
    /// Devices that came from the shim, by slot.
    plugged: BTreeMap<u8, DeviceConfig>,
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
        let of_devices = config.devices.iter().map(DeviceConfig::file_count).sum();
        let mut files = Files::sort(&config.files, of_devices, files)?;
        let shares = |device: &DeviceConfig| matches!(device, DeviceConfig::FileServer(_));
        let backing = match files.memory.take() {
            Some(file) => Backing::File(file),
            // A file server maps the guest's memory too.
            None if config.devices.iter().any(shares) => Backing::Shared,
            None => Backing::Private,
        };
        let tail = Tail::default();
        let console =
            Console::new(files.console.take(), tail.clone()).map_err(BootError::Console)?;
        let memory = Arc::new(GuestRam::with_hotplug(
            config.memory_mib.into(),
            config.hotplug_memory_mib.into(),
            backing,
        )?);
        let entry = load(&memory, config, &mut files.kernel, files.initrd.take())?;
        let vm = Arc::new(Vm::new(
            files.kvm,
            config.max_vcpus,
            Arc::clone(&memory),
            events.clone(),
        )?);
        let template = Template::new(
            vm.supported_cpuid(),
            config.max_vcpus,
            vm.has_tsc_deadline(),
        );
        let vcpus = (0..config.vcpus)
            .map(|index| create_vcpu(&vm, &template, index, entry))
            .collect::<Result<Vec<_>, _>>()?;

        let serial_interrupt =
            EventFd::new(EFD_NONBLOCK).map_err(resources("making the console's interrupt"))?;
        vm.connect_pin(&serial_interrupt, serial::INTERRUPT)?;
        let serial = SerialPort::new(serial_interrupt, console.clone());
        let mut pci = PciRoot::new();
        if let Some(vcpu) = vcpus.first()
            && vm.post_writes(ADDRESS_PORT)?
        {
            let posted =
                PostedWrites::new(vcpu).map_err(resources("mapping the writes KVM keeps"))?;
            pci.set_posted(posted);
        }
        let bus = Arc::new(Bus::new(pci, serial, events.clone()));

        let io = Arc::new(IoThread::new(events.clone()));
        io.begin()
            .map_err(resources("starting the thread for devices"))?;
        let environment = Environment {
            memory,
            runner: Arc::clone(&io) as _,
            doorbells: Arc::clone(&vm) as _,
            events: events.clone(),
        };
        let (vsock, connector) = Vsock::new(config.guest_cid, Arc::new(events.clone()))
            .map_err(resources("making the socket device"))?;
        let mut present: Vec<Box<dyn Device>> = vec![Box::new(vsock)];
        if config.virtio_console {
            present.push(Box::new(VirtioConsole::new(console)));
        }
        kick::install().map_err(resources("installing a signal handler"))?;
        let mut machine = Self {
            vcpus: Vcpus::new(Arc::clone(&bus), events.clone()),
            template,
            entry,
            max_vcpus: config.max_vcpus,
            paused: false,
            bus,
            io,
            vm,
            environment,
            vsock: connector,
            sizing: Sizing::default(),
            plugged: BTreeMap::new(),
            tail,
        };
        machine.populate(present)?;
        for device in &config.devices {
            machine.plug(device, &mut files.devices)?;
        }
        for vcpu in vcpus {
            machine.start_vcpu(vcpu)?;
        }
        Ok(machine)
    }

    /// Lets the vCPUs enter the guest.
    pub(crate) fn enter(&self) {
        self.vcpus.enter();
    }

    /// The slots of the devices that came from the shim, in ascending order.
    pub(crate) fn slots(&self) -> Vec<u8> {
        self.plugged.keys().copied().collect()
    }

    /// Stops the vCPUs between two instructions, and the devices where they are.
    pub(crate) fn pause(&mut self) {
        if !self.paused {
            self.vcpus.pause();
            self.bus.pci().pause();
            self.paused = true;
        }
    }

    /// Goes on after [`Machine::pause`].
    pub(crate) fn resume(&mut self) {
        if self.paused {
            self.bus.pci().resume();
            self.vcpus.enter();
            self.paused = false;
        }
    }

    /// Puts a device on the bus, made of the files at the front of `files`; returns its slot.
    ///
    /// # Errors
    /// Fails when the device cannot be made, there is one of its name, or no slot is free.
    pub(crate) fn plug(
        &mut self,
        config: &DeviceConfig,
        files: &mut VecDeque<OwnedFd>,
    ) -> Result<u8, BootError> {
        let name = devices::name(config);
        if self
            .plugged
            .values()
            .any(|other| devices::name(other) == name)
        {
            return Err(DeviceError::NameTaken(name).into());
        }
        let plugged = self.make(config, files).and_then(|device| self.add(device));
        match plugged {
            Ok(slot) => {
                self.plugged.insert(slot, config.clone());
            }
            Err(_) => self.sizing.forget(config),
        }
        plugged
    }

    fn make(
        &mut self,
        config: &DeviceConfig,
        files: &mut VecDeque<OwnedFd>,
    ) -> Result<Box<dyn Device>, BootError> {
        let Environment { memory, events, .. } = &self.environment;
        Ok(match config {
            DeviceConfig::Disk(disk) => devices::disk(disk, files)?,
            DeviceConfig::Net(net) => devices::net(net, files)?,
            DeviceConfig::FileServer(server) => devices::file_server(server, files, memory)?,
            DeviceConfig::Balloon => Box::new(self.sizing.balloon(Arc::new(events.clone()))?),
            DeviceConfig::Memory => {
                Box::new(self.sizing.memory(memory, Arc::clone(&self.vm) as _)?)
            }
            DeviceConfig::Rng => Box::new(Rng::new()),
        })
    }

    /// Takes a device off the bus that [`Machine::plug`] put there; false if there is none that may
    /// go.
    pub(crate) fn unplug(&mut self, slot: u8) -> bool {
        // The guest's kernel may be running in what has come by the memory device.
        let stays = |config: &DeviceConfig| *config == DeviceConfig::Memory;
        if self.plugged.get(&slot).is_none_or(stays) {
            return false;
        }
        if let Some(config) = self.plugged.remove(&slot) {
            self.sizing.forget(&config);
        }
        // The lock is not held while the device stops: vCPUs go on.
        let function = self.bus.pci().take(slot);
        if let Some(mut function) = function {
            function.shut_down();
        }
        self.io.forget(slot.into());
        true
    }

    /// Makes vCPUs until there are `count`.
    ///
    /// # Errors
    /// Fails when that is more than the machine was made for, or KVM makes no more.
    pub(crate) fn set_vcpus(&mut self, count: u8) -> Result<(), BootError> {
        if count == 0 || count > self.max_vcpus {
            return Err(BootError::MoreVcpus {
                wanted: count,
                most: self.max_vcpus,
            });
        }
        let present = u8::try_from(self.vcpus.count()).unwrap_or(u8::MAX);
        for index in present..count {
            let vcpu = create_vcpu(&self.vm, &self.template, index, self.entry)?;
            self.start_vcpu(vcpu)?;
        }
        Ok(())
    }

    /// Asks the guest to have `mib` MiB plugged.
    ///
    /// # Errors
    /// Fails when that is more than the machine was made for, or it has no memory device.
    pub(crate) fn set_hotplug_memory(&self, mib: u32) -> Result<(), BootError> {
        let memory = &self.environment.memory;
        self.sizing.set_hotplug_memory(memory, mib)
    }

    /// Asks the guest to give `mib` MiB back through its balloon.
    ///
    /// # Errors
    /// Fails when that is all it has, or it has no balloon.
    pub(crate) fn set_balloon(&self, mib: u32) -> Result<(), BootError> {
        self.sizing.set_balloon(&self.environment.memory, mib)
    }

    /// Opens a connection to `port` of the guest, numbered `request`.
    pub(crate) fn connect_guest(&self, request: u64, port: u32, stream: UnixStream) {
        self.vsock.connect(request, port, stream);
    }

    /// Counters.
    pub(crate) fn metrics(&self) -> Metrics {
        let started = self.io.statistics();
        let devices = self
            .bus
            .pci()
            .devices()
            .map(|(slot, kind, refusals)| {
                let (counters, faults) =
                    started.get(&usize::from(slot)).copied().unwrap_or_default();
                DeviceStatistics {
                    slot,
                    device: kind.name().to_owned(),
                    requests: counters.requests,
                    bytes_from_guest: counters.bytes_from_guest,
                    bytes_to_guest: counters.bytes_to_guest,
                    throttled: counters.throttled,
                    dropped: counters.dropped,
                    faults: faults.saturating_add(refusals),
                }
            })
            .collect();
        let in_mib = |bytes: u64| u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
        let boot_mib = in_mib(self.environment.memory.bytes());
        let plugged_mib = in_mib(self.sizing.plugged());
        let memory = MemoryStatistics {
            boot_mib,
            plugged_mib,
            balloon_mib: self.sizing.held().min(boot_mib.saturating_add(plugged_mib)),
        };
        Metrics {
            vcpu_exits: self.vcpus.exits(),
            memory,
            devices,
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

    /// Puts the functions on the bus that every machine has.
    fn populate(&mut self, devices: Vec<Box<dyn Device>>) -> Result<(), BootError> {
        let mut pci = self.bus.pci();
        let slot = pci.free_slot()?;
        let events = self.environment.events.clone();
        // Before the agent is there, a panic is known by what is said on the console, and the scan of
        // the bus, 79 accesses for each function, is spared. The agent looks for what is new anyway.
        pci.put_hidden(
            slot,
            Box::new(Pvpanic::new(PciRoot::first_bar(slot), events)),
        );
        drop(pci);
        for device in devices {
            self.add(device)?;
        }
        Ok(())
    }

    /// Puts a virtio device on the bus.
    fn add(&self, device: Box<dyn Device>) -> Result<u8, BootError> {
        let slot = self.bus.pci().free_slot()?;
        let transport = Transport::new(device, slot.into(), self.environment.clone());
        let router: Arc<dyn MessageRouter> = Arc::clone(&self.vm) as _;
        let bar = PciRoot::first_bar(slot);
        let function = VirtioFunction::new(transport, bar, Vm::first_gsi(slot), router)
            .map_err(resources("making the vectors of a device"))?;
        self.bus.pci().put(slot, Box::new(function));
        Ok(slot)
    }

    fn start_vcpu(&mut self, vcpu: VcpuFd) -> Result<(), BootError> {
        self.vcpus
            .add(vcpu)
            .map_err(resources("starting a thread for a vCPU"))
    }
}

fn check(config: &BootConfig) -> Result<(), BootError> {
    if config.version != VERSION {
        return Err(BootError::Version(config.version));
    }
    if config.vcpus == 0 || config.vcpus > MAX_VCPUS {
        return Err(BootError::Vcpus(config.vcpus));
    }
    if config.max_vcpus < config.vcpus || config.max_vcpus > MAX_VCPUS {
        return Err(BootError::MaxVcpus {
            most: config.max_vcpus,
            first: config.vcpus,
        });
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
        Entry::Linux64(_) => linux64::write(memory, &ranges, initrd, &seed()?)?,
    }
    mptable::write(memory, config.max_vcpus)?;
    pirq::write(memory)?;
    Ok(kernel.entry)
}

/// Random bytes for one machine alone: two that begin with the same would draw the same.
fn seed() -> Result<[u8; linux64::SEED_LENGTH], BootError> {
    let mut seed = [0; linux64::SEED_LENGTH];
    // Up to 256 bytes it gives all or fails (getrandom(2)).
    rustix::rand::getrandom(&mut seed, GetRandomFlags::empty())
        .map_err(|errno| resources("drawing random numbers")(errno.into()))?;
    Ok(seed)
}

/// Makes vCPU `index`: the first begins at `entry`, the others wait for the guest to start them.
fn create_vcpu(vm: &Vm, template: &Template, index: u8, entry: Entry) -> Result<VcpuFd, BootError> {
    let vcpu = vm.create_vcpu(index)?;
    let refused = |message| BootError::Cpuid { index, message };
    let leaves = template
        .for_vcpu(index)
        .map_err(|error| refused(format!("{error:?}")))?;
    vcpu.set_cpuid2(&leaves)
        .map_err(|error| refused(error.to_string()))?;
    let state = registers::set_common(&vcpu, template.xsave_components()).and_then(|()| {
        match index {
            0 => registers::set_entry(&vcpu, entry),
            // The others wait for the boot CPU to start them.
            _ => Ok(()),
        }
    });
    state.map_err(|source| BootError::Registers { index, source })?;
    Ok(vcpu)
}

#[cfg(test)]
#[path = "machine_test.rs"]
mod tests;
