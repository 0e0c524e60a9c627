//! Containers and machines that change while they run.

use std::fs;
use std::path::Path;

use caisson_sandbox::{Config, ErrorKind, Sandbox, VmSize};
use serde_json::json;

use crate::pod::{self, Pod, SIZE, in_pod};
use crate::{init, soon};

fn size(vcpus: u8, memory_mib: u32) -> VmSize {
    VmSize { vcpus, memory_mib }
}

/// With the file in which fake VMM and agent write down what happens.
fn noted(pod: &Pod) -> (Config, std::path::PathBuf) {
    let notes = pod.program("notes");
    let mut config = pod.config("");
    config.kernel_parameters += &format!(" notes={}", notes.display());
    (config, notes)
}

fn lines(notes: &Path) -> Vec<String> {
    let text = fs::read_to_string(notes).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn limits_reach_the_guest_and_its_refusal_comes_back() {
    in_pod(async |pod| {
        let sandbox = soon(Sandbox::start(&pod.config(""), pod.options()))
            .await
            .unwrap();
        let resources = |limit| {
            serde_json::from_value(json!({
                "pids": {"limit": limit},
                "blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}]},
            }))
            .unwrap()
        };
        for error in [
            soon(sandbox.update_container("web", resources(5))).await,
            soon(sandbox.pause_container("web")).await,
            soon(sandbox.resume_container("web")).await,
        ] {
            assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);
        }
        soon(sandbox.create_container(pod.container("web", "sleep")))
            .await
            .unwrap();
        soon(sandbox.pause_container("web")).await.unwrap();
        soon(sandbox.update_container("web", resources(5)))
            .await
            .unwrap();
        let error = soon(sandbox.update_container("web", resources(13)))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("pids.limit"), "{error}");
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}

#[test]
fn the_memory_device_comes_when_the_machine_first_grows() {
    in_pod(async |pod| {
        let (config, notes) = noted(pod);
        let sandbox = soon(Sandbox::start(&config, pod.options())).await.unwrap();
        soon(sandbox.resize_machine(size(2, 128))).await.unwrap();
        assert!(lines(&notes).is_empty());
        for memory_mib in [200, 128, 256] {
            soon(sandbox.resize_machine(size(2, memory_mib)))
                .await
                .unwrap();
            assert_eq!(lines(&notes), ["plugged: Memory", "bus scanned"]);
        }
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}

#[test]
fn the_balloon_comes_when_a_container_runs_and_keeps_no_machine() {
    in_pod(async |pod| {
        let (config, notes) = noted(pod);
        let sandbox = soon(Sandbox::start(&config, pod.options())).await.unwrap();
        for id in ["one", "two"] {
            soon(sandbox.create_container(pod.container(id, "cat")))
                .await
                .unwrap();
            soon(sandbox.start_process(&init(id))).await.unwrap();
        }
        let balloon = || {
            let mut lines = lines(&notes);
            lines.retain(|line| line.starts_with("plugged") || line == "bus scanned");
            lines
        };
        soon(async {
            while balloon().len() < 2 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(balloon(), ["plugged: Balloon", "bus scanned"]);
        soon(sandbox.stop()).await;

        // This one goes before it is due.
        let sandbox = soon(Sandbox::start(&config, pod.options())).await.unwrap();
        soon(sandbox.create_container(pod.container("one", "cat")))
            .await
            .unwrap();
        soon(sandbox.start_process(&init("one"))).await.unwrap();
        let vmm = pod::watch(pod.process("vmm"));
        drop(sandbox);
        soon(vmm).await;
        assert!(!pod.state_dir().exists());
    });
}

#[test]
fn a_machine_grows_to_what_it_was_made_for_and_shrinks_to_what_it_was() {
    in_pod(async |pod| {
        let sandbox = soon(Sandbox::start(&pod.config(""), pod.options()))
            .await
            .unwrap();
        assert_eq!(sandbox.boot_size(), SIZE);
        soon(sandbox.resize_machine(size(2, 200))).await.unwrap();
        soon(sandbox.resize_machine(size(4, 256))).await.unwrap();
        for (wanted, key) in [
            (size(5, 128), "`max_vcpus`"),
            (size(1, 257), "`max_memory_mib`"),
        ] {
            let error = soon(sandbox.resize_machine(wanted)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
            assert!(error.to_string().contains(key), "{error}");
        }
        soon(sandbox.resize_machine(size(1, 64))).await.unwrap();
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}

#[test]
fn a_machine_that_does_not_grow_keeps_its_size() {
    in_pod(async |pod| {
        let sandbox = soon(Sandbox::start(&pod.config(""), pod.options()))
            .await
            .unwrap();
        let error = soon(sandbox.resize_machine(size(3, 256)))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(error.to_string().contains("CPU 2"), "{error}");
        // It is tried anew, not taken to be done.
        soon(sandbox.resize_machine(size(3, 128)))
            .await
            .unwrap_err();
        soon(sandbox.resize_machine(size(2, 128))).await.unwrap();
        soon(sandbox.stop()).await;

        let config = pod.config("makes-no-vcpus");
        let sandbox = soon(Sandbox::start(&config, pod.options())).await.unwrap();
        let error = soon(sandbox.resize_machine(size(2, 128)))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("no vCPU left"), "{error}");
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}
