//! The task service against a fake virtual machine: states, codes, events and their order.

#[path = "pod_test/changing.rs"]
mod changing;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use caisson_sandbox::ErrorKind;
use containerd_shim_protos::events::task::TaskExit;
use protobuf::Message;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use ttrpc::Code;

use super::{CreateRequest, ExecRequest, Pod, PodOptions};
use crate::error::TaskError;
use crate::fake_containerd::FakeContainerd;
use crate::fake_vm::{FakeVm, PID};
use crate::options::Options;
use crate::process::{Exit, ProcessKey, State};
use crate::publisher::Publisher;
use crate::stdio::StdioPaths;

#[path = "pod_test/faults.rs"]
mod faults;

struct Bench {
    dir: tempfile::TempDir,
    vm: FakeVm,
    containerd: FakeContainerd,
    pod: Arc<Pod>,
}

fn init() -> ProcessKey {
    ProcessKey::new("c1", "")
}

fn exec() -> ProcessKey {
    ProcessKey::new("c1", "e1")
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let vm = FakeVm::new();
        let containerd = FakeContainerd::start(dir.path()).await;
        let address = FakeContainerd::address(dir.path());
        let publisher = Publisher::start(address.to_str().unwrap(), "default");
        let options = PodOptions {
            id: "c1".into(),
            namespace: "default".into(),
            state_dir: "/run/caisson/default/c1".into(),
        };
        let pod = Pod::new(options, publisher, vm.launcher());
        Self {
            dir,
            vm,
            containerd,
            pod,
        }
    }

    fn bundle(&self, id: &str, config: &str) -> PathBuf {
        let bundle = self.dir.path().join(id);
        std::fs::create_dir_all(&bundle).unwrap();
        std::fs::write(bundle.join("config.json"), config).unwrap();
        bundle
    }

    fn request(&self, id: &str, annotations: &str) -> CreateRequest {
        let config = format!(r#"{{"ociVersion":"1.0.2","annotations":{annotations}}}"#);
        CreateRequest {
            id: id.into(),
            bundle: self.bundle(id, &config),
            rootfs: Vec::new(),
            stdio: StdioPaths::default(),
            options: Options::default(),
        }
    }

    async fn create(&self) -> Result<u32, TaskError> {
        Arc::clone(&self.pod).create(self.request("c1", "{}")).await
    }

    async fn start(&self, key: ProcessKey) -> Result<u32, TaskError> {
        Arc::clone(&self.pod).start(key).await
    }

    async fn delete(&self, key: ProcessKey) -> Result<(u32, Exit), TaskError> {
        Arc::clone(&self.pod).delete(key).await
    }

    async fn wait(&self, key: &ProcessKey) -> Exit {
        let waited = timeout(Duration::from_secs(20), self.pod.wait(key));
        waited.await.expect("wait returns").unwrap()
    }

    fn exec(&self, key: ProcessKey, terminal: bool) -> Result<(), TaskError> {
        self.pod.exec(ExecRequest {
            key,
            spec: serde_json::from_str(r#"{"user":{"uid":0,"gid":0},"cwd":"/","args":["true"]}"#)
                .unwrap(),
            stdio: StdioPaths {
                terminal,
                ..StdioPaths::default()
            },
        })
    }

    fn state(&self, key: &ProcessKey) -> State {
        self.pod.state(key).unwrap().state
    }

    async fn running() -> Self {
        let mut bench = Self::new().await;
        bench.create().await.unwrap();
        bench.start(init()).await.unwrap();
        assert_eq!(bench.containerd.topics(2).await, ["create", "start"]);
        bench
    }
}

#[tokio::test]
async fn a_container_lives_and_its_events_come_in_order() {
    let mut bench = Bench::new().await;
    assert_eq!(bench.create().await.unwrap(), PID);
    assert_eq!(bench.state(&init()), State::Created);
    assert_eq!(bench.start(init()).await.unwrap(), PID);
    assert_eq!(bench.state(&init()), State::Running);
    bench.vm.exit("c1", "", 42, false);
    assert_eq!(bench.wait(&init()).await.status, 42);
    assert!(matches!(bench.state(&init()), State::Stopped(exit) if exit.status == 42));
    let (pid, exit) = bench.delete(init()).await.unwrap();
    assert_eq!((pid, exit.status), (PID, 42));
    let topics = bench.containerd.topics(4).await;
    assert_eq!(topics, ["create", "start", "exit", "delete"]);
    let unknown = bench.pod.state(&init()).unwrap_err();
    assert_eq!(unknown.code(), Code::NOT_FOUND);
    assert!(Arc::clone(&bench.pod).shutdown(false).await);
    bench.pod.over().await;
    assert_eq!(bench.vm.calls().last().unwrap(), "stop /");
}

#[tokio::test]
async fn the_start_is_told_before_the_end_of_a_short_process() {
    let mut bench = Bench::new().await;
    bench.create().await.unwrap();
    let vm = bench.vm.clone();
    let held = vm.hold_starts();
    let started = tokio::spawn(Arc::clone(&bench.pod).start(init()));
    // It ends before the guest has answered the start.
    while !vm.calls().contains(&"start c1/".to_owned()) {
        tokio::task::yield_now().await;
    }
    bench.vm.exit("c1", "", 0, false);
    tokio::time::sleep(Duration::from_millis(20)).await;
    drop(held);
    started.await.unwrap().unwrap();
    bench.wait(&init()).await;
    assert_eq!(
        bench.containerd.topics(3).await,
        ["create", "start", "exit"]
    );
}

#[tokio::test]
async fn the_state_is_told_while_a_start_hangs() {
    let bench = Bench::new().await;
    bench.create().await.unwrap();
    let _held = bench.vm.hold_starts();
    let _start = tokio::spawn(Arc::clone(&bench.pod).start(init()));
    tokio::task::yield_now().await;
    assert_eq!(bench.state(&init()), State::Created);
    assert_eq!(bench.pod.processes("c1").unwrap().len(), 1);
}

#[tokio::test]
async fn a_program_that_does_not_exist_fails_the_creation_without_an_exit() {
    let mut bench = Bench::new().await;
    let words = r#"exec: "foo": executable file not found in $PATH"#;
    bench.vm.refuse_create(ErrorKind::NotFound, words);
    let error = bench.create().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("OCI runtime create failed: {words}")
    );
    assert_eq!(error.code(), Code::INVALID_ARGUMENT);
    assert_eq!(
        bench.pod.state(&init()).unwrap_err().code(),
        Code::NOT_FOUND
    );
    assert!(
        bench.vm.calls().contains(&"stop /".to_owned()),
        "the machine is not left"
    );
    bench.pod.publisher().flush(Duration::from_secs(5)).await;
    assert!(bench.containerd.is_quiet());
}

#[tokio::test]
async fn a_second_container_of_the_same_id_exists_already() {
    let bench = Bench::running().await;
    let error = bench.create().await.unwrap_err();
    assert_eq!(error.code(), Code::ALREADY_EXISTS);
    assert_eq!(
        bench.state(&init()),
        State::Running,
        "the first is not touched"
    );
}

#[tokio::test]
async fn a_damaged_bundle_starts_no_machine() {
    let bench = Bench::new().await;
    let mut request = bench.request("c1", "{}");
    request.bundle = bench.bundle("c1", "{\n\"ociVersion\": 3}");
    let error = Arc::clone(&bench.pod).create(request).await.unwrap_err();
    assert_eq!(error.code(), Code::INVALID_ARGUMENT);
    assert!(error.to_string().contains("config.json"), "{error}");
    assert!(error.to_string().contains("line 2 column 15"), "{error}");
    assert!(bench.vm.launched().is_none());
    // The name is free again.
    bench.create().await.unwrap();
}

#[tokio::test]
async fn a_member_never_starts_a_machine_and_shares_its_owners() {
    let bench = Bench::new().await;
    let member =
        r#"{"io.kubernetes.cri.sandbox-id":"c1","io.kubernetes.cri.container-type":"container"}"#;
    let create = |id: &str| Arc::clone(&bench.pod).create(bench.request(id, member));
    let error = create("c2").await.unwrap_err();
    assert_eq!(error.code(), Code::FAILED_PRECONDITION);
    assert!(bench.vm.launched().is_none());
    bench.create().await.unwrap();
    create("c2").await.unwrap();
    // A member that fails takes nobody with it.
    bench.vm.refuse_create(ErrorKind::InvalidArgument, "no");
    create("c3").await.unwrap_err();
    assert!(!bench.vm.calls().contains(&"stop /".to_owned()));
    assert!(
        !Arc::clone(&bench.pod).shutdown(false).await,
        "containers are left"
    );
}

#[tokio::test]
async fn wrong_orders_are_refused_with_the_codes_clients_expect() {
    let bench = Bench::running().await;
    let code = |result: Result<(), TaskError>| result.unwrap_err().code();
    let again = bench.start(init()).await.map(drop);
    assert_eq!(code(again), Code::FAILED_PRECONDITION);
    let running = bench.delete(init()).await.unwrap_err();
    assert!(
        running
            .to_string()
            .contains("cannot delete a running process")
    );
    assert_eq!(running.code(), Code::FAILED_PRECONDITION);
    let unknown = ProcessKey::new("c2", "");
    assert_eq!(
        code(bench.start(unknown.clone()).await.map(drop)),
        Code::NOT_FOUND
    );
    assert_eq!(
        code(bench.pod.wait(&unknown).await.map(drop)),
        Code::NOT_FOUND
    );
    assert_eq!(
        code(bench.pod.kill(&unknown, 9, false).await),
        Code::NOT_FOUND
    );
    assert_eq!(
        code(bench.delete(unknown.clone()).await.map(drop)),
        Code::NOT_FOUND
    );
    assert_eq!(code(bench.pod.close_stdin(&unknown)), Code::NOT_FOUND);
    assert_eq!(code(bench.pod.stats("c2").await.map(drop)), Code::NOT_FOUND);
    assert_eq!(
        code(bench.exec(ProcessKey::new("c2", "e"), false)),
        Code::NOT_FOUND
    );
    assert_eq!(
        code(bench.pod.kill(&init(), 65, false).await),
        Code::INVALID_ARGUMENT
    );
    let slash = ProcessKey::new("c1", "../e");
    assert_eq!(code(bench.exec(slash, false)), Code::INVALID_ARGUMENT);
}

#[tokio::test]
async fn an_exec_lives_inside_its_container() {
    let mut bench = Bench::running().await;
    bench.exec(exec(), false).unwrap();
    assert_eq!(bench.state(&exec()), State::Added);
    assert_eq!(
        bench.exec(exec(), false).unwrap_err().code(),
        Code::ALREADY_EXISTS
    );
    let early = bench.pod.kill(&exec(), 9, false).await.unwrap_err();
    assert_eq!(early.code(), Code::FAILED_PRECONDITION);
    bench.start(exec()).await.unwrap();
    assert_eq!(bench.pod.processes("c1").unwrap().len(), 2);
    bench.vm.exit("c1", "e1", 3, false);
    assert_eq!(bench.wait(&exec()).await.status, 3);
    assert_eq!(bench.state(&init()), State::Running);
    assert_eq!(bench.delete(exec()).await.unwrap().1.status, 3);
    assert_eq!(
        bench.pod.state(&exec()).unwrap_err().code(),
        Code::NOT_FOUND
    );
    bench.exec(exec(), false).expect("the id may be used again");
    let topics = bench.containerd.topics(4).await;
    assert_eq!(topics, ["exec-added", "exec-started", "exit", "exec-added"]);
    bench
        .delete(exec())
        .await
        .expect("an exec that was never started");
}

#[tokio::test]
async fn an_exec_that_cannot_start_lets_its_waiters_go() {
    let mut bench = Bench::running().await;
    bench.exec(exec(), false).unwrap();
    let waiting = tokio::spawn({
        let pod = Arc::clone(&bench.pod);
        async move { pod.wait(&exec()).await }
    });
    tokio::task::yield_now().await;
    let words = r#"exec: "foo": executable file not found in $PATH"#;
    bench.vm.refuse_start(ErrorKind::NotFound, words);
    let error = bench.start(exec()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("OCI runtime exec failed: {words}")
    );
    assert_eq!(waiting.await.unwrap().unwrap().status, 255);
    assert_eq!(bench.delete(exec()).await.unwrap().1.status, 255);
    bench.pod.publisher().flush(Duration::from_secs(5)).await;
    assert_eq!(bench.containerd.topics(1).await, ["exec-added"]);
    assert!(bench.containerd.is_quiet(), "neither a start nor an exit");
}

#[tokio::test]
async fn a_start_that_fails_kills_what_was_created() {
    let bench = Bench::new().await;
    bench.create().await.unwrap();
    bench
        .vm
        .refuse_start(ErrorKind::Internal, "exec format error");
    let error = bench.start(init()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "OCI runtime start failed: exec format error"
    );
    assert_eq!(bench.wait(&init()).await.status, 137);
    bench.delete(init()).await.unwrap();
}

#[tokio::test]
async fn execs_end_before_their_container_and_none_comes_after() {
    let mut bench = Bench::running().await;
    for id in ["e1", "e2"] {
        bench.exec(ProcessKey::new("c1", id), false).unwrap();
        bench.start(ProcessKey::new("c1", id)).await.unwrap();
    }
    bench.containerd.topics(4).await;
    bench.vm.exit("c1", "", 0, false);
    // The guest reports the execs after init.
    tokio::time::sleep(Duration::from_millis(20)).await;
    bench.vm.exit("c1", "e1", 137, false);
    bench.vm.exit("c1", "e2", 137, false);
    bench.wait(&init()).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let event = bench.containerd.next().await.event.unwrap();
        ids.push(TaskExit::parse_from_bytes(&event.value).unwrap().id);
    }
    assert_eq!(ids.last().unwrap(), "c1", "{ids:?}");
    let late = bench.exec(ProcessKey::new("c1", "e3"), false).unwrap_err();
    assert_eq!(late.code(), Code::FAILED_PRECONDITION);
}

#[tokio::test(start_paused = true)]
async fn an_exec_that_a_broken_guest_never_reports_is_given_up() {
    let bench = Bench::new().await;
    bench.create().await.unwrap();
    bench.start(init()).await.unwrap();
    bench.exec(exec(), false).unwrap();
    bench.start(exec()).await.unwrap();
    bench.vm.exit("c1", "", 0, false);
    assert_eq!(bench.wait(&init()).await.status, 0);
    assert!(matches!(bench.state(&exec()), State::Stopped(exit) if exit.status == 137));
}

#[tokio::test]
async fn a_signal_after_the_end_finds_no_process() {
    let bench = Bench::running().await;
    bench.pod.kill(&init(), 15, false).await.unwrap();
    assert!(bench.vm.calls().contains(&"signal 15 false c1/".to_owned()));
    bench.pod.kill(&init(), 9, true).await.unwrap();
    assert_eq!(bench.wait(&init()).await.status, 137);
    let error = bench.pod.kill(&init(), 9, true).await.unwrap_err();
    assert_eq!(error.code(), Code::NOT_FOUND);
    assert!(error.to_string().starts_with("process already finished"));
}

#[tokio::test]
async fn a_created_container_can_be_killed_and_deleted() {
    let mut bench = Bench::new().await;
    bench.create().await.unwrap();
    let (_, exit) = bench.delete(init()).await.unwrap();
    assert_eq!(exit.status, 137);
    assert_eq!(
        bench.containerd.topics(3).await,
        ["create", "exit", "delete"]
    );
}

#[tokio::test]
async fn of_many_deletes_one_succeeds() {
    let mut bench = Bench::running().await;
    bench.vm.exit("c1", "", 0, false);
    bench.wait(&init()).await;
    let deletes: Vec<_> = (0..16)
        .map(|_| tokio::spawn(Arc::clone(&bench.pod).delete(init())))
        .collect();
    let mut codes = Vec::new();
    for delete in deletes {
        codes.push(delete.await.unwrap().map_err(|error| error.code()).err());
    }
    assert_eq!(codes.iter().filter(|code| code.is_none()).count(), 1);
    let not_found = codes.iter().filter(|code| **code == Some(Code::NOT_FOUND));
    assert_eq!(not_found.count(), 15);
    assert_eq!(bench.containerd.topics(2).await, ["exit", "delete"]);
    bench.pod.publisher().flush(Duration::from_secs(5)).await;
    assert!(bench.containerd.is_quiet());
}

/// The guest takes long to delete: the client gives up and asks again.
#[tokio::test]
async fn a_delete_goes_on_without_its_client() {
    let bench = Bench::running().await;
    bench.vm.exit("c1", "", 0, false);
    bench.wait(&init()).await;
    let vm = bench.vm.clone();
    let held = vm.hold_deletes();
    let first = tokio::spawn(Arc::clone(&bench.pod).delete(init()));
    while !vm.calls().contains(&"delete c1/".to_owned()) {
        tokio::task::yield_now().await;
    }
    assert!(
        matches!(bench.state(&init()), State::Stopped(_)),
        "still answered"
    );
    let second = tokio::spawn(Arc::clone(&bench.pod).delete(init()));
    drop(held);
    first.await.unwrap().unwrap();
    assert_eq!(second.await.unwrap().unwrap_err().code(), Code::NOT_FOUND);
}

#[tokio::test]
async fn a_delete_that_failed_can_be_tried_again() {
    let bench = Bench::running().await;
    bench.vm.exit("c1", "", 5, false);
    bench.wait(&init()).await;
    bench
        .vm
        .refuse_delete(ErrorKind::Internal, "cannot unmount");
    let error = bench.delete(init()).await.unwrap_err();
    assert_eq!(error.code(), Code::INTERNAL);
    assert_eq!(bench.delete(init()).await.unwrap().1.status, 5);
}

#[tokio::test]
async fn the_end_of_the_machine_ends_every_process_once() {
    let mut bench = Bench::running().await;
    bench.exec(exec(), false).unwrap();
    bench.start(exec()).await.unwrap();
    bench.containerd.topics(2).await;
    bench.vm.die("kernel panic: Attempted to kill init!");
    assert_eq!(bench.wait(&exec()).await.status, 137);
    assert_eq!(bench.wait(&init()).await.status, 137);
    let killed = bench.pod.kill(&init(), 9, false).await.unwrap_err();
    assert_eq!(killed.code(), Code::NOT_FOUND);
    bench.delete(exec()).await.unwrap();
    bench.delete(init()).await.unwrap();
    assert_eq!(bench.containerd.topics(3).await, ["exit", "exit", "delete"]);
    bench.pod.publisher().flush(Duration::from_secs(5)).await;
    assert!(bench.containerd.is_quiet());
    assert!(Arc::clone(&bench.pod).shutdown(false).await);
}

#[tokio::test]
async fn the_reason_of_the_machines_end_is_the_error_of_a_pending_start() {
    let bench = Bench::new().await;
    bench.create().await.unwrap();
    let vm = bench.vm.clone();
    let _held = vm.hold_starts();
    let start = tokio::spawn(Arc::clone(&bench.pod).start(init()));
    while !vm.calls().contains(&"start c1/".to_owned()) {
        tokio::task::yield_now().await;
    }
    bench.vm.die("kernel panic: Attempted to kill init!");
    let error = start.await.unwrap().unwrap_err();
    assert!(
        error.to_string().contains("Attempted to kill init!"),
        "{error}"
    );
    assert_eq!(error.code(), Code::UNAVAILABLE);
    let member = r#"{"io.kubernetes.cri.sandbox-id":"c1"}"#;
    let create = Arc::clone(&bench.pod).create(bench.request("c2", member));
    let error = create.await.unwrap_err().to_string();
    assert!(error.contains("virtual machine is gone"), "{error}");
}

#[tokio::test]
async fn running_out_of_memory_is_told_before_the_exit_and_once() {
    let mut bench = Bench::running().await;
    bench.exec(exec(), false).unwrap();
    bench.start(exec()).await.unwrap();
    bench.containerd.topics(2).await;
    bench.vm.exit("c1", "e1", 137, true);
    bench.wait(&exec()).await;
    bench.vm.exit("c1", "", 137, true);
    bench.wait(&init()).await;
    assert_eq!(bench.containerd.topics(3).await, ["oom", "exit", "exit"]);
    assert!(bench.dir.path().join("c1/oom").exists());
}

#[tokio::test]
async fn a_size_given_before_the_start_reaches_the_terminal_first() {
    let bench = Bench::running().await;
    bench.exec(exec(), true).unwrap();
    bench.pod.resize(&exec(), 132, 43).await.unwrap();
    bench.start(exec()).await.unwrap();
    bench.pod.resize(&exec(), 80, 24).await.unwrap();
    let calls: Vec<_> = bench
        .vm
        .calls()
        .into_iter()
        .filter(|call| call.ends_with("/e1"))
        .collect();
    assert_eq!(
        calls,
        [
            "exec c1/e1",
            "resize 132x43 c1/e1",
            "start c1/e1",
            "resize 80x24 c1/e1"
        ]
    );
    bench
        .pod
        .resize(&init(), 80, 24)
        .await
        .expect("no terminal, no effect");
    assert!(!bench.vm.calls().contains(&"resize 80x24 c1/".to_owned()));
}

/// The output of a process that ended is passed on before its end is told to who waits.
#[tokio::test]
async fn waiting_ends_after_the_last_byte() {
    let bench = Bench::new().await;
    let path = bench.dir.path().join("stdout");
    let mut request = bench.request("c1", "{}");
    request.stdio.stdout = format!("file://{}", path.display());
    Arc::clone(&bench.pod).create(request).await.unwrap();
    bench.start(init()).await.unwrap();
    let mut stdout = bench.vm.streams("c1", "").stdout.unwrap();
    bench.vm.exit("c1", "", 0, false);
    let pod = Arc::clone(&bench.pod);
    let waiting = tokio::spawn(async move { pod.wait(&init()).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(
        matches!(bench.state(&init()), State::Stopped(_)),
        "its end is known"
    );
    assert!(!waiting.is_finished(), "its output is not");
    stdout.write_all(b"last words").await.unwrap();
    drop(stdout);
    waiting.await.unwrap().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"last words");
}

#[tokio::test(start_paused = true)]
async fn output_held_by_a_process_left_behind_delays_ten_seconds_only() {
    let bench = Bench::new().await;
    let mut request = bench.request("c1", "{}");
    let path = bench.dir.path().join("stdout");
    request.stdio.stdout = format!("file://{}", path.display());
    Arc::clone(&bench.pod).create(request).await.unwrap();
    bench.start(init()).await.unwrap();
    let _held = bench.vm.streams("c1", "");
    let began = tokio::time::Instant::now();
    bench.vm.exit("c1", "", 0, false);
    bench.wait(&init()).await;
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn a_shutdown_by_force_ends_what_runs() {
    let mut bench = Bench::running().await;
    assert!(!Arc::clone(&bench.pod).shutdown(false).await);
    assert!(Arc::clone(&bench.pod).shutdown(true).await);
    bench.pod.over().await;
    assert_eq!(bench.wait(&init()).await.status, 137);
    assert_eq!(bench.containerd.topics(1).await, ["exit"]);
}

#[tokio::test]
async fn a_configuration_that_came_along_is_used() {
    let bench = Bench::new().await;
    let mut request = bench.request("c1", "{}");
    request.options.config_body = b"no_such_key = 1\n".to_vec();
    let error = Arc::clone(&bench.pod).create(request).await.unwrap_err();
    assert_eq!(error.code(), Code::INVALID_ARGUMENT);
    assert!(bench.vm.launched().is_none());
}
