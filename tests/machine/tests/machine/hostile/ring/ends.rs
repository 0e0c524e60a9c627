//! Guests that end, or never rest: the shim is told how, or has its way.

use caisson_control::ExitReason;
use caisson_machine_tests::eventually;
use caisson_machine_tests::ring::{Act, Width};

use super::survivor::Survivor;

/// Where the acts have their stack, as `guest.s` says.
const STACK: u32 = 0x9_0000;

/// Says that it comes, and executes this, without interrupts.
fn last(code: &[u8]) -> Vec<Act> {
    // cli; mov dx, 0x3f8; mov al, '!'; out dx, al
    let begin = [0xfa, 0x66, 0xba, 0xf8, 0x03, 0xb0, b'!', 0xee];
    vec![Act::run(&[&begin, code].concat(), 1)]
}

/// Starts a guest whose [`last`] act this is, and waits until it comes.
#[track_caller]
fn acting(code: &[u8]) -> Survivor {
    let survivor = Survivor::start(&last(code));
    let machine = &survivor.machine;
    eventually("the guest acts", || machine.console().contains('!'));
    survivor
}

/// `mov eax, number`
fn eax(number: u32) -> Vec<u8> {
    [&[0xb8][..], &number.to_le_bytes()].concat()
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_triple_fault_is_an_orderly_end() {
    // An interrupt table that is no more than zeros; ud2
    let mut code = eax(0x20_0000);
    code.extend([0x0f, 0x01, 0x18, 0x0f, 0x0b]);
    assert_eq!(acting(&code).end(), ExitReason::Shutdown);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_guest_that_never_rests_can_be_paused_and_stopped() {
    let spin: &[u8] = &[0xeb, 0xfe];
    let halt: &[u8] = &[0xf4, 0xeb, 0xfd];
    // A breakpoint on the stack, by which the exception for it is one itself; push rax
    let mut debug = eax(STACK - 0x40);
    debug.extend([0x0f, 0x23, 0xc0, 0x89, 0xc4]);
    debug.extend(eax(0x000d_0002));
    debug.extend([0x0f, 0x23, 0xf8, 0x50]);
    // mov al, 0x80; out 0x80, al; jmp back
    let exits: &[u8] = &[0xe6, 0x80, 0xeb, 0xfc];
    // vmmcall; jmp back
    let calls: &[u8] = &[0x31, 0xc0, 0x0f, 0x01, 0xd9, 0xeb, 0xf9];
    // mov [rax], eax; jmp back, in the memory of a device
    let mut device = eax(0xc002_0000);
    device.extend([0x89, 0x00, 0xeb, 0xfc]);
    for code in [spin, halt, &debug, exits, calls, &device] {
        acting(code).survive();
    }
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_guest_that_leaves_long_mode_goes_on() {
    let survivor = Survivor::start(&[Act::leave_long_mode()]);
    eventually("the guest is in real mode", || {
        survivor.machine.console().contains('m') || survivor.machine.has_ended()
    });
    assert!(survivor.machine.console().contains('m'));
    survivor.survive();
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_guest_that_cannot_go_on_ends_with_a_reason_or_can_be_stopped() {
    // jmp rax
    let jump = |to: u32| [eax(to), vec![0xff, 0xe0]].concat();
    // mov rsp, rax; ud2
    let stack = |at: u32| [eax(at), vec![0x89, 0xc4, 0x0f, 0x0b]].concat();
    // mov cr3, rax
    let tables = |at: u32| [eax(at), vec![0x0f, 0x22, 0xd8, 0xeb, 0xfe]].concat();
    // An interrupt table there, after all: lidt of what a store puts behind the stack
    let table = |at: u32| {
        let mut code = eax(at);
        // push rax, twice; mov word [rsp+6], 0xfff; lidt [rsp+6]; ud2
        code.extend([0x50, 0x50, 0x66, 0xc7, 0x44, 0x24, 0x06, 0xff, 0x0f]);
        code.extend([0x0f, 0x01, 0x5c, 0x24, 0x06, 0x0f, 0x0b]);
        code
    };
    // mov ecx, 0x1b; mov eax, 0xfee00d00; xor edx, edx; wrmsr; mov ecx, 0x830; mov eax, N; wrmsr
    let send = |command: u32| {
        let mut code = vec![0xb9, 0x1b, 0, 0, 0];
        code.extend(eax(0xfee0_0d00));
        code.extend([0x31, 0xd2, 0x0f, 0x30, 0xb9, 0x30, 0x08, 0, 0]);
        code.extend(eax(command));
        code.extend([0x0f, 0x30, 0xeb, 0xfe]);
        code
    };
    let cases = [
        ("code in a device", jump(0xc002_0000)),
        ("code where nothing is", jump(0xb000_0000)),
        ("code in the APIC", jump(0xfee0_0000)),
        ("a stack in a device", stack(0xc002_0100)),
        ("a stack where nothing is", stack(0xb000_0100)),
        ("page tables in a device", tables(0xc002_0000)),
        ("page tables in the APIC", tables(0xfee0_0000)),
        ("page tables where nothing is", tables(0xb000_0000)),
        ("an interrupt table in a device", table(0xc002_0000)),
        ("INIT", send(0x4_0500)),
        ("SMI", send(0x4_0200)),
    ];
    for (what, code) in cases {
        let survivor = acting(&code);
        // Some end by themselves, others never; what a pause interrupts has begun.
        for _ in 0..20 {
            survivor.machine.nudge();
        }
        let exit = survivor.machine.end();
        println!("{what}: {:?}", exit.reason);
        match exit.reason {
            ExitReason::Stopped | ExitReason::Shutdown => {}
            ExitReason::Failed { message } => assert!(message.starts_with("vcpu0: "), "{message}"),
            ExitReason::Panic => panic!("{what}: nobody panicked"),
        }
    }
    // A panic is one that says so: pvpanic in slot 1, once the agent is said to have started.
    let panic = [
        Act::write_ports(0x3f0..0x3f1, Width::W1, 1),
        Act::write_ports(0xcf8..0xcf9, Width::W4, 0x8000_0804),
        Act::write_ports(0xcfc..0xcfd, Width::W4, 2),
        Act::store(0xc001_0000..0xc001_0001, Width::W1, 1),
    ];
    assert_eq!(Survivor::start(&panic).end(), ExitReason::Panic);
}
