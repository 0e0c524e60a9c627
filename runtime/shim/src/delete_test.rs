//! Each kind of half bundle that `delete` may meet.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{HOOKS_END, clean_up};
use crate::args::{Action, Args};
use crate::bundle::Bundle;
use crate::fake_vm::FakeVm;
use crate::options::Options;
use crate::pod::{CreateRequest, Pod, PodOptions, SandboxRequest};
use crate::process::ProcessKey;
use crate::publisher::Publisher;
use crate::server::TaskServer;
use crate::service::services;
use crate::socket::{self, Claim};
use crate::stdio::StdioPaths;

const MEMBER: &str = r#"{"ociVersion":"1.0.2","annotations":{
    "io.kubernetes.cri.sandbox-id":"pod","io.kubernetes.cri.container-type":"container"}}"#;

struct Bench {
    dir: tempfile::TempDir,
    bundle: Bundle,
    args: Args,
}

fn bench(id: &str) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bundle");
    std::fs::create_dir(&path).unwrap();
    let bundle = Bundle::new(&path);
    let args = Args {
        action: Action::Delete,
        namespace: "test-delete".into(),
        id: id.into(),
        // No containerd has this address, so nothing outside is touched.
        address: dir.path().join("containerd.sock").display().to_string(),
        bundle: path,
        debug: false,
    };
    Bench { dir, bundle, args }
}

impl Bench {
    fn delete(&self) -> u32 {
        let state = self
            .dir
            .path()
            .join("state/test-delete")
            .join(&self.args.id);
        let began = std::time::Instant::now();
        let (pid, exit) = clean_up(&self.args, &self.bundle, &state, began + HOOKS_END);
        assert!(began.elapsed() < Duration::from_secs(5));
        assert_eq!(exit.status, 137);
        pid
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.bundle.path().join(name), content).unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s/socket")
    }
}

fn claim(path: &Path) -> std::os::unix::net::UnixListener {
    match socket::claim(path).unwrap() {
        Claim::Bound(listener) => listener,
        Claim::Taken => panic!("{path:?} is taken"),
    }
}

#[test]
fn an_empty_bundle() {
    assert_eq!(bench("c1").delete(), 0);
}

#[test]
fn a_bundle_that_is_gone() {
    let bench = bench("c1");
    std::fs::remove_dir(bench.bundle.path()).unwrap();
    assert_eq!(bench.delete(), 0);
}

#[test]
fn a_damaged_configuration() {
    let bench = bench("c1");
    bench.write("config.json", "{");
    bench.write("init.pid", "77");
    assert_eq!(bench.delete(), 77);
}

#[test]
fn a_dead_shim_leaves_no_socket() {
    let bench = bench("c1");
    bench.write("config.json", r#"{"ociVersion":"1.0.2"}"#);
    bench.write("init.pid", "77");
    drop(claim(&bench.socket()));
    bench
        .bundle
        .write_address(&socket::address(&bench.socket()))
        .unwrap();
    bench.write("shim.pid", "1");
    assert_eq!(bench.delete(), 77);
    assert!(!bench.socket().exists());
    assert_eq!(bench.delete(), 77, "a second time");
}

#[test]
fn a_living_shim_is_killed_and_its_socket_removed() {
    let bench = bench("c1");
    drop(claim(&bench.socket()));
    bench
        .bundle
        .write_address(&socket::address(&bench.socket()))
        .unwrap();
    let mut shim = hold_as_a_shim(&bench);
    bench.delete();
    assert_was_killed(&mut shim);
    assert!(!bench.socket().exists());
}

/// A process that holds the lock as a shim does.
fn hold_as_a_shim(bench: &Bench) -> std::process::Child {
    let lock = bench.bundle.path().join("shim.pid");
    let mut shim = std::process::Command::new("flock")
        .arg("--no-fork")
        .arg(&lock)
        .args(["sh", "-c", "echo $$ >\"$0\"; echo held; exec sleep 60"])
        .arg(&lock)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = std::io::BufReader::new(shim.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    shim
}

fn assert_was_killed(shim: &mut std::process::Child) {
    let status = shim.wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9)
    );
}

#[test]
fn a_container_whose_pod_is_gone() {
    let bench = bench("c2");
    bench.write("config.json", MEMBER);
    bench.write("init.pid", "77");
    bench
        .bundle
        .write_address(&socket::address(&bench.socket()))
        .unwrap();
    assert_eq!(bench.delete(), 77);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_of_the_sandbox_service_that_containerd_gives_up_does_not_live_on() {
    let bench = bench("pod1");
    // Its shim answers, and would say of a pod of tasks that it has no such container.
    let pod = LivePod::new(&bench, "pod1", &[]).await;
    let request = SandboxRequest {
        id: "pod1".into(),
        bundle: bench.bundle.path().into(),
        netns: PathBuf::new(),
        config: None,
    };
    pod.pod.create_sandbox(request).unwrap();
    bench.bundle.write_init_pid(77).unwrap();
    let mut shim = hold_as_a_shim(&bench);
    let (pid, bench) = delete(bench).await;
    assert_eq!(pid, 77);
    assert_was_killed(&mut shim);
    drop((bench, pod.server));
}

/// A pod that lives, with a shim that serves it, and its containers.
struct LivePod {
    pod: Arc<Pod>,
    vm: FakeVm,
    server: TaskServer,
}

impl LivePod {
    /// Started for `owner`, with running containers, each with its bundle.
    async fn new(bench: &Bench, owner: &str, containers: &[(&str, &Path)]) -> Self {
        let vm = FakeVm::new();
        let options = PodOptions {
            id: owner.into(),
            namespace: "test-delete".into(),
            state_dir: bench.dir.path().join("unused"),
        };
        let pod = Pod::new(options, Publisher::start("", ""), vm.launcher());
        let listener = claim(&bench.socket());
        let server = TaskServer::start(listener, services(&pod, bench.socket()))
            .await
            .unwrap();
        for (id, bundle) in containers {
            let request = CreateRequest {
                id: (*id).into(),
                bundle: bundle.to_path_buf(),
                rootfs: Vec::new(),
                stdio: StdioPaths::default(),
                options: Options::default(),
            };
            Arc::clone(&pod).create(request).await.unwrap();
            Arc::clone(&pod)
                .start(ProcessKey::new(id, ""))
                .await
                .unwrap();
        }
        bench
            .bundle
            .write_address(&socket::address(&bench.socket()))
            .unwrap();
        Self { pod, vm, server }
    }
}

/// `delete`, which has an event loop of its own.
async fn delete(bench: Bench) -> (u32, Bench) {
    tokio::task::spawn_blocking(move || (bench.delete(), bench))
        .await
        .unwrap()
}

fn neighbour(bench: &Bench, name: &str, config: &str) -> PathBuf {
    let bundle = bench.dir.path().join(name);
    std::fs::create_dir(&bundle).unwrap();
    std::fs::write(bundle.join("config.json"), config).unwrap();
    bundle
}

/// A container of a pod that lives: it is killed and deleted there, the pod stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_leaves_a_living_pod() {
    let bench = bench("c2");
    bench.write("config.json", MEMBER);
    let sandbox = neighbour(&bench, "pod", r#"{"ociVersion":"1.0.2"}"#);
    let own = bench.bundle.path().to_owned();
    let containers = [("pod", sandbox.as_path()), ("c2", own.as_path())];
    let live = LivePod::new(&bench, "pod", &containers).await;

    let (pid, bench) = delete(bench).await;
    assert_eq!(pid, crate::fake_vm::PID);

    live.pod.state(&ProcessKey::new("c2", "")).unwrap_err();
    live.pod.state(&ProcessKey::new("pod", "")).unwrap();
    assert!(socket::is_live(&bench.socket()));
    assert!(!live.vm.calls().contains(&"stop /".to_owned()));
    live.server.stop().await;
}

/// containerd closes its connection after the Delete of the pod's own container and then cleans up
/// after it, while others of the pod run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_lives_on_when_the_container_that_it_was_started_for_was_deleted() {
    let bench = bench("pod");
    bench.write("config.json", r#"{"ociVersion":"1.0.2"}"#);
    let member = neighbour(&bench, "c2", MEMBER);
    let own = bench.bundle.path().to_owned();
    let containers = [("pod", own.as_path()), ("c2", member.as_path())];
    let live = LivePod::new(&bench, "pod", &containers).await;
    let owner = ProcessKey::new("pod", "");
    live.pod.kill(&owner, 9, true).await.unwrap();
    live.pod.wait(&owner).await.unwrap();
    Arc::clone(&live.pod).delete(owner).await.unwrap();

    let (_, bench) = delete(bench).await;
    live.pod.state(&ProcessKey::new("c2", "")).unwrap();
    assert!(socket::is_live(&bench.socket()));
    assert!(!live.vm.calls().contains(&"stop /".to_owned()));
    live.server.stop().await;
}

/// Where many pods end at once, a machine takes longer to end than containerd waits for Shutdown; it
/// closes its connection then and cleans up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_that_is_just_ending_is_left_to_end() {
    let bench = bench("pod");
    bench.write("config.json", r#"{"ociVersion":"1.0.2"}"#);
    let own = bench.bundle.path().to_owned();
    let live = LivePod::new(&bench, "pod", &[("pod", own.as_path())]).await;
    let mut shim = hold_as_a_shim(&bench);
    let owner = ProcessKey::new("pod", "");
    live.pod.kill(&owner, 9, true).await.unwrap();
    live.pod.wait(&owner).await.unwrap();
    Arc::clone(&live.pod).delete(owner).await.unwrap();

    let held = live.vm.hold_stops();
    let (_, bench) = delete(bench).await;
    assert!(live.vm.calls().contains(&"stop /".to_owned()));
    assert_eq!(shim.try_wait().unwrap(), None, "it was killed");
    assert!(socket::is_live(&bench.socket()));
    drop(held);
    live.pod.over().await;
    shim.kill().unwrap();
    shim.wait().unwrap();
    live.server.stop().await;
}

#[test]
fn a_pod_that_does_not_answer_delays_two_seconds_only() {
    let bench = bench("c2");
    bench.write("config.json", MEMBER);
    let _silent = claim(&bench.socket());
    bench
        .bundle
        .write_address(&socket::address(&bench.socket()))
        .unwrap();
    let began = std::time::Instant::now();
    bench.delete();
    assert!(began.elapsed() >= Duration::from_secs(2));
    assert!(bench.socket().exists(), "it is the pod's");
}

/// Leaves a poststop hook that writes into the bundle, as a shim does that dies after Create.
fn leave_hook(bundle: &Bundle) {
    let due = serde_json::json!({
        "state": {"ociVersion": "1.1.0", "id": "c", "status": "stopped", "bundle": bundle.path()},
        "hooks": [{"path": "/bin/sh", "args": ["sh", "-c", "echo run >>hook"]}],
    });
    std::fs::write(bundle.path().join("poststop.json"), due.to_string()).unwrap();
}

#[test]
fn hooks_that_a_dead_shim_did_not_run_are_run_once() {
    for (id, config) in [("c1", r#"{"ociVersion":"1.0.2"}"#), ("c2", MEMBER)] {
        let bench = bench(id);
        bench.write("config.json", config);
        leave_hook(&bench.bundle);
        bench.delete();
        bench.delete();
        let written = std::fs::read_to_string(bench.bundle.path().join("hook")).unwrap();
        assert_eq!(written, "run\n", "{id}");
    }
}

#[test]
fn hooks_of_a_container_are_left_to_a_pod_that_lives() {
    let bench = bench("c2");
    bench.write("config.json", MEMBER);
    leave_hook(&bench.bundle);
    let _silent = claim(&bench.socket());
    bench
        .bundle
        .write_address(&socket::address(&bench.socket()))
        .unwrap();
    bench.delete();
    assert!(!bench.bundle.path().join("hook").exists());
}

#[test]
fn a_hook_that_hangs_is_killed_in_time() {
    let bench = bench("c1");
    let due = serde_json::json!({
        "state": {"ociVersion": "1.1.0", "id": "c", "status": "stopped", "bundle": "/"},
        "hooks": [{"path": "/bin/sh", "args": ["sh", "-c", "exec sleep 1000"]}],
    });
    bench.write("poststop.json", &due.to_string());
    bench.delete();
    assert!(!bench.bundle.path().join("poststop.json").exists());
}
