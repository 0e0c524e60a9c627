use std::collections::HashMap;

use caisson_sandbox::ContainerLimits;
use protobuf::well_known_types::any::Any;

use super::{HostNamespaces, PodConfig};
use crate::pod_message::{PodMessage, bytes, entry, number};

fn any(value: Vec<u8>) -> Any {
    let mut any = Any::new();
    any.type_url = "runtime.v1.PodSandboxConfig".into();
    any.value = value;
    any
}

fn decoded(value: Vec<u8>) -> PodConfig {
    PodConfig::from_any(Some(&any(value))).unwrap().unwrap()
}

#[test]
fn what_a_machine_has_a_use_for_is_read_and_the_rest_is_left() {
    let message = PodMessage::default()
        .hostname("web")
        .annotation("a", "b")
        .dns(
            &["10.0.0.1", "10.0.0.2"],
            &["svc.local", "local"],
            &["ndots:5"],
        )
        .cgroup_parent("/kubepods/pod1")
        .sysctl("net.ipv4.ip_forward", "1")
        .limits(250_000, 100_000, 1 << 30)
        .with(&bytes(1, &bytes(1, b"name")))
        .with(&bytes(6, &entry("app", "web")))
        .bytes();
    let config = decoded(message);
    assert_eq!(config.hostname, "web");
    assert_eq!(
        config.annotations,
        HashMap::from([("a".into(), "b".into())])
    );
    assert_eq!(config.cgroup_parent, "/kubepods/pod1");
    assert_eq!(
        config.sysctls,
        HashMap::from([("net.ipv4.ip_forward".into(), "1".into())])
    );
    let limits = ContainerLimits::of_pod(250_000, 100_000, 1 << 30);
    assert_eq!(config.limits, limits);
    assert_eq!(
        config.dns.unwrap().resolv_conf(),
        "search svc.local local\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:5\n"
    );
    assert_eq!(config.host, HostNamespaces::default());
}

#[test]
fn namespaces_of_the_host_are_seen() {
    let host =
        |namespaces: &[u8]| decoded(PodMessage::default().namespaces(namespaces).bytes()).host;
    let none = HostNamespaces::default();
    for (field, expected) in [
        (
            1,
            HostNamespaces {
                network: true,
                ..none
            },
        ),
        (2, HostNamespaces { pid: true, ..none }),
        (3, HostNamespaces { ipc: true, ..none }),
    ] {
        assert_eq!(host(&number(field, 2)), expected);
        assert_eq!(host(&number(field, 1)), none);
    }
    // Users: without the message, or with the host's in it, they are the host's.
    let users = HostNamespaces {
        other_users: true,
        ..none
    };
    assert_eq!(host(&bytes(5, b"")), users);
    assert_eq!(host(&bytes(5, &number(1, 2))), none);
}

#[test]
fn nothing_is_no_configuration_and_something_else_is_refused() {
    assert_eq!(PodConfig::from_any(None), Ok(None));
    assert_eq!(PodConfig::from_any(Some(&Any::new())), Ok(None));
    assert_eq!(decoded(Vec::new()), PodConfig::default());
    let mut other = any(Vec::new());
    other.type_url = "example.com/Pod".into();
    let message = PodConfig::from_any(Some(&other)).unwrap_err();
    assert!(message.contains("example.com/Pod"), "{message}");
    for damaged in [
        &b"\x12"[..],
        b"\x12\xff",
        b"\x42\x02\x0a\x09",
        b"\xff\xff\xff\xff\xff\xff",
    ] {
        let message = PodConfig::from_any(Some(&any(damaged.to_vec()))).unwrap_err();
        assert!(message.contains("cannot be decoded"), "{message}");
    }
}
