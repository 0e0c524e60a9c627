//! What the VMM counts.

use caisson_control::Metrics;
use caisson_machine_tests::TestMachine;

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn metrics_count_what_the_guest_does() {
    let machine = TestMachine::builder().vcpus(2).boot();
    let before = machine.metrics();
    assert_eq!(before.memory.boot_mib, 256);
    assert_eq!(before.memory.plugged_mib, 0);
    machine.echo(1, 100_000);
    // Sending does not leave guest mode: KVM itself rings the doorbells. Ports do.
    machine.rescan();

    let after = machine.metrics();
    let vsock = |metrics: &Metrics| {
        let mut devices = metrics.devices.iter();
        devices.find(|device| device.device == "vsock").cloned()
    };
    let (before_vsock, after_vsock) = (vsock(&before).unwrap(), vsock(&after).unwrap());
    assert!(
        after_vsock.bytes_from_guest >= before_vsock.bytes_from_guest + 100_000,
        "{before_vsock:?} {after_vsock:?}"
    );
    assert!(
        after_vsock.bytes_to_guest >= before_vsock.bytes_to_guest + 100_000,
        "{before_vsock:?} {after_vsock:?}"
    );
    assert!(after_vsock.requests > before_vsock.requests);
    assert!(
        after.vcpu_exits.iter().sum::<u64>() > before.vcpu_exits.iter().sum(),
        "{before:?} {after:?}"
    );
    assert!(
        after.devices.iter().all(|device| device.faults == 0),
        "{after:?}"
    );
    let slots: Vec<u8> = after.devices.iter().map(|device| device.slot).collect();
    assert!(slots.is_sorted(), "{slots:?}");
}
