//! How a sandbox ends, and what guests and VMMs that misbehave achieve.

use caisson_sandbox::{CreateExec, ErrorKind, ProcessId, Sandbox, VmEndKind, clean_up};
use serde_json::json;

use crate::pod::{self, in_pod};
use crate::{init, soon};

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
        pod::kill(pod.process("vmm"));
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
        let all = ["vmm", "fs", "pod"].map(|name| pod::watch(pod.process(name)));
        drop(sandbox);
        for process in all {
            soon(process).await;
        }
        assert!(!pod.state_dir().exists());
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
