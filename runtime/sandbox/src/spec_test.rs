use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::{BindMount, GuestSpec, for_guest, process_for_guest};
use crate::mounts::Volume;
use crate::{ErrorKind, PodPlace, SandboxError};

/// Merges `patch` into a small complete configuration.
fn rewritten(patch: &Value) -> Result<GuestSpec, SandboxError> {
    rewritten_in(patch, &PodPlace::Outside)
}

fn rewritten_in(patch: &Value, place: &PodPlace) -> Result<GuestSpec, SandboxError> {
    let mut spec = json!({
        "ociVersion": "1.1.0",
        "root": {"path": "rootfs"},
        "process": {"cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0}},
    });
    for (key, value) in patch.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let spec: Spec = serde_json::from_value(spec).unwrap();
    for_guest(spec, "web", Path::new("/bundle"), place, false)
}

#[test]
fn what_a_container_does_not_ask_to_share_with_its_pod_is_its_own() {
    let pod = "p".repeat(70);
    let member = PodPlace::Member { pod: pod.clone() };
    let namespaces = |patch: &Value, place: &PodPlace| {
        let json = as_json(&rewritten_in(patch, place).unwrap());
        let listed = json["linux"]["namespaces"].as_array().cloned();
        let own = listed
            .unwrap_or_default()
            .into_iter()
            .filter(|one| one["path"].is_null());
        let own: Vec<_> = own
            .map(|one| one["type"].as_str().unwrap().to_owned())
            .collect();
        (own, json["hostname"].as_str().map(str::to_owned))
    };
    let nothing = json!({"linux": {"namespaces": []}});
    let name = Some(pod[..64].to_owned());
    let both = ["ipc", "uts"].map(str::to_owned).to_vec();
    assert_eq!(namespaces(&nothing, &member), (both.clone(), name));
    assert_eq!(namespaces(&nothing, &PodPlace::Outside), (vec![], None));
    let named = json!({"hostname": "own", "linux": {"namespaces": [{"type": "ipc"}]}});
    assert_eq!(namespaces(&named, &member), (both, Some("own".to_owned())));
    let shared = json!({"linux": {"namespaces": [
        {"type": "ipc", "path": "/proc/7/ns/ipc"}, {"type": "uts", "path": "/proc/7/ns/uts"},
    ]}});
    assert_eq!(namespaces(&shared, &member), (vec![], None));
}

/// A volume that is mounted nowhere.
fn volume(name: &str, read_only: bool) -> Arc<Volume> {
    let directory = std::fs::File::open("/").unwrap();
    Arc::new(Volume::pretended(directory.into(), name, read_only))
}

fn as_json(guest: &GuestSpec) -> Value {
    serde_json::to_value(guest.clone().with_disks(&[])).unwrap()
}

#[test]
fn the_root_is_in_the_shared_directory() {
    for (root, host, read_only) in [
        (json!({"path": "rootfs"}), "/bundle/rootfs", json!(null)),
        (
            json!({"path": "/var/lib/merged", "readonly": true}),
            "/var/lib/merged",
            json!(true),
        ),
    ] {
        let guest = rewritten(&json!({ "root": root })).unwrap();
        assert_eq!(guest.host_root, PathBuf::from(host));
        let root = &as_json(&guest)["root"];
        assert_eq!(root["path"], "/run/caisson/shared/web/rootfs");
        assert_eq!(root["readonly"], read_only);
    }
}

#[test]
fn sources_of_bind_mounts_are_replaced_and_the_rest_is_left_alone() {
    let mut guest = rewritten(&json!({"mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/a", "type": "bind", "source": "/host/a", "options": ["rbind", "ro"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["mode=1777"]},
        {"destination": "/b", "type": "none", "source": "b", "options": ["bind", "ro", "rw", "rslave"]},
        {"destination": "/c", "type": "bind", "source": "/host/c"},
    ]}))
    .unwrap();
    let bind = |mount, source: &str, destination: &str| BindMount {
        mount,
        source: source.into(),
        destination: destination.into(),
        recursive: false,
        read_only: false,
        follow_host: false,
    };
    assert_eq!(
        guest.binds,
        [
            BindMount {
                recursive: true,
                read_only: true,
                ..bind(1, "/host/a", "/a")
            },
            BindMount {
                follow_host: true,
                ..bind(3, "/bundle/b", "/b")
            },
            bind(4, "/host/c", "/c"),
        ]
    );
    guest.set_sources(&[volume("0", true), volume("7", false), volume("2", false)]);
    let mounts = &as_json(&guest)["mounts"];
    assert_eq!(mounts[0]["source"], "proc");
    assert_eq!(mounts[1]["source"], "/run/caisson/shared/.volumes/0");
    assert_eq!(mounts[1]["options"], json!(["rbind", "ro"]));
    assert_eq!(
        mounts[2],
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["mode=1777"]})
    );
    assert_eq!(mounts[3]["source"], "/run/caisson/shared/.volumes/7");
    assert_eq!(mounts[4]["source"], "/run/caisson/shared/.volumes/2");
}

#[test]
fn the_guest_makes_read_only_what_the_host_does_not() {
    let mount = json!({"destination": "/a", "type": "bind", "source": "/host/a", "options": ["rbind", "ro"]});
    let mut guest = rewritten(&json!({ "mounts": [mount] })).unwrap();
    guest.set_sources(&[volume("0", false)]);
    assert_eq!(
        as_json(&guest)["mounts"][0]["options"],
        json!(["rbind", "ro", "rro"])
    );
}

#[test]
fn mounts_that_the_host_is_to_see_are_refused() {
    for option in ["shared", "rshared"] {
        let mount = json!({"destination": "/a", "type": "bind", "source": "/host/a", "options": ["rbind", option]});
        let error = rewritten(&json!({ "mounts": [mount] })).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unimplemented);
        let text = error.to_string();
        assert!(
            text.contains("/a") && text.contains("HostToContainer"),
            "{text}"
        );
    }
}

#[test]
fn a_socket_of_the_host_is_refused_by_its_mount_type() {
    let mount = json!({"destination": "/run/app.sock", "type": "uds", "source": "/run/app.sock"});
    let error = rewritten(&json!({ "mounts": [mount] })).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unimplemented);
    let text = error.to_string();
    assert!(
        text.contains("/run/app.sock") && text.contains("unix socket of the host"),
        "{text}"
    );
}

#[test]
fn what_belongs_to_the_host_is_dropped() {
    let guest = rewritten(&json!({
        "process": {
            "cwd": "/", "args": ["true"], "user": {"uid": 7, "gid": 8},
            "apparmorProfile": "docker-default", "selinuxLabel": "a:b:c",
            "oomScoreAdj": 500, "noNewPrivileges": true,
        },
        "hooks": {
            "createRuntime": [{"path": "/usr/bin/nvidia-hook"}],
            "startContainer": [{"path": "/bin/in-the-image"}],
        },
        "linux": {
            "namespaces": [
                {"type": "pid"},
                {"type": "network", "path": "/var/run/netns/cni-1"},
                {"type": "ipc", "path": "/proc/42/ns/ipc"},
            ],
            "mountLabel": "a:b:c",
            "intelRdt": {"closID": "x"},
            "cgroupsPath": "kubepods-besteffort.slice:cri:0123",
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
            "sysctl": {"net.ipv4.ip_forward": "1"},
            "maskedPaths": ["/proc/kcore"],
            "resources": {
                "memory": {"limit": 1048576},
                "cpu": {"quota": 1000, "period": 2000, "cpus": "7", "mems": "1"},
                "blockIO": {"weight": 10, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}]},
                "pids": {"limit": 5},
                "devices": [{"allow": false, "access": "rwm"}],
            },
        },
    }))
    .unwrap();
    let spec = as_json(&guest);
    assert_eq!(
        spec["hooks"],
        json!({"startContainer": [{"path": "/bin/in-the-image"}]})
    );
    let process = &spec["process"];
    assert_eq!(process.get("apparmorProfile"), None);
    assert_eq!(process.get("selinuxLabel"), None);
    assert_eq!(process["oomScoreAdj"], 500);
    assert_eq!(process["noNewPrivileges"], true);
    assert_eq!(process["user"]["uid"], 7);
    assert_eq!(process["terminal"], false);
    let linux = &spec["linux"];
    assert_eq!(
        linux["namespaces"],
        json!([{"type": "pid"}, {"type": "network", "path": "/proc/1/ns"}, {"type": "ipc"}]),
        "the network is the guest's own"
    );
    assert_eq!(linux["cgroupsPath"], "/web");
    assert_eq!(linux.get("mountLabel"), None);
    assert_eq!(linux.get("intelRdt"), None);
    assert_eq!(linux["seccomp"]["defaultAction"], "SCMP_ACT_ALLOW");
    assert_eq!(linux["sysctl"]["net.ipv4.ip_forward"], "1");
    assert_eq!(linux["maskedPaths"], json!(["/proc/kcore"]));
    let resources = &linux["resources"];
    assert_eq!(resources["memory"]["limit"], 1_048_576);
    assert_eq!(
        resources["cpu"],
        json!({"quota": 1000, "period": 2000, "cpus": "7", "mems": "1"})
    );
    assert_eq!(resources["blockIO"], json!({"weight": 10}));
    assert_eq!(resources["pids"]["limit"], 5);
    assert_eq!(resources["devices"][0]["allow"], false);
}

#[test]
fn only_devices_that_every_kernel_has_are_passed_on() {
    let guest = rewritten(&json!({"linux": {"devices": [
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3},
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229},
        {"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232},
        {"path": "/dev/ram3", "type": "b", "major": 1, "minor": 3},
        {"path": "/dev/sda", "type": "b", "major": 8, "minor": 0},
    ]}}))
    .unwrap();
    let paths: Vec<_> = as_json(&guest)["linux"]["devices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|device| device["path"].clone())
        .collect();
    assert_eq!(paths, ["/dev/null", "/dev/fuse"]);
}

#[test]
fn a_configuration_that_cannot_run_is_refused() {
    let user = json!({"uid": 0, "gid": 0});
    for (patch, word) in [
        (json!({"process": null}), "`process`"),
        (json!({"root": null}), "`root`"),
        (
            json!({"process": {"cwd": "/", "args": [], "user": user}}),
            "process.args",
        ),
        (
            json!({"process": {"cwd": "/", "user": user}}),
            "process.args",
        ),
        (
            json!({"process": {"cwd": "tmp", "args": ["true"], "user": user}}),
            "process.cwd",
        ),
        (
            json!({"mounts": [{"destination": "/data", "type": "bind"}]}),
            "/data has no source",
        ),
    ] {
        let error = rewritten(&patch).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn an_exec_loses_its_labels_and_needs_a_program() {
    let process = |args: Value| {
        serde_json::from_value(json!({
            "cwd": "/", "args": args, "user": {"uid": 1, "gid": 1}, "terminal": true,
            "apparmorProfile": "docker-default", "selinuxLabel": "a:b:c",
        }))
        .unwrap()
    };
    let guest = serde_json::to_value(process_for_guest(process(json!(["sh"]))).unwrap()).unwrap();
    assert_eq!(guest.get("apparmorProfile"), None);
    assert_eq!(guest.get("selinuxLabel"), None);
    assert_eq!(guest["terminal"], true);
    process_for_guest(process(json!([]))).unwrap_err();
}

#[test]
fn namespaces_that_are_joined_are_those_of_the_pod() {
    let joined = |name: &str| json!({"type": name, "path": format!("/proc/7/ns/{name}")});
    let pod = json!({"linux": {"namespaces": [
        {"type": "pid"}, joined("network"), {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
    ]}});
    let member = json!({"linux": {"namespaces": [
        {"type": "pid"}, joined("network"), joined("ipc"), joined("uts"), {"type": "mount"},
    ]}});
    let sandbox = PodPlace::Sandbox { pod: "p".into() };
    let place = PodPlace::Member { pod: "p".into() };
    for (config, place, shared) in [
        (&pod, &sandbox, vec!["network", "ipc", "uts"]),
        (&member, &place, vec!["network", "ipc", "uts"]),
        (&member, &PodPlace::Outside, vec!["network"]),
    ] {
        let guest = rewritten_in(config, place).unwrap();
        let json = as_json(&guest);
        let namespaces = json["linux"]["namespaces"].as_array().unwrap();
        let paths: Vec<_> = namespaces
            .iter()
            .filter(|namespace| !namespace["path"].is_null())
            .map(|namespace| namespace["type"].as_str().unwrap())
            .collect();
        assert_eq!(paths, shared, "{place:?}");
        assert_eq!(guest.process_namespace_of, None);
        assert!(!json.to_string().contains("/proc/7"), "{json}");
    }
}

#[test]
fn a_process_namespace_that_is_joined_is_that_of_the_pods_own_container() {
    let config = json!({"linux": {"namespaces": [{"type": "pid", "path": "/proc/7/ns/pid"}]}});
    let member = PodPlace::Member { pod: "p".into() };
    let guest = rewritten_in(&config, &member).unwrap();
    assert_eq!(guest.process_namespace_of.as_deref(), Some("p"));
    assert_eq!(
        as_json(&guest)["linux"]["namespaces"],
        json!([{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}])
    );
    let outside = rewritten(&config).unwrap();
    assert_eq!(outside.process_namespace_of, None);
}

#[test]
fn the_shared_memory_of_a_pod_is_the_guests() {
    let at = |source: &str| {
        json!({"mounts": [{"destination": "/dev/shm", "type": "bind", "source": source,
            "options": ["rbind", "rw"]}]})
    };
    let member = PodPlace::Member { pod: "p".into() };
    let pods = at("/run/containerd/io.containerd.grpc.v1.cri/sandboxes/p/shm");
    let guest = rewritten_in(&pods, &member).unwrap();
    assert!(guest.binds.is_empty());
    // No such place here, so there is no size to take over.
    let mount = json!({"destination": "/dev/shm", "type": "bind", "source": "/dev/shm",
        "options": ["rbind", "rw"]});
    assert_eq!(as_json(&guest)["mounts"], json!([mount]));

    let volume = at("/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/shm");
    for (config, place) in [(&volume, &member), (&pods, &PodPlace::Outside)] {
        assert_eq!(rewritten_in(config, place).unwrap().binds.len(), 1);
    }
}

#[test]
fn a_member_that_joins_the_pods_ipc_has_the_pods_shared_memory_for_its_own() {
    let config = |namespaces: Value, size: &str| {
        json!({"linux": {"namespaces": namespaces}, "mounts": [{"destination": "/dev/shm",
            "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", size]}]})
    };
    let member = PodPlace::Member { pod: "p".into() };
    let joins = json!([{"type": "ipc", "path": "/proc/42/ns/ipc"}]);
    for (size, bytes) in [
        ("size=65536k", Some(65536 << 10)),
        ("size=2G", Some(2_u64 << 30)),
        ("size=7", Some(7)),
        ("size=50%", None),
        ("size=99999999999999999999", None),
        ("size=99999999999g", None),
    ] {
        let guest = rewritten_in(&config(joins.clone(), size), &member).unwrap();
        assert!(guest.binds.is_empty());
        let mut options = vec![
            "nosuid".to_owned(),
            "noexec".into(),
            "nodev".into(),
            "rbind".into(),
        ];
        options.extend(bytes.map(|bytes| format!("size={bytes}")));
        let mount = json!({"destination": "/dev/shm", "type": "bind", "source": "/dev/shm",
            "options": options});
        assert_eq!(as_json(&guest)["mounts"], json!([mount]), "{size}");
    }
    let own = config(json!([{"type": "ipc"}]), "size=64k");
    for (config, place) in [
        (&own, &member),
        (&config(joins.clone(), "size=64k"), &PodPlace::Outside),
    ] {
        let guest = rewritten_in(config, place).unwrap();
        assert_eq!(as_json(&guest)["mounts"], config["mounts"]);
    }
}
