use caisson_sandbox::PodPlace;
use serde_json::json;

use super::check;

fn refused(namespaces: &[&str], place: &PodPlace) -> Option<String> {
    let namespaces: Vec<_> = namespaces
        .iter()
        .map(|name| json!({"type": name}))
        .collect();
    let spec = json!({"ociVersion": "1.1.0", "linux": {"namespaces": namespaces}});
    let spec = serde_json::from_value(spec).unwrap();
    check(&spec, place).err().map(|error| error.to_string())
}

#[test]
fn namespaces_of_the_host_are_refused_with_the_field_to_change() {
    let pod = PodPlace::Sandbox { pod: "p".into() };
    for (namespaces, field) in [
        (["mount", "pid", "ipc", "cgroup"], "hostNetwork"),
        (["mount", "network", "ipc", "uts"], "hostPID"),
        (["mount", "network", "pid", "uts"], "hostIPC"),
    ] {
        let message = refused(&namespaces, &pod).unwrap();
        assert!(message.contains(field), "{message}");
        assert!(message.contains("a virtual machine cannot"), "{message}");
    }
    assert_eq!(refused(&["mount", "network", "pid", "ipc"], &pod), None);
}

#[test]
fn outside_of_pods_what_is_left_out_is_not_asked_for() {
    let outside = PodPlace::Outside;
    for namespaces in [&[][..], &["mount"], &["mount", "network"]] {
        assert_eq!(refused(namespaces, &outside), None);
    }
    assert!(
        refused(&["mount", "pid"], &outside)
            .unwrap()
            .contains("hostNetwork")
    );
}

#[test]
fn who_joins_a_pod_has_its_network_without_naming_it() {
    let member = PodPlace::Member { pod: "p".into() };
    for namespaces in [&[][..], &["mount", "pid"], &["mount", "uts"]] {
        assert_eq!(refused(namespaces, &member), None);
    }
    let message = refused(&["mount", "network", "ipc"], &member).unwrap();
    assert!(message.contains("hostPID"), "{message}");
}

#[test]
fn the_processes_ipc_and_host_name_of_a_container_elsewhere_cannot_be_joined() {
    let joining = |name: &str, place: &PodPlace| {
        let spec = json!({"ociVersion": "1.1.0", "linux": {"namespaces": [
            {"type": "mount"}, {"type": "network", "path": "/proc/7/ns/net"}, {"type": "pid"}, {"type": "ipc"},
            {"type": name, "path": format!("/proc/7/ns/{name}")},
        ]}});
        let spec = serde_json::from_value(spec).unwrap();
        check(&spec, place).err().map(|error| error.to_string())
    };
    for name in ["pid", "ipc", "uts"] {
        let message = joining(name, &PodPlace::Outside).unwrap();
        assert!(
            message.contains(&format!("the {name} namespace of another one")),
            "{message}"
        );
        let member = PodPlace::Member { pod: "p".into() };
        assert_eq!(joining(name, &member), None);
    }
    assert_eq!(joining("network", &PodPlace::Outside), None);
    // An empty path is none, here as everywhere.
    let spec = json!({"ociVersion": "1.1.0", "linux": {"namespaces": [
        {"type": "network"}, {"type": "pid", "path": ""}, {"type": "ipc", "path": ""},
    ]}});
    let spec = serde_json::from_value(spec).unwrap();
    assert!(check(&spec, &PodPlace::Outside).is_ok());
}
