//! The virtual machine as KVM sees it: memory slots, interrupt controllers, message routes.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::os::fd::FromRawFd;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    CpuId, KVM_API_VERSION, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC,
    KVM_MAX_CPUID_ENTRIES, KvmIrqRouting, kvm_irq_routing_entry, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, NoDatamatch, VcpuFd, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use crate::events::EventSender;
use crate::memory::GuestRam;
use crate::pci::msix::{Message, MessageRouter};
use crate::virtio::runner::Doorbells;

/// Three pages below 4 GiB that KVM needs on Intel CPUs, and one more; not RAM.
const TSS_ADDRESS: usize = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;

/// Pins of KVM's IOAPIC. Interrupt numbers from here on are free for messages.
const IOAPIC_PINS: u32 = 24;

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
    /// Messages behind interrupt numbers.
    routes: Mutex<BTreeMap<u32, Message>>,
    events: EventSender,
    /// KVM maps the guest's memory as long as the machine exists.
    _memory: Arc<GuestRam>,
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
        fd.set_identity_map_address(IDENTITY_MAP_ADDRESS)
            .map_err(failed("KVM_SET_IDENTITY_MAP_ADDR"))?;
        fd.set_tss_address(TSS_ADDRESS)
            .map_err(failed("KVM_SET_TSS_ADDR"))?;
        fd.create_irq_chip().map_err(failed("KVM_CREATE_IRQCHIP"))?;
        for (slot, region) in (0..).zip(memory.iter()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the range is mapped RAM of the guest, never unmapped, and this value keeps
            // it from being given back while the machine exists.
            unsafe { fd.set_user_memory_region(region) }
                .map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
        }
        Ok(Self {
            fd,
            supported,
            tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer),
            routes: Mutex::default(),
            events,
            _memory: memory,
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
        self.fd
            .create_vcpu(index.into())
            .map_err(failed("KVM_CREATE_VCPU"))
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

    /// Lets signals of `event` raise pin `pin` of the IOAPIC.
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
        IOAPIC_PINS + u32::from(slot) * MESSAGES_PER_SLOT
    }

    /// Gives KVM all routes: the pins of the IOAPIC as they are, and the messages.
    fn install(&self, routes: &BTreeMap<u32, Message>) -> Result<(), String> {
        let pins = (0..IOAPIC_PINS).map(|pin| {
            let mut entry = kvm_irq_routing_entry {
                gsi: pin,
                type_: KVM_IRQ_ROUTING_IRQCHIP,
                ..kvm_irq_routing_entry::default()
            };
            entry.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
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

    /// A machine whose interrupts or notifications get lost hangs; it rather ends with a reason.
    fn check(&self, what: &str, result: Result<(), kvm_ioctls::Error>) {
        if let Err(error) = result {
            self.events.fail(format!("{what} failed: {error}"));
        }
    }
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
