//! The local APIC and its timer.

use caisson_machine_tests::ring::{Act, Width};

use super::survivor::{self, MEMORY, Survivor};

const APIC: u64 = 0xfee0_0000;
const BASE: u32 = 0x1b;
/// On, and on with registers that are model-specific ones.
const XAPIC: u64 = APIC | 0x900;
const X2APIC: u64 = APIC | 0xd00;
const SPURIOUS: u32 = 0x80f;
const COMMAND: u32 = 0x830;
const TIMER: u32 = 0x832;
const COUNT: u32 = 0x838;
const DIVIDE: u32 = 0x83e;
const SELF: u32 = 0x83f;
const DEADLINE: u32 = 0x6e0;

/// Writes this one value.
fn set(register: u32, value: u64) -> Act {
    Act::write_registers(register..register + 1, value)
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn the_local_apic_takes_any_value_in_any_register() {
    if survivor::skipped() {
        return;
    }
    let page = APIC..APIC + 0x400;
    let mut acts = vec![set(BASE, XAPIC)];
    // None of them is an INIT to the processor itself, which is an end.
    for value in [0, u64::MAX, 0x3333_3333, 0x40ff] {
        acts.push(Act::store(page.clone(), Width::W4, value).step_by(16));
        acts.push(Act::load(page.clone(), Width::W4).step_by(16));
    }
    for width in Width::ALL {
        acts.push(Act::load(page.clone(), width).step_by(7));
        acts.push(Act::store(APIC..APIC + 0x300, width, 0).step_by(7));
        acts.push(Act::load(APIC + 0xff0..APIC + 0x1002, width));
        acts.push(Act::store(APIC + 0xff0..APIC + 0x1002, width, 0));
    }
    acts.push(set(BASE, X2APIC));
    for value in [0, u64::MAX, 0x3333_3333, 0x40ff] {
        acts.push(Act::write_registers(0x800..0x900, value));
        acts.push(Act::read_registers(0x800..0x900));
    }
    // mov cr8, rdi
    acts.push(Act::run(&[0x44, 0x0f, 0x22, 0xc7], 32));
    acts.push(Act::run(&[0x31, 0xff, 0x44, 0x0f, 0x22, 0xc7], 1));
    for register in TIMER..SELF {
        if register < COUNT {
            acts.push(Act::set_register(register, 0..0x2_0000).step_by(0x101));
        }
    }
    // Every way to be on and off.
    for value in [0, 0x100, 0x400, 0x800, 0xd00, 0xc00, 0x900, 0x1ff] {
        acts.push(set(BASE, APIC | value));
    }
    let went = Survivor::start(&acts).finish();
    assert_eq!(went.len(), acts.len());
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn interrupts_may_be_sent_to_anybody_with_any_vector() {
    if survivor::skipped() {
        return;
    }
    const OTHERS: u64 = 3 << 18;
    const ONESELF: u64 = 1 << 18;
    // Nobody, whether the number is one of a processor or a set of them.
    let absent = 0x5_0000 << 32;
    let everybody = 0xffff_ffff << 32;
    let mut acts = vec![set(BASE, X2APIC), set(SPURIOUS, 0x1ff)];
    // Everything to nobody, fixed ones to everybody, by number and by logical name.
    acts.push(Act::set_register(COMMAND, absent..absent + 0x4_0000).step_by(0x3f));
    acts.push(Act::set_register(COMMAND, everybody..everybody + 0x100));
    acts.push(Act::set_register(
        COMMAND,
        everybody + 0x800..everybody + 0x900,
    ));
    acts.push(Act::set_register(COMMAND, ONESELF..ONESELF + 0x100));
    acts.push(Act::set_register(COMMAND, ONESELF + 0x400..ONESELF + 0x500));
    acts.push(Act::set_register(SELF, 0..0x100));
    acts.push(set(SELF, u64::MAX));
    // The other processor is started at each page of the first MiB, often, and stopped again.
    for _ in 0..3 {
        acts.push(Act::set_register(COMMAND, OTHERS + 0x500..OTHERS + 0x600));
        acts.push(Act::set_register(COMMAND, OTHERS + 0x600..OTHERS + 0x700));
        acts.push(Act::set_register(COMMAND, OTHERS + 0x200..OTHERS + 0x210));
        acts.push(Act::set_register(COMMAND, OTHERS + 0x400..OTHERS + 0x410));
    }
    acts.push(Act::set_register(COMMAND, OTHERS..OTHERS + 0x100));
    let survivor = Survivor::start(&acts);
    let went = survivor.play();
    assert!(went.last().unwrap().interrupts > 200, "{went:x?}");
    // The other processor runs wherever it was sent.
    survivor.survive();
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn the_local_apic_may_be_moved_anywhere() {
    if survivor::skipped() {
        return;
    }
    let mut acts = Vec::new();
    for base in [
        0x10_0000,
        MEMORY - 0x1000,
        MEMORY,
        0xc000_0000,
        0xc002_0000,
        0xffff_f000,
        1 << 38,
        1 << 46,
        1 << 52,
    ] {
        acts.push(Act::set_register(BASE, base..base + 0x1000).step_by(0x100));
        acts.push(set(BASE, APIC));
        acts.push(set(BASE, base | 0x900));
        if base < 1 << 39 {
            acts.push(Act::load(base..base + 0x400, Width::W4).step_by(16));
            acts.push(Act::store(base..base + 0x300, Width::W4, 0).step_by(16));
        }
        acts.push(set(BASE, APIC));
        acts.push(set(BASE, XAPIC));
    }
    let went = Survivor::start(&acts).finish();
    assert_eq!(went.len(), acts.len());
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn timers_that_never_rest_leave_the_host_its_time() {
    if survivor::skipped() {
        return;
    }
    const VECTOR: u64 = 0x40;
    const PERIODIC: u64 = 1 << 17;
    const BY_DEADLINE: u64 = 1 << 18;
    // mov ecx, 100000; again: pause; loop again
    let wait = [0xb9, 0xa0, 0x86, 0x01, 0x00, 0xf3, 0x90, 0xe2, 0xfc];
    let begin = || vec![set(BASE, X2APIC), set(SPURIOUS, 0x1ff), set(DIVIDE, 0xb)];

    let mut acts = begin();
    acts.push(set(TIMER, VECTOR));
    acts.push(set(COUNT, 1));
    // mov ecx, 0x838; mov eax, 1; xor edx, edx; wrmsr
    let again = [
        0xb9, 0x38, 0x08, 0, 0, 0xb8, 1, 0, 0, 0, 0x31, 0xd2, 0x0f, 0x30,
    ];
    acts.push(Act::run(&again, 2000));
    acts.push(set(TIMER, BY_DEADLINE | VECTOR));
    // rdtsc; mov ecx, 0x6e0; wrmsr
    let now = [0x0f, 0x31, 0xb9, 0xe0, 0x06, 0, 0, 0x0f, 0x30];
    acts.push(Act::run(&now, 2000));
    acts.push(Act::set_register(DEADLINE, 1..1000));
    acts.push(set(DEADLINE, u64::MAX - 1));
    let went = Survivor::start(&acts).finish();
    assert!(went.last().unwrap().interrupts > 0, "{went:x?}");

    // As often as it can, from now on; and the guest halts in the end without hearing of it.
    let mut acts = begin();
    acts.push(set(TIMER, PERIODIC | VECTOR));
    acts.push(set(COUNT, 1));
    acts.push(Act::run(&wait, 1));
    let went = Survivor::start(&acts).finish();
    assert!(went.last().unwrap().interrupts > 0, "{went:x?}");
}
