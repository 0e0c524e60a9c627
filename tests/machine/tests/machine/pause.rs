//! A machine that is paused goes on as if nothing had been.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use caisson_machine_tests::{Disk, TestMachine};

const MIB: u64 = 1 << 20;

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn fifty_pauses_under_load_lose_no_byte() {
    let disk = Disk::new("load", 16);
    let machine = TestMachine::builder().vcpus(2).device(disk.device()).boot();
    let path = machine.disk_path("load");
    let work = AtomicBool::new(true);
    let goes_on = || work.load(Ordering::Relaxed);

    thread::scope(|scope| {
        let end = End(&work);
        let streams = scope.spawn(|| rounds(goes_on, |round| machine.echo(round, MIB)));
        let writes = scope.spawn(|| {
            rounds(goes_on, |round| {
                machine.write_pattern(&path, round, 2 * MIB);
                machine.check_pattern(&path, round, 2 * MIB);
            })
        });
        for pause in 0..50 {
            machine.pause();
            let before = machine.metrics().vcpu_exits;
            let after = machine.metrics().vcpu_exits;
            assert_eq!(before, after, "the vCPUs run in pause {pause}");
            machine.resume();
            // The guest answers: it runs again.
            assert_ne!(machine.read_file("/proc/uptime"), "");
        }
        drop(end);
        assert!(streams.join().unwrap() > 0);
        assert!(writes.join().unwrap() > 0);
    });
    machine.write_pattern(&path, 99, 2 * MIB);
    disk.check_pattern(99, 2 * MIB);
    assert!(
        machine
            .metrics()
            .devices
            .iter()
            .all(|device| device.faults == 0)
    );
}

/// Ends the work when it goes, also because the test has failed.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Works as long as it `goes_on`; answers how many rounds there were.
fn rounds(goes_on: impl Fn() -> bool, work: impl Fn(u64)) -> u64 {
    let mut round = 0;
    while goes_on() {
        work(round);
        round += 1;
    }
    round
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_paused_machine_takes_requests_and_ends_when_it_is_told_to() {
    let machine = TestMachine::builder().without_root().vcpus(2).boot();
    machine.pause();
    // Twice is once.
    machine.pause();
    assert_eq!(machine.metrics().vcpu_exits.len(), 2);
    machine.resume();
    machine.resume();
    machine.echo(1, MIB);
    machine.pause();
    let _ = machine.stop();
}
