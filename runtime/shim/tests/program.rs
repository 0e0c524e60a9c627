//! The program as containerd runs it: `start`, the daemon behind it, `delete`, `-info`.
//!
//! Needs root, since the daemon makes a mount namespace, but no virtual machine.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "program/descriptors.rs"]
mod descriptors;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use containerd_shim_protos::api;
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::shim_async::TaskClient;
use protobuf::Message;
use tokio::net::UnixStream;
use ttrpc::Code;
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;

const PROGRAM: &str = env!("CARGO_BIN_EXE_containerd-shim-caisson-v2");
const NAMESPACE: &str = "shim-program-test";

/// A bundle, a socket directory and a place for the log.
struct Bench {
    dir: tempfile::TempDir,
    id: String,
}

/// What `start` left behind; killed with the test.
struct Shim {
    bundle: PathBuf,
    socket: PathBuf,
}

impl Drop for Shim {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    }
}

impl Shim {
    fn pid(&self) -> Option<u32> {
        let text = fs::read_to_string(self.bundle.join("shim.pid")).ok()?;
        let pid: u32 = text.parse().ok()?;
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        comm.starts_with("containerd-shim").then_some(pid)
    }

    async fn client(&self) -> TaskClient {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        TaskClient::new(Client::new(Socket::from(stream)))
    }

    /// Waits for the daemon's end.
    fn gone(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.pid().is_some() {
            assert!(Instant::now() < deadline, "the shim did not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: making a mount namespace needs root");
    }
    root
}

fn context() -> ttrpc::context::Context {
    ttrpc::context::with_duration(Duration::from_secs(10))
}

fn code(error: &ttrpc::Error) -> Code {
    match error {
        ttrpc::Error::RpcStatus(status) => status.code.enum_value().unwrap(),
        other => panic!("{other}"),
    }
}

impl Bench {
    fn new(id: &str, config: &str) -> Self {
        let bench = Self {
            dir: tempfile::tempdir().unwrap(),
            id: id.into(),
        };
        fs::create_dir(bench.bundle()).unwrap();
        fs::write(bench.bundle().join("config.json"), config).unwrap();
        bench
    }

    fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    fn run(&self, action: &str, input: &[u8]) -> Output {
        self.run_with(&[], action, input)
    }

    fn run_with(&self, env: &[(&str, &str)], action: &str, input: &[u8]) -> Output {
        let mut child = self
            .command(action)
            .envs(env.iter().copied())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        // Reads until nobody holds the pipes any more, as containerd does.
        child.wait_with_output().unwrap()
    }

    fn command(&self, action: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(["-namespace", NAMESPACE, "-id", &self.id])
            .args(["-address", self.dir.path().to_str().unwrap()])
            .args(["-publish-binary", "/usr/bin/containerd", action])
            .current_dir(self.bundle())
            .env("TTRPC_ADDRESS", "")
            .env("MAX_SHIM_VERSION", "2")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Asks as containerd 2.3 does, with a socket directory of our own.
    fn params(&self) -> Vec<u8> {
        let mut params = BootstrapParams::new();
        params.instance_id.clone_from(&self.id);
        params.namespace = NAMESPACE.into();
        params.socket_dir = Some(self.dir.path().join("s").display().to_string());
        params.write_to_bytes().unwrap()
    }

    fn start(&self) -> Shim {
        let output = self.run("start", &self.params());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let result = BootstrapResult::parse_from_bytes(&output.stdout).unwrap();
        assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
        let socket = result.address.strip_prefix("unix://").unwrap();
        Shim {
            bundle: self.bundle(),
            socket: socket.into(),
        }
    }

    fn refused(&self, input: &[u8]) -> String {
        let output = self.run("start", input);
        assert!(!output.status.success());
        assert!(output.stdout.is_empty(), "no answer");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Waits until no daemon of it is left and checks that it took its socket along.
    fn deserted(&self) {
        let shim = Shim {
            bundle: self.bundle(),
            socket: PathBuf::new(),
        };
        shim.gone();
        assert_eq!(self.sockets(), 0);
    }

    fn sockets(&self) -> usize {
        fs::read_dir(self.dir.path().join("s")).map_or(0, Iterator::count)
    }
}

const CONFIG: &str = r#"{"ociVersion":"1.0.2"}"#;

#[tokio::test]
async fn a_shim_starts_answers_and_ends_without_a_trace() {
    if !root() {
        return;
    }
    let bench = Bench::new("c1", CONFIG);
    // `run` returns although the daemon lives: it has not got the pipes.
    let shim = bench.start();
    let pid = shim.pid().expect("a daemon");
    let recorded = fs::read_to_string(bench.bundle().join("address")).unwrap();
    assert_eq!(recorded, format!("unix://{}", shim.socket.display()));
    let score = |pid: u32| -> i32 {
        let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        text.trim().parse().unwrap()
    };
    assert_eq!(score(pid), (score(std::process::id()) + 1).min(1000));
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    assert_ne!(namespace(pid), namespace(std::process::id()));

    let tasks = shim.client().await;
    let mut connect = api::ConnectRequest::new();
    connect.id = "c1".into();
    let connected = tasks.connect(context(), &connect).await.unwrap();
    assert_eq!((connected.shim_pid, connected.task_pid), (pid, 0));
    let mut pids = api::PidsRequest::new();
    pids.id = "c1".into();
    let error = tasks.pids(context(), &pids).await.unwrap_err();
    assert_eq!(code(&error), Code::NOT_FOUND);

    // A service manager that stops everything does not stop pods.
    let term = Command::new("kill").arg(pid.to_string()).status().unwrap();
    assert!(term.success());
    tasks.connect(context(), &connect).await.unwrap();

    let shutdown = api::ShutdownRequest::new();
    tasks.shutdown(context(), &shutdown).await.unwrap();
    assert!(!shim.socket.exists(), "gone before the answer");
    shim.gone();
    assert_eq!(bench.sockets(), 0);
}

#[tokio::test]
async fn both_versions_of_the_task_service_answer() {
    if !root() {
        return;
    }
    let bench = Bench::new("c1", CONFIG);
    let shim = bench.start();
    let stream = UnixStream::connect(&shim.socket).await.unwrap();
    let client = Client::new(Socket::from(stream));
    let mut state = api::StateRequest::new();
    state.id = "c1".into();
    for version in ["v2", "v3"] {
        let mut request = ttrpc::Request::new();
        request.service = format!("containerd.task.{version}.Task");
        request.method = "State".into();
        request.payload = state.write_to_bytes().unwrap();
        let error = client.request(request).await.unwrap_err();
        assert_eq!(code(&error), Code::NOT_FOUND, "{version}");
    }
}

#[tokio::test]
async fn a_checkpoint_is_not_supported_and_says_so() {
    if !root() {
        return;
    }
    let bench = Bench::new("c1", CONFIG);
    let shim = bench.start();
    let tasks = shim.client().await;
    let request = api::CheckpointTaskRequest::new();
    let error = tasks.checkpoint(context(), &request).await.unwrap_err();
    assert_eq!(code(&error), Code::UNIMPLEMENTED);
    assert!(error.to_string().contains("not supported"), "{error}");
}

#[tokio::test]
async fn an_invalid_configuration_is_named_by_create_and_leaves_nothing() {
    if !root() {
        return;
    }
    let bench = Bench::new("c1", CONFIG);
    let shim = bench.start();
    fs::write(bench.bundle().join("config.json"), "{\"ociVersion\":}").unwrap();
    let tasks = shim.client().await;
    let mut create = api::CreateTaskRequest::new();
    create.id = "c1".into();
    create.bundle = bench.bundle().display().to_string();
    let error = tasks.create(context(), &create).await.unwrap_err();
    assert_eq!(code(&error), Code::INVALID_ARGUMENT);
    let text = error.to_string();
    assert!(
        text.contains("config.json") && text.contains("line 1 column 15"),
        "{text}"
    );
    tasks
        .shutdown(context(), &api::ShutdownRequest::new())
        .await
        .unwrap();
    shim.gone();
    assert!(!Path::new("/run/caisson").join(NAMESPACE).exists());
}

#[test]
fn an_invalid_configuration_stops_start() {
    let bench = Bench::new("c1", "{\n  \"annotations\": 1\n}");
    let said = bench.refused(&bench.params());
    assert!(said.contains("config.json"), "{said}");
    assert!(said.contains("line 2 column 18"), "{said}");
    assert_eq!(bench.sockets(), 0);
}

#[test]
fn a_second_shim_for_the_same_container_is_refused() {
    if !root() {
        return;
    }
    let bench = Bench::new("c1", CONFIG);
    let shim = bench.start();
    let said = bench.refused(&bench.params());
    assert!(said.contains("already listens"), "{said}");
    assert!(shim.pid().is_some(), "the first is not harmed");
}

#[test]
fn a_container_finds_the_shim_of_its_pod_and_only_a_living_one() {
    if !root() {
        return;
    }
    let pod = Bench::new("pod", CONFIG);
    let member = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod",
        "io.kubernetes.cri.container-type":"container"}}"#;
    let bundle = pod.dir.path().join("member");
    fs::create_dir(&bundle).unwrap();
    fs::write(bundle.join("config.json"), member).unwrap();
    let mut params = BootstrapParams::parse_from_bytes(&pod.params()).unwrap();
    params.instance_id = "c2".into();
    let input = pod.dir.path().join("input");
    fs::write(&input, params.write_to_bytes().unwrap()).unwrap();
    let start = || {
        Command::new(PROGRAM)
            .args(["-namespace", NAMESPACE, "-id", "c2", "start"])
            .args(["-address", "ignored after the action"])
            .output()
    };
    // Flags come before the action.
    assert_eq!(start().unwrap().status.code(), Some(2));
    let start = || {
        Command::new(PROGRAM)
            .args(["-namespace", NAMESPACE, "-id", "c2"])
            .args(["-address", pod.dir.path().to_str().unwrap(), "start"])
            .current_dir(&bundle)
            .stdin(fs::File::open(&input).unwrap())
            .output()
            .unwrap()
    };
    let alone = start();
    assert!(!alone.status.success());
    let said = String::from_utf8_lossy(&alone.stderr).into_owned();
    assert!(
        said.contains("the shim of pod \"pod\" does not run"),
        "{said}"
    );

    let shim = pod.start();
    let joined = start();
    assert!(joined.status.success());
    let result = BootstrapResult::parse_from_bytes(&joined.stdout).unwrap();
    assert_eq!(result.address, format!("unix://{}", shim.socket.display()));
    let recorded = fs::read_to_string(bundle.join("address")).unwrap();
    assert_eq!(recorded, result.address);
    assert!(
        !bundle.join("shim.pid").exists(),
        "it has no shim of its own"
    );
}

#[test]
fn delete_ends_a_shim_that_hangs_and_tells_the_recorded_pid() {
    if !root() {
        return;
    }
    let bench = Bench::new("c1", CONFIG);
    let shim = bench.start();
    fs::write(bench.bundle().join("init.pid"), "4321").unwrap();
    let pid = shim.pid().unwrap().to_string();
    let stopped = Command::new("kill").args(["-STOP", &pid]).status().unwrap();
    assert!(stopped.success());
    let began = Instant::now();
    let output = bench.run("delete", b"");
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(output.status.success());
    let response = api::DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!((response.pid, response.exit_status), (4321, 137));
    assert!(response.exited_at.seconds > 1_700_000_000);
    // Until its new parent has collected it, it is still listed.
    shim.gone();
    assert!(!shim.socket.exists());
    let again = bench.run("delete", b"");
    assert!(again.status.success(), "a second time");
}

/// containerd kills `delete` after 5 s, wherever it is.
#[test]
fn what_delete_has_begun_is_done_even_if_it_is_killed() {
    if !root() {
        return;
    }
    let bench = Bench::new("killed", CONFIG);
    let state = Path::new("/run/caisson").join(NAMESPACE).join(&bench.id);
    fs::create_dir_all(&state).unwrap();
    let (gate, done) = (bench.dir.path().join("gate"), bench.dir.path().join("done"));
    let made = Command::new("mkfifo").arg(&gate).status().unwrap();
    assert!(made.success());
    // A hook runs after everything else.
    let script = format!(
        "read line <{}; echo $line >{}",
        gate.display(),
        done.display()
    );
    let due = serde_json::json!({
        "state": {"ociVersion": "1.1.0", "id": "killed", "status": "stopped", "bundle": "/"},
        "hooks": [{"path": "/bin/sh", "args": ["sh", "-c", script]}],
    });
    fs::write(bench.bundle().join("poststop.json"), due.to_string()).unwrap();

    let mut delete = bench.command("delete").spawn().unwrap();
    // Opens as soon as the hook does.
    let mut hook = fs::OpenOptions::new().write(true).open(&gate).unwrap();
    delete.kill().unwrap();
    // Nobody else holds containerd's pipes.
    let output = delete.wait_with_output().unwrap();
    assert!(output.stdout.is_empty() && !state.exists());
    writeln!(hook, "finished").unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while fs::read_to_string(&done).ok().as_deref() != Some("finished\n") {
        assert!(Instant::now() < deadline, "the cleaning up was killed too");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_log_goes_to_the_bundles_fifo() {
    if !root() {
        return;
    }
    let bench = Bench::new("c1", CONFIG);
    let fifo = bench.bundle().join("log");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, mode).unwrap();
    let reader = std::thread::spawn(move || {
        use std::io::BufRead;
        let fifo = std::io::BufReader::new(fs::File::open(fifo).unwrap());
        let lines = fifo.lines().map(Result::unwrap);
        let mut phases = lines.filter(|line| line.contains("msg=\"phase\""));
        [phases.next().unwrap(), phases.next().unwrap()]
    });
    let _shim = bench.start();
    let [began, ready] = reader.join().unwrap();
    assert!(began.contains("phase=\"shim-start\""), "{began}");
    assert!(ready.contains("phase=\"shim-ready\""), "{ready}");
}

/// A pod whose `start` meets the fault and never tells containerd of it.
#[cfg(debug_assertions)]
#[test]
fn a_start_that_dies_half_way_leaves_no_daemon_and_no_socket() {
    if !root() {
        return;
    }
    for action in ["kill", "error"] {
        for point in ["shim-before-listen", "shim-after-listen"] {
            let config =
                format!(r#"{{"annotations":{{"caisson.fail-points":"{point}={action}"}}}}"#);
            let bench = Bench::new("c1", &config);
            let output = bench.run("start", &bench.params());
            assert!(!output.status.success(), "{point}={action}");
            assert!(output.stdout.is_empty(), "{point}={action}");
            bench.deserted();
        }
    }
}

#[test]
fn a_full_disk_stops_start_and_leaves_no_daemon_and_no_socket() {
    if !root() {
        return;
    }
    // A file that cannot be written, like every file of a full disk.
    let bench = Bench::new("c1", CONFIG);
    fs::create_dir(bench.bundle().join(".address.new")).unwrap();
    let said = bench.refused(&bench.params());
    assert!(said.contains("cannot write the address"), "{said}");
    bench.deserted();
}

#[tokio::test]
async fn p16_a_shim_answers_as_soon_as_start_has_returned() {
    if !root() {
        return;
    }
    for round in 0..20 {
        let bench = Bench::new(&format!("c{round}"), CONFIG);
        let shim = bench.start();
        let tasks = shim.client().await;
        let mut connect = api::ConnectRequest::new();
        connect.id.clone_from(&bench.id);
        tasks.connect(context(), &connect).await.unwrap();
        let shutdown = api::ShutdownRequest::new();
        tasks.shutdown(context(), &shutdown).await.unwrap();
        // It would wait for us to hang up.
        drop(tasks);
        shim.gone();
    }
}

/// What reads the log may die with containerd: the shim goes on, and its next reader finds lines.
#[tokio::test]
async fn p10_a_log_reader_that_dies_does_not_take_the_shim_along() {
    use std::io::BufRead;
    if !root() {
        return;
    }
    let bench = Bench::new("c1", CONFIG);
    let fifo = bench.bundle().join("log");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, mode).unwrap();
    let mut cat = Command::new("cat")
        .arg(&fifo)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let shim = bench.start();
    let mut lines = std::io::BufReader::new(cat.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    cat.kill().unwrap();
    cat.wait().unwrap();
    let tasks = shim.client().await;
    // More than a FIFO holds, of which each writes a line.
    fs::write(bench.bundle().join("config.json"), "{}").unwrap();
    let mut create = api::CreateTaskRequest::new();
    create.id = "c1".into();
    create.bundle = bench.bundle().display().to_string();
    for _ in 0..2000 {
        let _ = tasks.create(context(), &create).await.unwrap_err();
    }
    let mut connect = api::ConnectRequest::new();
    connect.id = "c1".into();
    tasks.connect(context(), &connect).await.unwrap();
    let again = std::io::BufReader::new(fs::File::open(&fifo).unwrap());
    let line = again.lines().next().unwrap().unwrap();
    assert!(line.contains("runtime=caisson"), "{line}");
}

#[test]
fn it_says_what_it_is() {
    let info = Command::new(PROGRAM).arg("-info").output().unwrap();
    assert!(info.status.success());
    assert!(String::from_utf8_lossy(&info.stdout).contains("io.containerd.caisson.v2"));
    let version = Command::new(PROGRAM).arg("-v").output().unwrap();
    let text = String::from_utf8(version.stdout).unwrap();
    assert_eq!(
        text.trim_end().split(' ').next_back(),
        Some(env!("CARGO_PKG_VERSION"))
    );
    let wrong = Command::new(PROGRAM).arg("-bogus").output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("-bogus"));
}

#[test]
fn a_shim_shares_no_core_where_containerd_asks_for_it() {
    use rustix::thread::{CoreSchedulingScope, core_scheduling_cookie};
    if !root() {
        return;
    }
    let bench = Bench::new("c1", CONFIG);
    let output = bench.run_with(&[("SCHED_CORE", "1")], "start", &bench.params());
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        // A kernel that cannot is no kernel to run on then.
        assert!(said.contains("CONFIG_SCHED_CORE"), "{said}");
        return;
    }
    let result = BootstrapResult::parse_from_bytes(&output.stdout).unwrap();
    let shim = Shim {
        bundle: bench.bundle(),
        socket: result.address.strip_prefix("unix://").unwrap().into(),
    };
    let pid = shim.pid().expect("a daemon");
    let pid = rustix::process::Pid::from_raw(pid.cast_signed());
    let cookie = |pid| core_scheduling_cookie(pid, CoreSchedulingScope::Thread);
    match (cookie(pid.unwrap()), cookie(rustix::process::getpid())) {
        (Ok(its), Ok(ours)) => assert_ne!(its, ours),
        _ => eprintln!("not checked: this machine's cores have one thread each"),
    }
}
