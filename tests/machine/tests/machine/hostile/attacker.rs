//! The hostile machine, and the one beside it.

use caisson_control::Event;
use caisson_machine_tests::{Builder, Request, Step, TestMachine, eventually};

use super::driver::Driver;
use super::held::Held;

/// Most faults of a machine that its VMM reports one by one.
const MOST_REPORTS: usize = 64;

/// A machine whose guest is hostile, and a neighbour that runs all the while.
pub(super) struct Attacker {
    pub(super) machine: TestMachine,
    neighbour: TestMachine,
    arena: u64,
    before: Option<Held>,
}

impl Attacker {
    /// Boots both.
    pub(super) fn boot(builder: Builder) -> Self {
        let neighbour = TestMachine::builder().without_root().boot();
        let machine = builder.without_root().boot();
        let arena = machine.answer(&Request::Arena).ok().text();
        Self {
            machine,
            neighbour,
            arena: arena.parse().unwrap(),
            before: None,
        }
    }

    /// Guest physical address of the memory that steps call the arena.
    pub(super) fn arena(&self) -> u64 {
        self.arena
    }

    /// Takes note of what the VMM holds, now that each device has worked once.
    pub(super) fn begin(&mut self) {
        self.before = Some(Held::by(self.machine.vmm()));
    }

    /// A driver for the device of this name.
    pub(super) fn driver(&self, device: &str) -> Driver {
        let metrics = self.machine.metrics();
        let mut devices = metrics.devices.iter();
        let found = devices.find(|found| found.device == device);
        let slot = found.unwrap_or_else(|| panic!("no {device} in {metrics:?}"));
        let slot = slot.slot;
        let queues = self.play(vec![Step::Read {
            slot,
            offset: super::driver::NUM_QUEUES,
            width: 2,
        }]);
        Driver::new(slot, u16::try_from(queues[0]).unwrap(), self.arena)
    }

    /// Lets the guest do this; returns what it read.
    #[track_caller]
    pub(super) fn play(&self, steps: Vec<Step>) -> Vec<u64> {
        let json = self.machine.answer(&Request::Play { steps }).ok();
        serde_json::from_slice(&json.stdout).unwrap()
    }

    /// Lets the guest do this to the device by which we speak with it; returns what it read. The
    /// kernel's driver must have it back in the end.
    #[track_caller]
    pub(super) fn play_unheard(&self, mut steps: Vec<Step>) -> Vec<u64> {
        steps.push(Step::Hello);
        // The answer goes down with the connection, or not.
        let request = self.machine.ask_guest(&Request::Play { steps });
        drop(self.machine.accept(caisson_machine_tests::HELLO_PORT));
        drop(request);
        let json = self.machine.answer(&Request::Played).ok();
        serde_json::from_slice(&json.stdout).unwrap()
    }

    /// Waits until the host is told that a device stopped; says why it did.
    #[track_caller]
    pub(super) fn fault(&self, of: &str) -> String {
        self.machine
            .event(&format!("a fault of {of}"), |event| match event {
                Event::DeviceFault { device, message } if device == of => Some(message.clone()),
                _ => None,
            })
    }

    /// How often a device has stopped because of its driver.
    pub(super) fn faults(&self, slot: u8) -> u64 {
        let metrics = self.machine.metrics();
        let mut devices = metrics.devices.iter();
        devices.find(|found| found.slot == slot).unwrap().faults
    }

    /// Makes sure that nobody was hurt.
    #[track_caller]
    pub(super) fn finish(self) {
        self.machine.echo(1, 100_000);
        let faults = |event: &Event| matches!(event, Event::DeviceFault { .. });
        let reports = self.machine.events().into_iter().filter(faults).count();
        assert!(reports <= MOST_REPORTS, "{reports} faults are reported");
        if let Some(before) = &self.before {
            // What a connection had is let go after its end.
            let mut now = Held::by(self.machine.vmm());
            eventually(&format!("the VMM holds no more than {before:?}"), || {
                now = Held::by(self.machine.vmm());
                now.is_no_more_than(before)
            });
            println!("the VMM held {before:?}, and {now:?} in the end");
        }
        self.neighbour_is_unhurt();
    }

    /// Makes sure that the machine beside it has not noticed anything.
    #[track_caller]
    pub(super) fn neighbour_is_unhurt(&self) {
        self.neighbour.echo(2, 100_000);
        assert_eq!(all_faults(&self.neighbour), 0);
    }
}

fn all_faults(machine: &TestMachine) -> u64 {
    let metrics = machine.metrics();
    metrics.devices.iter().map(|device| device.faults).sum()
}
