use kvm_bindings::{CpuId, kvm_cpuid_entry2};

use super::Template;

fn leaf(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
    let [eax, ebx, ecx, edx] = registers;
    kvm_cpuid_entry2 {
        function,
        index,
        eax,
        ebx,
        ecx,
        edx,
        ..kvm_cpuid_entry2::default()
    }
}

/// A host with AVX.
fn host() -> CpuId {
    CpuId::from_entries(&[
        leaf(0, 0, [0x1f, 0, 0, 0]),
        leaf(
            1,
            0,
            [0, 0x0710_0800, 1 << 5 | 1 << 15 | 1 << 26 | 1 << 28, 0],
        ),
        leaf(4, 0, [0x1c00_4121, 0, 0, 0]),
        leaf(4, 3, [0x1c03_c163, 0, 0, 0]),
        leaf(7, 0, [0, 1 << 5 | 1 << 9, 0, 0]),
        leaf(0xa, 0, [0x0730_0402, 0, 0, 0x603]),
        leaf(0xb, 0, [1, 2, 0x100, 5]),
        leaf(0xd, 0, [7, 576, 832, 0]),
        leaf(0xd, 2, [256, 576, 0, 0]),
        leaf(0x1f, 0, [1, 2, 0x100, 5]),
        leaf(
            0x4000_0000,
            0,
            [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d],
        ),
        leaf(0x4000_0001, 0, [0x0100_feff, 0, 0, 0]),
        leaf(0x8000_0001, 0, [0, 0, 1 << 2 | 1 << 22 | 1 << 23, 0]),
        leaf(0x8000_0008, 0, [0x3030, 0, 0x701f, 0]),
        leaf(0x8000_000a, 0, [1, 8, 0, 1]),
        leaf(0x8000_001d, 3, [0x0003_c163, 0, 0, 0]),
        leaf(0x8000_001e, 0, [9, 0x0104, 0x0300, 0]),
        leaf(0x8000_0022, 0, [1, 6, 0, 0]),
    ])
    .unwrap()
}

fn get(cpuid: &CpuId, function: u32, index: u32) -> Option<kvm_cpuid_entry2> {
    cpuid
        .as_slice()
        .iter()
        .find(|entry| entry.function == function && entry.index == index)
        .copied()
}

fn vcpu(index: u8, vcpus: u8) -> CpuId {
    let template = Template::new(&host(), vcpus, true);
    template.for_vcpu(index).unwrap()
}

#[test]
fn each_vcpu_has_its_apic_id_everywhere() {
    for index in [0, 2, 5] {
        let cpuid = vcpu(index, 6);
        let id = u32::from(index);
        assert_eq!(get(&cpuid, 1, 0).unwrap().ebx, id << 24 | 8 << 16 | 0x0800);
        assert_eq!(get(&cpuid, 0xb, 0).unwrap().edx, id);
        assert_eq!(get(&cpuid, 0xb, 1).unwrap().edx, id);
        let amd = get(&cpuid, 0x8000_001e, 0).unwrap();
        assert_eq!((amd.eax, amd.ebx, amd.ecx), (id, id, 0));
    }
}

#[test]
fn all_vcpus_are_cores_of_one_package() {
    let cpuid = vcpu(0, 6);
    let thread = get(&cpuid, 0xb, 0).unwrap();
    assert_eq!((thread.eax, thread.ebx, thread.ecx), (0, 1, 0x100));
    let core = get(&cpuid, 0xb, 1).unwrap();
    assert_eq!((core.eax, core.ebx, core.ecx), (3, 6, 0x201));
    let end = get(&cpuid, 0xb, 2).unwrap();
    assert_eq!((end.eax, end.ebx, end.ecx), (0, 0, 2));
    assert!(get(&cpuid, 0x1f, 0).is_none());
    assert_eq!(get(&cpuid, 0x8000_0008, 0).unwrap().ecx, 3 << 12 | 5);
    assert_ne!(get(&cpuid, 1, 0).unwrap().edx & 1 << 28, 0);
    assert_ne!(get(&cpuid, 0x8000_0001, 0).unwrap().ecx & 1 << 1, 0);
}

#[test]
fn a_single_vcpu_is_no_multiprocessor() {
    let cpuid = vcpu(0, 1);
    assert_eq!(get(&cpuid, 1, 0).unwrap().edx & 1 << 28, 0);
    assert_eq!(get(&cpuid, 0x8000_0001, 0).unwrap().ecx & 1 << 1, 0);
    assert_eq!(get(&cpuid, 0xb, 1).unwrap().eax, 0);
}

#[test]
fn only_the_last_level_cache_is_shared() {
    let cpuid = vcpu(0, 4);
    let sharing = |function, index| get(&cpuid, function, index).unwrap().eax >> 14 & 0xfff;
    assert_eq!(sharing(4, 0), 0);
    assert_eq!(sharing(4, 3), 3);
    assert_eq!(sharing(0x8000_001d, 3), 3);
    assert_eq!(get(&cpuid, 4, 0).unwrap().eax >> 26, 3);
}

#[test]
fn the_guest_knows_that_it_is_one_and_has_a_deadline_timer() {
    let ecx = get(&vcpu(0, 1), 1, 0).unwrap().ecx;
    assert_ne!(ecx & 1 << 31, 0);
    assert_ne!(ecx & 1 << 24, 0);
    let without = Template::new(&host(), 1, false).for_vcpu(0).unwrap();
    assert_eq!(get(&without, 1, 0).unwrap().ecx & 1 << 24, 0);
    assert!(get(&without, 0x4000_0000, 0).is_some());
}

#[test]
fn nested_virtualisation_is_hidden() {
    let cpuid = vcpu(0, 1);
    assert_eq!(get(&cpuid, 1, 0).unwrap().ecx & 1 << 5, 0);
    assert_eq!(get(&cpuid, 0x8000_0001, 0).unwrap().ecx & 1 << 2, 0);
    assert!(get(&cpuid, 0x8000_000a, 0).is_none());
}

#[test]
fn performance_counters_are_hidden() {
    let cpuid = vcpu(0, 1);
    assert_eq!(get(&cpuid, 1, 0).unwrap().ecx & 1 << 15, 0);
    let intel = get(&cpuid, 0xa, 0).unwrap();
    assert_eq!([intel.eax, intel.ebx, intel.ecx, intel.edx], [0; 4]);
    assert_eq!(get(&cpuid, 0x8000_0001, 0).unwrap().ecx, 1 << 22);
    assert!(get(&cpuid, 0x8000_0022, 0).is_none());
}

#[test]
fn the_hypercall_that_wakes_processors_is_hidden() {
    assert_eq!(get(&vcpu(0, 2), 0x4000_0001, 0).unwrap().eax, 0x0100_fe7f);
}

#[test]
fn xsave_is_as_kvm_says() {
    let template = Template::new(&host(), 1, true);
    assert_eq!(template.xsave_components(), 7);
    let cpuid = template.for_vcpu(0).unwrap();
    assert_ne!(get(&cpuid, 1, 0).unwrap().ecx & 1 << 26, 0);
    assert_eq!(get(&cpuid, 0xd, 0).unwrap().ecx, 832);
}
