use super::conversion::{cpu_weight, must};
use super::*;
use serde_json::json;

fn of(resources: serde_json::Value) -> Result<Vec<(String, String, bool)>, AgentError> {
    let resources: LinuxResources = serde_json::from_value(resources).unwrap();
    let settings = settings(&resources, &Current::default())?;
    Ok(settings
        .into_iter()
        .map(|s| (s.file, s.value, s.optional))
        .collect())
}

fn must_be(file: &str, value: &str) -> (String, String, bool) {
    (file.to_owned(), value.to_owned(), false)
}

fn may_be(file: &str, value: &str) -> (String, String, bool) {
    (file.to_owned(), value.to_owned(), true)
}

#[test]
fn memory_and_swap_are_counted_apart() {
    let settings =
        of(json!({"memory": {"limit": 1000, "swap": 1500, "reservation": 500}})).unwrap();
    assert_eq!(
        settings,
        [
            must_be("memory.max", "1000"),
            may_be("memory.swap.max", "500"),
            must_be("memory.low", "500")
        ]
    );
    let settings = of(json!({"memory": {"limit": -1, "swap": -1}})).unwrap();
    assert_eq!(
        settings,
        [
            must_be("memory.max", "max"),
            may_be("memory.swap.max", "max")
        ]
    );
    assert_eq!(of(json!({"memory": {"limit": 0, "swap": 0}})).unwrap(), []);
}

#[test]
fn impossible_memory_limits_are_refused() {
    for memory in [
        json!({"limit": -2}),
        json!({"swap": 100}),
        json!({"limit": 100, "swap": 50}),
        json!({"limit": 100, "swap": -5}),
        json!({"reservation": -7}),
    ] {
        let result = of(json!({ "memory": memory.clone() }));
        assert!(
            matches!(result, Err(AgentError::InvalidArgument(_))),
            "{memory}: {result:?}"
        );
    }
}

#[test]
fn shares_become_weights_that_meet_at_the_ends_and_the_default() {
    assert_eq!(cpu_weight(2), 1);
    assert_eq!(cpu_weight(1024), 100);
    assert_eq!(cpu_weight(262_144), 10_000);
    assert_eq!(cpu_weight(1), 1);
    assert_eq!(cpu_weight(u64::MAX), 10_000);
    assert!(cpu_weight(512) < cpu_weight(2048));
}

#[test]
fn processor_time_has_a_quota_and_a_period() {
    let cpu = |value| of(json!({ "cpu": value })).unwrap();
    assert_eq!(
        cpu(json!({"quota": 50000, "period": 100000})),
        [must_be("cpu.max", "50000 100000")]
    );
    assert_eq!(
        cpu(json!({"quota": 20000})),
        [must_be("cpu.max", "20000 100000")]
    );
    assert_eq!(
        cpu(json!({"quota": -1, "period": 50000})),
        [must_be("cpu.max", "max 50000")]
    );
    assert_eq!(cpu(json!({"quota": 0, "period": 0, "shares": 0})), []);
    assert_eq!(cpu(json!({"shares": 1024})), [must_be("cpu.weight", "100")]);
    assert_eq!(
        cpu(json!({"cpus": "0-3", "mems": ""})),
        [may_be("cpuset.cpus", "0-3")]
    );
    assert_eq!(
        cpu(json!({"realtimeRuntime": 950000, "realtimePeriod": 1000000})),
        []
    );
}

#[test]
fn a_number_of_processes_that_is_not_positive_is_no_limit() {
    assert_eq!(
        of(json!({"pids": {"limit": 17}})).unwrap(),
        [must_be("pids.max", "17")]
    );
    assert_eq!(
        of(json!({"pids": {"limit": -1}})).unwrap(),
        [must_be("pids.max", "max")]
    );
    assert_eq!(
        of(json!({"pids": {"limit": 0}})).unwrap(),
        [must_be("pids.max", "max")]
    );
}

#[test]
fn limits_of_the_hosts_disks_may_be_missing_in_the_guest() {
    let settings = of(json!({"blockIO": {
        "weight": 500,
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 20}],
    }}))
    .unwrap();
    assert_eq!(
        settings,
        [
            may_be("io.weight", "default 4950"),
            may_be("io.max", "8:0 rbps=1000"),
            may_be("io.max", "8:16 wiops=20"),
        ]
    );
}

#[test]
fn unified_names_cannot_leave_the_group() {
    assert_eq!(
        of(json!({"unified": {"memory.high": "1G"}})).unwrap(),
        [must_be("memory.high", "1G")]
    );
    for file in [
        "../../cgroup.procs",
        "cgroup.procs",
        "cgroup.kill",
        ".x",
        "memory",
        "a/b.c",
        "",
    ] {
        assert!(of(json!({"unified": {file: "1"}})).is_err(), "{file:?}");
    }
}

#[test]
fn part_of_a_limit_keeps_the_other_part() {
    let current = Current {
        memory_limit: Some(1000),
        memory_used: 700,
        cpu_quota: "20000".to_owned(),
        cpu_period: 50_000,
    };
    let of = |resources| {
        let resources: LinuxResources = serde_json::from_value(resources).unwrap();
        settings(&resources, &current).map(|settings| {
            let values = settings.into_iter().map(|setting| setting.value);
            values.collect::<Vec<_>>()
        })
    };
    assert_eq!(
        of(json!({"cpu": {"quota": 30000}})).unwrap(),
        ["30000 50000"]
    );
    assert_eq!(
        of(json!({"cpu": {"period": 100000}})).unwrap(),
        ["20000 100000"]
    );
    assert_eq!(of(json!({"cpu": {"quota": -1}})).unwrap(), ["max 50000"]);
    assert_eq!(of(json!({"memory": {"swap": 1500}})).unwrap(), ["500"]);
    assert_eq!(
        of(json!({"memory": {"limit": -1}})).unwrap(),
        ["max", "max"]
    );
    assert_eq!(of(json!({"memory": {"limit": 500}})).unwrap(), ["500"]);
    let error = of(json!({"memory": {"limit": 500, "checkBeforeUpdate": true}})).unwrap_err();
    assert!(error.to_string().contains("700 bytes"), "{error}");
}

#[test]
fn a_wrong_value_is_told_with_its_field() {
    for (resources, field) in [
        (
            json!({"memory": {"limit": -2}}),
            "linux.resources.memory.limit",
        ),
        (json!({"memory": {"reservation": -7}}), "memory.reservation"),
        (json!({"memory": {"limit": 10, "swap": 5}}), "memory.swap"),
        (json!({"cpu": {"cpus": "one"}}), "cpu.cpus"),
        (json!({"cpu": {"cpus": "3-1"}}), "cpu.cpus"),
        (json!({"cpu": {"mems": "0,,1"}}), "cpu.mems"),
        (
            json!({"hugepageLimits": [{"pageSize": "../2MB", "limit": 1}]}),
            "hugepageLimits",
        ),
        (json!({"unified": {"cgroup.kill": "1"}}), "unified"),
    ] {
        let error = of(resources).unwrap_err().to_string();
        assert!(error.contains(field), "{field} in {error}");
    }
    assert_eq!(
        of(json!({"cpu": {"cpus": "0-3,7"}})).unwrap(),
        [may_be("cpuset.cpus", "0-3,7")]
    );
}

#[test]
fn a_refused_limit_leaves_the_others_as_they_were() {
    let root = tempfile::tempdir().unwrap();
    let group = Cgroup {
        path: root.path().to_path_buf(),
    };
    let write = |file: &str, text: &str| std::fs::write(root.path().join(file), text).unwrap();
    let read = |file: &str| std::fs::read_to_string(root.path().join(file)).unwrap();
    write("memory.max", "max");
    write("cpu.weight", "100");
    let resources: LinuxResources = serde_json::from_value(json!({
        "memory": {"limit": 4096}, "cpu": {"shares": 2}, "pids": {"limit": 5},
    }))
    .unwrap();
    let error = group.apply(&resources).unwrap_err().to_string();
    assert!(error.contains("pids.limit"), "{error}");
    assert_eq!(
        read("memory.max"),
        "max",
        "not begun before all is known to be there"
    );

    let setting = must("memory.limit", "memory.max", "4096");
    write("memory.max", "4096");
    group.restore([(&setting, &"max".to_owned())].into_iter());
    assert!(read("memory.max").starts_with("max"));
}

#[test]
fn a_limit_the_kernel_lacks_is_an_error_by_name() {
    let root = tempfile::tempdir().unwrap();
    let group = Cgroup {
        path: root.path().to_path_buf(),
    };
    let resources: LinuxResources = serde_json::from_value(json!({"pids": {"limit": 5}})).unwrap();
    let error = group.apply(&resources).unwrap_err().to_string();
    assert!(error.contains("pids.max"), "{error}");
    std::fs::write(root.path().join("pids.max"), "9").unwrap();
    group.apply(&resources).unwrap();
    assert_eq!(
        std::fs::read_to_string(root.path().join("pids.max")).unwrap(),
        "5"
    );
}
