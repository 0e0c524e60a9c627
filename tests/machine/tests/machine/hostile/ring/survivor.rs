//! The machine of such a guest, and what must hold of its VMM afterwards.

use std::fs;

use caisson_control::ExitReason;
use caisson_machine_tests::ring::{self, Act, Went};
use caisson_machine_tests::{Builder, HostProcess, TestMachine, eventually};

use super::super::held::Held;

/// A machine with a guest in ring 0.
pub(super) struct Survivor {
    pub(super) machine: TestMachine,
    before: Held,
}

const MEMORY_MIB: u32 = 64;
/// The first address behind its memory.
pub(super) const MEMORY: u64 = (MEMORY_MIB as u64) << 20;

/// A machine of two processors, of which the second waits to be started. No kernel is booted in it, so
/// that a host will do on which KVM emulates ring 0: by hand, with the program that `CAISSON_VMM` names.
fn machine() -> Builder {
    let builder = TestMachine::builder().memory_mib(MEMORY_MIB).vcpus(2);
    match std::env::var_os("CAISSON_VMM") {
        Some(vmm) => builder.vmm(vmm.as_ref()),
        None => builder,
    }
}

/// Whether a test is left out, and then why: QEMU's emulation of a processor, on which the testbed
/// runs, has ended itself over some of these acts, and all of them have yet to be tried on a processor.
pub(super) fn skipped() -> bool {
    let asked = ["CAISSON_VMM", "CAISSON_RING"];
    let skipped = asked
        .into_iter()
        .all(|name| std::env::var_os(name).is_none());
    if skipped {
        eprintln!("skipped: emulated processors die of this; CAISSON_RING=1 tries it all the same");
    }
    skipped
}

impl Survivor {
    /// Starts the guest.
    pub(super) fn start(acts: &[Act]) -> Self {
        let machine = machine().kernel(ring::guest(acts)).start();
        let vmm = machine.vmm();
        // A new thread has the name of the process at first.
        eventually("all threads have names", || {
            let names = vmm.threads();
            names.iter().filter(|name| *name == "caisson-vmm").count() == 1
        });
        let before = Held::by(vmm);
        Self { machine, before }
    }

    /// Waits until all acts are played, and says how they went.
    #[track_caller]
    pub(super) fn play(&self) -> Vec<Went> {
        ring::played(&self.machine)
    }

    /// Waits until the first act is played and the next has begun, whatever that is.
    #[track_caller]
    pub(super) fn begin(&self) {
        let machine = &self.machine;
        eventually("the first act is played", || {
            !ring::so_far(machine).is_empty()
        });
        for _ in 0..20 {
            machine.nudge();
        }
    }

    /// As [`Survivor::play`], for a guest that has nothing left that runs; makes sure that the VMM has not been hurt,
    /// and ends it.
    #[track_caller]
    pub(super) fn finish(self) -> Vec<Went> {
        let went = self.play();
        // Nothing is left to be done for a guest that has halted.
        let vmm = self.machine.vmm();
        eventually("all threads of the VMM sleep", || sleeps(vmm));
        self.survive();
        went
    }

    /// Makes sure that the VMM of a guest that may do anything yet does what it is told, and ends it.
    #[track_caller]
    pub(super) fn survive(self) {
        self.machine.pause();
        let vmm = self.machine.vmm();
        eventually("all threads of a paused VMM sleep", || sleeps(vmm));
        self.machine.resume();
        assert_eq!(self.machine.metrics().vcpu_exits.len(), 2);
        let now = Held::by(vmm);
        let before = &self.before;
        assert!(now.is_no_more_than(before), "{now:?} instead of {before:?}");
        assert_eq!(self.machine.stop().reason, ExitReason::Stopped);
    }

    /// Waits for the end that the guest has brought about.
    #[track_caller]
    pub(super) fn end(self) -> ExitReason {
        self.machine.exit().reason
    }
}

/// Whether no thread of a process has anything to do.
fn sleeps(process: HostProcess) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap();
    tasks.flatten().all(|task| {
        let state = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let (_, after_name) = state.rsplit_once(')').unwrap_or_default();
        after_name.starts_with(" S")
    })
}
