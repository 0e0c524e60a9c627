//! Signals, listings, statistics and resource limits.

use std::time::{SystemTime, UNIX_EPOCH};

use caisson_e2e::{BUSYBOX, CleanMachine, Container, Shim, code, signal};
use rustix::process::Signal;
use ttrpc::Code;

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_trap_sees_the_signal_that_is_sent() {
    let _machine = CleanMachine::watch();
    let script = "trap 'exit 33' TERM; while :; do sleep 1 & wait; done";
    let container = Container::start(BUSYBOX, "trap", &["sh", "-c", script]);
    // The trap is set once the shell waits for its first sleep.
    let _ = container
        .exec(&["sh", "-c", "until pidof sleep; do :; done"])
        .finish()
        .ok();
    let _ = container.task("kill", &["--signal", "15"]).ok();
    assert_eq!(container.exit_code_at_delete(), 33);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn processes_are_listed_with_the_pods_process_on_the_host() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "listing", &["sleep", "1000"]);
    let processes = container.task("ps", &[]).ok().text();
    assert!(
        processes.lines().count() >= 2,
        "ctr task ps printed:\n{processes}"
    );
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", container.host_pid())).unwrap();
    assert_eq!(comm.trim(), "caisson-pod");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn metrics_report_memory_cpu_and_processes_of_the_container() {
    let _machine = CleanMachine::watch();
    let container = Container::start_with(
        &["--memory-limit", "67108864"],
        BUSYBOX,
        "metrics",
        &["sleep", "1000"],
    );
    let text = container.task("metrics", &["--format", "json"]).ok().text();
    let metrics: serde_json::Value = serde_json::from_str(&text).unwrap();
    let find = |group: &str, field: &str| {
        metrics
            .get(group)
            .and_then(|group| group.get(field))
            .and_then(serde_json::Value::as_u64)
    };
    assert_eq!(find("pids", "current"), Some(1), "{text}");
    assert_eq!(find("memory", "usage_limit"), Some(67_108_864), "{text}");
    assert!(
        find("memory", "usage").is_some_and(|bytes| bytes > 0 && bytes < 67_108_864),
        "{text}"
    );
    assert!(
        find("cpu", "usage_usec").is_some_and(|micros| micros > 0),
        "{text}"
    );
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_memory_limit_is_enforced_by_the_guests_cgroup() {
    let _machine = CleanMachine::watch();
    let container = Container::start_with(
        &["--memory-limit", "33554432"],
        BUSYBOX,
        "limit",
        &["sleep", "1000"],
    );
    // tail keeps what it reads until the line ends, and /dev/zero has no line end.
    let hog = container.exec(&["sh", "-c", "tail /dev/zero"]).finish();
    assert_eq!(hog.code, 137, "{}", hog.stderr);
    assert_eq!(container.state(), "RUNNING");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_container_has_namespaces_of_its_own_in_the_guest() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "namespaces", &["sleep", "1000"]);
    let script = "readlink /proc/self/ns/*; echo $$; ls /sys/class/net; cat /proc/self/cgroup";
    let inside = container.exec(&["sh", "-c", script]).finish().ok().text();
    assert!(inside.lines().any(|line| line == "lo"), "{inside}");
    assert!(
        inside.contains("0::/\n") || inside.ends_with("0::/"),
        "{inside}"
    );
    let first = container
        .exec(&["cat", "/proc/1/comm"])
        .finish()
        .ok()
        .text();
    assert_eq!(first, "sleep");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn two_containers_run_in_two_virtual_machines() {
    let _machine = CleanMachine::watch();
    let one = Container::start(BUSYBOX, "one", &["sleep", "1000"]);
    let two = Container::start(BUSYBOX, "two", &["sleep", "1000"]);
    assert_ne!(one.host_pid(), two.host_pid());
    assert_ne!(one.vmm_pid(), two.vmm_pid());
    let boot_id = |container: &Container| {
        container
            .exec(&["cat", "/proc/sys/kernel/random/boot_id"])
            .finish()
            .ok()
            .text()
    };
    assert_ne!(boot_id(&one), boot_id(&two));
    drop(one);
    assert_eq!(two.state(), "RUNNING");
    assert_eq!(two.exec(&["echo", "alive"]).finish().ok().text(), "alive");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p12_who_has_ended_is_not_found_by_a_second_kill() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "twice", &["sleep", "1000"]);
    let shim = Shim::of("twice");
    shim.exec("e", &["sleep", "1000"]).unwrap();
    shim.start("e").unwrap();
    for process in ["e", ""] {
        shim.kill(process, 9).unwrap();
        assert_eq!(shim.wait(process).unwrap().exit_status, 137);
        assert_eq!(code(&shim.kill(process, 9)), Some(Code::NOT_FOUND));
    }
    let message = container.task("kill", &[]).failure();
    assert!(message.contains("not found"), "{message}");
    assert_eq!(container.exit_code_at_delete(), 137);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p12_who_ended_with_its_machine_is_not_found_by_a_kill() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "crashed", &["sleep", "1000"]);
    let shim = Shim::of("crashed");
    signal(container.vmm_pid(), Signal::KILL);
    assert_eq!(shim.wait("").unwrap().exit_status, 137);
    assert_eq!(code(&shim.kill("", 15)), Some(Code::NOT_FOUND));
    let message = container.task("kill", &[]).failure();
    assert!(message.contains("not found"), "{message}");
    assert_eq!(container.exit_code_at_delete(), 137);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn the_clock_in_a_container_is_the_hosts() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "clock", &["sleep", "1000"]);
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs()
    };
    let before = now();
    let inside = container.exec(&["date", "+%s"]).finish().ok().text();
    let after = now();
    // The guest took its time from the host before it ran; a second is lost in rounding.
    let inside: u64 = inside.parse().unwrap();
    assert!(
        (before.saturating_sub(1)..=after + 1).contains(&inside),
        "{inside} is not between {before} and {after}"
    );
}
