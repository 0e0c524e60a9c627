//! The state of a vCPU when it begins.

use kvm_bindings::{Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment, kvm_xcrs};
use kvm_ioctls::VcpuFd;

use crate::boot::linux64::{CODE_SELECTOR, DATA_SELECTOR, DESCRIPTORS, TASK_SELECTOR};
use crate::boot::{Entry, GDT, PAGE_TABLES, START_INFO, ZERO_PAGE};

/// Control register bits.
const CR0_PROTECTED: u64 = 1;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;
/// The bit of the flags that is always set; interrupts are off.
const FLAGS: u64 = 2;

/// Fast string operations, as firmware leaves them.
const MSR_MISC_ENABLE: (u32, u64) = (0x1a0, 1);
/// Memory types: on, write-back by default, as firmware would set them; without it the kernel
/// believes that all memory is uncached.
const MSR_MTRR_DEFAULT: (u32, u64) = (0x2ff, 1 << 11 | 6);

/// Components of XCR0 that are on from the start: x87, SSE and AVX, where KVM has them.
///
/// At reset only x87 is, and every kernel sets the register itself. But emulated hosts exist whose
/// nested virtualisation lets that instruction through to the CPU without telling KVM, which then
/// goes on to report and to restore the old value: the guest's kernel finds sizes that do not
/// fit, and AVX fails after the next exit. With the value set here in advance both agree.
const XCR0_AT_START: u64 = 0b111;

/// Offsets of the local interrupt pins in the APIC page, and their delivery modes.
const LAPIC_LINT0: usize = 0x350;
const LAPIC_LINT1: usize = 0x360;
const DELIVER_NMI: u32 = 4 << 8;
const DELIVER_EXTINT: u32 = 7 << 8;

/// Why a vCPU could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegisterError {
    /// KVM refused a set of registers.
    #[error("{what}: {source}")]
    Kvm {
        /// Which registers.
        what: &'static str,
        /// What KVM said.
        source: kvm_ioctls::Error,
    },
    /// KVM does not know one of the model-specific registers.
    #[error("KVM took {taken} of {given} model-specific registers")]
    Msrs {
        /// How many were set.
        taken: usize,
        /// How many there are.
        given: usize,
    },
    /// The list of model-specific registers is too long.
    #[error("list of model-specific registers: {0:?}")]
    List(vmm_sys_util::fam::Error),
}

fn refused(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> RegisterError {
    move |source| RegisterError::Kvm { what, source }
}

/// Sets what every vCPU has at reset beyond what KVM gives it. `xsave_components` are those that
/// its CPUID offers.
///
/// # Errors
/// See [`RegisterError`].
pub(crate) fn set_common(vcpu: &VcpuFd, xsave_components: u64) -> Result<(), RegisterError> {
    let entries = [MSR_MISC_ENABLE, MSR_MTRR_DEFAULT].map(|(index, data)| kvm_msr_entry {
        index,
        data,
        ..kvm_msr_entry::default()
    });
    let msrs = Msrs::from_entries(&entries).map_err(RegisterError::List)?;
    let taken = vcpu
        .set_msrs(&msrs)
        .map_err(refused("model-specific registers"))?;
    if taken != entries.len() {
        return Err(RegisterError::Msrs {
            taken,
            given: entries.len(),
        });
    }
    let fpu = kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..kvm_fpu::default()
    };
    vcpu.set_fpu(&fpu).map_err(refused("FPU"))?;

    let xcr0 = xsave_components & XCR0_AT_START;
    if xcr0 != 0 {
        let mut xcrs = kvm_xcrs {
            nr_xcrs: 1,
            ..kvm_xcrs::default()
        };
        if let Some(register) = xcrs.xcrs.first_mut() {
            register.value = xcr0;
        }
        vcpu.set_xcrs(&xcrs).map_err(refused("XCR0"))?;
    }

    let mut lapic = vcpu.get_lapic().map_err(refused("local APIC"))?;
    for (pin, mode) in [(LAPIC_LINT0, DELIVER_EXTINT), (LAPIC_LINT1, DELIVER_NMI)] {
        let registers = lapic.regs.iter_mut().skip(pin);
        for (byte, value) in registers.zip(mode.to_le_bytes()) {
            *byte = value as _;
        }
    }
    vcpu.set_lapic(&lapic).map_err(refused("local APIC"))
}

/// Sets the boot vCPU to the kernel's entry.
///
/// # Errors
/// See [`RegisterError`].
pub(crate) fn set_entry(vcpu: &VcpuFd, entry: Entry) -> Result<(), RegisterError> {
    let mut special = vcpu.get_sregs().map_err(refused("special registers"))?;
    let long = matches!(entry, Entry::Linux64(_));
    let code = segment(CODE_SELECTOR, 0xb, Some(long));
    let data = segment(DATA_SELECTOR, 0x3, Some(false));
    special.cs = code;
    special.ds = data;
    special.es = data;
    special.fs = data;
    special.gs = data;
    special.ss = data;
    special.tr = segment(TASK_SELECTOR, 0xb, None);
    special.idt.base = 0;
    special.idt.limit = 0;
    special.cr0 = CR0_PROTECTED | CR0_EXTENSION_TYPE;
    special.cr4 = 0;
    special.efer = 0;
    let mut registers = kvm_regs {
        rflags: FLAGS,
        ..kvm_regs::default()
    };
    match entry {
        Entry::Pvh(address) => {
            registers.rip = address.into();
            registers.rbx = START_INFO.0;
            special.gdt.base = 0;
            special.gdt.limit = 0;
        }
        Entry::Linux64(address) => {
            registers.rip = address;
            registers.rsi = ZERO_PAGE.0;
            special.gdt.base = GDT.0;
            special.gdt.limit = (size_of_val(&DESCRIPTORS) - 1) as u16;
            special.cr0 |= CR0_PAGING;
            special.cr3 = PAGE_TABLES.0;
            special.cr4 = CR4_PAE;
            special.efer = EFER_LONG_MODE;
        }
    }
    vcpu.set_sregs(&special)
        .map_err(refused("special registers"))?;
    vcpu.set_regs(&registers)
        .map_err(refused("general registers"))
}

/// A flat segment; `long` says whether it is code for long mode, `None` makes a task segment.
fn segment(selector: u16, kind: u8, long: Option<bool>) -> kvm_segment {
    let task = long.is_none();
    let long = long == Some(true);
    kvm_segment {
        base: 0,
        limit: if task { 0x67 } else { 0xffff_ffff },
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: u8::from(!long && !task),
        s: u8::from(!task),
        l: u8::from(long),
        g: u8::from(!task),
        ..kvm_segment::default()
    }
}
