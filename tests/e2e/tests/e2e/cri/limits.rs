//! Limits: in the guest those of containers, on the host that of the pod.

use std::fs;
use std::path::Path;

use caisson_e2e::{
    CleanMachine, Cri, CriContainer, PodConfig, PodSandbox, Settings, children_of, parent_of,
};
use serde_json::json;

/// Where the processes of a pod are on the host.
pub(super) const PARENT: &str = "/kubepods-test/pod1";

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_pod_has_the_size_and_the_limits_that_kubernetes_gives_it() {
    let _machine = CleanMachine::watch();
    let Some(cri) = Cri::connect() else { return };
    let _settings = Settings::write("[vm]\nmax_vcpus = 4\n");
    let _parent = Parent::new();
    let size = json!({"linux": {
        "cgroup_parent": PARENT,
        "resources": {"cpu_quota": 150_000, "cpu_period": 100_000,
            "memory_limit_in_bytes": 400 << 20},
    }});
    let pod = PodSandbox::run(&cri, &PodConfig::new("pod").with(size));
    assert_eq!(
        own_processes(&pod),
        processes_in(&format!("{PARENT}/{}", pod.id))
    );

    let limits = json!({"linux": {"resources": {"cpu_quota": 50_000, "cpu_period": 100_000,
        "cpu_shares": 512, "memory_limit_in_bytes": 64 << 20}}});
    let one = pod.start_with("one", &["sleep", "1000"], limits);
    let other = pod.start("other", &["sleep", "1000"]);
    assert_eq!(one.shell("nproc"), "2");
    let total = one.shell("awk '/MemTotal/ {print $2}' /proc/meminfo");
    assert!(total.parse::<u64>().unwrap() >= 400 << 10, "{total} KiB");
    let shown = "cd /sys/fs/cgroup; cat cpu.max memory.max";
    assert_eq!(one.shell(shown), "50000 100000\n67108864");
    assert_eq!(other.shell(shown), "max 100000\nmax");

    // Up, and the machine with it; and down again.
    let mib = |mib: u64| (mib << 20).to_string();
    let up = [
        "--cpu-quota",
        "300000",
        "--cpu-period",
        "100000",
        "--memory",
        &mib(600),
    ];
    let _ = one.update(&up).ok();
    assert_eq!(one.shell(shown), format!("300000 100000\n{}", mib(600)));
    assert_eq!(one.shell("nproc"), "3");
    let total = one.shell("awk '/MemTotal/ {print $2}' /proc/meminfo");
    assert!(total.parse::<u64>().unwrap() >= 600 << 10, "{total} KiB");
    let down = [
        "--cpu-quota",
        "50000",
        "--cpu-period",
        "100000",
        "--memory",
        &mib(64),
    ];
    let _ = one.update(&down).ok();
    assert_eq!(one.shell(shown), "50000 100000\n67108864");
    assert_eq!(one.shell("nproc"), "2");

    // Statistics of the container are the guest's, those of the pod what the host pays for it.
    let stats = one.stats();
    let usage = |value: &serde_json::Value, path: &str| {
        let number = value.pointer(path).and_then(|value| value.as_str());
        number.and_then(|number| number.parse::<u64>().ok())
    };
    assert!(
        usage(&stats, "/stats/0/cpu/usageCoreNanoSeconds/value") > Some(0),
        "{stats}"
    );
    assert!(
        usage(&stats, "/stats/0/memory/workingSetBytes/value") > Some(0),
        "{stats}"
    );
    let stats = pod.stats();
    let memory = "/stats/0/linux/memory/usageBytes/value";
    // A guest alone has more than this.
    assert!(usage(&stats, memory) > Some(8 << 20), "{stats}");

    // Beyond its limit a container is killed, and that is told; its neighbour lives.
    let limits = json!({"linux": {"resources": {"memory_limit_in_bytes": 32 << 20}}});
    let greedy = "dd if=/dev/zero of=/dev/null bs=100M count=1; exit $?";
    let greedy = pod.start_with("greedy", &["sh", "-c", greedy], limits);
    let ended = greedy.ended();
    assert_eq!((ended.exit_code, ended.reason.as_str()), (137, "OOMKilled"));
    assert_eq!(other.shell("echo here"), "here");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn limits_of_one_kind_hold_alone() {
    let _machine = CleanMachine::watch();
    let Some(cri) = Cri::connect() else { return };
    let sleeping = ["sleep", "1000"];
    let limited = |resources| json!({"linux": {"resources": resources}});
    let shown = "cd /sys/fs/cgroup; cat cpu.max memory.max";

    // Memory alone, of the pod and of one container; processors alone, of another.
    let size = limited(json!({"memory_limit_in_bytes": 300 << 20}));
    let pod = PodSandbox::run(&cri, &PodConfig::new("memory").with(size));
    let memory = limited(json!({"memory_limit_in_bytes": 64 << 20}));
    let memory = pod.start_with("memory", &sleeping, memory);
    assert_eq!(memory.shell(shown), "max 100000\n67108864");
    let cpu = limited(json!({"cpu_quota": 20_000, "cpu_period": 100_000}));
    let cpu = pod.start_with("cpu", &sleeping, cpu);
    assert_eq!(cpu.shell(shown), "20000 100000\nmax");
    assert_eq!(cpu.shell("nproc"), "1");
    let total = memory.shell("awk '/MemTotal/ {print $2}' /proc/meminfo");
    assert!(total.parse::<u64>().unwrap() >= 300 << 10, "{total} KiB");

    // Everything else that CRI has. Of huge pages containerd tells nothing unless it is told to.
    let rest = limited(json!({
        "cpuset_cpus": "0",
        "cpuset_mems": "0",
        "hugepage_limits": [{"page_size": "2MB", "limit": 0}, {"page_size": "1GB", "limit": 0}],
        "unified": {"pids.max": "20", "io.weight": "default 200"},
    }));
    let rest = pod.start_with("rest", &sleeping, rest);
    let files = "cd /sys/fs/cgroup; cat cpuset.cpus cpuset.mems pids.max io.weight";
    assert_eq!(rest.shell(files), "0\n0\n20\ndefault 200");
    // They keep nothing open that the exec waits for.
    let many = "for n in $(seq 30); do sleep 1000 >/dev/null 2>&1 & done";
    let many = rest.exec(&["sh", "-c", many]);
    assert!(many.stderr.contains("can't fork"), "{many:?}");
    assert_eq!(cpu.shell("echo here"), "here");
    let wrong = limited(json!({"unified": {"no.such": "1"}}));
    let wrong = CriContainer::refused(&pod, "wrong", &sleeping, wrong);
    assert!(wrong.contains("the guest kernel has no no.such"), "{wrong}");
    drop(pod);

    // Processors alone, of the pod: as many, and memory as a pod without limits has it.
    let size = limited(json!({"cpu_quota": 150_000, "cpu_period": 100_000}));
    let pod = PodSandbox::run(&cri, &PodConfig::new("cpu").with(size));
    let one = pod.start("one", &sleeping);
    assert_eq!(one.shell("nproc"), "2");
    assert_eq!(one.shell(shown), "max 100000\nmax");
}

/// The shim and its children.
fn own_processes(pod: &PodSandbox) -> Vec<i32> {
    let shim = parent_of(pod.host_pid());
    let mut all = children_of(shim);
    all.push(shim);
    all.sort_unstable();
    all
}

fn processes_in(group: &str) -> Vec<i32> {
    let list = fs::read_to_string(format!("/sys/fs/cgroup{group}/cgroup.procs"));
    let list = list.unwrap();
    let mut all: Vec<i32> = list.lines().map(|line| line.parse().unwrap()).collect();
    all.sort_unstable();
    all
}

/// The cgroup of a pod, which is the kubelet's to make and to remove.
pub(super) struct Parent;

impl Parent {
    pub(super) fn new() -> Self {
        let mut path = Path::new("/sys/fs/cgroup").to_path_buf();
        for part in PARENT.split('/').skip(1) {
            path.push(part);
            fs::create_dir(&path).unwrap();
            let controllers = fs::read_to_string(path.join("cgroup.controllers")).unwrap();
            for controller in controllers.split_whitespace() {
                fs::write(
                    path.join("cgroup.subtree_control"),
                    format!("+{controller}"),
                )
                .unwrap();
            }
        }
        Self
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let path = format!("/sys/fs/cgroup{PARENT}");
        let path = Path::new(&path);
        for path in [path, path.parent().unwrap()] {
            let removed = fs::remove_dir(path);
            assert!(
                removed.is_ok() || std::thread::panicking(),
                "{}",
                path.display()
            );
        }
    }
}
