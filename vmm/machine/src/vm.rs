//! The virtual machine as KVM sees it: memory slots, interrupt controllers, message routes.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::os::fd::FromRawFd;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    CpuId, KVM_API_VERSION, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_CAP_PMU_CAPABILITY,
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_MAX_CPUID_ENTRIES, KVM_PMU_CAP_DISABLE, KvmIrqRouting, kvm_enable_cap,
    kvm_irq_routing_entry, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, NoDatamatch, VcpuFd, VmFd};
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use crate::devices::memory::HotplugSlots;
use crate::events::EventSender;
use crate::memory::{GuestRam, HOTPLUG_SLOT};
use crate::pci::msix::{Message, MessageRouter};
use crate::virtio::runner::Doorbells;

/// Three pages below 4 GiB that KVM needs on Intel CPUs, and one more; not RAM.
const TSS_ADDRESS: usize = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;

/// Pins of KVM's pair of 8259.
const PIC_PINS: u32 = 16;
/// Interrupt numbers from here on are free for messages: those below are the pins of KVM's IOAPIC,
/// of which the guest is not told.
const FIRST_MESSAGE: u32 = 24;

/// KVM's number of the first slot of hot-plug memory; those below are for what is there from the
/// start.
const FIRST_HOTPLUG_SLOT: u32 = 8;

/// Messages of one function on the bus.
const MESSAGES_PER_SLOT: u32 = 32;

/// What the machine cannot do without.
const NEEDED: [(Cap, &str); 8] = [
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// Why KVM cannot provide the machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VmError {
    /// The file is not /dev/kvm.
    #[error(
        "the file given as /dev/kvm does not speak KVM version {KVM_API_VERSION}, but answers \
         {0}: it is another device, or not a device at all"
    )]
    NotKvm(i32),
    /// KVM lacks something.
    #[error("KVM on this host has no {0}: its kernel is too old, or KVM is restricted")]
    Missing(&'static str),
    /// KVM takes fewer vCPUs.
    #[error("KVM on this host takes at most {most} vCPUs, not {wanted}")]
    TooManyVcpus {
        /// How many were asked for.
        wanted: u8,
        /// How many there can be.
        most: usize,
    },
    /// KVM has too few slots for the hot-plug memory.
    #[error(
        "KVM on this host takes at most {most} MiB of hot-plug memory, not {wanted}: it has no \
         more memory slots"
    )]
    HotplugMemory {
        /// How much was asked for, in MiB.
        wanted: u64,
        /// How much there can be, in MiB.
        most: u64,
    },
    /// A call failed.
    #[error("{what} failed: {source}")]
    Call {
        /// Which.
        what: &'static str,
        /// What KVM said.
        source: kvm_ioctls::Error,
    },
}

fn failed(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> VmError {
    move |source| VmError::Call { what, source }
}

/// A virtual machine with memory and interrupt controllers, without vCPUs yet.
pub(crate) struct Vm {
    fd: VmFd,
    supported: CpuId,
    tsc_deadline: bool,
    /// Whether KVM can be told to refuse what CPUID does not offer of its own features (Linux 5.10).
    refuses: bool,
    /// Messages behind interrupt numbers.
    routes: Mutex<BTreeMap<u32, Message>>,
    events: EventSender,
    /// KVM maps the guest's memory as long as the machine exists.
    memory: Arc<GuestRam>,
}

impl Vm {
    /// Makes the machine on `kvm`, an open /dev/kvm.
    ///
    /// # Errors
    /// See [`VmError`].
    pub(crate) fn new(
        kvm: OwnedFd,
        vcpus: u8,
        memory: Arc<GuestRam>,
        events: EventSender,
    ) -> Result<Self, VmError> {
        // SAFETY: the descriptor is open and owned by nobody else any more. Whether it is KVM is
        // asked next; on other files the question fails without doing anything.
        let kvm = unsafe { Kvm::from_raw_fd(kvm.into_raw_fd()) };
        let version = kvm.get_api_version();
        if version != KVM_API_VERSION as i32 {
            return Err(VmError::NotKvm(version));
        }
        for (capability, name) in NEEDED {
            if !kvm.check_extension(capability) {
                return Err(VmError::Missing(name));
            }
        }
        let most = kvm.get_max_vcpus();
        if usize::from(vcpus) > most {
            return Err(VmError::TooManyVcpus {
                wanted: vcpus,
                most,
            });
        }
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(failed("KVM_GET_SUPPORTED_CPUID"))?;
        let fd = kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?;
        switch_off_counters(&fd)?;
        fd.set_identity_map_address(IDENTITY_MAP_ADDRESS)
            .map_err(failed("KVM_SET_IDENTITY_MAP_ADDR"))?;
        fd.set_tss_address(TSS_ADDRESS)
            .map_err(failed("KVM_SET_TSS_ADDR"))?;
        fd.create_irq_chip().map_err(failed("KVM_CREATE_IRQCHIP"))?;
        check_slots(&kvm, &memory)?;
        for (slot, region) in (0..).zip(memory.boot_regions()) {
            let range = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the range is mapped RAM of the guest, never unmapped, and this value keeps
            // it from being given back while the machine exists.
            unsafe { fd.set_user_memory_region(range) }
                .map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
        }
        Ok(Self {
            fd,
            supported,
            tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer),
            refuses: kvm.check_extension_raw(KVM_CAP_ENFORCE_PV_FEATURE_CPUID.into()) > 0,
            routes: Mutex::default(),
            events,
            memory,
        })
    }

    /// What KVM lets CPUID say on this host.
    pub(crate) fn supported_cpuid(&self) -> &CpuId {
        &self.supported
    }

    /// Whether KVM offers the TSC deadline timer.
    pub(crate) fn has_tsc_deadline(&self) -> bool {
        self.tsc_deadline
    }

    /// Makes vCPU `index`, whose APIC id is the same number.
    ///
    /// # Errors
    /// Fails when the host has no resources left.
    pub(crate) fn create_vcpu(&self, index: u8) -> Result<VcpuFd, VmError> {
        let vcpu = self
            .fd
            .create_vcpu(index.into())
            .map_err(failed("KVM_CREATE_VCPU"))?;
        if self.refuses {
            // Without this a guest may make any of KVM's hypercalls and write to any of its registers,
            // whatever CPUID says.
            vcpu.enable_cap(&enabled(KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1))
                .map_err(failed("KVM_ENABLE_CAP(KVM_CAP_ENFORCE_PV_FEATURE_CPUID)"))?;
        }
        Ok(vcpu)
    }

    /// Lets KVM keep writes to the four ports from `first` on until somebody looks at them, if it
    /// can; says whether it does.
    ///
    /// # Errors
    /// Fails when KVM refuses.
    pub(crate) fn post_writes(&self, first: u16) -> Result<bool, VmError> {
        if !self.fd.check_extension(Cap::CoalescedPio) {
            return Ok(false);
        }
        self.fd
            .register_coalesced_mmio(IoEventAddress::Pio(first.into()), 4)
            .map_err(failed("KVM_REGISTER_COALESCED_MMIO"))?;
        Ok(true)
    }

    /// Lets signals of `event` raise pin `pin` of the 8259.
    ///
    /// # Errors
    /// Fails when the host has no resources left.
    pub(crate) fn connect_pin(&self, event: &EventFd, pin: u32) -> Result<(), VmError> {
        self.fd
            .register_irqfd(event, pin)
            .map_err(failed("KVM_IRQFD"))
    }

    /// The first of the interrupt numbers for the messages of the function in `slot`, of which
    /// there can be 32.
    pub(crate) fn first_gsi(slot: u8) -> u32 {
        FIRST_MESSAGE + u32::from(slot) * MESSAGES_PER_SLOT
    }

    /// Gives KVM all routes: the pins of the 8259 as they are, and the messages.
    fn install(&self, routes: &BTreeMap<u32, Message>) -> Result<(), String> {
        let pins = (0..PIC_PINS).map(|pin| {
            let mut entry = kvm_irq_routing_entry {
                gsi: pin,
                type_: KVM_IRQ_ROUTING_IRQCHIP,
                ..kvm_irq_routing_entry::default()
            };
            let (chip, pin) = match pin {
                0..8 => (KVM_IRQCHIP_PIC_MASTER, pin),
                _ => (KVM_IRQCHIP_PIC_SLAVE, pin - 8),
            };
            entry.u.irqchip.irqchip = chip;
            entry.u.irqchip.pin = pin;
            entry
        });
        let messages = routes.iter().map(|(gsi, message)| {
            let mut entry = kvm_irq_routing_entry {
                gsi: *gsi,
                type_: KVM_IRQ_ROUTING_MSI,
                ..kvm_irq_routing_entry::default()
            };
            entry.u.msi.address_lo = (message.address & 0xffff_ffff) as u32;
            entry.u.msi.address_hi = (message.address >> 32) as u32;
            entry.u.msi.data = message.data;
            entry
        });
        let entries: Vec<_> = pins.chain(messages).collect();
        let table = KvmIrqRouting::from_entries(&entries)
            .map_err(|error| format!("interrupt routes do not fit into a table: {error:?}"))?;
        self.fd
            .set_gsi_routing(&table)
            .map_err(|error| format!("KVM_SET_GSI_ROUTING failed: {error}"))
    }

    /// Tells KVM about a slot of the hot-plug region, or with no `size` to forget it.
    fn set_hotplug_slot(&self, index: u32, size: u64) -> Result<(), io::Error> {
        let outside = || io::Error::from(io::ErrorKind::InvalidInput);
        let region = self.memory.hotplug().ok_or_else(outside)?;
        let start = region.start + u64::from(index) * HOTPLUG_SLOT;
        if start >= region.end {
            return Err(outside());
        }
        let pointer = self
            .memory
            .get_host_address(GuestAddress(start))
            .map_err(io::Error::other)?;
        let range = kvm_userspace_memory_region {
            slot: FIRST_HOTPLUG_SLOT + index,
            flags: 0,
            guest_phys_addr: start,
            memory_size: size,
            userspace_addr: pointer as u64,
        };
        // SAFETY: a slot that begins inside the hot-plug region lies in it as a whole, because the
        // region consists of slots. It is mapped, never unmapped, and `memory` keeps it from being
        // given back while the machine exists.
        let result = unsafe { self.fd.set_user_memory_region(range) };
        result.map_err(|error| io::Error::from_raw_os_error(error.errno()))
    }

    /// A machine whose interrupts or notifications get lost hangs; it rather ends with a reason.
    fn check(&self, what: &str, result: Result<(), kvm_ioctls::Error>) {
        if let Err(error) = result {
            self.events.fail(format!("{what} failed: {error}"));
        }
    }
}

/// Lets KVM do without performance counters for this machine: AMD's oldest are there whatever CPUID
/// says. Linux before 5.18 cannot, and a host without counters need not.
fn switch_off_counters(vm: &VmFd) -> Result<(), VmError> {
    let can = vm.check_extension_raw(KVM_CAP_PMU_CAPABILITY.into());
    if can & KVM_PMU_CAP_DISABLE.cast_signed() == 0 {
        return Ok(());
    }
    vm.enable_cap(&enabled(KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE.into()))
        .map_err(failed("KVM_ENABLE_CAP(KVM_CAP_PMU_CAPABILITY)"))
}

/// What switches a capability on that takes one argument.
fn enabled(capability: u32, argument: u64) -> kvm_enable_cap {
    let mut request = kvm_enable_cap {
        cap: capability,
        ..kvm_enable_cap::default()
    };
    if let Some(first) = request.args.first_mut() {
        *first = argument;
    }
    request
}

/// Checks that KVM has a slot for every part of the hot-plug region.
fn check_slots(kvm: &Kvm, memory: &GuestRam) -> Result<(), VmError> {
    let Some(region) = memory.hotplug() else {
        return Ok(());
    };
    let wanted = region.end - region.start;
    let slots = kvm.get_nr_memslots() as u64;
    let most = slots.saturating_sub(FIRST_HOTPLUG_SLOT.into()) * HOTPLUG_SLOT;
    if wanted > most {
        return Err(VmError::HotplugMemory {
            wanted: wanted >> 20,
            most: most >> 20,
        });
    }
    Ok(())
}

impl MessageRouter for Vm {
    fn connect(&self, gsi: u32, event: &EventFd, message: Message) {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if routes.get(&gsi) != Some(&message) {
            routes.insert(gsi, message);
            if let Err(error) = self.install(&routes) {
                self.events.fail(error);
            }
        }
        match self.fd.register_irqfd(event, gsi) {
            // Connected already: only the message changed.
            Err(error) if error.errno() == libc::EBUSY => {}
            result => self.check("KVM_IRQFD", result),
        }
    }

    fn disconnect(&self, gsi: u32, event: &EventFd) {
        self.check("KVM_IRQFD", self.fd.unregister_irqfd(event, gsi));
    }
}

impl HotplugSlots for Vm {
    fn insert(&self, index: u32) -> io::Result<()> {
        self.set_hotplug_slot(index, HOTPLUG_SLOT)
    }

    fn remove(&self, index: u32) {
        if let Err(error) = self.set_hotplug_slot(index, 0) {
            let what = "taking memory from the guest";
            self.events.fail(format!("{what} failed: {error}"));
        }
    }
}

/// A driver that puts two BARs in one place has two doorbells there, of which KVM takes the first.
/// Such a driver notifies the wrong device, and that is all: its writes go where it sent them.
impl Doorbells for Vm {
    fn attach(&self, address: u64, kick: &EventFd) {
        let address = IoEventAddress::Mmio(address);
        match self.fd.register_ioevent(kick, &address, NoDatamatch) {
            Err(error) if error.errno() == libc::EEXIST => {}
            result => self.check("KVM_IOEVENTFD", result),
        }
    }

    fn detach(&self, address: u64, kick: &EventFd) {
        let address = IoEventAddress::Mmio(address);
        // SAFETY: without a data match there is nothing in the arguments to go wrong.
        match self.fd.unregister_ioevent(kick, &address, NoDatamatch) {
            Err(error) if error.errno() == libc::ENOENT => {}
            result => self.check("KVM_IOEVENTFD", result),
        }
    }
}

#[cfg(test)]
#[path = "vm_test.rs"]
mod tests;
