//! vCPUs on the real KVM, with programs of a few instructions.
//!
//! No kernel is booted here, so an emulated ring 0 will do. Without a usable /dev/kvm the tests say
//! so and pass.

use std::sync::Arc;
use std::time::{Duration, Instant};

use caisson_control::ExitReason;
use kvm_ioctls::VcpuFd;
use rustix::event::{PollFd, PollFlags, Timespec};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Vcpus;
use crate::boot::Entry;
use crate::bus::Bus;
use crate::console::{Console, Tail};
use crate::events::EventReceiver;
use crate::memory::{Backing, GuestRam};
use crate::pci::posted::PostedWrites;
use crate::pci::root::{ADDRESS_PORT, PciRoot};
use crate::pci::test_function::TestFunction;
use crate::serial::SerialPort;
use crate::test_kvm;
use crate::vcpu::cpuid::Template;
use crate::vcpu::{kick, registers};
use crate::vm::Vm;

/// Where the programs are.
const START: u32 = 0x10_0000;
/// Long enough for a machine that is busy with other things; only a failure takes as long.
const PATIENCE: Timespec = Timespec {
    tv_sec: 60,
    tv_nsec: 0,
};

struct Bench {
    vcpus: Vcpus,
    tail: Tail,
    events: EventReceiver,
    memory: Arc<GuestRam>,
    _vm: Vm,
}

impl Bench {
    /// A machine that runs `program` in 32-bit protected mode; `None` without KVM.
    fn new(program: &[u8], vcpus: u8) -> Option<Self> {
        let kvm = test_kvm::open()?;
        let (sender, events) = crate::events::channel().unwrap();
        let memory = Arc::new(GuestRam::new(64, Backing::Private).unwrap());
        memory
            .write_slice(program, GuestAddress(START.into()))
            .unwrap();
        let vm = Vm::new(kvm, vcpus, Arc::clone(&memory), sender.clone());
        let vm = test_kvm::made(vm)?.unwrap();
        let template = Template::new(vm.supported_cpuid(), vcpus, vm.has_tsc_deadline());
        let all = (0..vcpus).map(|index| {
            let vcpu = vm.create_vcpu(index).unwrap();
            vcpu.set_cpuid2(&template.for_vcpu(index).unwrap()).unwrap();
            registers::set_common(&vcpu, template.xsave_components()).unwrap();
            if index == 0 {
                registers::set_entry(&vcpu, Entry::Pvh(START)).unwrap();
            }
            vcpu
        });
        let all: Vec<VcpuFd> = all.collect();
        let tail = Tail::default();
        let console = Console::new(None, tail.clone()).unwrap();
        let serial = SerialPort::new(EventFd::new(EFD_NONBLOCK).unwrap(), console);
        let mut pci = PciRoot::new();
        pci.put(0, Box::new(TestFunction::new()));
        if vm.post_writes(ADDRESS_PORT).unwrap() {
            pci.set_posted(PostedWrites::new(&all[0]).unwrap());
        }
        let bus = Arc::new(Bus::new(pci, serial, sender.clone()));
        kick::install().unwrap();
        let mut vcpus = Vcpus::new(bus, sender);
        for vcpu in all {
            vcpus.add(vcpu).unwrap();
        }
        Some(Self {
            vcpus,
            tail,
            events,
            memory,
            _vm: vm,
        })
    }

    /// Waits for an event.
    fn wait(&self) {
        let mut fds = [PollFd::new(&self.events, PollFlags::IN)];
        let ready = rustix::event::poll(&mut fds, Some(&PATIENCE)).unwrap();
        assert_eq!(ready, 1, "nothing happened; console: {}", self.tail.text());
        self.events.acknowledge();
    }

    /// Runs to the end.
    fn run(&self) -> ExitReason {
        self.vcpus.enter();
        loop {
            self.wait();
            if let Some(reason) = self.events.exit_reason() {
                return reason.clone();
            }
        }
    }
}

/// `mov dx, port; mov al, byte; out dx, al`
fn out(port: u16, byte: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xba, low, high, 0xb0, byte, 0xee]
}

/// Loads an empty interrupt table and raises an interrupt: a triple fault. The table's limit and
/// base are in memory that is zero.
fn triple_fault() -> Vec<u8> {
    // lidt [0x200000]; ud2
    vec![0x0f, 0x01, 0x1d, 0x00, 0x00, 0x20, 0x00, 0x0f, 0x0b]
}

#[test]
fn a_program_writes_to_the_console_and_resets() {
    let mut program: Vec<u8> = b"ring 0\n"
        .iter()
        .flat_map(|byte| out(0x3f8, *byte))
        .collect();
    program.extend(triple_fault());
    let Some(bench) = Bench::new(&program, 1) else {
        return;
    };
    assert_eq!(bench.run(), ExitReason::Shutdown);
    assert_eq!(bench.tail.text(), "ring 0\n");
    assert!(bench.vcpus.exits()[0] >= 7);
}

#[test]
fn the_start_state_is_that_of_the_pvh_protocol() {
    // mov [0x300000], ebx; mov eax, cr0; mov [0x300004], eax; mov eax, cr4; mov [0x300008], eax;
    // pushless: mov ax, cs; mov [0x30000c], eax
    let mut program = vec![
        0x89, 0x1d, 0x00, 0x00, 0x30, 0x00, 0x0f, 0x20, 0xc0, 0xa3, 0x04, 0x00, 0x30, 0x00, 0x0f,
        0x20, 0xe0, 0xa3, 0x08, 0x00, 0x30, 0x00,
    ];
    program.extend(triple_fault());
    let Some(bench) = Bench::new(&program, 1) else {
        return;
    };
    assert_eq!(bench.run(), ExitReason::Shutdown);
    let word = |at: u64| bench.memory.read_obj::<u32>(GuestAddress(at)).unwrap();
    assert_eq!(word(0x30_0000), 0x6000, "ebx: the start information");
    assert_eq!(word(0x30_0004), 0x11, "cr0: protected mode, no paging");
    assert_eq!(word(0x30_0008), 0, "cr4");
}

#[test]
fn the_phase_port_is_seen_while_the_guest_runs_on() {
    let mut program = out(0x3f0, 1);
    program.extend([0xeb, 0xfe]); // jmp .
    let Some(mut bench) = Bench::new(&program, 1) else {
        return;
    };
    bench.vcpus.enter();
    bench.wait();
    assert!(bench.events.agent_started().is_some());
    assert!(bench.events.exit_reason().is_none());
    bench.vcpus.stop();
    assert!(
        bench.events.exit_reason().is_none(),
        "a stop is no exit of the guest"
    );
}

#[test]
fn ports_read_what_the_devices_say() {
    // in al, 0x71; mov [0x300000], al; in al, 0x64; mov [0x300001], al;
    // mov dx, 0xcf8; mov eax, 0x80000000; out dx, eax; mov dl, 0xfc; in eax, dx; mov [0x300004], eax
    let mut program = vec![
        0xe4, 0x71, 0xa2, 0x00, 0x00, 0x30, 0x00, 0xe4, 0x64, 0xa2, 0x01, 0x00, 0x30, 0x00, 0x66,
        0xba, 0xf8, 0x0c, 0xb8, 0x00, 0x00, 0x00, 0x80, 0xef, 0xb2, 0xfc, 0xed, 0xa3, 0x04, 0x00,
        0x30, 0x00,
    ];
    program.extend(triple_fault());
    let Some(bench) = Bench::new(&program, 1) else {
        return;
    };
    assert_eq!(bench.run(), ExitReason::Shutdown);
    let word = |at: u64| bench.memory.read_obj::<u32>(GuestAddress(at)).unwrap();
    assert_eq!(word(0x30_0000) & 0xffff, 0xff00);
    assert_eq!(word(0x30_0004), 0x0008_1b36);
}

#[test]
fn memory_that_nobody_answers_at_reads_as_ones() {
    // mov eax, [0xc0000000]; mov [0xc0000000], eax; mov [0x300000], eax
    let mut program = vec![
        0xa1, 0x00, 0x00, 0x00, 0xc0, 0xa3, 0x00, 0x00, 0x00, 0xc0, 0xa3, 0x00, 0x00, 0x30, 0x00,
    ];
    program.extend(triple_fault());
    let Some(bench) = Bench::new(&program, 1) else {
        return;
    };
    assert_eq!(bench.run(), ExitReason::Shutdown);
    let word: u32 = bench.memory.read_obj(GuestAddress(0x30_0000)).unwrap();
    assert_eq!(word, u32::MAX);
}

#[test]
fn spinning_and_sleeping_vcpus_stop_at_once() {
    for program in [&[0xeb, 0xfe][..], &[0xfa, 0xf4, 0xeb, 0xfd]] {
        let Some(mut bench) = Bench::new(program, 2) else {
            return;
        };
        bench.vcpus.enter();
        let before = Instant::now();
        bench.vcpus.stop();
        assert!(before.elapsed() < Duration::from_secs(30));
        assert!(bench.events.exit_reason().is_none());
    }
}

/// How often a thread has gone to sleep by itself.
fn sleeps(thread: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}

#[test]
fn a_vcpu_that_was_never_started_does_not_keep_its_thread_busy() {
    // An NMI for all others, by the local APIC: mov dword [0xfee00300], 0xc4400.
    let mut program = vec![0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x00, 0x44, 0x0c, 0x00];
    program.extend(out(0x3f0, 1));
    // cli; again: hlt; jmp again
    program.extend([0xfa, 0xf4, 0xeb, 0xfd]);
    let Some(mut bench) = Bench::new(&program, 2) else {
        return;
    };
    bench.vcpus.enter();
    bench.wait();
    // KVM lets it sleep no more, so it rests: again and again, as it has been told nothing.
    let thread = bench.vcpus.threads[1].id.number();
    let before = sleeps(thread);
    let deadline = Instant::now() + Duration::from_secs(60);
    while sleeps(thread) < before + 5 {
        assert!(Instant::now() < deadline, "it never rests");
        std::thread::yield_now();
    }
    bench.vcpus.stop();
    assert!(bench.events.exit_reason().is_none());
}

#[test]
fn vcpus_that_never_entered_stop_too() {
    let Some(bench) = Bench::new(&[0xeb, 0xfe], 3) else {
        return;
    };
    let (tail, vcpus) = (bench.tail.clone(), bench.vcpus);
    drop(vcpus);
    assert_eq!(tail.text(), "");
}

#[test]
fn a_paused_guest_stands_still_and_goes_on_where_it_was() {
    // again: inc dword [0x300000]; jmp again
    let program = [0xff, 0x05, 0x00, 0x00, 0x30, 0x00, 0xeb, 0xf8];
    let Some(bench) = Bench::new(&program, 2) else {
        return;
    };
    let count = || {
        bench
            .memory
            .read_obj::<u32>(GuestAddress(0x30_0000))
            .unwrap()
    };
    for _ in 0..20 {
        let before = count();
        bench.vcpus.enter();
        while count() == before {
            std::thread::yield_now();
        }
        bench.vcpus.pause();
        let paused = count();
        std::thread::yield_now();
        assert_eq!(count(), paused);
    }
    assert!(bench.events.exit_reason().is_none());
}

#[test]
fn a_guest_that_has_ended_can_be_paused() {
    let Some(bench) = Bench::new(&triple_fault(), 1) else {
        return;
    };
    assert_eq!(bench.run(), ExitReason::Shutdown);
    bench.vcpus.pause();
}

#[test]
fn addresses_written_many_times_over_are_all_seen() {
    // mov ecx, 1000; again: mov dx, 0xcf8; mov eax, 0x80000000; out dx, eax; loop again;
    // mov eax, 0x80000008; out dx, eax; mov dl, 0xfc; in eax, dx; mov [0x300004], eax
    let mut program = vec![
        0xb9, 0xe8, 0x03, 0x00, 0x00, 0x66, 0xba, 0xf8, 0x0c, 0xb8, 0x00, 0x00, 0x00, 0x80, 0xef,
        0xe2, 0xf4, 0xb8, 0x08, 0x00, 0x00, 0x80, 0xef, 0xb2, 0xfc, 0xed, 0xa3, 0x04, 0x00, 0x30,
        0x00,
    ];
    program.extend(triple_fault());
    let Some(bench) = Bench::new(&program, 1) else {
        return;
    };
    assert_eq!(bench.run(), ExitReason::Shutdown);
    let class: u32 = bench.memory.read_obj(GuestAddress(0x30_0004)).unwrap();
    assert_eq!(class, 0x0600_0000, "the class of the function");
}

#[test]
fn a_guest_that_runs_where_there_is_no_memory_ends_with_the_numbers() {
    // jmp to an address in the hole
    let mut program = vec![0xb8, 0x00, 0x00, 0x00, 0xc0];
    program.extend([0xff, 0xe0]);
    let Some(bench) = Bench::new(&program, 1) else {
        return;
    };
    let ExitReason::Failed { message } = bench.run() else {
        panic!("not a failure");
    };
    assert!(message.starts_with("vcpu0: "), "{message}");
    assert!(message.contains("rip 0xc0000000"), "{message}");
}
