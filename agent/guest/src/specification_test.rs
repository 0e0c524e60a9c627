use super::*;
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "ociVersion": "1.1.0",
        "root": {"path": "/run/caisson/shared/1/rootfs"},
        "hostname": "web",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/bin"],
            "cwd": "/",
        },
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"},
            ],
        },
    })
}

fn adapted(config: &Value) -> Result<Adapted, AgentError> {
    adapt(config.to_string().as_bytes(), "c1")
}

fn refused(config: &Value) -> String {
    match adapted(config) {
        Err(AgentError::InvalidArgument(message)) => message,
        other => panic!("{other:?}"),
    }
}

fn linux(adapted: &Adapted) -> &Linux {
    adapted.spec.linux().as_ref().unwrap()
}

#[test]
fn the_librarys_process_has_nothing_the_agent_does_itself() {
    let mut config = config();
    config["process"]["apparmorProfile"] = json!("cri-containerd.apparmor.d");
    config["process"]["selinuxLabel"] = json!("system_u:system_r:container_t:s0");
    config["process"]["noNewPrivileges"] = json!(false);
    config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1}]);
    config["process"]["capabilities"] = json!({"bounding": ["CAP_CHOWN"]});
    config["process"]["cwd"] = json!("/srv");
    config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
    config["linux"]["intelRdt"] = json!({"closID": "x"});
    config["linux"]["mountLabel"] = json!("x");
    config["linux"]["resources"] =
        json!({"pids": {"limit": 5}, "devices": [{"allow": false, "access": "rwm"}]});
    config["linux"]["cgroupsPath"] = json!("system.slice:cri-containerd:abc");
    let adapted = adapted(&config).unwrap();
    let process = adapted.spec.process().as_ref().unwrap();
    assert_eq!(process.apparmor_profile(), &None);
    assert_eq!(process.selinux_label(), &None);
    assert_eq!(process.no_new_privileges(), None);
    assert_eq!(process.rlimits(), &None);
    assert_eq!(process.capabilities(), &None);
    assert_eq!(process.cwd(), Path::new("/"));
    assert_eq!(process.env().as_deref(), Some(&["HOME=/".to_owned()][..]));
    let linux = linux(&adapted);
    assert!(
        linux.seccomp().is_none() && linux.intel_rdt().is_none() && linux.mount_label().is_none()
    );
    assert!(linux.resources().is_none());
    assert_eq!(
        linux.cgroups_path().as_deref(),
        Some(Path::new("/containers/c1"))
    );

    assert_eq!(adapted.finish.process.cwd(), Path::new("/srv"));
    assert_eq!(adapted.finish.process.rlimits().as_ref().unwrap().len(), 1);
    assert!(adapted.finish.seccomp.is_some() && adapted.exec.seccomp.is_some());
    assert!(!adapted.finish.set_user);
    assert_eq!(
        adapted.resources.unwrap().pids().as_ref().unwrap().limit(),
        5
    );
}

#[test]
fn a_container_always_has_its_own_mounts_processes_and_cgroups() {
    use LinuxNamespaceType as Type;
    let mut config = config();
    config["linux"]["namespaces"] = json!([]);
    let adapted = adapted(&config).unwrap();
    assert_eq!(adapted.namespaces, [Type::Mount, Type::Pid, Type::Cgroup]);
    assert!(!adapted.own_network);
    // A host name needs a namespace; without one it is the pod's.
    assert_eq!(adapted.spec.hostname(), &None);
    assert_eq!(adapted.pod_hostname.as_deref(), Some("web"));
}

#[test]
fn namespaces_of_the_host_become_those_of_the_pod() {
    use LinuxNamespaceType as Type;
    let mut config = config();
    config["linux"]["namespaces"] = json!([
        {"type": "pid", "path": "/proc/77/ns/pid"},
        {"type": "network", "path": "/var/run/netns/cni-1"},
        {"type": "ipc", "path": "/proc/77/ns/ipc"},
        {"type": "uts", "path": "/proc/77/ns/uts"},
        {"type": "mount"},
        {"type": "mount"},
    ]);
    let adapted = adapted(&config).unwrap();
    assert_eq!(adapted.namespaces, [Type::Pid, Type::Mount, Type::Cgroup]);
    assert!(!adapted.own_network);
    let namespaces = linux(&adapted).namespaces().as_ref().unwrap();
    assert!(
        namespaces
            .iter()
            .all(|namespace| namespace.path().is_none())
    );
}

#[test]
fn a_network_without_a_path_is_the_containers_own() {
    let adapted = adapted(&config()).unwrap();
    assert!(adapted.own_network);
    assert!(adapted.namespaces.contains(&LinuxNamespaceType::Network));
    assert_eq!(adapted.spec.hostname().as_deref(), Some("web"));
}

#[test]
fn kernel_parameters_go_where_their_namespace_is() {
    let mut config = config();
    config["linux"]["sysctl"] = json!({
        "net.ipv4.ip_forward": "1",
        "kernel.shmmax": "100",
        "fs.mqueue.msg_max": "5",
        "vm.max_map_count": "262144",
        "net/ipv4/conf/eth0.1/forwarding": "1",
    });
    let own = adapted(&config).unwrap();
    assert_eq!(
        own.sysctls,
        [("vm.max_map_count".to_owned(), "262144".to_owned())]
    );
    assert_eq!(linux(&own).sysctl().as_ref().unwrap().len(), 4);

    config["linux"]["namespaces"] =
        json!([{"type": "network", "path": "/x"}, {"type": "ipc", "path": "/y"}]);
    let shared = adapted(&config).unwrap();
    assert_eq!(shared.sysctls.len(), 5);
    assert_eq!(linux(&shared).sysctl(), &None);
}

#[test]
fn what_a_virtual_machine_cannot_do_is_refused_with_a_sentence() {
    let mut users = config();
    users["linux"]["namespaces"] = json!([{"type": "user"}]);
    assert!(refused(&users).contains("user namespaces"));

    let mut mappings = config();
    mappings["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    assert!(refused(&mappings).contains("uidMappings"));

    let mut hooks = config();
    hooks["hooks"] = json!({"createContainer": [{"path": "/usr/bin/hook"}]});
    assert!(refused(&hooks).contains("createContainer"));

    let mut notify = config();
    notify["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["bpf"], "action": "SCMP_ACT_NOTIFY"}]});
    assert!(refused(&notify).contains("SCMP_ACT_NOTIFY"));
}

#[test]
fn hooks_of_the_host_stay_on_the_host() {
    let mut config = config();
    config["hooks"] = json!({
        "prestart": [{"path": "/p"}],
        "createRuntime": [{"path": "/r"}],
        "poststop": [{"path": "/s"}],
    });
    config["annotations"] = json!({"a.key": "a value"});
    assert!(adapted(&config).unwrap().start_hooks.hooks.is_empty());
    config["hooks"]["startContainer"] = json!([{"path": "/bin/in-the-image"}]);
    let adapted = adapted(&config).unwrap();
    // The library would not say why one fails.
    assert_eq!(adapted.spec.hooks(), &None);
    let found = adapted.start_hooks;
    assert_eq!(found.hooks.len(), 1);
    assert_eq!(found.hooks[0].path(), Path::new("/bin/in-the-image"));
    assert_eq!(
        found.state.annotations().as_ref().unwrap()["a.key"],
        "a value"
    );
    for (hook, word) in [
        (json!({"path": "bin/hook"}), "absolute"),
        (json!({"path": "/bin/hook", "timeout": 0}), "above 0"),
    ] {
        config["hooks"]["startContainer"] = json!([hook]);
        assert!(refused(&config).contains(word));
    }
}

#[test]
fn broken_configurations_are_refused() {
    assert!(matches!(
        adapt(b"{", "c"),
        Err(AgentError::InvalidArgument(_))
    ));
    assert!(matches!(
        adapt(&vec![b' '; MAX_CONFIG + 1], "c"),
        Err(AgentError::InvalidArgument(_))
    ));
    for (path, value, word) in [
        ("/ociVersion", json!("2.0"), "ociVersion"),
        ("/root/path", json!("rootfs"), "root.path"),
        ("/process/args", json!([]), "process.args"),
        ("/process/args", json!(["a\0b"]), "NUL"),
        ("/process/env", json!(["A=\0"]), "NUL"),
        ("/process/cwd", json!("srv"), "process.cwd"),
    ] {
        let mut config = config();
        *config.pointer_mut(path).unwrap() = value;
        let message = refused(&config);
        assert!(message.contains(word), "{path}: {message}");
    }
    for key in ["root", "process"] {
        let mut config = config();
        config.as_object_mut().unwrap().remove(key);
        assert!(refused(&config).contains(key));
    }
}

#[test]
fn propagation_is_spelled_as_the_library_wants_it() {
    for (given, expected) in [
        ("rprivate", Some("private")),
        ("shared", Some("shared")),
        ("", None),
    ] {
        let mut config = config();
        config["linux"]["rootfsPropagation"] = json!(given);
        let adapted = adapted(&config).unwrap();
        assert_eq!(linux(&adapted).rootfs_propagation().as_deref(), expected);
    }
    let mut config = config();
    config["linux"]["rootfsPropagation"] = json!("upwards");
    assert!(refused(&config).contains("rootfsPropagation"));
}

#[test]
fn mounts_without_a_source_get_one() {
    let mut config = config();
    config["mounts"] = json!([{"destination": "/tmp", "type": "tmpfs"}, {"destination": "/x", "source": "/y", "options": ["bind"]}]);
    let adapted = adapted(&config).unwrap();
    let mounts = adapted.spec.mounts().as_ref().unwrap();
    assert_eq!(mounts[0].source().as_deref(), Some(Path::new("tmpfs")));
    assert_eq!(mounts[1].source().as_deref(), Some(Path::new("/y")));
}

#[test]
fn the_volumes_of_the_pod_are_known_and_their_mounts_can_show_something_else() {
    let mut config = config();
    let mount = |source: &str| json!({"destination": "/x", "source": source, "options": ["bind"]});
    config["mounts"] = json!([
        mount("/run/caisson/shared/.volumes/7"),
        mount("/run/caisson/shared/1/rootfs"),
        mount("/run/caisson/shared/.volumes/0"),
    ]);
    let mut adapted = adapted(&config).unwrap();
    let volumes = [
        "/run/caisson/shared/.volumes/7",
        "/run/caisson/shared/.volumes/0",
    ];
    assert_eq!(adapted.volumes(), volumes.map(PathBuf::from));
    let before = adapted.exchange_source(2, "/kept".into());
    assert_eq!(before, Some(PathBuf::from(volumes[1])));
    assert_eq!(adapted.volumes(), [PathBuf::from(volumes[0])]);
    assert_eq!(adapted.exchange_source(3, "/kept".into()), None);
}

#[test]
fn an_exec_needs_a_program() {
    assert!(exec_process(br#"{"args": ["ls"], "cwd": "/", "user": {"uid": 0, "gid": 0}}"#).is_ok());
    assert!(exec_process(br#"{"args": [], "cwd": "/", "user": {"uid": 0, "gid": 0}}"#).is_err());
    assert!(exec_process(b"[]").is_err());
}

#[test]
fn a_container_joins_the_processes_of_another() {
    let mut adapted = adapted(&config()).unwrap();
    adapted.share_processes(7);
    let path = |typ| {
        let namespaces = linux(&adapted).namespaces().clone().unwrap();
        let namespace = namespaces.into_iter().find(|one| one.typ() == typ);
        namespace.unwrap().path().clone()
    };
    let expected = Some(PathBuf::from("/proc/7/ns/pid"));
    assert_eq!(path(LinuxNamespaceType::Pid), expected);
    assert_eq!(path(LinuxNamespaceType::Mount), None);
}

#[test]
fn the_size_of_the_pods_shared_memory_is_no_option_of_a_bind_mount() {
    let with = |options: Value| {
        let mut config = config();
        config["mounts"] = json!([{"destination": "/dev/shm", "type": "bind",
            "source": "/dev/shm", "options": options}]);
        adapted(&config)
    };
    let limited = with(json!(["rbind", "size=65536"])).unwrap();
    assert_eq!(limited.shared_memory, Some(65536));
    let mounts = limited.spec.mounts().as_ref().unwrap();
    assert_eq!(mounts[0].options().clone().unwrap(), ["rbind"]);
    assert_eq!(with(json!(["rbind"])).unwrap().shared_memory, None);
    assert!(with(json!(["size=much"])).is_err());
}

#[test]
fn a_privileged_container_has_the_devices_of_the_guest() {
    let devices = |rules: Value| {
        let mut config = config();
        config["linux"]["resources"] = json!({"devices": rules});
        let adapted = adapted(&config).unwrap();
        linux(&adapted).devices().as_ref().map_or(0, Vec::len)
    };
    let deny = json!({"allow": false, "access": "rwm"});
    let allow = json!({"allow": true, "access": "rwm"});
    assert!(devices(json!([deny, allow])) > 0);
    let one = json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"});
    assert_eq!(devices(json!([deny, one])), 0);
    assert_eq!(devices(json!([])), 0);
}
