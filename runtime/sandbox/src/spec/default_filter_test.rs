use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::add;

/// The filter that a container with these capabilities and this filter ends up with.
fn filter(bounding: &[&str], seccomp: &Value) -> Value {
    let mut spec: Spec = serde_json::from_value(json!({
        "ociVersion": "1.1.0",
        "root": {"path": "rootfs"},
        "process": {
            "cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0},
            "capabilities": {"bounding": bounding},
        },
        "linux": {"seccomp": seccomp},
    }))
    .unwrap();
    add(&mut spec);
    serde_json::to_value(spec).unwrap()["linux"]["seccomp"].clone()
}

fn denied(filter: &Value) -> Vec<&str> {
    let names = filter["syscalls"][0]["names"].as_array();
    let names = names.into_iter().flatten();
    names.filter_map(Value::as_str).collect()
}

#[test]
fn a_container_without_a_filter_and_with_usual_capabilities_gets_one() {
    for capabilities in [&[][..], &["CAP_CHOWN", "CAP_SYS_CHROOT", "CAP_NET_RAW"]] {
        let filter = filter(capabilities, &Value::Null);
        assert_eq!(filter["defaultAction"], "SCMP_ACT_ALLOW");
        let rule = &filter["syscalls"][0];
        assert_eq!(
            (&rule["action"], &rule["errnoRet"]),
            (&json!("SCMP_ACT_ERRNO"), &json!(1))
        );
        for call in [
            "bpf",
            "keyctl",
            "kexec_load",
            "perf_event_open",
            "userfaultfd",
        ] {
            assert!(denied(&filter).contains(&call), "{call}");
        }
        // What containers of this kind do use.
        for call in [
            "clone",
            "unshare",
            "mount",
            "io_uring_setup",
            "ptrace",
            "chroot",
        ] {
            assert!(!denied(&filter).contains(&call), "{call}");
        }
    }
}

#[test]
fn programs_of_32_bits_are_not_killed() {
    let filter = filter(&[], &Value::Null);
    let architectures = filter["architectures"].as_array().unwrap();
    assert!(architectures.contains(&json!("SCMP_ARCH_X86")));
}

#[test]
fn who_has_more_capabilities_is_left_alone() {
    for more in [
        "CAP_SYS_ADMIN",
        "CAP_BPF",
        "CAP_SYS_MODULE",
        "CAP_SYS_TIME",
        "CAP_NET_ADMIN",
    ] {
        assert_eq!(
            filter(&["CAP_CHOWN", more], &Value::Null),
            Value::Null,
            "{more}"
        );
    }
}

#[test]
fn a_filter_that_is_there_stays_as_it_is() {
    let own = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38});
    assert_eq!(filter(&[], &own), own);
}

#[test]
fn a_container_without_a_linux_section_gets_one() {
    let mut spec: Spec = serde_json::from_value(json!({
        "ociVersion": "1.1.0", "root": {"path": "rootfs"},
    }))
    .unwrap();
    spec.set_linux(None);
    add(&mut spec);
    assert!(
        spec.linux()
            .as_ref()
            .is_some_and(|linux| linux.seccomp().is_some())
    );
}
