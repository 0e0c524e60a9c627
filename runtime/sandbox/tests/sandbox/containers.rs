//! Containers and execs in a sandbox.

use std::time::SystemTime;

use caisson_sandbox::{CreateExec, ErrorKind, ProcessId, Sandbox, VmEndKind};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::pod::in_pod;
use crate::{SOON, init, soon};

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
