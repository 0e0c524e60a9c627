//! `caisson-vmm`, with what a pod needs on its bus or without.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use caisson_control::Reply;
use caisson_machine_tests::{Builder, Device, Disk, Tap, TestMachine};

use crate::contender::{Guest, Machine};

/// Memory that can be plugged, as a pod has it.
const HOTPLUG_MIB: u32 = 1024;

/// Our VMM, and what this version of it can put on a bus.
pub(crate) struct Caisson {
    vmm: Option<PathBuf>,
    can_have_disks: bool,
    can_have_networks: bool,
    can_grow: bool,
}

impl Caisson {
    /// Finds out what there is.
    pub(crate) fn new() -> Self {
        let disk = Disk::new("probe", 1);
        let tap = Tap::new(1, "192.168.126.1/24");
        Self {
            vmm: None,
            can_have_disks: takes("disks", |builder| builder.device(disk.device())),
            can_have_networks: takes("network interfaces", |builder| builder.device(tap.device())),
            can_grow: takes("memory to plug", |builder| {
                builder.hotplug_memory_mib(HOTPLUG_MIB)
            }),
        }
    }

    /// The same with another version of our VMM.
    pub(crate) fn version(&self, vmm: PathBuf) -> Self {
        Self {
            vmm: Some(vmm),
            ..*self
        }
    }

    /// Boots a guest with what every machine has: vsock.
    pub(crate) fn least(guest: &Guest, memory_mib: u32) -> Box<dyn Machine> {
        let builder = TestMachine::builder()
            .initrd(guest.open())
            .without_late_devices();
        Box::new(builder.memory_mib(memory_mib).start())
    }

    /// Boots a guest with a directory of the host, a network interface and, if there is one, a disk as
    /// well, and room for memory to plug.
    pub(crate) fn pod(
        &self,
        guest: &Guest,
        memory_mib: u32,
        disk: Option<&Disk>,
        tap: &Tap,
    ) -> Box<dyn Machine> {
        // The tag that the agent looks for.
        let share = Device::file_server("caisson", Path::new("/usr"));
        let builder = TestMachine::builder().without_late_devices();
        let mut builder = builder.memory_mib(memory_mib).device(share);
        if self.can_grow {
            builder = builder.hotplug_memory_mib(HOTPLUG_MIB);
        }
        Box::new(self.with(builder, disk, tap).initrd(guest.open()).start())
    }

    /// Boots a guest with a disk and a network interface.
    pub(crate) fn busy(
        &self,
        guest: &Guest,
        memory_mib: u32,
        disk: &Disk,
        tap: &Tap,
    ) -> Box<dyn Machine> {
        let builder = TestMachine::builder().without_late_devices();
        let builder = builder.memory_mib(memory_mib);
        Box::new(
            self.with(builder, Some(disk), tap)
                .initrd(guest.open())
                .start(),
        )
    }

    fn with(&self, mut builder: Builder, disk: Option<&Disk>, tap: &Tap) -> Builder {
        if let Some(vmm) = &self.vmm {
            builder = builder.vmm(vmm);
        }
        if let Some(disk) = disk
            && self.can_have_disks
        {
            builder = builder.device(disk.device());
        }
        if self.can_have_networks {
            builder = builder.device(tap.device());
        }
        builder
    }
}

/// Whether a machine with this can be booted.
fn takes(what: &str, with: impl FnOnce(Builder) -> Builder) -> bool {
    match with(TestMachine::builder().without_root()).ask() {
        (_, Reply::Booted { .. }) => true,
        (_, Reply::Refused { message, .. }) => {
            println!("This caisson-vmm has no {what}: {message}");
            false
        }
        (_, reply) => panic!("a machine with {what}: {reply:?}"),
    }
}

impl Machine for TestMachine {
    fn pid(&self) -> u32 {
        self.vmm().pid()
    }

    fn accept(&self, port: u32) -> File {
        OwnedFd::from(self.accept(port)).into()
    }

    fn connect(&self, port: u32) -> File {
        OwnedFd::from(self.connect(port)).into()
    }
}
