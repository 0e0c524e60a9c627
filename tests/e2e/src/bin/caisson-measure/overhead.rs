//! What a pod's control group on the host is charged beyond the limits of its containers: the
//! `overhead.podFixed` of a RuntimeClass has to cover it.

use caisson_e2e::{Cri, PodConfig, PodSandbox};
use serde_json::json;

use crate::memory::Group;

/// Limits of pods in MiB.
const LIMITS: [u64; 2] = [128, 1024];

/// Uses everything that the container may: a file that is read from the cache again, of twice the
/// size of the limit, with many names beside it.
const GREEDY: &str = "dd if=/dev/zero of=/file bs=1M count=$1 2>/dev/null; cat /file >/dev/null; \
                      mkdir /many; for i in $(seq 2000); do : >/many/$i; done; ls -l /many | wc -l";

pub(crate) fn measure(cri: &Cri, group: &Group) {
    println!("\nwhat a pod's control group is charged, in MiB");
    println!(
        "{:>10} {:>10} {:>10} {:>10} {:>10}",
        "limit", "idle", "kernel", "peak", "beyond"
    );
    for limit in LIMITS {
        let name = format!("limit{limit}");
        let resources = json!({"memory_limit_in_bytes": limit << 20});
        let own = group.member(&name);
        let config = PodConfig::new(&name).with(json!({"linux":
            {"cgroup_parent": own.path(), "resources": resources}}));
        let pod = PodSandbox::run(cri, &config);
        let limits = json!({"linux": {"resources": resources}});
        let container = pod.start_with("main", &["sleep", "100000"], limits);
        let (idle, kernel) = (own.current(), own.stat("kernel"));
        let count = (2 * limit).to_string();
        let _ = container.exec(&["sh", "-c", GREEDY, "sh", &count]).ok();
        let peak = own.peak();
        println!(
            "{limit:>10} {:>10} {:>10} {:>10} {:>10}",
            idle >> 10,
            kernel >> 10,
            peak >> 10,
            (peak >> 10).saturating_sub(limit)
        );
        drop(pod);
    }
}
