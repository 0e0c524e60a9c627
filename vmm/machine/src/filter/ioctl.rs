//! The requests of ioctl(2) by which devices of the host are used.

use kvm_bindings::{
    kvm_coalesced_mmio_zone, kvm_cpuid2, kvm_enable_cap, kvm_fpu, kvm_ioeventfd, kvm_irq_routing,
    kvm_irqfd, kvm_lapic_state, kvm_msrs, kvm_regs, kvm_sregs, kvm_userspace_memory_region,
    kvm_xcrs,
};

/// Requests of KVM (linux/kvm.h) have this type; and data goes to the kernel, or comes from it.
const KVM: u32 = 0xae << 8;
const WRITE: u32 = 1 << 30;
const READ: u32 = 2 << 30;

const fn plain(number: u32) -> u32 {
    KVM | number
}

const fn write<T>(number: u32) -> u32 {
    WRITE | (size_of::<T>() as u32) << 16 | KVM | number
}

const fn read<T>(number: u32) -> u32 {
    READ | (size_of::<T>() as u32) << 16 | KVM | number
}

const fn both<T>(number: u32) -> u32 {
    read::<T>(number) | write::<T>(number)
}

const GET_API_VERSION: u32 = plain(0x00);
const CREATE_VM: u32 = plain(0x01);
const CHECK_EXTENSION: u32 = plain(0x03);
const GET_VCPU_MMAP_SIZE: u32 = plain(0x04);
const GET_SUPPORTED_CPUID: u32 = both::<kvm_cpuid2>(0x05);
const CREATE_VCPU: u32 = plain(0x41);
const SET_USER_MEMORY_REGION: u32 = write::<kvm_userspace_memory_region>(0x46);
const SET_TSS_ADDR: u32 = plain(0x47);
const SET_IDENTITY_MAP_ADDR: u32 = write::<u64>(0x48);
const CREATE_IRQCHIP: u32 = plain(0x60);
const REGISTER_COALESCED_MMIO: u32 = write::<kvm_coalesced_mmio_zone>(0x67);
const SET_GSI_ROUTING: u32 = write::<kvm_irq_routing>(0x6a);
const IRQFD: u32 = write::<kvm_irqfd>(0x76);
const IOEVENTFD: u32 = write::<kvm_ioeventfd>(0x79);
const RUN: u32 = plain(0x80);
const GET_REGS: u32 = read::<kvm_regs>(0x81);
const SET_REGS: u32 = write::<kvm_regs>(0x82);
const GET_SREGS: u32 = read::<kvm_sregs>(0x83);
const SET_SREGS: u32 = write::<kvm_sregs>(0x84);
const SET_MSRS: u32 = write::<kvm_msrs>(0x89);
const SET_FPU: u32 = write::<kvm_fpu>(0x8d);
const GET_LAPIC: u32 = read::<kvm_lapic_state>(0x8e);
const SET_LAPIC: u32 = write::<kvm_lapic_state>(0x8f);
const SET_CPUID2: u32 = write::<kvm_cpuid2>(0x90);
const ENABLE_CAP: u32 = write::<kvm_enable_cap>(0xa3);
const SET_XCRS: u32 = write::<kvm_xcrs>(0xa7);
const KVMCLOCK_CTRL: u32 = plain(0xad);

/// Those of a disk that is a block device (linux/fs.h).
const BLKSSZGET: u32 = 0x1268;
const BLKDISCARD: u32 = 0x1277;
const BLKIOMIN: u32 = 0x1278;
const BLKIOOPT: u32 = 0x1279;
const BLKPBSZGET: u32 = 0x127b;

/// Those of a vCPU thread: its guest, and the interrupts and doorbells of devices.
pub(super) const VCPU_REQUESTS: &[u32] = &[
    RUN,
    KVMCLOCK_CTRL,
    IRQFD,
    SET_GSI_ROUTING,
    IOEVENTFD,
    // Where it was, for the words about a failure.
    GET_REGS,
];

/// Those of the io thread.
pub(super) const IO_REQUESTS: &[u32] = &[
    libc::FIONBIO as u32,
    libc::TUNSETOFFLOAD as u32,
    libc::TUNSETQUEUE as u32,
    BLKDISCARD,
    // Memory that the guest plugs.
    SET_USER_MEMORY_REGION,
];

/// Those of the first thread before the guest runs, beyond all others.
pub(super) const BUILDING_REQUESTS: &[u32] = &[
    GET_API_VERSION,
    CREATE_VM,
    CHECK_EXTENSION,
    GET_VCPU_MMAP_SIZE,
    GET_SUPPORTED_CPUID,
    SET_TSS_ADDR,
    SET_IDENTITY_MAP_ADDR,
    CREATE_IRQCHIP,
    REGISTER_COALESCED_MMIO,
];

/// Those of vCPUs and devices that come later.
pub(super) const CONTROL_REQUESTS: &[u32] = &[
    CREATE_VCPU,
    SET_REGS,
    GET_SREGS,
    SET_SREGS,
    SET_MSRS,
    SET_FPU,
    GET_LAPIC,
    SET_LAPIC,
    SET_CPUID2,
    ENABLE_CAP,
    SET_XCRS,
    libc::TUNGETIFF as u32,
    libc::TUNSETOFFLOAD as u32,
    libc::TUNSETVNETHDRSZ as u32,
    BLKSSZGET,
    BLKPBSZGET,
    BLKIOMIN,
    BLKIOOPT,
];
