//! Model-specific registers, and what KVM writes to memory because of them.

use std::ops::Range;

use caisson_machine_tests::ring::{Act, Width};

use super::survivor::{self, MEMORY, Survivor};

/// Where processors have any, KVM and Hyper-V included; those of the local APIC are in the first.
const ALL: [Range<u32>; 5] = [
    0..0x2000,
    0x4000_0000..0x4000_0200,
    0x4b56_4d00..0x4b56_4d10,
    0xc000_0000..0xc000_2000,
    0xc001_0000..0xc001_2000,
];
const ODD: u64 = 0x5a5a_0f0f_3333_3331;
const EXTENDED_FEATURES: u32 = 0xc000_0080;
const GENERAL_PROTECTION: Option<u8> = Some(13);

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn every_register_may_be_read_and_written_to() {
    if survivor::skipped() {
        return;
    }
    let mut acts = Vec::new();
    for registers in ALL {
        acts.push(Act::read_registers(registers.clone()));
        for value in [0, u64::MAX, ODD] {
            acts.push(Act::write_registers(registers.clone(), value));
        }
    }
    let went = Survivor::start(&acts).finish();
    assert_eq!(went.len(), acts.len());
    // Most there are not: an act that does not come to that has not been played.
    assert!(went.iter().all(|act| act.exceptions > 0), "{went:x?}");
    assert_eq!(went[0].vector, GENERAL_PROTECTION);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn what_kvm_writes_for_the_guest_may_be_wanted_anywhere() {
    if survivor::skipped() {
        return;
    }
    // Clocks (old and new), faults that come later, stolen time, the end of interrupts, polling.
    let registers = [0x11, 0x12].into_iter().chain(0x4b56_4d00..0x4b56_4d09);
    let places = [
        0x0008_0000,
        MEMORY - 8,
        MEMORY,
        0xb000_0000,
        0xc002_0000,
        0xfee0_0000,
        0xfffb_d000,
        1 << 32,
        1 << 45,
        1 << 51,
        u64::MAX << 12,
    ];
    let mut acts = Vec::new();
    for register in registers {
        for place in places {
            let last = place | 0x7f;
            acts.push(Act::set_register(register, place..last));
        }
    }
    // Interrupts, for whose ends KVM looks into memory, and an entry after which it writes all.
    acts.push(Act::set_register(0x1b, 0xfee0_0d00..0xfee0_0d01));
    acts.push(Act::set_register(0x80f, 0x1ff..0x200));
    acts.push(Act::set_register(0x83f, 0x30..0x100));
    acts.push(Act::read_ports(0x3f8..0x400, Width::W1));
    let went = Survivor::start(&acts).finish();
    assert_eq!(went.len(), acts.len());
    assert!(went.last().unwrap().interrupts > 0);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_guest_can_neither_become_a_host_nor_count_what_the_processor_does() {
    if survivor::skipped() {
        return;
    }
    const SVM: u64 = 1 << 12;
    // Of the features, only what is said to be there.
    let code_of = |leaf: u32| {
        let mut code = vec![0xb8];
        code.extend(leaf.to_le_bytes());
        // cpuid; mov eax, ecx
        code.extend([0x0f, 0xa2, 0x89, 0xc8]);
        Act::run(&code, 1)
    };
    // rdmsr of 0xc0000080; or eax, 0x1000; wrmsr
    let switch_on = [
        0xb9, 0x80, 0x00, 0x00, 0xc0, 0x0f, 0x32, 0x0d, 0x00, 0x10, 0x00, 0x00, 0x0f, 0x30,
    ];
    // mov rax, cr4; or eax, 0x2000; mov cr4, rax
    let switch_on_intel = [
        0x0f, 0x20, 0xe0, 0x0d, 0x00, 0x20, 0x00, 0x00, 0x0f, 0x22, 0xe0,
    ];
    let mut acts = vec![
        code_of(1),
        code_of(0x8000_0001),
        Act::run(&switch_on, 1),
        Act::read_registers(EXTENDED_FEATURES..EXTENDED_FEATURES + 1),
        Act::run(&switch_on_intel, 1),
        Act::identify(0xa..0xb, 0),
    ];
    let begin = acts.len();
    // xor eax, eax, and then vmrun, vmload, vmsave, stgi, clgi, skinit, invlpga
    let of_amd = 0xd8..=0xdf;
    let calls = |last: &u8| !matches!(last, 0xd9);
    acts.extend(
        of_amd
            .filter(calls)
            .map(|last| Act::run(&[0x31, 0xc0, 0x0f, 0x01, last], 2)),
    );
    // vmlaunch, vmresume, vmxoff; and vmxon, vmptrld, vmclear with an operand at the stack pointer
    for last in [0xc2, 0xc3, 0xc4] {
        acts.push(Act::run(&[0x0f, 0x01, last], 2));
    }
    for prefix in [&[0xf3][..], &[], &[0x66]] {
        let operand = [0x0f, 0xc7, 0x34, 0x24];
        acts.push(Act::run(&[prefix, &operand].concat(), 2));
    }
    let went = Survivor::start(&acts).finish();
    assert_eq!(went[0].value & 1 << 5, 0, "VMX: {went:x?}");
    assert_eq!(went[1].value & 1 << 2, 0, "SVM: {went:x?}");
    assert_eq!(went[2].vector, GENERAL_PROTECTION, "{went:x?}");
    assert_eq!(went[3].value & SVM, 0, "{went:x?}");
    assert_eq!(went[4].exceptions, 1, "{went:x?}");
    assert_eq!(went[5].value, 0, "counters: {went:x?}");
    assert_eq!(went[1].value & 0x1180_0000, 0, "counters: {went:x?}");
    for act in &went[begin..] {
        assert_eq!(act.exceptions, 2, "{went:x?}");
    }
}
