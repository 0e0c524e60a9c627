//! The ways in which a machine ends.

use caisson_control::ExitReason;
use caisson_machine_tests::TestMachine;

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_guest_that_restarts_has_shut_down() {
    let machine = TestMachine::builder().without_root().vcpus(2).boot();
    machine.restart_guest();
    assert_eq!(machine.exit().reason, ExitReason::Shutdown);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_guest_whose_kernel_panics_has_panicked_and_says_why() {
    let machine = TestMachine::builder().without_root().vcpus(2).boot();
    machine.panic_guest();
    let exit = machine.exit();
    assert_eq!(exit.reason, ExitReason::Panic);
    assert!(
        exit.console.contains("Attempted to kill init"),
        "{}",
        exit.console
    );
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_machine_that_the_shim_stops_was_stopped() {
    let machine = TestMachine::builder().vcpus(2).boot();
    let mut busy = machine.spawn(&["sh", "-c", "echo busy; while :; do :; done"]);
    assert_eq!(busy.line(), "busy");
    assert_eq!(machine.stop().reason, ExitReason::Stopped);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_machine_ends_with_its_shim() {
    let machine = TestMachine::builder().vcpus(2).boot();
    let mut busy = machine.spawn(&["sh", "-c", "echo busy; while :; do :; done"]);
    assert_eq!(busy.line(), "busy");
    // It closes the channel, and makes sure that the VMM and the file server end well.
    drop(machine);
}
