//! What CPUID says to the guest: what KVM supports on this host, with the topology of this machine
//! and without what a tenant has no business with.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

const FEATURES: u32 = 0x1;
const CACHE_INTEL: u32 = 0x4;
const COUNTERS_INTEL: u32 = 0xa;
const TOPOLOGY: u32 = 0xb;
const XSAVE_LEAF: u32 = 0xd;
const TOPOLOGY_V2: u32 = 0x1f;
const KVM_FEATURES: u32 = 0x4000_0001;
const EXTENDED_FEATURES_AMD: u32 = 0x8000_0001;
const SIZES_AMD: u32 = 0x8000_0008;
const SVM_AMD: u32 = 0x8000_000a;
const CACHE_AMD: u32 = 0x8000_001d;
const TOPOLOGY_AMD: u32 = 0x8000_001e;
const COUNTERS_AMD: u32 = 0x8000_0022;

/// Leaf 1 ECX.
const ECX_VMX: u32 = 1 << 5;
/// What counters can do is said in a register.
const ECX_PDCM: u32 = 1 << 15;
const ECX_TSC_DEADLINE: u32 = 1 << 24;
const ECX_HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX: there may be several logical CPUs in the package.
const EDX_HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001 ECX.
const ECX_CMP_LEGACY: u32 = 1 << 1;
const ECX_SVM: u32 = 1 << 2;
/// Performance counters of a core, of the chip around it, and of its last cache.
const ECX_COUNTERS: u32 = 1 << 23 | 1 << 24 | 1 << 28;

/// Leaf 0x4000_0001 EAX, KVM's own: a spinlock that sleeps, woken by a hypercall.
const EAX_PV_UNHALT: u32 = 1 << 7;

/// What all vCPUs of a machine have in common.
pub(crate) struct Template {
    entries: Vec<kvm_cpuid_entry2>,
    vcpus: u8,
}

impl Template {
    /// Makes the template from what KVM supports.
    pub(crate) fn new(supported: &CpuId, vcpus: u8, tsc_deadline: bool) -> Self {
        let mut entries = supported.as_slice().to_vec();
        let highest = entries
            .iter()
            .find(|entry| entry.function == 0)
            .map_or(0, |entry| entry.eax);
        hide_nested_virtualisation(&mut entries);
        hide_counters(&mut entries);
        hide_wake_ups(&mut entries);
        for entry in &mut entries {
            if entry.function == FEATURES {
                entry.ecx |= ECX_HYPERVISOR;
                if tsc_deadline {
                    entry.ecx |= ECX_TSC_DEADLINE;
                }
            }
        }
        // KVM repeats what the host has, whose topology is of no use here.
        entries.retain(|entry| !matches!(entry.function, TOPOLOGY | TOPOLOGY_V2));
        if highest >= TOPOLOGY {
            entries.extend((0..3).map(|index| topology(index, vcpus)));
        }
        for entry in &mut entries {
            share_caches(entry, vcpus);
        }
        Self { entries, vcpus }
    }

    /// The state components of XSAVE that KVM offers to the guest's XCR0.
    pub(crate) fn xsave_components(&self) -> u64 {
        self.entries
            .iter()
            .find(|entry| entry.function == XSAVE_LEAF && entry.index == 0)
            .map_or(0, |entry| u64::from(entry.edx) << 32 | u64::from(entry.eax))
    }

    /// The leaves of vCPU `index`, whose APIC id is the same number.
    ///
    /// # Errors
    /// Fails when there are more leaves than KVM takes.
    pub(crate) fn for_vcpu(&self, index: u8) -> Result<CpuId, vmm_sys_util::fam::Error> {
        let mut entries = self.entries.clone();
        let apic_id = u32::from(index);
        for entry in &mut entries {
            match entry.function {
                FEATURES => {
                    let logical = u32::from(self.vcpus).next_power_of_two();
                    entry.ebx = entry.ebx & 0xffff | logical << 16 | apic_id << 24;
                    if self.vcpus > 1 {
                        entry.edx |= EDX_HTT;
                    } else {
                        entry.edx &= !EDX_HTT;
                    }
                }
                TOPOLOGY => entry.edx = apic_id,
                EXTENDED_FEATURES_AMD if self.vcpus > 1 => entry.ecx |= ECX_CMP_LEGACY,
                SIZES_AMD => {
                    let cores = u32::from(self.vcpus) - 1;
                    entry.ecx = entry.ecx & !0xf0ff | cores | id_bits(self.vcpus) << 12;
                }
                TOPOLOGY_AMD => {
                    entry.eax = apic_id;
                    // One thread for each core, one node for all.
                    entry.ebx = apic_id;
                    entry.ecx = 0;
                }
                _ => {}
            }
        }
        CpuId::from_entries(&entries)
    }
}

/// Bits of the APIC id that number the CPUs of the package.
fn id_bits(vcpus: u8) -> u32 {
    u32::from(vcpus).next_power_of_two().trailing_zeros()
}

/// Sub-leaf `index` of the extended topology: one thread for each core, all cores in one package.
fn topology(index: u32, vcpus: u8) -> kvm_cpuid_entry2 {
    const LEVEL_THREAD: u32 = 1 << 8;
    const LEVEL_CORE: u32 = 2 << 8;
    let (eax, ebx, level) = match index {
        0 => (0, 1, LEVEL_THREAD),
        1 => (id_bits(vcpus), u32::from(vcpus), LEVEL_CORE),
        _ => (0, 0, 0),
    };
    kvm_cpuid_entry2 {
        function: TOPOLOGY,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax,
        ebx,
        ecx: index | level,
        ..kvm_cpuid_entry2::default()
    }
}

/// Says which vCPUs share a cache: the last level all, the others none.
fn share_caches(entry: &mut kvm_cpuid_entry2, vcpus: u8) {
    if !matches!(entry.function, CACHE_INTEL | CACHE_AMD) || entry.eax & 0x1f == 0 {
        return;
    }
    let others = u32::from(vcpus).next_power_of_two() - 1;
    let level = entry.eax >> 5 & 7;
    let sharing = if level >= 3 { others } else { 0 };
    entry.eax = entry.eax & 0x3fff | sharing << 14;
    if entry.function == CACHE_INTEL {
        entry.eax |= others << 26;
    }
}

/// A tenant's machine runs no machines of its own: nested virtualisation is a large part of KVM
/// and would be reachable from the guest.
fn hide_nested_virtualisation(entries: &mut Vec<kvm_cpuid_entry2>) {
    entries.retain(|entry| entry.function != SVM_AMD);
    for entry in entries {
        match entry.function {
            FEATURES => entry.ecx &= !ECX_VMX,
            EXTENDED_FEATURES_AMD => entry.ecx &= !ECX_SVM,
            _ => {}
        }
    }
}

/// Performance counters are events of the host's kernel that the guest would set up, and a good watch
/// for who listens to a neighbour. KVM does without them as well ([`crate::vm`]).
fn hide_counters(entries: &mut Vec<kvm_cpuid_entry2>) {
    entries.retain(|entry| entry.function != COUNTERS_AMD);
    for entry in entries {
        match entry.function {
            FEATURES => entry.ecx &= !ECX_PDCM,
            COUNTERS_INTEL => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            EXTENDED_FEATURES_AMD => entry.ecx &= !ECX_COUNTERS,
            _ => {}
        }
    }
}

/// The guest's kernel is built without the spinlocks of this feature. Its hypercall wakes any vCPU, also
/// one that was never started, which KVM then never lets sleep again. What is hidden here, KVM refuses:
/// see [`crate::vm`].
fn hide_wake_ups(entries: &mut [kvm_cpuid_entry2]) {
    for entry in entries {
        if entry.function == KVM_FEATURES {
            entry.eax &= !EAX_PV_UNHALT;
        }
    }
}

#[cfg(test)]
#[path = "cpuid_test.rs"]
mod tests;
