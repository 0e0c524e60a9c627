//! Containers of a pod come and go.

use std::fs;

use caisson_e2e::{CleanMachine, Cri, CriStatus, PodConfig, PodSandbox};
use serde_json::json;

const BOOT: &str = "cat /proc/sys/kernel/random/boot_id";

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn containers_of_a_pod_come_and_go_in_one_machine() {
    let _machine = CleanMachine::watch();
    let Some(cri) = Cri::connect() else { return };
    let pod = PodSandbox::run(&cri, &PodConfig::new("pod"));
    let one = pod.start("one", &["sleep", "1000"]);
    let two = pod.start("two", &["sleep", "1000"]);

    let host = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let kernel = one.shell("uname -r");
    assert_ne!(kernel, host.trim());
    assert_eq!(two.shell("uname -r"), kernel);
    let boot = one.shell(BOOT);
    assert_eq!(two.shell(BOOT), boot);

    // Stopped, removed and made once more under the same name while the other goes on.
    let _ = two.stop(0).ok();
    assert_eq!(two.ended().exit_code, 137);
    assert_eq!(one.state(), "CONTAINER_RUNNING");
    let again = json!({"metadata": {"attempt": 1}});
    let anew = pod.start_with("two", &["sleep", "1000"], again);
    assert_eq!(anew.shell(BOOT), boot);
    let _ = two.remove().ok();
    assert_eq!(anew.shell("echo here"), "here");

    // The older one may go first.
    let _ = one.stop(0).ok();
    let _ = one.remove().ok();
    assert_eq!(anew.shell("echo here"), "here");

    // A stopped pod has no running container, and one can be looked at until it is removed.
    let _ = pod.stop().ok();
    assert_eq!(anew.ended().exit_code, 137);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn what_a_container_says_and_how_it_ends_reaches_the_kubelet() {
    let _machine = CleanMachine::watch();
    let Some(cri) = Cri::connect() else { return };
    let pod = PodSandbox::run(&cri, &PodConfig::new("pod"));
    let healthy = pod.start("healthy", &["sleep", "1000"]);

    // A crash loop beside a healthy one: each attempt with its own end and log.
    for attempt in 0..3 {
        let script = format!(
            "echo out {attempt}; echo err {attempt} >&2; exit {}",
            3 + attempt
        );
        let more = json!({"metadata": {"attempt": attempt}});
        let crashing = pod.start_with("crashing", &["sh", "-c", &script], more);
        let ended = crashing.ended();
        assert_eq!(
            (ended.exit_code, ended.reason.as_str()),
            (3 + attempt, "Error")
        );
        // Time, stream, whether the line is whole, the line.
        let mut lines: Vec<String> = crashing
            .log()
            .iter()
            .map(|line| line.split_once(' ').unwrap().1.to_owned())
            .collect();
        lines.sort();
        let expected = ["stderr F err", "stdout F out"].map(|line| format!("{line} {attempt}"));
        assert_eq!(lines, expected);
        let _ = crashing.remove().ok();
    }
    let done = pod.start("done", &["true"]);
    let completed = CriStatus {
        exit_code: 0,
        reason: "Completed".to_owned(),
    };
    assert_eq!(done.ended(), completed);

    // ExecSync: both streams and the exit code.
    // crictl prints one after the other.
    let script = ["sh", "-c", "echo out; echo err >&2"];
    let said = healthy.exec(&script).ok().text();
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["out", "err"]);
    let finished = healthy.exec(&["sh", "-c", "exit 42"]);
    assert!(finished.failure().contains("42"));
    assert_eq!(healthy.state(), "CONTAINER_RUNNING");

    // SIGTERM first, and SIGKILL when the grace period is over.
    let polite = "trap 'exit 7' TERM; echo ready; while :; do sleep 1; done";
    let polite = pod.start("polite", &["sh", "-c", polite]);
    let stubborn = "trap '' TERM; echo ready; while :; do sleep 1; done";
    let stubborn = pod.start("stubborn", &["sh", "-c", stubborn]);
    for container in [&polite, &stubborn] {
        while container.log().is_empty() {
            assert_eq!(container.state(), "CONTAINER_RUNNING");
        }
    }
    let _ = polite.stop(60).ok();
    assert_eq!(polite.ended().exit_code, 7);
    let _ = stubborn.stop(2).ok();
    assert_eq!(stubborn.ended().exit_code, 137);

    let missing =
        caisson_e2e::CriContainer::refused(&pod, "missing", &["no-such-program"], json!({}));
    assert!(missing.contains("executable file not found"), "{missing}");
    assert_eq!(healthy.shell("echo here"), "here");
}
