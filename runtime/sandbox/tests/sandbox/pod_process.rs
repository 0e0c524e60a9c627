//! The process that stands for the pod on the host.

use std::fs;
use std::path::PathBuf;

use caisson_sandbox::{ErrorKind, Sandbox, VmEndKind};
use rustix::process::{Pid, Signal};

use crate::pod::{self, in_pod};
use crate::{init, soon};

fn network_of(pid: u32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/net")).unwrap()
}

#[test]
fn without_a_network_namespace_it_lies_in_one_of_its_own() {
    in_pod(async |pod| {
        let sandbox = soon(Sandbox::start(&pod.config(""), pod.options()))
            .await
            .unwrap();
        let host = network_of(std::process::id());
        assert_eq!(sandbox.pid(), pod.process("pod"));
        assert_ne!(network_of(sandbox.pid()), host);
        // The VMM has no business there.
        assert_eq!(network_of(pod.process("vmm")), host);
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}

#[test]
fn it_lies_in_the_network_namespace_of_the_configuration() {
    in_pod(async |pod| {
        let first = soon(Sandbox::start(&pod.config(""), pod.options()))
            .await
            .unwrap();
        let made = PathBuf::from(format!("/proc/{}/ns/net", first.pid()));
        let mut options = pod.options();
        options.state_dir = pod.state_dir().with_file_name("second");
        options.netns = Some(made.clone());
        let second = soon(Sandbox::start(&pod.config(""), options))
            .await
            .unwrap();
        assert_eq!(network_of(second.pid()), fs::read_link(made).unwrap());
        soon(second.stop()).await;
        soon(first.stop()).await;
        pod.assert_nothing_left();
    });
}

#[test]
fn a_network_namespace_that_is_not_there_is_named() {
    in_pod(async |pod| {
        for path in ["/no/such/netns", "/proc/self/ns/uts"] {
            let mut options = pod.options();
            options.netns = Some(path.into());
            let error = soon(Sandbox::start(&pod.config(""), options))
                .await
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
            assert!(error.to_string().contains(path), "{error}");
            pod.assert_nothing_left();
        }
    });
}

#[test]
fn killed_from_outside_it_takes_the_machine_along() {
    in_pod(async |pod| {
        let sandbox = soon(Sandbox::start(&pod.config(""), pod.options()))
            .await
            .unwrap();
        soon(sandbox.create_container(pod.container("web", "sleep")))
            .await
            .unwrap();
        // A service manager that stops everything does not stop pods.
        for name in ["pod", "vmm", "fs"] {
            let pid = Pid::from_raw(pod.process(name).cast_signed()).unwrap();
            for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
                rustix::process::kill_process(pid, signal).unwrap();
            }
        }
        soon(sandbox.start_process(&init("web"))).await.unwrap();

        pod::kill(sandbox.pid());
        let end = soon(sandbox.ended()).await;
        assert_eq!(end.kind, VmEndKind::Failed);
        assert!(end.description.contains("ended from outside"), "{end:?}");
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}

#[test]
fn the_oom_score_of_a_container_becomes_that_of_the_machine() {
    in_pod(async |pod| {
        let sandbox = soon(Sandbox::start(&pod.config(""), pod.options()))
            .await
            .unwrap();
        sandbox.set_oom_score(777).unwrap();
        for name in ["vmm", "fs"] {
            let file = format!("/proc/{}/oom_score_adj", pod.process(name));
            assert_eq!(fs::read_to_string(file).unwrap().trim(), "777");
        }
        let error = sandbox.set_oom_score(1001).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("1001"), "{error}");
        soon(sandbox.stop()).await;
        sandbox.set_oom_score(777).unwrap();
        pod.assert_nothing_left();
    });
}
