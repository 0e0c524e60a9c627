//! The sandbox service over its socket, as containerd's client uses it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::sandbox_api as api;
use containerd_shim_protos::sandbox_async::SandboxClient;
use protobuf::well_known_types::any::Any;
use tokio::net::UnixStream;
use ttrpc::Code;
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;
use ttrpc::context::{Context, with_duration};

use crate::fake_vm::{FakeVm, PID};
use crate::pod::{Pod, PodOptions};
use crate::pod_message::PodMessage;
use crate::publisher::Publisher;
use crate::server::TaskServer;
use crate::service;
use crate::socket::{self, Claim};
use crate::state_tables::{camel_case, table};

const ID: &str = "pod1";

struct Bench {
    dir: tempfile::TempDir,
    path: PathBuf,
    vm: FakeVm,
    pod: Arc<Pod>,
    _server: TaskServer,
    sandboxes: SandboxClient,
}

fn context() -> Context {
    with_duration(Duration::from_secs(10))
}

fn code<T: std::fmt::Debug>(result: ttrpc::Result<T>) -> Code {
    match result.unwrap_err() {
        ttrpc::Error::RpcStatus(status) => status.code.enum_value().unwrap(),
        other => panic!("{other}"),
    }
}

/// A request that names the pod.
macro_rules! request {
    ($kind:ident) => {
        api::$kind {
            sandbox_id: ID.into(),
            ..Default::default()
        }
    };
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let Claim::Bound(listener) = socket::claim(&path).unwrap() else {
            panic!("the socket is taken");
        };
        let vm = FakeVm::new();
        let options = PodOptions {
            id: ID.into(),
            namespace: "k8s.io".into(),
            state_dir: "/run/caisson/k8s.io/pod1".into(),
        };
        let pod = Pod::new(options, Publisher::start("", "k8s.io"), vm.launcher());
        let services = service::services(&pod, path.clone());
        let server = TaskServer::start(listener, services).await.unwrap();
        let stream = UnixStream::connect(&path).await.unwrap();
        let sandboxes = SandboxClient::new(Client::new(Socket::from(stream)));
        Self {
            dir,
            path,
            vm,
            pod,
            _server: server,
            sandboxes,
        }
    }

    async fn create(&self, options: Option<Any>) -> ttrpc::Result<api::CreateSandboxResponse> {
        let mut request = request!(CreateSandboxRequest);
        request.bundle_path = self.dir.path().display().to_string();
        request.options = options.map_or(MessageField::none(), MessageField::some);
        self.sandboxes.create_sandbox(context(), &request).await
    }

    async fn status(&self, verbose: bool) -> ttrpc::Result<api::SandboxStatusResponse> {
        let mut request = request!(SandboxStatusRequest);
        request.verbose = verbose;
        self.sandboxes.sandbox_status(context(), &request).await
    }
}

fn pod() -> Any {
    let mut any = Any::new();
    any.type_url = "runtime.v1.PodSandboxConfig".into();
    any.value = PodMessage::default().hostname("web").bytes();
    any
}

#[tokio::test]
async fn a_pod_is_served_from_its_creation_to_the_end_of_the_shim() {
    let bench = Bench::new().await;
    let client = &bench.sandboxes;
    assert_eq!(code(bench.status(false).await), Code::NOT_FOUND);
    let start = request!(StartSandboxRequest);
    assert_eq!(
        code(client.start_sandbox(context(), &start).await),
        Code::FAILED_PRECONDITION
    );
    bench.create(Some(pod())).await.unwrap();
    assert_eq!(code(bench.create(None).await), Code::ALREADY_EXISTS);
    let status = bench.status(false).await.unwrap();
    assert_eq!((status.state.as_str(), status.pid), ("SANDBOX_NOTREADY", 0));

    let started = client.start_sandbox(context(), &start).await.unwrap();
    assert_eq!(started.pid, PID);
    assert_eq!(bench.vm.calls(), ["set-up web/"]);
    let status = bench.status(true).await.unwrap();
    assert_eq!((status.state.as_str(), status.pid), ("SANDBOX_READY", PID));
    assert_eq!(status.created_at, started.created_at);
    assert!(status.created_at.is_some() && status.exited_at.is_none());
    let info: serde_json::Value = serde_json::from_str(&status.info["info"]).unwrap();
    assert_eq!(info["pid"], PID);
    assert_eq!(status.info["pid"], PID.to_string());
    assert_eq!(status.info["state"], "SANDBOX_READY");
    let platform = client.platform(context(), &request!(PlatformRequest)).await;
    let platform = platform.unwrap().platform.unwrap();
    assert_eq!(platform.os, "linux");
    assert!(["amd64", "arm64"].contains(&platform.architecture.as_str()));
    client
        .ping_sandbox(context(), &request!(PingRequest))
        .await
        .unwrap();
    let metrics = client
        .sandbox_metrics(context(), &request!(SandboxMetricsRequest))
        .await;
    let metrics = metrics.unwrap().metrics.unwrap();
    assert_eq!(metrics.id, ID);
    assert!(metrics.data.type_url.ends_with(".Metrics"));

    let waiting = tokio::spawn({
        let client = client.clone();
        async move {
            client
                .wait_sandbox(context(), &request!(WaitSandboxRequest))
                .await
        }
    });
    let stop = request!(StopSandboxRequest);
    client.stop_sandbox(context(), &stop).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().exit_status, 0);
    client.stop_sandbox(context(), &stop).await.unwrap();
    let status = bench.status(false).await.unwrap();
    assert_eq!(status.state, "SANDBOX_NOTREADY");
    assert!(status.exited_at.is_some());

    let shutdown = request!(ShutdownSandboxRequest);
    client.shutdown_sandbox(context(), &shutdown).await.unwrap();
    assert!(!bench.path.exists());
    tokio::time::timeout(Duration::from_secs(10), bench.pod.over())
        .await
        .unwrap();
}

#[tokio::test]
async fn options_of_another_kind_are_refused() {
    let bench = Bench::new().await;
    let mut other = pod();
    other.type_url = "example.com/Pod".into();
    assert_eq!(
        code(bench.create(Some(other)).await),
        Code::INVALID_ARGUMENT
    );
    assert_eq!(code(bench.status(false).await), Code::NOT_FOUND);
    bench.create(None).await.unwrap();
}

#[tokio::test]
async fn every_call_to_a_pod_answers_as_the_table_says() {
    for (call, answers) in table("Pods of the sandbox service") {
        for (state, expected) in answers {
            let bench = Bench::new().await;
            if state != "unknown" {
                bench.create(Some(pod())).await.unwrap();
            }
            if ["running", "stopped"].contains(&state) {
                answer(&bench, "StartSandbox").await;
            }
            if state == "stopped" {
                answer(&bench, "StopSandbox").await;
            }
            let given = answer(&bench, call).await;
            assert_eq!(given, expected, "{call} of a pod that is {state}");
        }
    }
}

/// The answer to a call, in the words of the table.
async fn answer(bench: &Bench, call: &str) -> String {
    let client = &bench.sandboxes;
    let result = match call {
        "CreateSandbox" => bench.create(Some(pod())).await.map(drop),
        "StartSandbox" => {
            let request = request!(StartSandboxRequest);
            client.start_sandbox(context(), &request).await.map(drop)
        }
        "SandboxStatus" => match bench.status(false).await {
            Ok(status) => return status.state,
            Err(error) => Err(error),
        },
        "Platform" => {
            let request = request!(PlatformRequest);
            client.platform(context(), &request).await.map(drop)
        }
        "PingSandbox" => {
            let request = request!(PingRequest);
            client.ping_sandbox(context(), &request).await.map(drop)
        }
        "SandboxMetrics" => {
            let request = request!(SandboxMetricsRequest);
            client.sandbox_metrics(context(), &request).await.map(drop)
        }
        "WaitSandbox" => tokio::select! {
            biased;
            exit = bench.pod.wait_sandbox(ID) => exit.map(drop).map_err(Into::into),
            () = std::future::ready(()) => return "waits".into(),
        },
        "StopSandbox" => {
            let request = request!(StopSandboxRequest);
            client.stop_sandbox(context(), &request).await.map(drop)
        }
        "ShutdownSandbox" => {
            let request = request!(ShutdownSandboxRequest);
            client.shutdown_sandbox(context(), &request).await.map(drop)
        }
        other => panic!("there is no call {other}"),
    };
    match result {
        Ok(()) => "ok".into(),
        Err(error) => camel_case(&format!("{:?}", code::<()>(Err(error)))),
    }
}
