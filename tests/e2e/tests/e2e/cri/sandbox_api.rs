//! Pods of containerd's sandbox service (`sandboxer = "shim"`): no pause container holds them.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use caisson_e2e::{
    CleanMachine, Containerd, Cri, Ctr, PodConfig, PodSandbox, children_of, parent_of, signal,
};
use rustix::process::Signal;
use serde_json::{Value, json};

const BOOT: &str = "cat /proc/sys/kernel/random/boot_id";
const PARENT: &str = "/sys/fs/cgroup/kubepods-sandbox";
/// How long the end of a machine may take to be known.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_pod_lives_without_a_pause_container() {
    let _machine = CleanMachine::watch();
    let Some(cri) = Cri::connect() else { return };
    if !cri.offers_sandboxes() {
        return;
    }
    let _parent = Parent::new();
    let more = json!({
        "dns_config": {"servers": ["192.0.2.53"], "searches": ["svc.test"], "options": ["ndots:5"]},
        "linux": {
            "cgroup_parent": "/kubepods-sandbox",
            "sysctls": {"kernel.shm_rmid_forced": "1", "net.ipv4.ip_unprivileged_port_start": "80"},
            "resources": {"cpu_quota": 150_000, "cpu_period": 100_000,
                "memory_limit_in_bytes": 400 << 20},
        },
    });
    let pod = PodSandbox::run(&cri, &PodConfig::new("pod").in_sandbox_service().with(more));
    assert_eq!(pod.state(), "SANDBOX_READY");

    // containerd knows of no container, and the pod's processes are in the group of the pod.
    let containers = Ctr::new(&["--namespace", "k8s.io", "containers", "ls", "-q"]);
    assert!(!containers.finish().ok().text().contains(&pod.id));
    let group = fs::read_to_string(format!("{PARENT}/{}/cgroup.procs", pod.id)).unwrap();
    let shim = parent_of(pod.host_pid());
    for process in [&[shim][..], &children_of(shim)].concat() {
        assert!(group.lines().any(|line| line == process.to_string()));
    }

    // The machine has the size of the pod, and the pod's name and parameters, from the start.
    let one = pod.start("one", &["sleep", "1001"]);
    let two = pod.start("two", &["sleep", "1002"]);
    assert_eq!(one.shell("nproc"), "2");
    let total = one.shell("awk '/MemTotal/ {print $2}' /proc/meminfo");
    let total: u64 = total.parse().unwrap();
    assert!((400 << 10..600 << 10).contains(&total), "{total} KiB");
    let parameters = "cat /proc/sys/kernel/shm_rmid_forced \
                      /proc/sys/net/ipv4/ip_unprivileged_port_start";
    assert_eq!(one.shell(parameters), "1\n80");
    let boot = one.shell(BOOT);
    for container in [&one, &two] {
        assert_eq!(container.shell(BOOT), boot);
        assert_eq!(container.shell("hostname; cat /etc/hostname"), "pod\npod");
        let resolv = "search svc.test\nnameserver 192.0.2.53\noptions ndots:5";
        assert_eq!(container.shell("cat /etc/resolv.conf"), resolv);
        assert!(container.shell("cat /etc/hosts").contains("localhost"));
    }
    for (namespace, shared) in [("uts", true), ("ipc", true), ("net", true), ("pid", false)] {
        let of = format!("readlink /proc/self/ns/{namespace}");
        assert_eq!(one.shell(&of) == two.shell(&of), shared, "{namespace}");
    }
    let _ = one.shell("echo together >/dev/shm/note");
    assert_eq!(
        two.shell("cat /dev/shm/note; df -k /dev/shm | awk 'END {print $2}'"),
        "together\n65536"
    );
    let address = pod.address();
    assert!(one.shell("ip -4 addr show eth0").contains(&address));

    // containerd has asked the shim of the pod, and run no program for each container.
    let bundles = "/run/containerd/io.containerd.runtime.v2.task/k8s.io";
    assert_eq!(
        fs::read_to_string(format!("{bundles}/{}/sandbox", one.id)).unwrap(),
        pod.id
    );

    // One is made anew while the other goes on; a pod lives without any container.
    let _ = two.stop(0).ok();
    assert_eq!(two.ended().exit_code, 137);
    let _ = two.remove().ok();
    let script = ["sh", "-c", "echo out; echo err >&2; sleep 1000"];
    let two = pod.start_with("two", &script, json!({"metadata": {"attempt": 1}}));
    assert_eq!(two.shell(BOOT), boot);
    let deadline = Instant::now() + PATIENCE;
    while two.log().len() < 2 {
        assert!(Instant::now() < deadline, "{:?}", two.log());
    }
    let stats = one.stats();
    assert!(
        number(&stats, "/stats/0/memory/workingSetBytes/value") > 0,
        "{stats}"
    );
    let stats = pod.stats();
    assert!(
        number(&stats, "/stats/0/linux/memory/usageBytes/value") > 0,
        "{stats}"
    );
    for container in [&one, &two] {
        let _ = container.stop(0).ok();
        let _ = container.remove().ok();
    }
    assert_eq!(pod.state(), "SANDBOX_READY");
    let last = pod.start("last", &["sleep", "1000"]);
    assert_eq!(last.shell(BOOT), boot);

    let _ = pod.stop().ok();
    assert_eq!(last.ended().exit_code, 137);
    assert_eq!(pod.state(), "SANDBOX_NOTREADY");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_pod_without_a_pause_container_shares_its_processes_and_its_end_is_seen() {
    let _machine = CleanMachine::watch();
    let Some(cri) = Cri::connect() else { return };
    if !cri.offers_sandboxes() {
        return;
    }
    let config = PodConfig::new("pod")
        .in_sandbox_service()
        .with_shared_processes();
    let pod = PodSandbox::run(&cri, &config);
    let one = pod.start("one", &["sleep", "1001"]);
    let two = pod.start("two", &["sleep", "1002"]);
    for container in [&one, &two] {
        let processes = container.shell("cat /proc/1/comm; ps -o args");
        assert!(processes.starts_with("pod\n"), "{processes}");
        for args in ["sleep 1001", "sleep 1002"] {
            assert!(processes.contains(args), "{processes}");
        }
        assert!(!processes.contains("pause"), "{processes}");
    }
    let _ = one.shell("kill -9 $(ps -o pid,args | awk '/sleep 1002$/ {print $1}')");
    assert_eq!(two.ended().exit_code, 137);

    // containerd starts anew and finds the pod as it was.
    let mut containerd = Containerd::running();
    containerd.kill();
    containerd.start();
    assert_eq!(pod.state(), "SANDBOX_READY");
    assert_eq!(one.state(), "CONTAINER_RUNNING");
    assert_eq!(one.shell("hostname"), "pod");

    // The machine dies: containers and pod have ended, and can be removed.
    let shim = parent_of(pod.host_pid());
    let is_vmm = |pid: &i32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.trim() == "caisson-vmm"
    };
    let vmm = children_of(shim).into_iter().find(is_vmm).unwrap();
    signal(vmm, Signal::KILL);
    assert_eq!(one.ended().exit_code, 137);
    let deadline = Instant::now() + PATIENCE;
    while pod.state() != "SANDBOX_NOTREADY" {
        assert!(Instant::now() < deadline, "the pod is still ready");
    }
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn the_death_of_its_shim_is_the_end_of_a_pod_without_a_pause_container() {
    let _machine = CleanMachine::watch();
    let Some(cri) = Cri::connect() else { return };
    if !cri.offers_sandboxes() {
        return;
    }
    let pod = PodSandbox::run(&cri, &PodConfig::new("pod").in_sandbox_service());
    let one = pod.start("one", &["sleep", "1001"]);
    let shim = parent_of(pod.host_pid());
    let own = children_of(shim);
    assert!(own.len() >= 3, "{own:?}");
    signal(shim, Signal::KILL);

    // Nothing of the pod lives on, and containerd learns of it.
    let deadline = Instant::now() + PATIENCE;
    let lives = |pid: &i32| fs::exists(format!("/proc/{pid}/exe")).unwrap_or_default();
    while own.iter().any(lives) {
        assert!(Instant::now() < deadline, "{own:?} live on");
        thread::sleep(Duration::from_millis(20));
    }
    while pod.state() != "SANDBOX_NOTREADY" {
        assert!(Instant::now() < deadline, "the pod is still ready");
    }
    assert_ne!(one.ended().exit_code, 0);

    // Another one of the same name can follow.
    let _ = pod.stop().ok();
    drop(pod);
    let again = PodSandbox::run(&cri, &PodConfig::new("pod").in_sandbox_service());
    let one = again.start("one", &["sleep", "1001"]);
    assert_eq!(one.shell("hostname"), "pod");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_pod_without_a_pause_container_is_told_what_it_cannot_have() {
    let _machine = CleanMachine::watch();
    let Some(cri) = Cri::connect() else { return };
    if !cri.offers_sandboxes() {
        return;
    }
    // NODE is 2 (NamespaceMode of CRI). Not that of the network: containerd 2.1 itself crashes before
    // it asks a shim for such a pod.
    for (namespace, what) in [("pid", "hostPID"), ("ipc", "hostIPC")] {
        let options = json!({namespace: 2});
        let options = json!({"linux": {"security_context": {"namespace_options": options}}});
        let config = PodConfig::new("pod").in_sandbox_service().with(options);
        let message = PodSandbox::refused(&cri, &config);
        assert!(message.contains(what), "{message}");
    }
    let sysctl = json!({"linux": {"sysctls": {"kernel.no_such_parameter": "1"}}});
    let config = PodConfig::new("pod").in_sandbox_service().with(sysctl);
    let message = PodSandbox::refused(&cri, &config);
    assert!(message.contains("kernel.no_such_parameter"), "{message}");
}

fn number(value: &Value, path: &str) -> u64 {
    let number = value.pointer(path).and_then(Value::as_str);
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}

/// The group that a kubelet makes for a pod.
struct Parent;

impl Parent {
    fn new() -> Self {
        fs::create_dir_all(PARENT).unwrap();
        Self
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let _ = fs::remove_dir(PARENT);
    }
}
