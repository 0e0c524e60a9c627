use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::{ContainerLimits, VmSize};
use crate::Config;

fn size(resources: &Value, annotations: &Value) -> (u8, u32) {
    let spec: Spec = serde_json::from_value(json!({
        "ociVersion": "1.1.0",
        "annotations": annotations,
        "linux": { "resources": resources },
    }))
    .unwrap();
    let config = Config {
        vcpus: 3,
        memory_mib: 300,
        ..Config::default()
    };
    let size = VmSize::for_spec(&spec, &config);
    (size.vcpus, size.memory_mib)
}

#[test]
fn limits_make_the_machine() {
    const MIB: i64 = 1024 * 1024;
    for (resources, expected) in [
        (json!({}), (3, 300)),
        (
            json!({"cpu": {"quota": 100_000, "period": 100_000}}),
            (1, 300),
        ),
        (
            json!({"cpu": {"quota": 150_000, "period": 100_000}}),
            (2, 300),
        ),
        (
            json!({"cpu": {"quota": 1_000, "period": 100_000}}),
            (1, 300),
        ),
        (json!({"cpu": {"quota": 250_000}}), (3, 300)),
        (json!({"cpu": {"quota": 250_000, "period": 0}}), (3, 300)),
        (json!({"cpu": {"quota": -1, "period": 100_000}}), (3, 300)),
        (json!({"cpu": {"quota": 0}}), (3, 300)),
        (json!({"cpu": {"quota": i64::MAX, "period": 1}}), (32, 300)),
        (json!({"cpu": {"shares": 1024}}), (3, 300)),
        (json!({"memory": {"limit": 128 * MIB}}), (3, 128 + 2 + 96)),
        (json!({"memory": {"limit": 128 * MIB + 1}}), (3, 228)),
        (json!({"memory": {"limit": 4096}}), (3, 98)),
        (
            json!({"memory": {"limit": 8192 * MIB}}),
            (3, 8192 + 128 + 96),
        ),
        (json!({"memory": {"limit": -1}}), (3, 300)),
        (json!({"memory": {"limit": 0}}), (3, 300)),
        (json!({"memory": {"limit": i64::MAX}}), (3, 1024 * 1024)),
    ] {
        assert_eq!(size(&resources, &json!({})), expected, "{resources}");
    }
}

#[test]
fn a_kubernetes_pod_says_its_size_in_annotations() {
    let pod = json!({
        "io.kubernetes.cri.sandbox-cpu-period": "100000",
        "io.kubernetes.cri.sandbox-cpu-quota": "450000",
        "io.kubernetes.cri.sandbox-memory": "1073741824",
    });
    let holder = json!({"memory": {"limit": 1_000_000}, "cpu": {"quota": 1000}});
    assert_eq!(size(&holder, &pod), (5, 1024 + 16 + 96));

    let unlimited = json!({
        "io.kubernetes.cri.sandbox-cpu-quota": "0",
        "io.kubernetes.cri.sandbox-memory": "0",
    });
    assert_eq!(size(&json!({}), &unlimited), (3, 300));
    let nonsense = json!({"io.kubernetes.cri.sandbox-memory": "plenty"});
    assert_eq!(size(&json!({}), &nonsense), (3, 300));
}

fn limits(resources: &Value) -> ContainerLimits {
    ContainerLimits::of(&serde_json::from_value(resources.clone()).unwrap())
}

#[test]
fn a_machine_grows_with_what_its_containers_need_together() {
    const MIB: i64 = 1024 * 1024;
    let boot = VmSize {
        vcpus: 2,
        memory_mib: 300,
    };
    let need = |all: &[Value]| {
        let all: Vec<_> = all.iter().map(limits).collect();
        let size = boot.for_containers(&all);
        (size.vcpus, size.memory_mib)
    };
    let cpu = |quota: i64| json!({"cpu": {"quota": quota, "period": 100_000}});
    let memory = |mib: i64| json!({"memory": {"limit": mib * MIB}});
    assert_eq!(need(&[]), (2, 300));
    assert_eq!(need(&[cpu(100_000)]), (2, 300), "never below");
    assert_eq!(need(&[cpu(150_000), cpu(50_000), cpu(-1)]), (2, 300));
    assert_eq!(need(&[cpu(150_000), cpu(60_000)]), (3, 300));
    assert_eq!(need(&[cpu(i64::MAX), cpu(i64::MAX)]), (32, 300));
    assert_eq!(need(&[memory(128), memory(128)]), (2, 256 + 4 + 96));
    assert_eq!(
        need(&[memory(1024), memory(-1), json!({})]),
        (2, 1024 + 16 + 96)
    );
}

#[test]
fn a_change_keeps_what_it_does_not_name() {
    let before = limits(&json!({"cpu": {"quota": 1000, "period": 2000}, "memory": {"limit": 5}}));
    assert_eq!(before.changed(limits(&json!({}))), before);
    assert_eq!(
        before.changed(limits(
            &json!({"cpu": {"quota": 0}, "memory": {"limit": 7}})
        )),
        limits(&json!({"cpu": {"quota": 1000, "period": 2000}, "memory": {"limit": 7}}))
    );
    assert_eq!(
        before.changed(limits(&json!({"cpu": {"quota": -1}}))),
        limits(&json!({"cpu": {"quota": -1, "period": 2000}, "memory": {"limit": 5}}))
    );
}

#[test]
fn the_most_is_what_the_configuration_says_and_never_less_than_at_boot() {
    let boot = VmSize {
        vcpus: 2,
        memory_mib: 300,
    };
    let most = |vcpus, memory_mib| {
        let config = Config {
            max_vcpus: vcpus,
            max_memory_mib: memory_mib,
            ..Config::default()
        };
        let most = boot.most(&config);
        (most.vcpus, most.memory_mib)
    };
    assert_eq!(most(None, Some(64)), (2, 300));
    assert_eq!(most(Some(1), Some(128)), (2, 300));
    assert_eq!(most(Some(8), Some(600)), (8, 300 + 256));
}

#[test]
fn memory_grows_to_that_of_the_host_unless_the_configuration_says_otherwise() {
    let boot = VmSize {
        vcpus: 1,
        memory_mib: 64,
    };
    let most = boot.most(&Config::default());
    assert_eq!(most.vcpus, 1);
    let table = std::fs::read_to_string("/proc/meminfo").unwrap();
    let kib = table.lines().next().unwrap().split_whitespace().nth(1);
    let host = kib.unwrap().parse::<u32>().unwrap() / 1024;
    let expected = 64 + (host.min(512 << 10) - 64) / 128 * 128;
    assert_eq!(most.memory_mib, expected);
}

#[test]
fn a_pods_limits_make_its_size_and_the_configuration_the_rest() {
    const MIB: i64 = 1024 * 1024;
    let config = Config::default();
    let size = |quota, period, memory| {
        let size = VmSize::for_limits(ContainerLimits::of_pod(quota, period, memory), &config);
        (size.vcpus, size.memory_mib)
    };
    let (vcpus, memory) = (config.vcpus, config.memory_mib);
    assert_eq!(size(0, 0, 0), (vcpus, memory));
    assert_eq!(size(-1, 100_000, -1), (vcpus, memory));
    assert_eq!(size(250_000, 100_000, 0), (3, memory));
    assert_eq!(size(250_000, 0, 0), (3, memory));
    assert_eq!(size(0, 100_000, 1024 * MIB), (vcpus, 1024 + 16 + 96));
}
