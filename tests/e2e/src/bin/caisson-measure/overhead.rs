//! What a pod's control group on the host is charged beyond the limits of its containers: the
//! `overhead.podFixed` of a RuntimeClass has to cover it.

use std::thread;
use std::time::Duration;

use caisson_e2e::{Cri, PodConfig, PodSandbox};
use serde_json::json;

use crate::memory::Group;

/// Limits of pods in MiB.
const LIMITS: [u64; 3] = [128, 512, 1024];
/// `overhead.podFixed` of deploy/runtimeclass.yaml in MiB.
const FIXED: u64 = 128;
/// Over which processor time of an idle pod is counted.
const IDLE: Duration = Duration::from_secs(20);

/// Together they use everything that the container may: a file of the size of the limit, which is read
/// from the cache again; many names; memory of a process, as much as fits beside them; and the file
/// once more.
const GREEDY: [&str; 4] = [
    "dd if=/dev/zero of=/file bs=1M count=$1 2>/dev/null; cat /file >/dev/null",
    "mkdir /many; for i in $(seq 2000); do : >/many/$i; done; ls -l /many | wc -l",
    "dd if=/dev/zero of=/dev/null bs=$(($1 * 3 / 4))M count=1",
    "cat /file >/dev/null",
];

/// A pod has what a kubelet gives it: its containers' limits and the overhead. Beside what cannot be
/// taken from it again (processes, guest memory, the kernel's) there is the host's cache of the files
/// that the pod reads and writes; it fills the group as far as there is room, and gives way.
pub(crate) fn measure(cri: &Cri, group: &Group) {
    println!("\nwhat a pod's control group is charged, in MiB; allowed is the limit and {FIXED}");
    println!(
        "{:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "limit",
        "allowed",
        "peak at",
        "idle",
        "CPU, m",
        "greedy:",
        "kernel",
        "cache",
        "beyond",
        "killed"
    );
    println!("{:>26} {:>26}", "start", "held");
    for limit in LIMITS {
        let name = format!("limit{limit}");
        let resources = json!({"memory_limit_in_bytes": limit << 20});
        let own = group.member(&name);
        own.allow(limit + FIXED);
        let config = PodConfig::new(&name).with(json!({"linux":
            {"cgroup_parent": own.path(), "resources": resources}}));
        let pod = PodSandbox::run(cri, &config);
        let limits = json!({"linux": {"resources": resources}});
        let container = pod.start_with("main", &["sleep", "100000"], limits);
        let start = own.peak();
        let before = own.processor_time();
        thread::sleep(IDLE);
        let used = own.processor_time().saturating_sub(before);
        let idle = own.held();
        for what in GREEDY {
            // Each may take minutes, and a testbed that says nothing is taken for one that hangs.
            eprintln!("a pod of {limit} MiB: {what}");
            let greedy = container.exec(&["sh", "-c", what, "sh", &limit.to_string()]);
            if greedy.code != 0 {
                println!("the greedy one: {greedy:?}");
            }
        }
        let (held, cache) = (own.held(), own.cache());
        println!(
            "{limit:>8} {:>8} {:>8} {:>8} {:>8.1} {:>8} {:>8} {:>8} {:>8} {:>8}",
            limit + FIXED,
            start >> 10,
            idle >> 10,
            used.as_secs_f64() * 1000.0 / IDLE.as_secs_f64(),
            held >> 10,
            own.stat("kernel") >> 10,
            cache >> 10,
            (held >> 10).saturating_sub(limit),
            own.killed()
        );
        drop(pod);
    }
}
