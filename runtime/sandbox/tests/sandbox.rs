//! The life of a sandbox, with a VMM and a guest that are played by `tests/fake_vmm`: what goes
//! over the control channel, the agent's connection and the streams is real, and so are the
//! processes, the mounts and what must be gone afterwards.

// All of this is test code: what must not happen may panic.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod pod;

use std::future::Future;
use std::time::{Duration, SystemTime};

use caisson_sandbox::{CreateExec, ErrorKind, ProcessId, Sandbox, VmEndKind, clean_up};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use pod::{Pod, in_pod};

/// Nothing here waits for anything but this machine's own processes.
const SOON: Duration = Duration::from_secs(20);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future)
        .await
        .expect("it takes too long")
}

fn init(container: &str) -> ProcessId {
    ProcessId {
        container: container.into(),
        exec: String::new(),
    }
}

async fn start_failure(pod: &Pod, fault: &str) -> (ErrorKind, String) {
    let error = soon(Sandbox::start(&pod.config(fault), pod.options()))
        .await
        .unwrap_err();
    pod.assert_nothing_left();
    (error.kind(), error.to_string())
}

#[test]
fn a_sandbox_starts_runs_a_process_and_leaves_nothing() {
    in_pod(async |pod| {
        let sandbox = soon(Sandbox::start(&pod.config(""), pod.options()))
            .await
            .unwrap();
        assert_eq!(sandbox.guest_kernel(), "6.12.0-fake");
        assert!(pod.processes().contains(&sandbox.pid()));
        let phases: Vec<_> = sandbox.phases().into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            phases,
            // The fake's times are far in the future, in order.
            [
                "sandbox-start",
                "hello",
                "connected",
                "vmm-started",
                "vcpu-entered",
                "agent-started"
            ]
        );

        let mut streams = soon(sandbox.create_container(pod.container("web", "cat")))
            .await
            .unwrap();
        assert!(streams.stderr.is_none());
        soon(sandbox.start_process(&init("web"))).await.unwrap();
        let mut stdin = streams.stdin.take().unwrap();
        stdin.write_all(b"through the guest").await.unwrap();
        stdin.shutdown().await.unwrap();
        let mut output = String::new();
        let mut stdout = streams.stdout.take().unwrap();
        soon(stdout.read_to_string(&mut output)).await.unwrap();
        assert_eq!(output, "through the guest");

        let exit = soon(sandbox.wait_process(&init("web"))).await.unwrap();
        assert_eq!((exit.status, exit.oom_killed), (0, true));
        // The guest claims to have ended it three centuries ago.
        let age = SystemTime::now().duration_since(exit.exited_at).unwrap();
        assert!(age < SOON, "{age:?}");
        assert_eq!(soon(sandbox.list_processes("web")).await.unwrap(), [17, 18]);

        soon(sandbox.delete_process(&init("web"))).await.unwrap();
        assert!(!pod.state_dir().join("shared/web").exists());
        soon(sandbox.stop()).await;
        let end = soon(sandbox.ended()).await;
        assert_eq!(end.kind, VmEndKind::Stopped);
        assert_eq!(end.console, "last words");
        pod.assert_nothing_left();
        soon(sandbox.stop()).await;
    });
}

#[test]
fn an_exec_has_its_own_streams_exit_and_end() {
    in_pod(async |pod| {
        let sandbox = soon(Sandbox::start(&pod.config(""), pod.options()))
            .await
            .unwrap();
        let exec = ProcessId {
            container: "web".into(),
            exec: "shell".into(),
        };
        let request = |stderr| CreateExec {
            process: exec.clone(),
            spec: serde_json::from_value(json!({
                "cwd": "/", "args": ["complain"], "user": {"uid": 0, "gid": 0},
            }))
            .unwrap(),
            stdin: false,
            stdout: false,
            stderr,
        };
        let error = soon(sandbox.create_exec(request(true))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);

        soon(sandbox.create_container(pod.container("web", "sleep")))
            .await
            .unwrap();
        let mut streams = soon(sandbox.create_exec(request(true))).await.unwrap();
        assert!(streams.stdin.is_none() && streams.stdout.is_none());
        let error = soon(sandbox.create_exec(request(false))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);

        let (exit, started) = tokio::join!(
            soon(sandbox.wait_process(&exec)),
            soon(sandbox.start_process(&exec))
        );
        started.unwrap();
        assert_eq!(exit.unwrap().status, 42);
        let mut said = String::new();
        let mut stderr = streams.stderr.take().unwrap();
        soon(stderr.read_to_string(&mut said)).await.unwrap();
        assert_eq!(said, "oh no");

        soon(sandbox.delete_process(&exec)).await.unwrap();
        let error = soon(sandbox.delete_process(&exec)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);

        let error = soon(sandbox.delete_process(&init("web")))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(pod.state_dir().join("shared/web/rootfs/file").exists());
        soon(sandbox.signal(&init("web"), 15, false)).await.unwrap();
        assert_eq!(
            soon(sandbox.wait_process(&init("web")))
                .await
                .unwrap()
                .status,
            143
        );
        let error = soon(sandbox.signal(&init("web"), 65, false))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}

#[test]
fn a_program_that_does_not_exist_is_told_in_bounds_and_undone() {
    in_pod(async |pod| {
        let sandbox = soon(Sandbox::start(&pod.config(""), pod.options()))
            .await
            .unwrap();
        let error = soon(sandbox.create_container(pod.container("web", "absent")))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let message = error.to_string();
        assert!(message.starts_with("exec: \"absent\": executable file not found in $PATH"));
        assert!(message.chars().count() < 1100 && !message.contains('\x1b'));
        assert!(!pod.state_dir().join("shared/web").exists());

        let error = soon(sandbox.create_container(pod.container("web", "strange")))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        // The name is free again, and taken only once.
        soon(sandbox.create_container(pod.container("web", "sleep")))
            .await
            .unwrap();
        let error = soon(sandbox.create_container(pod.container("web", "sleep")))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert!(pod.state_dir().join("shared/web/rootfs/file").exists());
        for (id, kind) in [
            ("other", ErrorKind::NotFound),
            ("../web", ErrorKind::NotFound),
        ] {
            let error = soon(sandbox.stats(id)).await.unwrap_err();
            assert_eq!(error.kind(), kind);
        }
        let error = soon(sandbox.create_container(pod.container("../up", "sleep")))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}

#[test]
fn a_mount_that_is_not_possible_leaves_the_sandbox_as_it_was() {
    in_pod(async |pod| {
        let sandbox = soon(Sandbox::start(&pod.config(""), pod.options()))
            .await
            .unwrap();
        let mut request = pod.container("web", "sleep");
        request.spec = serde_json::from_value(json!({
            "ociVersion": "1.1.0",
            "root": {"path": "rootfs"},
            "process": {"cwd": "/", "args": ["sleep"], "user": {"uid": 0, "gid": 0}},
            "mounts": [{"destination": "/data", "type": "bind", "source": "/no/such/place"}],
        }))
        .unwrap();
        let error = soon(sandbox.create_container(request)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        let message = error.to_string();
        assert!(
            message.contains("/no/such/place") && message.contains("/data"),
            "{message}"
        );
        assert!(!pod.state_dir().join("shared/web").exists());
        soon(sandbox.create_container(pod.container("web", "sleep")))
            .await
            .unwrap();
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}

#[test]
fn streams_that_are_refused_undo_the_container() {
    in_pod(async |pod| {
        let sandbox = soon(Sandbox::start(
            &pod.config("refuses-streams"),
            pod.options(),
        ))
        .await
        .unwrap();
        let error = soon(sandbox.create_container(pod.container("web", "cat")))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(
            error.to_string().contains("too many connections"),
            "{error}"
        );
        assert!(!pod.state_dir().join("shared/web").exists());
        // The agent has forgotten it too, else this one would exist already.
        let mut request = pod.container("web", "sleep");
        (request.stdin, request.stdout) = (false, false);
        soon(sandbox.create_container(request)).await.unwrap();
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}

#[test]
fn a_guest_that_does_not_answer_is_not_waited_for_for_ever() {
    in_pod(async |pod| {
        let sandbox = soon(Sandbox::start(&pod.config(""), pod.options()))
            .await
            .unwrap();
        soon(sandbox.create_container(pod.container("stuck", "sleep")))
            .await
            .unwrap();
        // From here on time flies as soon as everybody waits.
        tokio::time::pause();
        let error = sandbox.list_processes("stuck").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(
            error.to_string(),
            "the guest did not answer ListProcesses within 30 s"
        );
        tokio::time::resume();
        // The machine is as well as before.
        soon(sandbox.signal(&init("stuck"), 9, true)).await.unwrap();
        let exit = soon(sandbox.wait_process(&init("stuck"))).await.unwrap();
        assert_eq!(exit.status, 137);
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}

#[test]
fn an_agent_that_hangs_up_ends_the_sandbox() {
    in_pod(async |pod| {
        let sandbox = soon(Sandbox::start(
            &pod.config("drops-its-agent"),
            pod.options(),
        ))
        .await
        .unwrap();
        let error = soon(sandbox.create_container(pod.container("web", "sleep")))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let end = soon(sandbox.ended()).await;
        assert_eq!(end.kind, VmEndKind::Failed);
        assert!(
            end.description
                .contains("connection to the guest's agent broke"),
            "{}",
            end.description
        );
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}

#[test]
fn a_killed_vmm_ends_every_wait_at_once() {
    in_pod(async |pod| {
        let sandbox = soon(Sandbox::start(&pod.config(""), pod.options()))
            .await
            .unwrap();
        soon(sandbox.create_container(pod.container("web", "sleep")))
            .await
            .unwrap();
        let waiting = tokio::spawn({
            let sandbox = sandbox.clone();
            async move { sandbox.wait_process(&init("web")).await }
        });
        tokio::task::yield_now().await;
        pod::kill(sandbox.pid());
        let error = soon(waiting).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(
            error.to_string(),
            "the virtual machine was killed (signal 9)"
        );
        assert_eq!(soon(sandbox.ended()).await.kind, VmEndKind::Failed);
        for error in [
            soon(sandbox.start_process(&init("web"))).await.unwrap_err(),
            soon(sandbox.create_container(pod.container("late", "cat")))
                .await
                .unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Unavailable);
        }
        // The host's part can still be removed.
        soon(sandbox.delete_process(&init("web"))).await.unwrap();
        assert!(!pod.state_dir().join("shared/web").exists());
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}

#[test]
fn a_file_server_that_dies_ends_the_sandbox() {
    in_pod(async |pod| {
        let mut config = pod.config("");
        config.file_server = pod.program("fake-fs-dies");
        // It may die before the guest is up or after.
        let description = match soon(Sandbox::start(&config, pod.options())).await {
            Ok(sandbox) => {
                let end = soon(sandbox.ended()).await;
                soon(sandbox.stop()).await;
                end.description
            }
            Err(error) => error.to_string(),
        };
        assert!(
            description.contains("the file server ended with status 7")
                && description.contains("has had enough"),
            "{description}"
        );
        pod.assert_nothing_left();
    });
}

#[test]
fn a_guest_that_shuts_down_is_told_from_a_killed_one() {
    in_pod(async |pod| {
        let sandbox = soon(Sandbox::start(&pod.config(""), pod.options()))
            .await
            .unwrap();
        soon(sandbox.create_container(pod.container("web", "power-off")))
            .await
            .unwrap();
        let error = soon(sandbox.start_process(&init("web"))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(error.to_string(), "the virtual machine ended with status 0");
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
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
                "is-killed",
                ErrorKind::Unavailable,
                &["was killed (signal 9)"],
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
        for key in ["kernel", "initrd", "vmm", "file_server"] {
            let mut config = pod.config("");
            *match key {
                "kernel" => &mut config.kernel,
                "initrd" => &mut config.initrd,
                "vmm" => &mut config.vmm,
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
                0 => options.vcpus = 0,
                1 => options.memory_mib = 63,
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
fn a_guest_that_floods_the_host_with_connections_changes_nothing() {
    in_pod(async |pod| {
        let sandbox = soon(Sandbox::start(&pod.config("floods"), pod.options()))
            .await
            .unwrap();
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
        assert!(open < 200, "{open} descriptors are open");
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}

#[test]
fn a_vmm_that_does_not_stop_is_killed() {
    in_pod(async |pod| {
        let sandbox = soon(Sandbox::start(&pod.config("does-not-stop"), pod.options()))
            .await
            .unwrap();
        soon(sandbox.create_container(pod.container("web", "sleep")))
            .await
            .unwrap();
        soon(sandbox.stop()).await;
        assert_eq!(soon(sandbox.ended()).await.kind, VmEndKind::Stopped);
        pod.assert_nothing_left();
    });
}

#[test]
fn a_vmm_that_reads_nothing_any_more_can_be_stopped() {
    in_pod(async |pod| {
        let sandbox = soon(Sandbox::start(&pod.config("stops-reading"), pod.options()))
            .await
            .unwrap();
        let mut request = pod.container("web", "sleep");
        (request.stdin, request.stdout) = (false, false);
        soon(sandbox.create_container(request)).await.unwrap();
        // More connections than fit in the control socket and the queue before it.
        let asking: Vec<_> = (0..150)
            .map(|n| {
                let sandbox = sandbox.clone();
                tokio::spawn(async move {
                    let process = ProcessId {
                        container: "web".into(),
                        exec: format!("exec-{n}"),
                    };
                    let spec = serde_json::from_value(json!({
                        "cwd": "/", "args": ["sleep"], "user": {"uid": 0, "gid": 0},
                    }))
                    .unwrap();
                    let (stdin, stdout, stderr) = (true, true, true);
                    let request = CreateExec {
                        process,
                        spec,
                        stdin,
                        stdout,
                        stderr,
                    };
                    sandbox.create_exec(request).await.unwrap_err().kind()
                })
            })
            .collect();
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        soon(sandbox.stop()).await;
        for task in asking {
            assert_eq!(soon(task).await.unwrap(), ErrorKind::Unavailable);
        }
        pod.assert_nothing_left();
    });
}

#[test]
fn a_sandbox_that_is_dropped_takes_its_processes_along() {
    in_pod(async |pod| {
        let sandbox = soon(Sandbox::start(&pod.config(""), pod.options()))
            .await
            .unwrap();
        soon(sandbox.create_container(pod.container("web", "sleep")))
            .await
            .unwrap();
        let vmm = pod::watch(sandbox.pid());
        drop(sandbox);
        soon(vmm).await;
        assert!(!pod.state_dir().exists());
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

#[test]
fn what_a_dead_shim_left_is_cleaned_up() {
    in_pod(async |pod| {
        let sandbox = soon(Sandbox::start(&pod.config(""), pod.options()))
            .await
            .unwrap();
        soon(sandbox.create_container(pod.container("web", "sleep")))
            .await
            .unwrap();
        let pid = sandbox.pid();
        let state_dir = pod.state_dir();
        // Somebody else cleans up, while this side knows nothing of it.
        let cleaned = tokio::task::spawn_blocking({
            let state_dir = state_dir.clone();
            move || clean_up(&state_dir)
        });
        assert_eq!(soon(cleaned).await.unwrap().unwrap(), Some(pid));
        assert!(!state_dir.exists());
        soon(sandbox.ended()).await;
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
        assert_eq!(clean_up(&state_dir).unwrap(), None);
    });
}
