//! Containers that are paused and resumed, and whose limits change while they run.

use caisson_e2e::{BUSYBOX, CleanMachine, Container, Settings, Shim, code};
use containerd_shim_protos::api;
use serde_json::{Value, json};
use ttrpc::Code;

/// What containerd calls the JSON of limits.
const RESOURCES: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
/// ctr's own specification has no cgroup file system.
const CGROUP: &str = "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro:nosuid:noexec:nodev";
const MIB: u64 = 1 << 20;

fn update(id: &str, resources: &Value) -> ttrpc::Result<api::Empty> {
    let shim = Shim::of(id);
    let mut request = api::UpdateTaskRequest::new();
    id.clone_into(&mut request.id);
    let any = request.resources.mut_or_insert_default();
    RESOURCES.clone_into(&mut any.type_url);
    any.value = resources.to_string().into_bytes();
    shim.tasks().update(shim.context(), &request)
}

/// A file of the container's cgroup, as it sees it.
#[track_caller]
fn limit(container: &Container, file: &str) -> String {
    let path = format!("/sys/fs/cgroup/{file}");
    container.exec(&["cat", &path]).finish().ok().text()
}

fn cpu_time(container: &Container) -> u64 {
    let text = container.task("metrics", &["--format", "json"]).ok().text();
    let metrics: Value = serde_json::from_str(&text).unwrap();
    let usage = metrics.pointer("/cpu/usage_usec");
    usage.and_then(Value::as_u64).unwrap()
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_paused_container_stands_still_and_goes_on() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "still", &["sh", "-c", "while :; do :; done"]);
    let _ = container.task("pause", &[]).ok();
    assert_eq!(container.state(), "PAUSED");
    let stood = cpu_time(&container);
    let refused = container.exec(&["true"]).finish().failure();
    assert!(refused.contains("paused"), "{refused}");
    let again = container.task("pause", &[]).failure();
    assert!(again.contains("paused"), "{again}");
    // A process that runs would have used much of the time of all these calls.
    assert_eq!(cpu_time(&container), stood);

    let _ = container.task("resume", &[]).ok();
    assert_eq!(container.state(), "RUNNING");
    assert_eq!(
        container.exec(&["echo", "goes on"]).finish().ok().text(),
        "goes on"
    );
    assert!(cpu_time(&container) > stood);

    let _ = container.task("pause", &[]).ok();
    let _ = container.task("kill", &["--signal", "9"]).ok();
    assert_eq!(container.exit_code_at_delete(), 137);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn limits_change_while_the_container_runs() {
    let _machine = CleanMachine::watch();
    let options = [
        "--mount",
        CGROUP,
        "--memory-limit",
        "67108864",
        "--cpu-quota",
        "50000",
        "--cpu-period",
        "100000",
    ];
    let container = Container::start_with(&options, BUSYBOX, "updated", &["sleep", "1000"]);
    assert_eq!(limit(&container, "memory.max"), "67108864");
    let resources = json!({
        "memory": {"limit": 48 * MIB, "reservation": 16 * MIB},
        "cpu": {"quota": 25_000, "shares": 512},
        "pids": {"limit": 11},
        "unified": {"memory.high": "40000000"},
    });
    update("updated", &resources).unwrap();
    for (file, value) in [
        ("memory.max", "50331648"),
        ("memory.low", "16777216"),
        ("memory.high", "39997440"),
        ("cpu.max", "25000 100000"),
        ("pids.max", "11"),
    ] {
        assert_eq!(limit(&container, file), value, "{file}");
    }
    let weight: u32 = limit(&container, "cpu.weight").parse().unwrap();
    assert!(weight < 100, "half the shares weigh {weight}");
    // tail keeps what it reads until the line ends, and /dev/zero has no line end.
    update("updated", &json!({"unified": {"memory.high": "max"}})).unwrap();
    let hog = container.exec(&["sh", "-c", "tail /dev/zero"]).finish();
    assert_eq!(hog.code, 137, "{}", hog.stderr);

    let wrong = update(
        "updated",
        &json!({"pids": {"limit": 5}, "unified": {"cpu.max": "much"}}),
    );
    assert_eq!(code(&wrong), Some(Code::INVALID_ARGUMENT));
    let message = wrong.unwrap_err().to_string();
    assert!(message.contains("unified"), "{message}");
    assert!(
        message.contains("refuses \\\"much\\\" for cpu.max"),
        "{message}"
    );
    assert_eq!(limit(&container, "pids.max"), "11", "all or nothing");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn the_machine_grows_with_the_limits_of_its_container() {
    let _machine = CleanMachine::watch();
    let _settings = Settings::write("[vm]\nmax_vcpus = 2\n");
    let container = Container::start(BUSYBOX, "growing", &["sleep", "1000"]);
    let cpus = || container.exec(&["nproc"]).finish().ok().text();
    let memory = || {
        let script = "while read name size unit; do [ $name = MemTotal: ] && echo $size; done \
                      </proc/meminfo; true";
        let total = container.exec(&["sh", "-c", script]).finish().ok().text();
        total.parse::<u64>().unwrap() / 1024
    };
    assert_eq!(cpus(), "1");
    let at_first = memory();
    update(
        "growing",
        &json!({"cpu": {"quota": 200_000, "period": 100_000}}),
    )
    .unwrap();
    assert_eq!(cpus(), "2");
    update("growing", &json!({"memory": {"limit": 512 * MIB}})).unwrap();
    let grown = memory();
    assert!(
        grown > at_first + 300,
        "{at_first} MiB became {grown} for a limit of 512"
    );
    // dd reads a whole block into memory: more than the machine had at first.
    let fill = ["dd", "if=/dev/zero", "of=/dev/null", "bs=300M", "count=1"];
    let _ = container.exec(&fill).finish().ok();

    let more = update("growing", &json!({"cpu": {"quota": 300_000}}));
    assert_eq!(code(&more), Some(Code::FAILED_PRECONDITION));
    let message = more.unwrap_err().to_string();
    assert!(message.contains("max_vcpus"), "{message}");
    update("growing", &json!({"cpu": {"quota": -1}})).unwrap();
    assert_eq!(cpus(), "1");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn statistics_are_complete() {
    let _machine = CleanMachine::watch();
    let options = [
        "--memory-limit",
        "67108864",
        "--cpu-quota",
        "20000",
        "--cpu-period",
        "100000",
    ];
    let busy = ["sh", "-c", "while :; do :; done"];
    let container = Container::start_with(&options, BUSYBOX, "statistics", &busy);
    let text = container.task("metrics", &["--format", "json"]).ok().text();
    let metrics: Value = serde_json::from_str(&text).unwrap();
    for (group, field) in [
        ("pids", "current"),
        ("cpu", "usage_usec"),
        ("cpu", "user_usec"),
        ("cpu", "nr_periods"),
        ("cpu", "nr_throttled"),
        ("cpu", "throttled_usec"),
        ("memory", "usage"),
        ("memory", "usage_limit"),
        ("memory", "anon"),
        ("memory", "kernel_stack"),
        ("memory", "pgfault"),
    ] {
        let value = metrics[group][field].as_u64();
        assert!(
            value.is_some_and(|value| value > 0),
            "{group}.{field} in {text}"
        );
    }
    let _ = container.task("kill", &["--signal", "9"]).ok();
    let _ = container.exit_code_at_delete();
    let gone = container.task("metrics", &[]).failure();
    assert!(gone.contains("not found"), "{gone}");
}
