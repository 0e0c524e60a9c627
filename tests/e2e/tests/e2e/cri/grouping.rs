//! Containers of a pod beside each other.

use std::fs;

use caisson_e2e::{
    CleanMachine, Cri, CriContainer, Footprint, PodConfig, PodSandbox, mounts_of, parent_of,
};
use serde_json::json;
use tempfile::TempDir;

/// So often has a container crashed when the shim has filled what it keeps.
const FIRST: u64 = 3;
/// So often it does so after that: once in each way.
const MORE: u64 = 3;
const MIB: u64 = 1 << 20;

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn init_containers_sidecars_and_a_crash_loop_live_beside_each_other() {
    let _machine = CleanMachine::watch();
    let Some(cri) = Cri::connect() else { return };
    let volume = TempDir::new().unwrap();
    let mounts = json!({"mounts": [{"container_path": "/volume", "host_path": volume.path()}]});
    let pod = PodSandbox::run(&cri, &PodConfig::new("pod"));

    // An init container ends before the next starts, and leaves what it has made.
    let script = "echo prepared >/volume/state";
    let init = pod.start_with("init", &["sh", "-c", script], mounts.clone());
    assert_eq!(init.ended().exit_code, 0);
    // A sidecar is one that goes on.
    let script = "httpd -p 127.0.0.1:8080 -h /volume; exec sleep 1000";
    let sidecar = pod.start_with("sidecar", &["sh", "-c", script], mounts.clone());
    let script = "until wget -q -O - http://127.0.0.1:8080/state; do :; done 2>/dev/null; \
                  exec sleep 1000";
    let main = pod.start_with("main", &["sh", "-c", script], mounts);
    while main.log().is_empty() {
        assert_eq!(main.state(), "CONTAINER_RUNNING");
    }
    assert!(main.log().iter().all(|line| line.ends_with(" prepared")));
    let _ = init.remove().ok();

    // One that crashes again and again is no concern of the others, and leaves nothing.
    let shim = parent_of(pod.host_pid());
    let host = parent_of(shim);
    (0..FIRST).for_each(|attempt| crash(&pod, attempt));
    let counted = [&main, &sidecar].map(Counters::of);
    let mounts = (mounts_of(host), mounts_of(shim));
    let before = Footprint::of(shim);
    for attempt in FIRST..FIRST + MORE {
        crash(&pod, attempt);
        assert_eq!((mounts_of(host), mounts_of(shim)), mounts);
        let now = Footprint::of(shim);
        assert_eq!(now.descriptors, before.descriptors, "attempt {attempt}");
        assert!(
            now.resident_kib <= before.resident_kib + 2048,
            "attempt {attempt}: {before:?}, then {now:?}"
        );
    }
    for (container, before) in [&main, &sidecar].into_iter().zip(counted) {
        Counters::of(container).assert_like(&before);
    }
    let logs = fs::read_dir(volume.path()).unwrap().count();
    assert_eq!(logs, 1, "the volume is as the init container has left it");
}

/// An attempt of the container `crashing`, which ends in one of three ways and is removed.
#[track_caller]
fn crash(pod: &PodSandbox, attempt: u64) {
    let (script, code) = match attempt % 3 {
        0 => ("exit 3", 3),
        // The first process of a namespace does not hear a signal of its own.
        1 => ("sh -c 'kill -SEGV $$'; exit $?", 139),
        // tail keeps what it reads until the line ends, and /dev/zero has no line end.
        _ => ("exec tail /dev/zero", 137),
    };
    let more = json!({
        "metadata": {"attempt": attempt},
        "linux": {"resources": {"memory_limit_in_bytes": 16 * MIB}},
    });
    let crashing = pod.start_with("crashing", &["sh", "-c", script], more);
    let ended = crashing.ended();
    assert_eq!(ended.exit_code, code, "attempt {attempt}: {ended:?}");
    let out_of_memory = ended.reason == "OOMKilled";
    assert_eq!(out_of_memory, code == 137, "attempt {attempt}: {ended:?}");
    let _ = crashing.remove().ok();
}

/// What is counted of a container in the guest.
#[derive(Debug)]
struct Counters {
    /// Its first process, which has the same start and id as long as it lives.
    process: String,
    /// How often it came to the limits of memory, processes and processors.
    events: String,
    /// Bytes of memory of its own.
    memory: u64,
    /// What everybody in the guest can have, in KiB.
    available_kib: u64,
}

impl Counters {
    #[track_caller]
    fn of(container: &CriContainer) -> Self {
        let shown = container.shell(
            "cd /sys/fs/cgroup; \
             cut -d' ' -f 1,22 /proc/1/stat; \
             echo $(cat memory.events pids.events; grep nr_throttled cpu.stat); \
             awk '/^anon / {print $2}' memory.stat; \
             awk '/MemAvailable/ {print $2}' /proc/meminfo",
        );
        let mut lines = shown.lines();
        let mut line = || lines.next().unwrap_or_default().to_owned();
        Self {
            process: line(),
            events: line(),
            memory: line().parse().unwrap(),
            available_kib: line().parse().unwrap(),
        }
    }

    #[track_caller]
    fn assert_like(&self, before: &Self) {
        assert_eq!(self.process, before.process);
        assert_eq!(self.events, before.events);
        let differ = self.memory.abs_diff(before.memory);
        assert!(differ < MIB, "{before:?}, then {self:?}");
        let lost = before.available_kib.saturating_sub(self.available_kib);
        assert!(lost < 4096, "{before:?}, then {self:?}");
    }
}
