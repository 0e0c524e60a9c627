//! Many calls at once and many one after another, over the shim's socket: what is lost, mixed up or
//! left behind only shows in numbers. The names begin with that of the pain in docs/testing.md.

use std::collections::HashMap;
use std::env;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use containerd_shim_protos::api;
use containerd_shim_protos::events::task as events;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim_async::TaskClient;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use rustix::fs::{CWD, Mode};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::task::JoinSet;
use ttrpc::Code;
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;
use ttrpc::context::{Context, with_duration};

use super::services;
use crate::fake_containerd::FakeContainerd;
use crate::fake_vm::{FakeVm, Program};
use crate::pod::{Pod, PodOptions};
use crate::publisher::Publisher;
use crate::server::TaskServer;
use crate::socket::{self, Claim};

/// How many execs run at once in [`p06_of_many_execs_at_once_each_ends_once_with_its_own_code`].
const AT_ONCE: usize = 500;
/// How many short execs run one after another.
const SHORT: usize = 1000;
/// How many execs a shim must bear without growing; for a night: CAISSON_SOAK_EXECS=10000.
const LONG_LIFE: usize = 1000;
/// How many fill what a shim keeps for the next.
const FIRST: usize = 200;
/// What a FIFO holds, so that nobody has to read while it is filled.
const FIFO: usize = 64 * 1024;
/// Set for a test that runs in a process of its own.
const ALONE: &str = "CAISSON_TEST_ALONE";

/// A shim that serves one running container, with a containerd that takes its events.
struct Flood {
    dir: tempfile::TempDir,
    vm: FakeVm,
    containerd: FakeContainerd,
    tasks: TaskClient,
    _server: TaskServer,
}

fn context() -> Context {
    // Far longer than any call takes: what hangs fails.
    with_duration(Duration::from_secs(60))
}

fn code(error: &ttrpc::Error) -> Code {
    match error {
        ttrpc::Error::RpcStatus(status) => status.code.enum_value().unwrap(),
        other => panic!("{other}"),
    }
}

/// The exit code of exec `e17`: 17, as far as it fits.
fn code_of(exec: &str) -> u32 {
    exec.trim_start_matches('e').parse::<u32>().unwrap() % 256
}

macro_rules! request {
    ($kind:ident, $exec:expr) => {{
        let mut request = api::$kind::new();
        request.id = "c1".into();
        request.exec_id = $exec.to_owned();
        request
    }};
}

impl Flood {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let vm = FakeVm::new();
        vm.execs_run(|id| Program {
            output: Vec::new(),
            status: code_of(&id.exec),
        });
        let containerd = FakeContainerd::start(dir.path()).await;
        let address = FakeContainerd::address(dir.path());
        let publisher = Publisher::start(address.to_str().unwrap(), "default");
        let options = PodOptions {
            id: "c1".into(),
            namespace: "default".into(),
            state_dir: dir.path().join("state"),
        };
        let pod = Pod::new(options, publisher, vm.launcher());
        let path = dir.path().join("socket");
        let Claim::Bound(listener) = socket::claim(&path).unwrap() else {
            panic!("nobody else is there");
        };
        let server = TaskServer::start(listener, services(&pod, path.clone()));
        let server = server.await.unwrap();
        let tasks = connect(&path).await;
        let mut flood = Self {
            dir,
            vm,
            containerd,
            tasks,
            _server: server,
        };
        flood.start_container().await;
        flood
    }

    async fn start_container(&mut self) {
        let bundle = self.dir.path().join("bundle");
        std::fs::create_dir(&bundle).unwrap();
        std::fs::write(bundle.join("config.json"), r#"{"ociVersion":"1.0.2"}"#).unwrap();
        let mut create = api::CreateTaskRequest::new();
        create.id = "c1".into();
        create.bundle = bundle.display().to_string();
        self.tasks.create(context(), &create).await.unwrap();
        let start = request!(StartRequest, "");
        self.tasks.start(context(), &start).await.unwrap();
        let topics = self.containerd.topics(2).await;
        assert_eq!(topics, ["create", "start"]);
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// The events of `execs` execs: for each its topics and the exit code that was told.
    async fn told(&mut self, execs: usize) -> HashMap<String, (Vec<String>, u32)> {
        let mut told: HashMap<String, (Vec<String>, u32)> = HashMap::new();
        for _ in 0..3 * execs {
            let (exec, status, topic) = read(&self.containerd.next().await);
            let entry = told.entry(exec).or_default();
            entry.0.push(topic);
            entry.1 = entry.1.max(status);
        }
        assert!(self.containerd.is_quiet(), "nothing is told twice");
        assert_eq!(told.len(), execs);
        told
    }

    /// Checks that of every exec its addition, start and end were told once, in this order and with
    /// the right code.
    async fn told_in_order(&mut self, execs: usize) {
        for (exec, (topics, status)) in self.told(execs).await {
            assert_eq!(topics, ["exec-added", "exec-started", "exit"], "{exec}");
            assert_eq!(status, code_of(&exec), "{exec}");
        }
    }
}

async fn connect(path: &Path) -> TaskClient {
    let stream = UnixStream::connect(path).await.unwrap();
    TaskClient::new(Client::new(Socket::from(stream)))
}

/// The exec, the exit status and the topic of an event.
fn read(envelope: &Envelope) -> (String, u32, String) {
    let value = &envelope.event.value;
    let topic = envelope.topic.strip_prefix("/tasks/").unwrap().to_owned();
    match topic.as_str() {
        "exec-added" => {
            let event = events::TaskExecAdded::parse_from_bytes(value).unwrap();
            (event.exec_id, 0, topic)
        }
        "exec-started" => {
            let event = events::TaskExecStarted::parse_from_bytes(value).unwrap();
            (event.exec_id, 0, topic)
        }
        "exit" => {
            let event = events::TaskExit::parse_from_bytes(value).unwrap();
            (event.id, event.exit_status, topic)
        }
        other => panic!("nobody made a {other}"),
    }
}

fn exec(id: &str, stdout: &str) -> api::ExecProcessRequest {
    let mut request = request!(ExecProcessRequest, id);
    request.stdout = stdout.to_owned();
    let mut spec = Any::new();
    spec.value = br#"{"user":{"uid":0,"gid":0},"cwd":"/","args":["true"]}"#.to_vec();
    request.spec = MessageField::some(spec);
    request
}

/// An exec from its addition to its deletion, with the calls that containerd makes: its Wait is
/// under way before the Start. Returns the exit codes that Wait and Delete tell.
async fn run(tasks: &TaskClient, id: &str, stdout: &str) -> (u32, u32) {
    let added = tasks.exec(context(), &exec(id, stdout)).await;
    added.unwrap();
    let wait = request!(WaitRequest, id);
    let start = request!(StartRequest, id);
    let (waited, started) =
        tokio::join!(tasks.wait(context(), &wait), tasks.start(context(), &start));
    started.unwrap();
    let delete = request!(DeleteRequest, id);
    let deleted = tasks.delete(context(), &delete).await.unwrap();
    (waited.unwrap().exit_status, deleted.exit_status)
}

/// A FIFO and a reader of it that never waits.
fn fifo(dir: &Path, name: &str) -> (String, pipe::Receiver) {
    let path = dir.join(name);
    rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
    let reader = pipe::OpenOptions::new().open_receiver(&path).unwrap();
    (path.display().to_string(), reader)
}

/// Everything that is in the FIFO, which its writer must have closed.
fn whole(reader: &pipe::Receiver) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        match reader.try_read_buf(&mut bytes) {
            Ok(0) => return bytes,
            Ok(_) => {}
            Err(error) => panic!("after {} bytes: {error}", bytes.len()),
        }
    }
}

#[tokio::test]
async fn p06_of_many_execs_at_once_each_ends_once_with_its_own_code() {
    let mut flood = Flood::new().await;
    let mut running = JoinSet::new();
    for number in 0..AT_ONCE {
        let tasks = flood.tasks.clone();
        running.spawn(async move {
            let id = format!("e{number}");
            let codes = run(&tasks, &id, "").await;
            assert_eq!(codes, (code_of(&id), code_of(&id)), "{id}");
        });
    }
    let ended = running.join_all().await.len();
    assert_eq!(ended, AT_ONCE);
    flood.told_in_order(AT_ONCE).await;
}

#[tokio::test]
async fn p07_an_end_is_never_told_before_its_start() {
    let mut flood = Flood::new().await;
    for number in 0..SHORT {
        run(&flood.tasks, &format!("e{number}"), "").await;
    }
    flood.told_in_order(SHORT).await;
}

#[tokio::test]
async fn p19_the_output_of_a_process_that_ends_at_once_is_whole() {
    let flood = Flood::new().await;
    let output: Vec<u8> = (0..FIFO).map(|n| (n % 251) as u8).collect();
    let expected = output.clone();
    flood.vm.execs_run(move |_| Program {
        output: output.clone(),
        status: 0,
    });
    for number in 0..SHORT {
        let (path, reader) = fifo(flood.dir.path(), &format!("out{number}"));
        run(&flood.tasks, &format!("e{number}"), &path).await;
        // Wait has answered, so nothing comes any more, and the client sees the end.
        assert!(whole(&reader) == expected, "exec {number}");
    }
}

/// Clients that wait, that do not read, that ask for too much, and that go away.
#[tokio::test]
async fn p08_open_waits_a_slow_client_and_a_flood_hold_up_nobody() {
    let mut flood = Flood::new().await;
    let mut waiting = JoinSet::new();
    for number in 0..200 {
        // On one connection, as containerd's, and on some of their own.
        let tasks = match number % 10 {
            0 => connect(&flood.socket()).await,
            _ => flood.tasks.clone(),
        };
        waiting.spawn(async move {
            let wait = request!(WaitRequest, "");
            tasks.wait(context(), &wait).await.unwrap().exit_status
        });
    }
    let _slow = never_reads(&flood.socket());
    let mut running = JoinSet::new();
    for number in 0..200 {
        let tasks = flood.tasks.clone();
        running.spawn(async move { run(&tasks, &format!("e{number}"), "").await });
    }
    running.join_all().await;
    flood.told_in_order(200).await;
    assert_eq!(waiting.len(), 200);
    flood.vm.exit("c1", "", 7, false);
    assert!(waiting.join_all().await.iter().all(|status| *status == 7));
}

/// What containerd asks when it has restarted, of a guest that has not answered anything since. Says
/// how long it took (`--nocapture`, in a release build).
#[tokio::test]
async fn p05_a_guest_that_stands_still_holds_up_neither_state_nor_pids() {
    let flood = Flood::new().await;
    let _frozen = (flood.vm.hold_signals(), flood.vm.hold_changes());
    let mut stuck = JoinSet::new();
    for _ in 0..20 {
        let tasks = flood.tasks.clone();
        stuck.spawn(async move {
            let mut kill = request!(KillRequest, "");
            kill.signal = 9;
            let _ = tasks.kill(context(), &kill).await;
        });
    }
    let mut took = [Vec::new(), Vec::new()];
    for _ in 0..SHORT {
        let begun = Instant::now();
        let state = request!(StateRequest, "");
        let state = flood.tasks.state(context(), &state).await.unwrap();
        took[0].push(begun.elapsed());
        assert_eq!(state.status.enum_value(), Ok(api::Status::RUNNING));
        let begun = Instant::now();
        let mut pids = api::PidsRequest::new();
        pids.id = "c1".into();
        let pids = flood.tasks.pids(context(), &pids).await.unwrap();
        took[1].push(begun.elapsed());
        assert_eq!(pids.processes.len(), 1);
    }
    assert_eq!(stuck.len(), 20);
    assert!(stuck.try_join_next().is_none(), "the guest still stands");
    for (call, mut took) in ["State", "Pids"].into_iter().zip(took) {
        took.sort_unstable();
        println!(
            "{call}: median {:?}, 99 % {:?}",
            took[SHORT / 2],
            took[SHORT * 99 / 100]
        );
    }
}

#[tokio::test]
async fn p08_a_message_above_four_mebibytes_is_refused_and_the_next_call_answered() {
    let flood = Flood::new().await;
    let mut stream = StdStream::connect(flood.socket()).unwrap();
    let answer = tokio::task::spawn_blocking(move || {
        stream
            .write_all(&frame(1, &vec![b'x'; (4 << 20) + 1]))
            .unwrap();
        let refused = answer(&mut stream);
        let mut state = ttrpc::Request::new();
        state.service = "containerd.task.v2.Task".into();
        state.method = "State".into();
        state.payload = request!(StateRequest, "").write_to_bytes().unwrap();
        let state = state.write_to_bytes().unwrap();
        stream.write_all(&frame(3, &state)).unwrap();
        (refused, answer(&mut stream))
    });
    let (refused, state) = answer.await.unwrap();
    let status = refused.status();
    assert_eq!(status.code(), Code::INVALID_ARGUMENT);
    assert!(status.message.contains("maximum message size"), "{status}");
    assert_eq!(state.status().code(), Code::OK);
    // Just below it, a call works.
    let mut large = exec("e1", "");
    let spec = large.spec.as_mut().unwrap();
    let argument = "y".repeat(4_100_000);
    spec.value =
        format!(r#"{{"user":{{"uid":0,"gid":0}},"cwd":"/","args":["true","{argument}"]}}"#).into();
    flood.tasks.exec(context(), &large).await.unwrap();
}

/// Clients that give up at once, by their deadline or by closing the connection, in the middle of
/// every call: what they began is finished, and once.
#[tokio::test]
async fn p08_calls_that_are_given_up_are_finished_and_repeating_them_is_safe() {
    let mut flood = Flood::new().await;
    let execs = 200;
    for number in 0..execs {
        let id = format!("e{number}");
        let tasks = flood.tasks.clone();
        tasks.exec(context(), &exec(&id, "")).await.unwrap();
        let leaving = connect(&flood.socket()).await;
        let wait = request!(WaitRequest, &id);
        let start = request!(StartRequest, &id);
        let hurried = with_duration(Duration::from_micros(1 + number % 400));
        tokio::select! {
            biased;
            _ = leaving.wait(context(), &wait) => {}
            _ = tasks.start(hurried, &start) => {}
        }
        drop(leaving);
        match tasks.start(context(), &start).await {
            // The first one did not arrive.
            Ok(_) => {}
            Err(error) => assert_eq!(code(&error), Code::FAILED_PRECONDITION, "{id}: {error}"),
        }
        let exit = tasks.wait(context(), &wait).await.unwrap();
        assert_eq!(exit.exit_status, code_of(&id));
        let delete = request!(DeleteRequest, &id);
        let hurried = with_duration(Duration::from_micros(1 + number % 400));
        let _ = tasks.delete(hurried, &delete).await;
        match tasks.delete(context(), &delete).await {
            Ok(deleted) => assert_eq!(deleted.exit_status, code_of(&id)),
            Err(error) => assert_eq!(code(&error), Code::NOT_FOUND, "{id}: {error}"),
        }
    }
    flood.told_in_order(usize::try_from(execs).unwrap()).await;
}

/// An exec that is never started ends its Waits with its own deletion, or with its container's.
#[tokio::test]
async fn p08_a_wait_for_what_never_starts_ends_with_its_deletion() {
    let flood = Flood::new().await;
    let mut waits = JoinSet::new();
    for id in ["e1", "e2"] {
        flood.tasks.exec(context(), &exec(id, "")).await.unwrap();
        let tasks = flood.tasks.clone();
        waits.spawn(async move {
            let wait = request!(WaitRequest, id);
            tasks.wait(context(), &wait).await.unwrap();
        });
    }
    let delete = request!(DeleteRequest, "e1");
    flood.tasks.delete(context(), &delete).await.unwrap();
    waits.join_next().await.unwrap().unwrap();
    flood.vm.exit("c1", "", 0, false);
    let wait = request!(WaitRequest, "");
    flood.tasks.wait(context(), &wait).await.unwrap();
    let delete = request!(DeleteRequest, "");
    flood.tasks.delete(context(), &delete).await.unwrap();
    waits.join_next().await.unwrap().unwrap();
}

/// A shim after many execs is as large as after the first two hundred, and holds as many
/// descriptors and threads.
#[tokio::test]
async fn p21_a_long_life_makes_the_shim_no_larger() {
    let name = "p21_a_long_life_makes_the_shim_no_larger";
    if env::var_os(ALONE).is_none() {
        // Other tests of the same process would be counted too.
        let name = format!("{}::{name}", module_path!().split_once("::").unwrap().1);
        let status = Command::new(env::current_exe().unwrap())
            .args(["--exact", &name, "--nocapture"])
            .env(ALONE, "1")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    let mut flood = Flood::new().await;
    flood.vm.execs_run(|id| Program {
        output: b"words of an exec".to_vec(),
        status: code_of(&id.exec),
    });
    let (path, reader) = fifo(flood.dir.path(), "stdout");
    let execs = env::var("CAISSON_SOAK_EXECS").map_or(LONG_LIFE, |text| text.parse().unwrap());
    flood.live(0..FIRST, &path, &reader).await;
    let before = Size::now();
    flood.live(FIRST..FIRST + execs, &path, &reader).await;
    let after = Size::now();
    println!("{execs} execs: {before:?}, then {after:?}");
    assert_eq!(after.descriptors, before.descriptors);
    assert_eq!(after.threads, before.threads);
    assert!(
        after.resident <= before.resident + 2048,
        "{before:?}, then {after:?}"
    );
}

impl Flood {
    /// Runs execs ten at a time, and takes what they write and what is told of them.
    async fn live(
        &mut self,
        numbers: std::ops::Range<usize>,
        stdout: &str,
        reader: &pipe::Receiver,
    ) {
        let numbers: Vec<usize> = numbers.collect();
        for numbers in numbers.chunks(10) {
            let running: JoinSet<_> = numbers
                .iter()
                .map(|number| {
                    let (tasks, stdout) = (self.tasks.clone(), stdout.to_owned());
                    let id = format!("e{number}");
                    async move {
                        assert_eq!(run(&tasks, &id, &stdout).await.0, code_of(&id));
                    }
                })
                .collect();
            running.join_all().await;
            assert_eq!(whole(reader).len(), numbers.len() * 16);
            self.told_in_order(numbers.len()).await;
            self.vm.forget_calls();
        }
    }
}

/// What this process holds.
#[derive(Debug)]
struct Size {
    descriptors: usize,
    threads: usize,
    /// In KiB.
    resident: usize,
}

impl Size {
    fn now() -> Self {
        let count = |path: &str| std::fs::read_dir(path).unwrap().count();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|line| line.split_whitespace().next()?.parse().ok());
        Self {
            descriptors: count("/proc/self/fd"),
            threads: count("/proc/self/task"),
            resident: resident.unwrap(),
        }
    }
}

/// A client that asks a thousand times and reads no answer.
fn never_reads(socket: &Path) -> StdStream {
    let mut stream = StdStream::connect(socket).unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut pids = ttrpc::Request::new();
    pids.service = "containerd.task.v2.Task".into();
    pids.method = "Pids".into();
    let mut payload = api::PidsRequest::new();
    payload.id = "c1".into();
    pids.payload = payload.write_to_bytes().unwrap();
    let pids = pids.write_to_bytes().unwrap();
    for call in 0..1000 {
        if stream.write(&frame(2 * call + 1, &pids)).is_err() {
            // The socket is full: the server has stopped to read for us.
            break;
        }
    }
    stream
}

/// A request as ttrpc frames it: length, stream, type, flags, payload.
fn frame(stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(stream.to_be_bytes());
    frame.extend([1, 0]);
    frame.extend(payload);
    frame
}

/// The next answer on a connection.
fn answer(stream: &mut StdStream) -> ttrpc::Response {
    let mut header = [0; 10];
    stream.read_exact(&mut header).unwrap();
    let length = u32::from_be_bytes(header[..4].try_into().unwrap());
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).unwrap();
    ttrpc::Response::parse_from_bytes(&payload).unwrap()
}
