//! A configuration space that lies: BARs where none may be, messages that lead nowhere, ports that
//! nobody has.

use caisson_machine_tests::{Disk, Step, TestMachine};

use super::attacker::Attacker;
use super::driver::{BUFFERS, Driver};

const MIB: u64 = 1 << 20;

/// Registers of the configuration space (PCI Local Bus 3.0 §6.1).
const COMMAND: u8 = 4;
const BAR: u8 = 0x10;
const CAPABILITIES: u8 = 0x34;
/// Command bits: memory is decoded, and the function may write to it.
const MEMORY: u64 = 2;
const MASTER: u64 = 4;
/// Capabilities: MSI-X, and those of virtio, of which the fifth is a window to the BAR.
const MSIX: u64 = 0x11;
const VIRTIO: u64 = 9;
const WINDOW: u64 = 5;
/// Where the table of MSI-X is in a BAR, and how long an entry is.
const TABLE: u16 = 0x4000;
const ENTRY: u16 = 16;

fn configure(slot: u8, offset: u8, width: u8, value: u64) -> Step {
    Step::Configure {
        slot,
        offset,
        width,
        value,
    }
}

fn inspect(slot: u8, offset: u8, width: u8) -> Step {
    Step::Inspect {
        slot,
        offset,
        width,
    }
}

/// The whole configuration space, in words of 32 bits.
fn space(attacker: &Attacker, slot: u8) -> Vec<u64> {
    attacker.play((0..64).map(|word| inspect(slot, word * 4, 4)).collect())
}

/// Where a capability is that `wanted` is for: given its id and its fourth byte.
fn capability(space: &[u64], wanted: impl Fn(u64, u64) -> bool) -> u8 {
    let mut at = space[usize::from(CAPABILITIES / 4)] & 0xff;
    while at != 0 {
        let word = space[at as usize / 4];
        if wanted(word & 0xff, word >> 24) {
            return u8::try_from(at).unwrap();
        }
        at = word >> 8 & 0xff;
    }
    panic!("there is no such capability in {space:x?}");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_bus_that_lies_misleads_only_the_guest() {
    let disk = Disk::new("bus", 4);
    let builder = TestMachine::builder().vcpus(2).device(disk.device());
    let mut attacker = Attacker::boot(builder);
    attacker.machine.write_pattern("/dev/vda", 1, MIB);
    // pvpanic shows itself when the agent is said to have started.
    let (port, width, value) = (0x3f0, 1, 1);
    attacker.play(vec![Step::Out { port, width, value }]);
    attacker.machine.rescan();
    attacker.begin();
    let (rng, block) = (attacker.driver("rng"), attacker.driver("block"));
    let spaces = [rng, block].map(|driver| space(&attacker, driver.slot));
    let bars = [&spaces[0], &spaces[1]].map(|space| space[usize::from(BAR / 4)]);
    attacker.play(vec![rng.seize(), block.seize()]);

    two_bars_in_one_place(&attacker, [rng, block], bars);
    a_bar_that_is_not_decoded(&attacker, &rng, bars[0]);
    bars_all_over(&attacker, &rng, &spaces[0]);
    messages_to_nowhere(&attacker, &rng, &spaces[0]);
    everything_is_written(&attacker, &[rng.slot, block.slot]);
    attacker.play(vec![rng.release(), block.release()]);
    attacker.machine.write_pattern("/dev/vda", 2, MIB);
    attacker.machine.check_pattern("/dev/vda", 2, MIB);
    ports(&attacker);
    disk.check_pattern(2, MIB);
    attacker.finish();
}

/// The first on the bus has the place, and the other's driver rings at the wrong door.
fn two_bars_in_one_place(attacker: &Attacker, [rng, block]: [Driver; 2], bars: [u64; 2]) {
    let mut steps = vec![configure(block.slot, BAR, 4, bars[0])];
    // What is written to one of them reaches one only: the driver finds it ready.
    steps.extend(rng.start());
    steps.extend(rng.request(0, &[], &[64]));
    steps.push(Driver::until_served(0));
    // Now the other one is there, whose doorbell the first still has.
    steps.push(configure(rng.slot, BAR, 4, 0xffff_8000));
    let there = Driver::new(rng.slot, block.queues, attacker.arena());
    steps.extend(there.start());
    steps.extend(there.notify(0));
    steps.extend(there.status(0));
    // And back.
    steps.push(configure(rng.slot, BAR, 4, bars[0]));
    steps.extend(rng.status(0));
    steps.push(configure(block.slot, BAR, 4, bars[1]));
    for (driver, writable) in [(rng, 64), (block, 1)] {
        steps.extend(driver.start());
        steps.extend(driver.request(0, &[], &[writable]));
        steps.push(Driver::until_served(0));
        steps.extend(driver.status(0));
    }
    attacker.play(steps);
}

/// Its registers are gone, and its device goes on.
fn a_bar_that_is_not_decoded(attacker: &Attacker, rng: &Driver, bar: u64) {
    let slot = rng.slot;
    let read = |width| Step::Read {
        slot,
        offset: 0,
        width,
    };
    let mut steps = rng.start();
    steps.extend(rng.request(0, &[], &[64]));
    steps.push(Driver::until_served(0));
    steps.push(configure(slot, COMMAND, 2, 0));
    steps.extend([read(1), read(2), read(4)]);
    steps.extend(rng.write(0, 8, u64::MAX));
    // KVM itself hears the doorbell.
    steps.push(Driver::offer(0, 2, &[0, 0]));
    steps.extend(rng.notify(0));
    steps.push(Driver::until_served(0));
    steps.push(configure(slot, COMMAND, 2, MEMORY | MASTER));
    steps.extend(rng.status(0));
    steps.push(inspect(slot, BAR, 4));
    let read = attacker.play(steps);
    assert_eq!(read, [0xff, 0xffff, 0xffff_ffff, bar]);
}

/// Wherever the BAR is said to be, RAM stays RAM, and the device can be driven through its window.
fn bars_all_over(attacker: &Attacker, rng: &Driver, space: &[u64]) {
    let window = capability(space, |id, kind| id == VIRTIO && kind == WINDOW);
    let through = rng.through(window);
    let bar = space[usize::from(BAR / 4)];
    let memory = attacker.arena() + u64::from(BUFFERS);
    // Memory, the local APIC, the IOAPIC's place, the end of everything, the beginning, and the
    // empty slot's and its own neighbour's place.
    for place in [
        memory,
        0xfee0_0000,
        0xfec0_0000,
        0xffff_ffff,
        0,
        0xc000_0000,
        bar + 0x1_0000,
    ] {
        let mut steps = vec![configure(rng.slot, BAR, 4, place)];
        steps.extend(through.start());
        // Notified where the BAR was, and through the window.
        steps.extend(rng.notify(0));
        steps.extend(through.request(0, &[], &[64]));
        steps.push(Driver::until_served(0));
        let at = BUFFERS;
        let bytes = vec![1, 2, 3, 4, 5, 6, 7, 8];
        steps.push(Step::Put { at, bytes });
        steps.push(Step::Get { at, width: 8 });
        steps.extend(through.status(0));
        let read = attacker.play(steps);
        assert_eq!(read, [0x0807_0605_0403_0201], "a BAR at {place:#x}");
    }
    // A window of any width at any place, also across the end.
    let mut steps = Vec::new();
    for width in [0, 1, 3, 4, 8, u64::from(u32::MAX)] {
        for offset in [0, 1, 0x3000, 0x7ffe, 0x8000, 0xffff_fffc, 0xffff_ffff] {
            for bar in [0, 1, 0xff] {
                steps.push(configure(rng.slot, window + 4, 1, bar));
                steps.push(configure(rng.slot, window + 8, 4, offset));
                steps.push(configure(rng.slot, window + 12, 4, width));
                steps.push(inspect(rng.slot, window + 16, 4));
                steps.push(configure(rng.slot, window + 16, 4, 0xffff_ffff));
            }
        }
    }
    steps.push(configure(rng.slot, BAR, 4, bar));
    steps.extend(rng.status(0));
    attacker.play(steps);
}

/// Interrupts for which there is no CPU or no vector, and entries that change all the time.
fn messages_to_nowhere(attacker: &Attacker, rng: &Driver, space: &[u64]) {
    let control = capability(space, |id, _| id == MSIX) + 2;
    let entry = |vector: u16, address: u64, data: u64, masked: u64| {
        let at = TABLE + vector * ENTRY;
        let mut steps = rng.write(at, 4, address & 0xffff_ffff);
        steps.extend(rng.write(at + 4, 4, address >> 32));
        steps.extend(rng.write(at + 8, 4, data));
        steps.extend(rng.write(at + 12, 4, masked));
        steps
    };
    let (enabled, masked) = (1 << 15, 1 << 14);
    for (address, data) in [
        (0, 0),
        (u64::MAX, u64::from(u32::MAX)),
        // No such CPU; all of them with a vector that is none, a fixed one below 16, and by way of
        // a pair of 8259 that did not ask.
        (0xfeef_f000, 0x4041),
        (0xfee0_0000, 0),
        (0xfee0_0000, 15),
        (0xfee0_0000, 0x700),
        (0xffff_ff00_fee0_0000, 0x41),
        // The arena, which is memory, and the table itself.
        (attacker.arena(), 0x41),
        (space[usize::from(BAR / 4)] + u64::from(TABLE), 1),
    ] {
        let mut steps = rng.negotiate(super::driver::VERSION_1);
        steps.extend(Driver::clear(0));
        for vector in 0..4 {
            steps.extend(entry(vector, address, data, 0));
        }
        steps.push(configure(rng.slot, control, 2, enabled));
        let registers = super::driver::Registers {
            vector: 1,
            ..rng.registers(0)
        };
        steps.extend(rng.set(0, registers));
        steps.extend(rng.ready());
        steps.extend(rng.request(0, &[], &[64]));
        steps.push(Driver::until_served(0));
        // While it may still fire: masked, changed, unmasked, switched off and on.
        steps.extend(entry(1, 0xfeef_f000, 0x4041, 1));
        steps.extend(entry(1, 0xfeef_f000, 0x4042, 0));
        steps.push(configure(rng.slot, control, 2, enabled | masked));
        steps.push(configure(rng.slot, control, 2, 0));
        steps.extend(rng.status(0));
        attacker.play(steps);
    }
    // Vectors that do not exist, for the queue and for the configuration.
    let mut steps = rng.negotiate(super::driver::VERSION_1);
    for vector in [2, 3, 2047, 0x7fff] {
        steps.extend(rng.write(16, 2, vector));
        steps.extend(rng.write(26, 2, vector));
        steps.push(Step::Read {
            slot: rng.slot,
            offset: 26,
            width: 2,
        });
    }
    steps.push(configure(rng.slot, control, 2, enabled));
    let mut changes = entry(1, 0xfeef_f000, 0x4041, 0);
    changes.extend(entry(1, 0xfeef_f000, 0x4042, 1));
    steps.push(Step::Repeat {
        times: 100,
        steps: changes,
    });
    steps.push(configure(rng.slot, control, 2, 0));
    steps.extend(rng.status(0));
    assert_eq!(attacker.play(steps), [0xffff; 4], "there are two vectors");
}

/// All ones and all zeros to every register of every function, pvpanic in slot 1 included.
fn everything_is_written(attacker: &Attacker, seized: &[u8]) {
    let mut slots = vec![1];
    slots.extend(seized);
    for slot in slots {
        let before = space(attacker, slot);
        let mut steps = Vec::new();
        for value in [u64::from(u32::MAX), 0, 0x5555_5555] {
            steps.extend((0..64).map(|word| configure(slot, word * 4, 4, value)));
            steps.extend((0..64).map(|word| configure(slot, word * 4 + 1, 1, value)));
        }
        // In the order in which it must be, the command last.
        steps.extend((2..64).map(|word| configure(slot, word * 4, 4, before[usize::from(word)])));
        steps.push(configure(slot, COMMAND, 4, before[1]));
        attacker.play(steps);
        // What the window shows is whatever it was told to show last.
        let after = space(attacker, slot);
        assert_eq!(after[..5], before[..5], "slot {slot}");
    }
}

/// Reads of all kinds of ports, writes to those that are nobody's, and a panic that is none.
fn ports(attacker: &Attacker) {
    // What the kernel itself works with: both 8259, the timer, the speaker's port, the serial port
    // and the PCI bus.
    let used = |port: &u16| {
        matches!(port, 0x20..0x22 | 0xa0..0xa2 | 0x40..0x44 | 0x61..0x62)
            || matches!(port, 0x4d0..0x4d2 | 0x3f0..0x400 | 0xcf8..0xd00)
    };
    let mut steps = Vec::new();
    for port in (0..=u16::MAX)
        .step_by(29)
        .chain(0xc00..0xd10)
        .filter(|port| !used(port))
    {
        for width in [1, 2, 4] {
            steps.push(Step::In { port, width });
        }
    }
    let reads = steps.len();
    for port in (0x500..=u16::MAX).step_by(61).filter(|port| !used(port)) {
        let value = u32::MAX;
        for width in [1, 2, 4] {
            steps.push(Step::Out { port, width, value });
        }
    }
    // The address of a configuration access in pieces, and accesses that cross registers.
    for port in 0xcf9..0xd00 {
        for width in [1, 2] {
            steps.push(Step::In { port, width });
        }
    }
    // pvpanic, in slot 1: every event but a panic, and where there is no event.
    for (offset, value) in [(0, 0xfe), (1, 1), (4, u64::MAX), (0xff8, u64::MAX)] {
        steps.push(Step::Write {
            slot: 1,
            offset,
            width: if value == u64::MAX { 4 } else { 1 },
            value,
        });
    }
    let read = attacker.play(steps);
    assert!(read.len() > reads);
}
