//! Containers and machines that change while they run.

use caisson_sandbox::{ErrorKind, Sandbox, VmSize};
use serde_json::json;

use crate::pod::{SIZE, in_pod};
use crate::soon;

fn size(vcpus: u8, memory_mib: u32) -> VmSize {
    VmSize { vcpus, memory_mib }
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
