//! The security context of pods and containers.

use caisson_e2e::{CleanMachine, Cri, PodConfig, PodSandbox};
use serde_json::json;

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_container_has_the_security_context_that_its_pod_asks_for() {
    let _machine = CleanMachine::watch();
    let Some(cri) = Cri::connect() else { return };
    // Only a privileged pod may have a privileged container.
    let privileged = json!({"linux": {"security_context": {"privileged": true}}});
    let pod = PodSandbox::run(&cri, &PodConfig::new("pod").with(privileged));
    let sleeping = ["sleep", "1000"];
    let context = |context: serde_json::Value| json!({"linux": {"security_context": context}});

    let user = pod.start_with(
        "user",
        &sleeping,
        context(json!({
            "run_as_user": {"value": 1234},
            "run_as_group": {"value": 2345},
            "supplemental_groups": [3456],
            "readonly_rootfs": true,
            "no_new_privs": true,
            "seccomp": {"profile_type": 0},
            "capabilities": {"drop_capabilities": ["ALL"], "add_capabilities": ["NET_BIND_SERVICE"]},
            "masked_paths": ["/proc/kcore", "/proc/timer_list"],
            "readonly_paths": ["/proc/sys"],
        })),
    );
    assert_eq!(user.shell("id -u; id -g"), "1234\n2345");
    assert!(user.shell("id -G").split(' ').any(|group| group == "3456"));
    let full = user.exec(&["touch", "/tmp/new"]);
    assert!(full.stderr.contains("Read-only file system"), "{full:?}");
    let status = user.shell("cat /proc/1/status");
    let value = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(
        (value("NoNewPrivs:"), value("Seccomp:")),
        ("1".into(), "2".into())
    );
    assert_eq!(value("CapBnd:"), "0000000000000400");
    let hidden = user.exec(&["sh", "-c", "wc -c </proc/timer_list"]);
    assert!(hidden.text() == "0" || hidden.code != 0, "{hidden:?}");

    let profile = "/tmp/caisson-e2e-seccomp.json";
    let rules = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]});
    std::fs::write(profile, rules.to_string()).unwrap();
    let local = json!({"seccomp": {"profile_type": 2, "localhost_ref": profile}});
    let local = pod.start_with("local", &sleeping, context(local));
    let refused = local.exec(&["mkdir", "/tmp/x"]);
    assert!(
        refused.stderr.contains("Operation not permitted"),
        "{refused:?}"
    );
    std::fs::remove_file(profile).unwrap();

    // All capabilities, a writable /sys and the guest's devices, none of the host's.
    let privileged = json!({"privileged": true});
    let privileged = pod.start_with("privileged", &sleeping, context(privileged));
    let capabilities = privileged.shell("awk '/CapEff/ {print $2}' /proc/1/status");
    assert!(capabilities.ends_with("ffffffff"), "{capabilities}");
    let _ = privileged.shell("mount -t tmpfs none /tmp && test -c /dev/kmsg");
    assert_ne!(privileged.exec(&["test", "-e", "/dev/pmem0"]).code, 0);
    let _ = privileged.shell("dd if=/dev/kmsg of=/dev/null bs=8192 count=1");
    assert!(
        privileged
            .shell("grep ' /sys ' /proc/mounts")
            .contains("rw")
    );

    let plain = pod.start("plain", &sleeping);
    assert_ne!(plain.exec(&["test", "-e", "/dev/kmsg"]).code, 0);
}
