//! vCPUs.

use caisson_machine_tests::{TestMachine, eventually};

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_guest_with_one_vcpu_uses_it() {
    every_vcpu_runs(1);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_guest_with_two_vcpus_uses_both() {
    every_vcpu_runs(2);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_guest_with_eight_vcpus_uses_all() {
    every_vcpu_runs(8);
}

fn every_vcpu_runs(count: u8) {
    let machine = TestMachine::builder().vcpus(count).boot();
    assert_eq!(machine.run(&["nproc"]).ok().text(), count.to_string());
    for cpu in 0..count {
        // A program that may run nowhere else, and does.
        let cpus = machine.run(&["taskset", "-c", &cpu.to_string(), "nproc"]);
        assert_eq!(cpus.ok().text(), "1", "CPU {cpu}");
    }
    // The interrupts of the timer come to every CPU that runs anything.
    let exits = machine.metrics().vcpu_exits;
    assert_eq!(exits.len(), usize::from(count));
    let threads = machine.vmm().threads();
    assert!(threads.len() >= usize::from(count), "{threads:?}");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn vcpus_come_and_go_while_programs_run() {
    let machine = TestMachine::builder().max_vcpus(4).boot();
    assert_eq!(machine.online(), "0");
    let threads = machine.vmm().threads().len();
    let busy = "dd if=/dev/zero of=/dev/null bs=64k 2>/dev/null & cat; kill $!";
    let bystander = machine.spawn(&["sh", "-c", busy]);

    for round in 0..3 {
        machine.set_vcpus(4);
        assert_eq!(machine.vmm().threads().len(), threads + 3, "round {round}");
        for cpu in 1..4 {
            machine.set_online(cpu, true);
            let cpus = machine.run(&["taskset", "-c", &cpu.to_string(), "nproc"]);
            assert_eq!(cpus.ok().text(), "1", "round {round}, CPU {cpu}");
        }
        assert_eq!(machine.run(&["nproc"]).ok().text(), "4", "round {round}");

        for cpu in 1..4 {
            machine.set_online(cpu, false);
        }
        assert_eq!(machine.online(), "0", "round {round}");
        assert_eq!(machine.run(&["nproc"]).ok().text(), "1", "round {round}");
    }
    // vCPUs that the guest does not use sleep: nothing leaves guest mode there any more.
    let exits = || machine.metrics().vcpu_exits[1..].to_vec();
    let mut before = exits();
    eventually("the offline vCPUs sleep", || {
        let now = exits();
        let sleeping = now == before;
        before = now;
        sleeping
    });
    assert_eq!(bystander.finish().code, 0);
}
