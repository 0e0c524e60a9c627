//! Starts that fail, and what they say.

use caisson_sandbox::{ErrorKind, Sandbox};

use crate::pod::{Pod, in_pod};
use crate::soon;

async fn start_failure(pod: &Pod, fault: &str) -> (ErrorKind, String) {
    let error = soon(Sandbox::start(&pod.config(fault), pod.options()))
        .await
        .unwrap_err();
    pod.assert_nothing_left();
    (error.kind(), error.to_string())
}

#[test]
fn a_machine_that_does_not_come_up_says_why() {
    in_pod(async |pod| {
        for (fault, kind, words) in [
            (
                "no-elf",
                ErrorKind::FailedPrecondition,
                &["vmlinux cannot be booted: not an ELF file", "`kernel`"][..],
            ),
            (
                "dies-before-boot",
                ErrorKind::Unavailable,
                &["ended with status 3", "fake VMM: no memory [2J"],
            ),
            (
                "panics",
                ErrorKind::Unavailable,
                &[
                    "the guest's kernel panicked",
                    "VFS: no root\nKernel panic -  not syncing",
                    "the guest did not come up: ",
                ],
            ),
            (
                "makes-a-forbidden-call",
                ErrorKind::Unavailable,
                &["was killed (SIGSYS)", "its filter forbids"],
            ),
            (
                "babbles",
                ErrorKind::Unavailable,
                &["broke the control protocol"],
            ),
            ("answers-unasked", ErrorKind::Unavailable, &["request 77"]),
            (
                "sends-surplus-files",
                ErrorKind::Unavailable,
                &["wrong files"],
            ),
            (
                "has-another-version",
                ErrorKind::FailedPrecondition,
                &["version 99", "one build"],
            ),
            (
                "lacks-options",
                ErrorKind::FailedPrecondition,
                &["vmlinux", "6.12.0-fake", "CONFIG_MEMCG"],
            ),
            (
                "says-nonsense",
                ErrorKind::Unavailable,
                &["not understood", "last words"],
            ),
            ("never-stops-talking", ErrorKind::Unavailable, &["hello"]),
            ("hangs-up", ErrorKind::Unavailable, &["not understood"]),
        ] {
            let (found, message) = start_failure(pod, fault).await;
            assert_eq!(found, kind, "{fault}: {message}");
            for word in words {
                assert!(message.contains(word), "{fault}: {word} in {message}");
            }
        }
    });
}

#[test]
fn a_kernel_that_lacks_an_option_is_told_by_its_name() {
    in_pod(async |pod| {
        pod.write_kernel_with_config("CONFIG_PVH=y\n# CONFIG_VIRTIO_FS is not set\n");
        let (kind, message) = start_failure(pod, "panics").await;
        assert_eq!(kind, ErrorKind::FailedPrecondition);
        assert!(
            message.contains("CONFIG_VIRTIO_FS") && !message.contains("CONFIG_PVH,"),
            "{message}"
        );
        assert!(message.contains("Kernel panic"), "{message}");
    });
}

#[test]
fn missing_files_are_named_before_anything_is_started() {
    in_pod(async |pod| {
        for key in ["kernel", "initrd", "vmm", "file_server", "pod_process"] {
            let mut config = pod.config("");
            *match key {
                "kernel" => &mut config.kernel,
                "initrd" => &mut config.initrd,
                "vmm" => &mut config.vmm,
                "pod_process" => &mut config.pod_process,
                _ => &mut config.file_server,
            } = "/no/such/file".into();
            let error = soon(Sandbox::start(&config, pod.options()))
                .await
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
            let message = error.to_string();
            assert!(
                message.contains("/no/such/file") && message.contains(key),
                "{message}"
            );
            pod.assert_nothing_left();
        }
        for change in 0..4 {
            let mut options = pod.options();
            match change {
                0 => options.size.vcpus = 0,
                1 => options.size.memory_mib = 63,
                2 => options.id = "../pod".into(),
                _ => options.state_dir = "relative".into(),
            }
            let error = soon(Sandbox::start(&pod.config(""), options))
                .await
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        }
        pod.assert_nothing_left();
    });
}

#[test]
fn a_start_that_is_given_up_is_undone() {
    in_pod(async |pod| {
        let config = pod.config("");
        {
            let start = Sandbox::start(&config, pod.options());
            tokio::pin!(start);
            // Far enough that processes and mounts exist.
            tokio::select! {
                biased;
                _ = &mut start => panic!("it cannot be up yet"),
                () = tokio::task::yield_now() => {}
            }
            assert!(!pod.processes().is_empty());
        }
        soon(pod.no_processes()).await;
        pod.assert_nothing_left();
    });
}
