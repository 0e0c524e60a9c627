//! What the containers of a pod have in common.

use caisson_e2e::{CleanMachine, Cri, PodConfig, PodSandbox};
use serde_json::json;

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_pod_shares_its_name_its_ipc_and_its_shared_memory() {
    let _machine = CleanMachine::watch();
    let Some(cri) = Cri::connect() else { return };
    let sysctls =
        json!({"linux": {"sysctls": {"kernel.shm_rmid_forced": "1", "kernel.msgmax": "4096"}}});
    let pod = PodSandbox::run(&cri, &PodConfig::new("pod").with(sysctls));
    let one = pod.start("one", &["sleep", "1000"]);
    let two = pod.start("two", &["sleep", "1000"]);

    assert_eq!(one.shell("hostname"), "pod");
    for namespace in ["uts", "ipc", "net"] {
        let of = format!("readlink /proc/self/ns/{namespace}");
        assert_eq!(one.shell(&of), two.shell(&of), "{namespace}");
    }
    for namespace in ["pid", "mnt", "cgroup"] {
        let of = format!("readlink /proc/self/ns/{namespace}");
        assert_ne!(one.shell(&of), two.shell(&of), "{namespace}");
    }
    // What Kubernetes calls safe and unsafe sysctls are those of the pod.
    for container in [&one, &two] {
        let sysctls = "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/kernel/msgmax";
        assert_eq!(container.shell(sysctls), "1\n4096");
    }

    let _ = one.shell("echo together >/dev/shm/note");
    assert_eq!(two.shell("cat /dev/shm/note"), "together");
    // Memory of the guest, as much as with runc.
    assert_eq!(
        one.shell("df -k /dev/shm | tail -1 | awk '{print $2}'"),
        "65536"
    );
    let full = one.exec(&[
        "dd",
        "if=/dev/zero",
        "of=/dev/shm/big",
        "bs=1M",
        "count=100",
    ]);
    assert!(full.stderr.contains("No space left"), "{full:?}");
    let _ = two.shell("rm /dev/shm/big");

    // The files that Kubernetes writes for the pod.
    assert_eq!(one.shell("cat /etc/hostname"), "pod");
    assert!(one.shell("cat /etc/hosts").contains("localhost"));
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_pod_may_share_its_processes() {
    let _machine = CleanMachine::watch();
    let Some(cri) = Cri::connect() else { return };
    let pod = PodSandbox::run(&cri, &PodConfig::new("pod").with_shared_processes());
    let one = pod.start("one", &["sleep", "1001"]);
    let two = pod.start("two", &["sleep", "1002"]);

    for container in [&one, &two] {
        let processes = container.shell("ps -o args");
        assert!(processes.contains("sleep 1001"), "{processes}");
        assert!(processes.contains("sleep 1002"), "{processes}");
        assert_eq!(
            container.shell("tr '\\0' ' ' </proc/1/cmdline"),
            "sleep 2147483647"
        );
        assert!(!processes.contains("caisson"), "{processes}");
    }
    // A neighbour may be signalled, and its end is its own.
    let _ = one.shell("kill -9 $(ps -o pid,args | awk '/sleep 1002$/ {print $1}')");
    assert_eq!(two.ended().exit_code, 137);
    let again = json!({"metadata": {"attempt": 1}});
    let two = pod.start_with("two", &["sh", "-c", "sleep 1003 & sleep 1002"], again);
    assert!(one.shell("ps -o args").contains("sleep 1003"));
    let _ = two.stop(0).ok();
    // What it started is gone with it, although its namespace is not.
    assert!(!one.shell("ps -o args").contains("sleep 1003"));
    assert_eq!(one.state(), "CONTAINER_RUNNING");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_pod_that_wants_namespaces_of_the_host_is_told_why_not() {
    let _machine = CleanMachine::watch();
    let Some(cri) = Cri::connect() else { return };
    // NODE is 2 (NamespaceMode of CRI).
    let cases = [
        ("network", "the host's network"),
        ("pid", "the host's processes"),
        ("ipc", "the host's IPC"),
    ];
    for (namespace, what) in cases {
        let options = json!({namespace: 2});
        let options = json!({"linux": {"security_context": {"namespace_options": options}}});
        let message = PodSandbox::refused(&cri, &PodConfig::new("pod").with(options));
        assert!(message.contains(what), "{message}");
        assert!(message.contains("a virtual machine cannot"), "{message}");
    }
}
