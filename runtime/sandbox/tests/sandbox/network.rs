//! The pod's network, from its namespace to what the agent is told.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use caisson_sandbox::{Config, ErrorKind, Sandbox, SandboxOptions, clean_up};

use crate::pod::{self, Pod, in_pod};
use crate::{init, soon};

/// A namespace that others made, as that of a process.
struct Namespace(std::process::Child);

impl Namespace {
    fn new() -> Self {
        let mut sleeper = Command::new("unshare");
        let mut child = sleeper.args(["--net", "sleep", "1000"]).spawn().unwrap();
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        // unshare has done its part when it has become what it runs.
        let comm = format!("/proc/{}/comm", child.id());
        while fs::read_to_string(&comm).unwrap().trim() != "sleep" {
            assert_eq!(child.try_wait().unwrap(), None);
        }
        let namespace = Self(child);
        assert_ne!(fs::read_link(namespace.path()).unwrap(), own);
        namespace
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }

    fn add(&self, name: &str) {
        add(&self.path(), name);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn run(netns: &Path, line: &str) -> String {
    let output = Command::new("nsenter")
        .arg(format!("--net={}", netns.display()))
        .args(line.split(' '))
        .output()
        .unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// An interface that is up and has one address.
#[track_caller]
fn add(netns: &Path, name: &str) {
    run(
        netns,
        &format!("ip link add {name} type veth peer name p-{name}"),
    );
    run(netns, &format!("ip addr add 10.0.0.1/24 dev {name}"));
    run(netns, &format!("ip link set {name} addrgenmode none up"));
}

/// Taps and rules.
fn traces(netns: &Path) -> (usize, usize) {
    let count = |line, word: &str| {
        run(netns, line)
            .lines()
            .filter(|l| l.contains(word))
            .count()
    };
    (
        count("ip -o link", "caisson"),
        count("tc qdisc show", "ingress"),
    )
}

fn notes(pod: &Pod) -> String {
    fs::read_to_string(pod.program("notes")).unwrap_or_default()
}

fn config(pod: &Pod, fault: &str) -> Config {
    let mut config = pod.config(fault);
    let notes = pod.program("notes");
    config.kernel_parameters += &format!(" notes={}", notes.display());
    config
}

fn options(pod: &Pod, namespace: &Namespace) -> SandboxOptions {
    SandboxOptions {
        netns: Some(namespace.path()),
        ..pod.options()
    }
}

/// A sandbox in the namespace, without a fault.
async fn started(pod: &Pod, namespace: &Namespace) -> Arc<Sandbox> {
    let config = config(pod, "");
    let starting = Sandbox::start(&config, options(pod, namespace));
    soon(starting).await.unwrap()
}

/// Creates the container that the tests start.
async fn create(sandbox: &Sandbox, pod: &Pod) {
    let creating = sandbox.create_container(pod.container("web", "sleep"));
    soon(creating).await.unwrap();
}

#[test]
fn what_is_in_the_namespace_is_in_the_machine_from_the_start() {
    in_pod(async |pod| {
        let namespace = Namespace::new();
        namespace.add("eth0");
        namespace.add("net1");
        let sandbox = started(pod, &namespace).await;
        let told = "slot 5: eth0, 1 addresses\nslot 6: net1, 1 addresses\n";
        assert_eq!(notes(pod), told);
        assert_eq!(traces(&namespace.path()).1, 4);
        // At the start there is nothing new.
        create(&sandbox, pod).await;
        soon(sandbox.start_process(&init("web"))).await.unwrap();
        assert_eq!(notes(pod), told);
        soon(sandbox.stop()).await;
        assert_eq!(traces(&namespace.path()), (0, 0));
        pod.assert_nothing_left();
    });
}

#[test]
fn what_comes_later_is_plugged_when_the_first_container_starts() {
    in_pod(async |pod| {
        let namespace = Namespace::new();
        namespace.add("eth0");
        let sandbox = started(pod, &namespace).await;
        create(&sandbox, pod).await;
        namespace.add("net1");
        run(&namespace.path(), "ip addr add 10.0.0.2/24 dev eth0");
        soon(sandbox.start_process(&init("web"))).await.unwrap();
        assert_eq!(
            notes(pod),
            "slot 5: eth0, 1 addresses\nslot 5: eth0, 2 addresses\nslot 16: net1, 1 addresses\n"
        );
        soon(sandbox.stop()).await;
        assert_eq!(traces(&namespace.path()), (0, 0));
        pod.assert_nothing_left();
    });
}

#[test]
fn docker_fills_a_namespace_that_was_made_for_it() {
    in_pod(async |pod| {
        let sandbox = soon(Sandbox::start(&config(pod, ""), pod.options()))
            .await
            .unwrap();
        create(&sandbox, pod).await;
        add(
            Path::new(&format!("/proc/{}/ns/net", sandbox.pid())),
            "eth0",
        );
        soon(sandbox.start_process(&init("web"))).await.unwrap();
        assert_eq!(notes(pod), "slot 16: eth0, 1 addresses\n");
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}

#[test]
fn a_network_that_the_guest_refuses_fails_the_start_and_is_undone() {
    in_pod(async |pod| {
        let namespace = Namespace::new();
        namespace.add("bad0");
        let error = soon(Sandbox::start(&config(pod, ""), options(pod, &namespace)))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("bad0 is not liked"), "{error}");
        assert_eq!(traces(&namespace.path()), (0, 0));
        pod.assert_nothing_left();
    });
}

#[test]
fn an_interface_that_cannot_be_plugged_fails_the_start_and_can_be_tried_again() {
    for (fault, name, reason) in [
        ("has-no-slot", "eth1", "no slot left"),
        ("", "bad0", "bad0 is not liked"),
    ] {
        in_pod(async move |pod| {
            let namespace = Namespace::new();
            namespace.add("eth0");
            let sandbox = soon(Sandbox::start(
                &config(pod, fault),
                options(pod, &namespace),
            ))
            .await
            .unwrap();
            create(&sandbox, pod).await;
            let before = traces(&namespace.path());
            namespace.add(name);
            let error = soon(sandbox.start_process(&init("web"))).await.unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
            // The fake VMM keeps no files of what is plugged.
            assert_eq!(traces(&namespace.path()), before);
            run(&namespace.path(), &format!("ip link delete {name}"));
            soon(sandbox.start_process(&init("web"))).await.unwrap();
            soon(sandbox.stop()).await;
            assert_eq!(traces(&namespace.path()), (0, 0));
            pod.assert_nothing_left();
        });
    }
}

#[test]
fn a_namespace_with_another_machine_in_it_is_refused() {
    in_pod(async |pod| {
        let namespace = Namespace::new();
        namespace.add("eth0");
        let first = started(pod, &namespace).await;
        let before = traces(&namespace.path());
        let mut second = options(pod, &namespace);
        second.state_dir = pod.state_dir().with_file_name("second");
        let error = soon(Sandbox::start(&config(pod, ""), second))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.to_string().contains("eth0"), "{error}");
        assert_eq!(traces(&namespace.path()), before);
        soon(first.stop()).await;
        pod.assert_nothing_left();
    });
}

#[test]
fn clean_up_undoes_what_a_dead_shim_left_in_the_namespace() {
    in_pod(async |pod| {
        let namespace = Namespace::new();
        namespace.add("eth0");
        let sandbox = started(pod, &namespace).await;
        // As if its process had been killed: nothing of it does anything any more.
        std::mem::forget(sandbox);
        pod::kill(pod.process("vmm"));
        clean_up(&pod.state_dir()).unwrap();
        assert_eq!(traces(&namespace.path()), (0, 0));
    });
}

#[test]
fn what_is_dialled_on_localhost_in_the_namespace_is_dialled_in_the_guest() {
    in_pod(async |pod| {
        let namespace = Namespace::new();
        run(&namespace.path(), "ip link set lo up");
        let sandbox = started(pod, &namespace).await;
        let netns = namespace.path();
        let dial = move |address: &str| {
            let script = format!("echo question | busybox nc {address} 2>&1; true");
            let output = Command::new("nsenter")
                .arg(format!("--net={}", netns.display()))
                .args(["sh", "-c", &script])
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let dialled = tokio::task::spawn_blocking(move || {
            ["127.0.0.1 80", "::1 80", "127.0.0.1 81"].map(dial)
        });
        let [v4, v6, nobody] = soon(dialled).await.unwrap();
        assert_eq!(v4, "IPv6: false\nquestion\n");
        assert_eq!(v6, "IPv6: true\nquestion\n");
        // Whether it is closed before or after the question is a matter of time.
        assert!(
            nobody.is_empty() || nobody.contains("reset by peer"),
            "{nobody}"
        );
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}
