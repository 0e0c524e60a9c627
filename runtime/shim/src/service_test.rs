//! The task service over its socket, as containerd's client uses it.

#[path = "service_test/abandoned.rs"]
mod abandoned;
#[path = "service_test/states.rs"]
mod states;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::shim_async::TaskClient;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use tokio::net::UnixStream;
use ttrpc::Code;
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;
use ttrpc::context::{Context, with_duration};

use super::services;
use crate::fake_vm::{FakeVm, PID};
use crate::pod::{Pod, PodOptions};
use crate::publisher::Publisher;
use crate::server::TaskServer;
use crate::socket::{self, Claim};

struct Bench {
    dir: tempfile::TempDir,
    vm: FakeVm,
    pod: Arc<Pod>,
    server: TaskServer,
    tasks: TaskClient,
}

fn context() -> Context {
    with_duration(Duration::from_secs(10))
}

fn code(error: &ttrpc::Error) -> Code {
    match error {
        ttrpc::Error::RpcStatus(status) => status.code.enum_value().unwrap(),
        other => panic!("{other}"),
    }
}

fn state(exec: &str) -> api::StateRequest {
    let mut request = api::StateRequest::new();
    request.id = "c1".into();
    request.exec_id = exec.into();
    request
}

fn start(exec: &str) -> api::StartRequest {
    let mut request = api::StartRequest::new();
    request.id = "c1".into();
    request.exec_id = exec.into();
    request
}

fn delete() -> api::DeleteRequest {
    let mut request = api::DeleteRequest::new();
    request.id = "c1".into();
    request
}

fn exec(id: &str, spec: &str) -> api::ExecProcessRequest {
    let mut request = api::ExecProcessRequest::new();
    request.id = "c1".into();
    request.exec_id = id.into();
    let mut any = Any::new();
    any.type_url = "types.containerd.io/opencontainers/runtime-spec/1/Process".into();
    any.value = spec.as_bytes().to_vec();
    request.spec = MessageField::some(any);
    request
}

fn update(resources: &str) -> api::UpdateTaskRequest {
    let mut request = api::UpdateTaskRequest::new();
    request.id = "c1".into();
    let mut any = Any::new();
    any.type_url = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into();
    any.value = resources.as_bytes().to_vec();
    request.resources = MessageField::some(any);
    request
}

const SPEC: &str = r#"{"user":{"uid":0,"gid":0},"cwd":"/","args":["true"]}"#;

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let vm = FakeVm::new();
        let options = PodOptions {
            id: "c1".into(),
            namespace: "default".into(),
            state_dir: dir.path().join("state"),
        };
        let pod = Pod::new(options, Publisher::start("", ""), vm.launcher());
        let path = dir.path().join("socket");
        let Claim::Bound(listener) = socket::claim(&path).unwrap() else {
            panic!("nobody else is there");
        };
        let server = TaskServer::start(listener, services(&pod, path.clone()))
            .await
            .unwrap();
        let tasks = connect(path).await;
        Self {
            dir,
            vm,
            pod,
            server,
            tasks,
        }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    async fn create(&self) -> ttrpc::Result<api::CreateTaskResponse> {
        self.tasks.create(context(), &self.create_request()).await
    }

    fn create_request(&self) -> api::CreateTaskRequest {
        let bundle = self.dir.path().join("bundle");
        std::fs::create_dir_all(&bundle).unwrap();
        std::fs::write(bundle.join("config.json"), r#"{"ociVersion":"1.0.2"}"#).unwrap();
        let mut request = api::CreateTaskRequest::new();
        request.id = "c1".into();
        request.bundle = bundle.display().to_string();
        request
    }

    async fn pause(&self) -> ttrpc::Result<api::Empty> {
        let mut request = api::PauseRequest::new();
        request.id = "c1".into();
        self.tasks.pause(context(), &request).await
    }

    async fn wait(&self, exec: &str) {
        let mut request = api::WaitRequest::new();
        request.id = "c1".into();
        request.exec_id = exec.into();
        self.tasks.wait(context(), &request).await.unwrap();
    }

    async fn running() -> Self {
        let bench = Self::new().await;
        assert_eq!(bench.create().await.unwrap().pid, PID);
        bench.tasks.start(context(), &start("")).await.unwrap();
        bench
    }
}

async fn connect(path: PathBuf) -> TaskClient {
    let stream = UnixStream::connect(path).await.unwrap();
    TaskClient::new(Client::new(Socket::from(stream)))
}

#[tokio::test]
async fn the_state_says_what_clients_read_from_it() {
    let bench = Bench::new().await;
    bench.create().await.unwrap();
    let created = bench.tasks.state(context(), &state("")).await.unwrap();
    assert_eq!(created.status.enum_value(), Ok(api::Status::CREATED));
    assert_eq!(created.pid, PID);
    assert!(created.bundle.ends_with("/bundle"));
    assert!(created.exited_at.is_none(), "not before its end");

    bench.tasks.start(context(), &start("")).await.unwrap();
    bench
        .tasks
        .exec(context(), &exec("e1", SPEC))
        .await
        .unwrap();
    let added = bench.tasks.state(context(), &state("e1")).await.unwrap();
    assert_eq!(added.status.enum_value(), Ok(api::Status::CREATED));
    assert_eq!((added.pid, added.exec_id.as_str()), (0, "e1"));
    bench.tasks.start(context(), &start("e1")).await.unwrap();

    let mut pids = api::PidsRequest::new();
    pids.id = "c1".into();
    let pids = bench.tasks.pids(context(), &pids).await.unwrap().processes;
    assert_eq!(
        pids.iter().map(|info| info.pid).collect::<Vec<_>>(),
        [PID, PID]
    );
    assert!(pids[0].info.is_none());
    let details = ProcessDetails::parse_from_bytes(&pids[1].info.value).unwrap();
    assert_eq!(details.exec_id, "e1");
    assert_eq!(pids[1].info.type_url, "containerd.runc.v1.ProcessDetails");

    bench.vm.exit("c1", "e1", 9, false);
    let mut wait = api::WaitRequest::new();
    wait.id = "c1".into();
    wait.exec_id = "e1".into();
    let exit = bench.tasks.wait(context(), &wait).await.unwrap();
    assert_eq!(exit.exit_status, 9);
    let stopped = bench.tasks.state(context(), &state("e1")).await.unwrap();
    assert_eq!(stopped.status.enum_value(), Ok(api::Status::STOPPED));
    assert_eq!(stopped.exit_status, 9);
    assert!(stopped.exited_at.seconds > 1_700_000_000);
}

#[tokio::test]
async fn a_call_goes_on_when_its_client_has_given_up() {
    let bench = Bench::running().await;
    bench.vm.exit("c1", "", 0, false);
    let vm = bench.vm.clone();
    let held = vm.hold_deletes();
    let short = with_duration(Duration::from_millis(100));
    bench.tasks.delete(short, &delete()).await.unwrap_err();
    bench.tasks.state(context(), &state("")).await.unwrap();
    drop(held);
    let again = bench.tasks.delete(context(), &delete()).await.unwrap_err();
    assert_eq!(code(&again), Code::NOT_FOUND, "the first has done it");
}

#[tokio::test]
async fn waiting_clients_that_go_away_leave_nothing() {
    let bench = Bench::running().await;
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    let other = connect(bench.socket()).await;
    let mut wait = api::WaitRequest::new();
    wait.id = "c1".into();
    for _ in 0..200 {
        let short = with_duration(Duration::from_millis(1));
        other.wait(short, &wait).await.unwrap_err();
    }
    drop(other);
    let gone = tokio::time::timeout(Duration::from_secs(10), async {
        while metrics.num_alive_tasks() > before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(
        gone.await.is_ok(),
        "{} tasks left",
        metrics.num_alive_tasks()
    );
    bench.tasks.state(context(), &state("")).await.unwrap();
}

#[tokio::test]
async fn an_exec_that_is_no_process_is_refused() {
    let bench = Bench::running().await;
    let wrong = exec("e1", r#"{"args": 5}"#);
    let error = bench.tasks.exec(context(), &wrong).await.unwrap_err();
    assert_eq!(code(&error), Code::INVALID_ARGUMENT);
    assert!(error.to_string().contains("expected a sequence"), "{error}");
}

#[tokio::test]
async fn restoring_a_checkpoint_is_not_supported() {
    let bench = Bench::new().await;
    let mut request = api::CreateTaskRequest::new();
    request.id = "c1".into();
    request.checkpoint = "/some/image".into();
    let error = bench.tasks.create(context(), &request).await.unwrap_err();
    assert_eq!(code(&error), Code::UNIMPLEMENTED);
}

#[tokio::test]
async fn the_last_answer_leaves_before_the_end() {
    let bench = Bench::running().await;
    let shutdown = api::ShutdownRequest::new();
    bench.tasks.shutdown(context(), &shutdown).await.unwrap();
    assert!(
        bench.socket().exists(),
        "a container is left: nothing happens"
    );
    bench.vm.exit("c1", "", 0, false);
    let mut wait = api::WaitRequest::new();
    wait.id = "c1".into();
    bench.tasks.wait(context(), &wait).await.unwrap();
    bench.tasks.delete(context(), &delete()).await.unwrap();

    let socket = bench.socket();
    let (tasks, server, pod) = (bench.tasks, bench.server, bench.pod);
    let ending = tokio::spawn(async move {
        pod.over().await;
        server.stop().await;
    });
    // The server stops as soon as the call that ends the pod has: its answer still comes.
    tasks.shutdown(context(), &shutdown).await.unwrap();
    assert!(!socket.exists());
    ending.await.unwrap();
}
