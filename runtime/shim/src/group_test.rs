use std::collections::HashMap;

use caisson_sandbox::PodPlace;

use super::{Group, Role};

fn group(annotations: &[(&str, &str)]) -> Group {
    let annotations: HashMap<String, String> = annotations
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    Group::of("c1", &annotations).unwrap()
}

#[test]
fn a_container_without_annotations_is_its_own_group() {
    let alone = group(&[]);
    assert_eq!((alone.key.as_str(), alone.role), ("c1", Role::Owner));
}

#[test]
fn a_pods_sandbox_owns_the_group() {
    let sandbox = group(&[
        ("io.kubernetes.cri.sandbox-id", "c1"),
        ("io.kubernetes.cri.container-type", "sandbox"),
    ]);
    assert_eq!((sandbox.key.as_str(), sandbox.role), ("c1", Role::Owner));
    assert_eq!(sandbox.place, PodPlace::Sandbox { pod: "c1".into() });
}

#[test]
fn a_pods_container_is_a_member_under_containerd_and_cri_o() {
    let pairs = [
        [
            "io.kubernetes.cri.sandbox-id",
            "io.kubernetes.cri.container-type",
        ],
        [
            "io.kubernetes.cri-o.SandboxID",
            "io.kubernetes.cri-o.ContainerType",
        ],
    ];
    for [id, kind] in pairs {
        let member = group(&[(id, "pod"), (kind, "container")]);
        assert_eq!((member.key.as_str(), member.role), ("pod", Role::Member));
        assert_eq!(member.place, PodPlace::Member { pod: "pod".into() });
    }
}

#[test]
fn the_explicit_group_wins_and_has_no_roles() {
    let grouped = group(&[
        ("io.containerd.runc.v2.group", "g"),
        ("io.kubernetes.cri.sandbox-id", "pod"),
    ]);
    assert_eq!((grouped.key.as_str(), grouped.role), ("g", Role::Owner));
    assert_eq!(grouped.place, PodPlace::Outside);
}

#[test]
fn a_key_with_a_slash_is_refused_by_name() {
    let annotations = HashMap::from([("io.containerd.runc.v2.group".into(), "../x".into())]);
    let error = Group::of("c1", &annotations).unwrap_err().to_string();
    assert!(error.contains("io.containerd.runc.v2.group"), "{error}");
    assert!(error.contains("../x"), "{error}");
}
