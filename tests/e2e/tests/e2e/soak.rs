//! The same again and again, and much at once; afterwards the machine is as it was.
//!
//! A few rounds for every day. For a night: CAISSON_SOAK_CYCLES=500 CAISSON_SOAK_PODS=20.

use std::env;
use std::thread;

use caisson_e2e::{
    BUSYBOX, CleanMachine, Container, Ctr, Footprint, Settings, Shim, mounts_of, parent_of,
};

/// Enough for a shim to have filled what it keeps.
const FIRST: usize = 3;
/// How many pods start at the same time: in emulation one processor runs them all.
const TOGETHER: usize = 4;

/// A number from the environment, or what is done every day.
fn number(variable: &str, daily: usize) -> usize {
    env::var(variable).map_or(daily, |text| text.parse().unwrap())
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p11_containers_that_come_and_go_in_a_pod_leave_nothing_in_it() {
    let cycles = number("CAISSON_SOAK_CYCLES", 8);
    let _machine = CleanMachine::watch();
    let sandbox = ["--annotation", "io.kubernetes.cri.container-type=sandbox"];
    let group = ["--annotation", "io.kubernetes.cri.sandbox-id=soak"];
    let options = [sandbox, group].concat();
    let pod = Container::start_with(&options, BUSYBOX, "soak", &["sleep", "100000"]);
    let shim = parent_of(pod.host_pid());
    let host = parent_of(shim);
    let seen = || (mounts_of(host), mounts_of(shim), Footprint::of(shim));
    (0..FIRST).for_each(cycle);
    let (of_the_host, of_the_shim, before) = seen();
    for number in 0..cycles {
        cycle(FIRST + number);
        let (host_now, shim_now, now) = seen();
        assert_eq!(host_now, of_the_host, "after cycle {number}");
        assert_eq!(shim_now, of_the_shim, "after cycle {number}");
        assert_eq!(now.descriptors, before.descriptors, "after cycle {number}");
        assert!(
            now.resident_kib <= before.resident_kib + 2048,
            "after cycle {number}: {before:?}, then {now:?}"
        );
        if number % 50 == 49 {
            println!("{} cycles: {before:?}, then {now:?}", number + 1);
        }
    }
    println!(
        "{cycles} cycles: {before:?}, then {:?}",
        Footprint::of(shim)
    );
}

/// Create, start, exec, kill and delete a container of the pod `soak`.
fn cycle(number: usize) {
    let container = ["--annotation", "io.kubernetes.cri.container-type=container"];
    let group = ["--annotation", "io.kubernetes.cri.sandbox-id=soak"];
    let options = [container, group].concat();
    let id = format!("member-{number}");
    let member = Container::start_with(&options, BUSYBOX, &id, &["sleep", "100000"]);
    let output = member.exec(&["echo", "alive"]).finish().ok().text();
    assert_eq!(output, "alive");
    let _ = member.task("kill", &["--signal", "9"]).ok();
    assert_eq!(Shim::of(&id).wait("").unwrap().exit_status, 137);
    assert_eq!(member.exit_code_at_delete(), 137);
    let _ = Ctr::new(&["container", "rm", &id]).finish().ok();
    // Nothing is left to remove.
    std::mem::forget(member);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn many_pods_at_once_live_side_by_side_and_leave_nothing() {
    let pods = number("CAISSON_SOAK_PODS", 6);
    let _machine = CleanMachine::watch();
    let _settings = Settings::write("[vm]\nmemory_mib = 64\n");
    let numbers: Vec<usize> = (0..pods).collect();
    let mut running = Vec::new();
    for together in numbers.chunks(TOGETHER) {
        let started = thread::scope(|scope| {
            let starts: Vec<_> = together
                .iter()
                .map(|number| {
                    scope.spawn(move || {
                        let id = format!("pod-{number}");
                        Container::start(BUSYBOX, &id, &["sleep", "100000"])
                    })
                })
                .collect();
            starts
                .into_iter()
                .map(|start| start.join().unwrap())
                .collect::<Vec<_>>()
        });
        running.extend(started);
    }
    assert_eq!(running.len(), pods);
    for (number, pod) in running.iter().enumerate() {
        assert_eq!(pod.state(), "RUNNING", "pod {number}");
        let word = format!("from {number}");
        assert_eq!(pod.exec(&["echo", &word]).finish().ok().text(), word);
    }
    let mut machines: Vec<i32> = running.iter().map(Container::host_pid).collect();
    machines.dedup();
    assert_eq!(machines.len(), pods, "each has its own machine");
}
