//! Acts by which a guest ends itself: the VMM says so, or does what the shim says.

use caisson_control::{DeviceStatistics, ExitReason};
use caisson_machine_tests::{Builder, Request, Step, TestMachine, eventually};

use super::attacker::Attacker;
use super::driver::{BUFFERS, Descriptor, Driver, Registers, VERSION_1};

const MIB: u64 = 1 << 20;
const MEMORY_MIB: u32 = 128;

fn machine() -> Builder {
    TestMachine::builder().memory_mib(MEMORY_MIB)
}

/// A guest cannot tell what becomes of it, so nobody waits for its answer.
fn last_act(attacker: &Attacker, steps: Vec<Step>) {
    drop(attacker.machine.ask_guest(&Request::Play { steps }));
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_guest_that_gives_all_of_its_memory_away_can_be_stopped() {
    let attacker = Attacker::boot(machine());
    let balloon = attacker.driver("balloon");
    let pages = u32::try_from((u64::from(MEMORY_MIB) * MIB) >> 12).unwrap();
    let mut steps = vec![balloon.seize()];
    steps.extend(balloon.start());
    // All page numbers, in as many requests of as many pages as the device takes, from the end:
    // the kernel is at the beginning.
    let mut numbers: Vec<u32> = (0..pages).rev().collect();
    for (index, request) in numbers.chunks_mut(1024).enumerate() {
        let bytes = request.iter().flat_map(|page| page.to_le_bytes()).collect();
        let at = BUFFERS + u32::try_from(index * 4096).unwrap();
        steps.push(Step::Put { at, bytes });
    }
    let descriptors: Vec<_> = (0..16)
        .map(|index| {
            let at = balloon.address(BUFFERS + index * 4096);
            Descriptor::new(at, 4096, 0, 0)
        })
        .collect();
    let heads: Vec<u16> = (0..16).collect();
    steps.push(Driver::describe(0, &descriptors));
    steps.push(Driver::offer(0, 16, &heads));
    steps.extend(balloon.notify(0));
    last_act(&attacker, steps);
    let resident = || attacker.machine.vmm().memory().guest_rss;
    // Its kernel and its programs are zeros now; whether it resets itself or runs on, nobody knows.
    eventually("the memory is the host's", || {
        attacker.machine.has_ended() || resident() < u64::from(MEMORY_MIB) << 8
    });
    println!("{:?}", attacker.machine.end().reason);
    attacker.neighbour_is_unhurt();
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_guest_that_says_that_it_panicked_has() {
    let attacker = Attacker::boot(machine());
    // pvpanic is in slot 1 of each machine, once its agent says that it has started.
    let started = Step::Out {
        port: 0x3f0,
        width: 1,
        value: 1,
    };
    attacker.play(vec![started]);
    attacker.machine.rescan();
    let (slot, offset, width, value) = (1, 0, 1, 0xff);
    let panic = Step::Write {
        slot,
        offset,
        width,
        value,
    };
    last_act(&attacker, vec![panic]);
    assert_eq!(attacker.machine.exit().reason, ExitReason::Panic);
    attacker.neighbour_is_unhurt();
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn interrupts_that_take_the_vcpu_away_end_the_machine_or_let_it_be_stopped() {
    // A non-maskable interrupt, one of system management, and INIT, after which the vCPU begins
    // where a firmware would be.
    for delivery in [0x400, 0x200, 0x500] {
        let attacker = Attacker::boot(machine());
        let rng = attacker.driver("rng");
        let metrics = attacker.machine.metrics();
        let of_rng = |device: &&DeviceStatistics| device.slot == rng.slot;
        let asked = metrics.devices.iter().find(of_rng).unwrap().requests;
        let mut steps = vec![rng.seize()];
        steps.extend(rng.negotiate(VERSION_1));
        steps.extend(Driver::clear(0));
        for (word, value) in [(0, 0xfee0_0000), (4, 0), (8, delivery), (12, 0)] {
            steps.extend(rng.write(0x4010 + word, 4, value));
        }
        // MSI-X is the first capability, at 0x40.
        steps.push(Step::Configure {
            slot: rng.slot,
            offset: 0x42,
            width: 2,
            value: 1 << 15,
        });
        let registers = Registers {
            vector: 1,
            ..rng.registers(0)
        };
        steps.extend(rng.set(0, registers));
        steps.extend(rng.ready());
        steps.extend(rng.request(0, &[], &[64]));
        last_act(&attacker, steps);
        let served = |device: &DeviceStatistics| device.slot == rng.slot && device.requests > asked;
        eventually("the interrupt is sent", || {
            let metrics = attacker.machine.metrics_while_it_runs();
            metrics.is_none_or(|metrics| metrics.devices.iter().any(served))
        });
        // Either way there is an end, and only one.
        let exit = attacker.machine.end();
        println!("{delivery:#x}: {:?}", exit.reason);
        attacker.neighbour_is_unhurt();
    }
}
