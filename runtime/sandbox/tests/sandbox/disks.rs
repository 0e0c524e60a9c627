//! Block devices of the host, from the configuration of a container to what the VMM and the agent are
//! told.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use caisson_sandbox::{Config, CreateContainer, ErrorKind, Sandbox};
use serde_json::{Value, json};

use crate::loop_device::LoopDevice;
use crate::pod::{Pod, in_pod};
use crate::{init, soon};

/// With the file in which the fake VMM writes down what happens to disks.
fn noted(pod: &Pod, fault: &str) -> (Config, PathBuf) {
    let notes = pod.program("notes");
    let mut config = pod.config(fault);
    config.kernel_parameters += &format!(" notes={}", notes.display());
    (config, notes)
}

/// A container that has device `major:minor` with this access.
fn container(pod: &Pod, id: &str, (major, minor): (u32, u32), access: &str) -> CreateContainer {
    let mut container = pod.container(id, "cat");
    let mut spec: Value = serde_json::to_value(&container.spec).unwrap();
    spec["linux"] = json!({
        "devices": [{"path": "/dev/xvda", "type": "b", "major": major, "minor": minor}],
        "resources": {"devices": [
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "b", "major": major, "minor": minor, "access": access},
        ]},
    });
    container.spec = serde_json::from_value(spec).unwrap();
    container
}

async fn start(pod: &Pod, config: &Config) -> Arc<Sandbox> {
    soon(Sandbox::start(config, pod.options())).await.unwrap()
}

/// Runs a test with a device, if this machine can have one. In the end nobody has it.
fn with_device(test: impl AsyncFnOnce(&Pod, (u32, u32)) + Send + 'static) {
    in_pod(async |pod: &Pod| {
        if let Some(device) = LoopDevice::new(false) {
            test(pod, device.number).await;
            let holds = format!("/sys/block/{}/loop/backing_file", device.name);
            let file = device.file.path().display().to_string();
            drop(device);
            // Another test may be looking at it in search of one.
            soon(async {
                while fs::read_to_string(&holds).is_ok_and(|holds| holds.contains(&file)) {
                    tokio::task::yield_now().await;
                }
            })
            .await;
        }
    });
}

#[test]
fn two_containers_have_one_disk_and_the_last_takes_it_along() {
    with_device(async |pod, (major, minor)| {
        let (config, notes) = noted(pod, "");
        let sandbox = start(pod, &config).await;
        for id in ["one", "two"] {
            let container = container(pod, id, (major, minor), "r");
            soon(sandbox.create_container(container)).await.unwrap();
        }
        let lines = || {
            let text = fs::read_to_string(&notes).unwrap();
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let before = [
            format!("slot 16: disk {major}:{minor}, read-only"),
            "slot 16: found".to_owned(),
            "one: b 254:16 at /dev/xvda".to_owned(),
            "two: b 254:16 at /dev/xvda".to_owned(),
        ];
        assert_eq!(lines(), before);

        let writer = container(pod, "writer", (major, minor), "rw");
        let error = soon(sandbox.create_container(writer)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.to_string().contains("to read only"), "{error}");

        soon(sandbox.delete_process(&init("one"))).await.unwrap();
        assert_eq!(lines(), before);
        soon(sandbox.delete_process(&init("two"))).await.unwrap();
        assert_eq!(lines()[4..], ["slot 16: removed", "slot 16: unplugged"]);

        let again = container(pod, "one", (major, minor), "r");
        soon(sandbox.create_container(again)).await.unwrap();
        assert_eq!(lines()[7], "slot 17: found");
        assert_eq!(lines()[8], "one: b 254:17 at /dev/xvda");
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}

#[test]
fn a_container_that_is_not_made_leaves_no_disk() {
    with_device(async |pod, device| {
        let (config, notes) = noted(pod, "");
        let sandbox = start(pod, &config).await;
        let mut absent = container(pod, "absent", device, "r");
        let process = absent.spec.process_mut().as_mut().unwrap();
        process.set_args(Some(vec!["absent".to_owned()]));
        let error = soon(sandbox.create_container(absent)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let text = fs::read_to_string(&notes).unwrap();
        assert!(
            text.ends_with("slot 16: removed\nslot 16: unplugged\n"),
            "{text}"
        );
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}

#[test]
fn a_disk_that_the_guest_does_not_find_is_taken_off_the_bus() {
    with_device(async |pod, device| {
        // Nothing is written down, and the guest finds no disk.
        let sandbox = start(pod, &pod.config("")).await;
        // Were the first still plugged, the fake VMM would stop at the second.
        for id in ["one", "two"] {
            let container = container(pod, id, device, "r");
            let error = soon(sandbox.create_container(container)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
            let (text, shared) = (error.to_string(), pod.state_dir().join("shared").join(id));
            assert!(text.contains("/dev/xvda: no disk there"), "{text}");
            assert!(!shared.exists());
        }
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}

#[test]
fn a_device_that_cannot_be_had_is_named() {
    in_pod(async |pod| {
        let (config, notes) = noted(pod, "");
        let sandbox = start(pod, &config).await;
        let absent = container(pod, "web", (4095, 1_048_575), "rw");
        let error = soon(sandbox.create_container(absent)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        let text = error.to_string();
        for word in ["4095:1048575", "/dev/xvda", "no such block device"] {
            assert!(text.contains(word), "{text}");
        }
        assert!(!notes.exists());
        assert!(!pod.state_dir().join("shared/web").exists());
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}

#[test]
fn a_machine_without_a_slot_for_a_disk_says_so() {
    with_device(async |pod, device| {
        let sandbox = start(pod, &pod.config("has-no-slot")).await;
        let container = container(pod, "web", device, "r");
        let error = soon(sandbox.create_container(container)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("no slot left"), "{error}");
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}
