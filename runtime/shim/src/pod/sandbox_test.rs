//! A pod of the sandbox service against a fake virtual machine: states, codes, waits.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use caisson_sandbox::{ContainerLimits, ErrorKind, PodPlace};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use tokio::time::timeout;
use ttrpc::Code;

use super::{CreateRequest, Pod, PodOptions, SandboxRequest, SandboxState};
use crate::bundle::Bundle;
use crate::error::TaskError;
use crate::fake_containerd::FakeContainerd;
use crate::fake_vm::{FakeVm, PID};
use crate::options::Options;
use crate::pod_config::PodConfig;
use crate::process::{Exit, ProcessKey};
use crate::publisher::Publisher;
use crate::stdio::StdioPaths;

const ID: &str = "pod1";

struct Bench {
    dir: tempfile::TempDir,
    vm: FakeVm,
    containerd: FakeContainerd,
    pod: Arc<Pod>,
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let vm = FakeVm::new();
        let containerd = FakeContainerd::start(dir.path()).await;
        let address = FakeContainerd::address(dir.path());
        let publisher = Publisher::start(address.to_str().unwrap(), "k8s.io");
        let options = PodOptions {
            id: ID.into(),
            namespace: "k8s.io".into(),
            state_dir: "/run/caisson/k8s.io/pod1".into(),
        };
        let pod = Pod::new(options, publisher, vm.launcher());
        std::fs::create_dir(dir.path().join(ID)).unwrap();
        Self {
            dir,
            vm,
            containerd,
            pod,
        }
    }

    fn bundle(&self) -> PathBuf {
        self.dir.path().join(ID)
    }

    fn create_as(&self, id: &str, config: Option<PodConfig>) -> Result<(), TaskError> {
        self.pod.create_sandbox(SandboxRequest {
            id: id.into(),
            bundle: self.bundle(),
            netns: "/run/netns/cni-1".into(),
            config,
        })
    }

    fn create(&self) {
        let config = PodConfig {
            hostname: "web".into(),
            ..PodConfig::default()
        };
        self.create_as(ID, Some(config)).unwrap();
    }

    async fn start(&self) -> Result<u32, TaskError> {
        let started = Arc::clone(&self.pod).start_sandbox(ID.into()).await;
        started.map(|running| running.pid)
    }

    async fn running() -> Self {
        let bench = Self::new().await;
        bench.create();
        bench.start().await.unwrap();
        bench
    }

    async fn stop(&self) -> Result<(), TaskError> {
        Arc::clone(&self.pod).stop_sandbox(ID.into()).await
    }

    async fn wait(&self) -> Exit {
        let waited = timeout(Duration::from_secs(20), self.pod.wait_sandbox(ID));
        waited.await.expect("wait returns").unwrap()
    }

    async fn container(&self, id: &str, config: &str) -> Result<u32, TaskError> {
        let bundle = self.dir.path().join(id);
        std::fs::create_dir_all(&bundle).unwrap();
        std::fs::write(bundle.join("config.json"), config).unwrap();
        let request = CreateRequest {
            id: id.into(),
            bundle,
            rootfs: Vec::new(),
            stdio: StdioPaths::default(),
            options: Options::default(),
        };
        Arc::clone(&self.pod).create(request).await
    }

    fn state(&self) -> &'static str {
        match self.pod.sandbox_state(ID) {
            Ok(SandboxState::Created(_)) => "created",
            Ok(SandboxState::Ready(_)) => "ready",
            Ok(SandboxState::Stopped(..)) => "stopped",
            Ok(_) => "other",
            Err(error) => {
                assert_eq!(error.code(), Code::NOT_FOUND);
                "unknown"
            }
        }
    }
}

const PLAIN: &str = r#"{"ociVersion":"1.0.2"}"#;

#[tokio::test]
async fn a_pod_goes_from_created_to_stopped_and_each_call_fits_its_state() {
    let bench = Bench::new().await;
    let code = |result: Result<u32, TaskError>| result.unwrap_err().code();
    assert_eq!(bench.state(), "unknown");
    assert_eq!(code(bench.start().await), Code::FAILED_PRECONDITION);
    assert_eq!(bench.stop().await.unwrap_err().code(), Code::NOT_FOUND);
    assert_eq!(
        bench.pod.wait_sandbox(ID).await.unwrap_err().code(),
        Code::NOT_FOUND
    );

    bench.create();
    assert_eq!(bench.state(), "created");
    for id in [ID, "another"] {
        let error = bench.create_as(id, None).unwrap_err();
        assert_eq!(error.code(), Code::ALREADY_EXISTS);
    }
    assert_eq!(bench.vm.calls(), [""; 0], "nothing runs yet");
    assert_eq!(
        bench.pod.ping_sandbox(ID).unwrap_err().code(),
        Code::FAILED_PRECONDITION
    );
    assert_eq!(
        code(bench.container("c1", PLAIN).await),
        Code::FAILED_PRECONDITION
    );

    assert_eq!(bench.start().await, Ok(PID));
    assert_eq!(bench.state(), "ready");
    bench.pod.ping_sandbox(ID).unwrap();
    bench.pod.sandbox_stats(ID).await.unwrap();
    assert_eq!(code(bench.start().await), Code::FAILED_PRECONDITION);
    assert_eq!(
        bench.pod.ping_sandbox("another").unwrap_err().code(),
        Code::NOT_FOUND
    );
    assert_eq!(Bundle::new(bench.bundle()).init_pid(), Some(PID));

    for _ in 0..2 {
        bench.stop().await.unwrap();
        assert_eq!(bench.state(), "stopped");
        assert_eq!(bench.wait().await.status, 0);
    }
    assert_eq!(
        bench.pod.ping_sandbox(ID).unwrap_err().code(),
        Code::FAILED_PRECONDITION
    );
    assert_eq!(code(bench.start().await), Code::FAILED_PRECONDITION);
    assert_eq!(
        code(bench.container("c1", PLAIN).await),
        Code::FAILED_PRECONDITION
    );
    let error = bench.create_as(ID, None).unwrap_err();
    assert_eq!(error.code(), Code::ALREADY_EXISTS);
}

#[tokio::test]
async fn a_pod_that_was_never_started_can_be_stopped() {
    let bench = Bench::new().await;
    bench.create();
    bench.stop().await.unwrap();
    assert_eq!(bench.wait().await.status, 0);
    assert_eq!(bench.vm.launched().map(|options| options.id), None);
}

#[tokio::test]
async fn the_machine_is_as_large_as_the_pod_and_set_up_before_its_containers() {
    let bench = Bench::new().await;
    let config = PodConfig {
        hostname: "web".into(),
        sysctls: [("net.ipv4.ip_unprivileged_port_start", "80"), ("a", "b")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        limits: ContainerLimits::of_pod(250_000, 100_000, 1 << 30),
        ..PodConfig::default()
    };
    bench.create_as(ID, Some(config)).unwrap();
    bench.start().await.unwrap();
    let launched = bench.vm.launched().unwrap();
    assert_eq!((launched.size.vcpus, launched.size.memory_mib), (3, 1136));
    assert_eq!(
        launched.netns.as_deref(),
        Some(Path::new("/run/netns/cni-1"))
    );
    let set_up = bench.vm.set_up().unwrap();
    assert_eq!(set_up.hostname, "web");
    let mut sysctls: Vec<_> = set_up.sysctls.into_iter().collect();
    sysctls.sort();
    let expected = [
        ("a", "b"),
        ("net.ipv4.ip_unprivileged_port_start", "80"),
        ("net.ipv4.ping_group_range", "0 2147483647"),
    ];
    assert_eq!(
        sysctls,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    assert_eq!(bench.vm.calls(), ["set-up web/"]);
}

#[tokio::test]
async fn every_container_is_a_member_with_the_files_of_the_pod() {
    let bench = Bench::running().await;
    assert_eq!(bench.container("c1", PLAIN).await, Ok(PID));
    let created = bench.vm.created();
    assert_eq!(created.place, PodPlace::Member { pod: ID.into() });
    let mounts = created.spec.mounts().clone().unwrap();
    let destinations: Vec<_> = mounts
        .iter()
        .map(|mount| mount.destination().clone())
        .collect();
    let all = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];
    assert_eq!(destinations, all.map(PathBuf::from));
    let source = mounts[0].source().clone().unwrap();
    assert_eq!(std::fs::read_to_string(source).unwrap(), "web\n");

    // Nothing of a container's end is one of the pod.
    bench.vm.exit("c1", "", 0, false);
    let key = ProcessKey::new("c1", "");
    bench.pod.wait(&key).await.unwrap();
    Arc::clone(&bench.pod).delete(key).await.unwrap();
    assert!(!Arc::clone(&bench.pod).shutdown(false).await);
    bench
        .vm
        .refuse_create(ErrorKind::InvalidArgument, "no such program");
    bench.container("c2", PLAIN).await.unwrap_err();
    assert_eq!(bench.state(), "ready");
    bench.container("c2", PLAIN).await.unwrap();
}

#[tokio::test]
async fn the_end_of_the_machine_is_that_of_the_pod_and_of_its_containers() {
    let mut bench = Bench::running().await;
    bench.container("c1", PLAIN).await.unwrap();
    let waiting = {
        let pod = Arc::clone(&bench.pod);
        tokio::spawn(async move { pod.wait_sandbox(ID).await })
    };
    bench.vm.die("the guest's kernel panicked");
    assert_eq!(waiting.await.unwrap().unwrap().status, 137);
    assert_eq!(bench.state(), "stopped");
    assert_eq!(bench.containerd.topics(2).await, ["create", "exit"]);
    let error = bench.container("c2", PLAIN).await.unwrap_err();
    assert_eq!(error.code(), Code::FAILED_PRECONDITION);
    assert!(error.to_string().contains("panicked"), "{error}");
    // Idempotent, and the end stays what it was.
    bench.stop().await.unwrap();
    assert_eq!(bench.wait().await.status, 137);
}

#[tokio::test]
async fn a_stop_ends_containers_first_and_a_shutdown_the_shim() {
    let mut bench = Bench::running().await;
    bench.container("c1", PLAIN).await.unwrap();
    bench.stop().await.unwrap();
    assert_eq!(bench.containerd.topics(2).await, ["create", "exit"]);
    let key = ProcessKey::new("c1", "");
    Arc::clone(&bench.pod).delete(key).await.unwrap();
    assert!(Arc::clone(&bench.pod).shutdown_sandbox(ID.into()).await);
    timeout(Duration::from_secs(10), bench.pod.over())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_shutdown_ends_whatever_there_is() {
    let bench = Bench::new().await;
    assert!(Arc::clone(&bench.pod).shutdown_sandbox(ID.into()).await);
    timeout(Duration::from_secs(10), bench.pod.over())
        .await
        .unwrap();

    let bench = Bench::running().await;
    bench.container("c1", PLAIN).await.unwrap();
    assert!(Arc::clone(&bench.pod).shutdown_sandbox(ID.into()).await);
    assert_eq!(bench.wait().await.status, 0);
    assert_eq!(bench.vm.calls().last().unwrap(), "stop /");
}

#[tokio::test]
async fn a_pod_that_cannot_be_set_up_is_stopped_and_says_why() {
    let bench = Bench::new().await;
    bench.create();
    bench
        .vm
        .refuse_set_up(ErrorKind::InvalidArgument, "cannot set sysctl x");
    let error = bench.start().await.unwrap_err();
    assert_eq!(error.code(), Code::INVALID_ARGUMENT);
    assert!(error.to_string().contains("sysctl x"), "{error}");
    assert_eq!(bench.vm.calls().last().unwrap(), "stop /");
    assert_eq!(bench.state(), "stopped");
}

#[tokio::test]
async fn what_a_machine_cannot_do_is_refused_before_there_is_one() {
    let bench = Bench::new().await;
    let mut config = PodConfig::default();
    config.host.network = true;
    let error = bench.create_as(ID, Some(config)).unwrap_err();
    assert_eq!(error.code(), Code::INVALID_ARGUMENT);
    assert!(error.to_string().contains("hostNetwork"), "{error}");
    let mut config = PodConfig::default();
    config.host.other_users = true;
    let error = bench.create_as(ID, Some(config)).unwrap_err();
    assert!(error.to_string().contains("hostUsers: true"), "{error}");
    let config = PodConfig {
        cgroup_parent: "/kubepods/../..".into(),
        ..PodConfig::default()
    };
    let error = bench.create_as(ID, Some(config)).unwrap_err();
    assert!(error.to_string().contains("/kubepods/../.."), "{error}");
    let error = bench.create_as("another", None).unwrap_err();
    assert_eq!(error.code(), Code::INVALID_ARGUMENT);
    assert_eq!(bench.state(), "unknown");

    // A pod of tasks does not become one either.
    bench.container(ID, PLAIN).await.unwrap();
    let error = bench.create_as(ID, None).unwrap_err();
    assert_eq!(error.code(), Code::FAILED_PRECONDITION);
}

#[tokio::test]
async fn runtime_options_are_those_that_start_was_given() {
    let bench = Bench::new().await;
    let file = bench.dir.path().join("caisson.toml");
    std::fs::write(&file, "[vm]\nvcpus = 7\n").unwrap();
    let mut any = Any::new();
    any.type_url = "runtimeoptions.v1.Options".into();
    let path = file.as_os_str().as_bytes();
    let length = u8::try_from(path.len()).unwrap();
    any.value = [&[0x12, length], path].concat();
    let bundle = Bundle::new(bench.bundle());
    bundle
        .write_runtime_options(&any.write_to_bytes().unwrap())
        .unwrap();
    bench.create();
    bench.start().await.unwrap();
    assert_eq!(bench.vm.launched().unwrap().size.vcpus, 7);
}
