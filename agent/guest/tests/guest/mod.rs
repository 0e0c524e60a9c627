//! A guest without a virtual machine: the agent's service in namespaces of its own on this machine,
//! over AF_UNIX sockets, with a busybox for an image.
//!
//! Every test runs in a copy of the test program that is PID 1 of a pid namespace, as the agent is
//! in a guest, because it collects all processes there are.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is test code, which the settings for tests do not see outside of test functions"
)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use caisson_agent::cgroup::{self, Cgroup};
use caisson_agent::container::Tools;
use caisson_agent::launch::Launcher;
use caisson_agent::pod::Pod;
use caisson_agent::reaper::Reaper;
use caisson_agent::service::Service;
use caisson_agent::socket::Listener;
use caisson_agent::streams::Streams;
use caisson_agent::volumes::Volumes;
use caisson_protocol::agent::{
    ContainerRequest, CreateContainerRequest, CreateExecRequest, ProcessRequest,
    ResizeTerminalRequest, SignalRequest, StatsResponse, Stdio, UpdateRequest, WaitResponse,
};
use caisson_protocol::{StreamId, agent_ttrpc};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_blocking};
use ttrpc::context;

const INSIDE: &str = "CAISSON_TEST_INSIDE";

/// Longest time a test may take; nothing here takes more than a second by itself.
const TIME: Duration = Duration::from_secs(60);

/// Runs a test in a guest. Says why if it cannot.
pub fn in_guest<F: Future<Output = ()>>(name: &str, test: impl FnOnce(Guest) -> F) {
    if let Ok(group) = std::env::var(INSIDE) {
        TestGroup::enter(&group);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        return runtime.block_on(async {
            let guest = Guest::new().await;
            tokio::time::timeout(TIME, test(guest))
                .await
                .expect("the test takes too long");
        });
    }
    if let Some(reason) = why_not() {
        println!("skipped: {reason}");
        return;
    }
    let group = TestGroup::new(name);
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--uts",
            "--ipc",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, group.name())
        .output()
        .unwrap();
    print!("{}", String::from_utf8_lossy(&output.stdout));
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} failed in its guest");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("1 passed"),
        "{name} did not run"
    );
}

fn why_not() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("making containers needs root".to_owned());
    }
    for (program, package) in [("busybox", "busybox-static"), ("unshare", "util-linux")] {
        if find(program).is_none() {
            return Some(format!("there is no {program} (package {package})"));
        }
    }
    if cgroup_mount().is_none() {
        return Some("no cgroup2 hierarchy is mounted".to_owned());
    }
    None
}

/// Where this machine has mounted cgroup v2, alone or next to v1.
fn cgroup_mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts
        .lines()
        .find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
    line.split(' ').nth(1).map(PathBuf::from)
}

/// The cgroup that is the whole hierarchy for one test.
struct TestGroup(PathBuf);

impl TestGroup {
    fn new(test: &str) -> Self {
        let name = format!("caisson-agent-{}-{test}", std::process::id());
        let path = cgroup_mount().unwrap().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn name(&self) -> &str {
        self.0.file_name().unwrap().to_str().unwrap()
    }

    /// To be called in the test's own mount and pid namespace.
    fn enter(name: &str) {
        mount(&["-t", "cgroup2", "none", cgroup::ROOT]);
        let path = Path::new(cgroup::ROOT).join(name);
        fs::write(path.join("cgroup.procs"), "0").unwrap();
        unshare_cgroups();
        assert!(
            Command::new("umount")
                .arg(cgroup::ROOT)
                .status()
                .unwrap()
                .success()
        );
        mount(&["-t", "cgroup2", "none", cgroup::ROOT]);
        // A group with processes of its own cannot pass controllers on.
        let agent = Path::new(cgroup::ROOT).join("agent");
        fs::create_dir(&agent).unwrap();
        fs::write(agent.join("cgroup.procs"), "0").unwrap();
    }
}

#[allow(unsafe_code)]
fn unshare_cgroups() {
    // SAFETY: only what this process sees of the hierarchy changes; no descriptor table is unshared.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWCGROUP) }.unwrap();
}

impl Drop for TestGroup {
    fn drop(&mut self) {
        let group = Cgroup::at(self.0.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        // A test that failed has left processes.
        group.kill().unwrap();
        runtime.block_on(group.emptied()).unwrap();
        group.remove().unwrap();
    }
}

fn find(program: &str) -> Option<PathBuf> {
    ["/bin", "/usr/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.exists())
}

/// A running agent and its client.
pub struct Guest {
    pub client: agent_ttrpc::AgentClient,
    pub rootfs: PathBuf,
    requests: PathBuf,
    streams: PathBuf,
    state: PathBuf,
    next_stream: AtomicU64,
    _directory: tempfile::TempDir,
    _server: ttrpc::r#async::Server,
}

/// The host's ends of a process's streams.
pub struct Streamed {
    pub stdio: Stdio,
    pub stdin: UnixStream,
    pub stdout: JoinHandle<Vec<u8>>,
    pub stderr: JoinHandle<Vec<u8>>,
}

impl Streamed {
    /// Both outputs as text, once they have ended.
    pub async fn output(self) -> (String, String) {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            text(self.stdout.await.unwrap()),
            text(self.stderr.await.unwrap()),
        )
    }
}

impl Guest {
    async fn new() -> Self {
        cgroup::prepare().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let rootfs = directory.path().join("rootfs");
        make_image(&rootfs);
        let state = directory.path().join("state");
        fs::create_dir(&state).unwrap();
        let tools = Tools {
            reaper: Reaper::default(),
            streams: Streams::default(),
            launcher: Launcher::new(env!("CARGO_BIN_EXE_caisson-agent").into()),
            volumes: Volumes::default(),
            state: state.clone(),
        };
        tokio::spawn(tools.reaper.clone().run());
        let streams = directory.path().join("streams");
        let listener = Listener::unix(UnixListener::bind(&streams).unwrap()).unwrap();
        tokio::spawn(tools.streams.clone().serve(listener));
        let requests = directory.path().join("requests");
        let listener = Listener::unix(UnixListener::bind(&requests).unwrap()).unwrap();
        let service = Service::new(Arc::new(Pod::new(tools)), Arc::new(Notify::new()));
        let server = service.serve(listener).await.unwrap();
        Self {
            client: connect(&requests).await,
            requests,
            rootfs,
            streams,
            state,
            next_stream: AtomicU64::new(1),
            _directory: directory,
            _server: server,
        }
    }

    /// One more client.
    pub async fn connect(&self) -> agent_ttrpc::AgentClient {
        connect(&self.requests).await
    }

    /// Opens a stream as the host does; its number and the host's end.
    pub fn stream(&self) -> (u64, UnixStream) {
        let number = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let mut stream = UnixStream::connect(&self.streams).unwrap();
        stream
            .write_all(&StreamId::new(number).unwrap().to_header())
            .unwrap();
        (number, stream)
    }

    /// All three streams, with both outputs being read.
    pub fn streamed(&self) -> Streamed {
        let (stdin, input) = self.stream();
        let (stdout, output) = self.stream();
        let (stderr, errors) = self.stream();
        Streamed {
            stdio: Stdio {
                stdin,
                stdout,
                stderr,
                ..Default::default()
            },
            stdin: input,
            stdout: read_all(output),
            stderr: read_all(errors),
        }
    }

    /// A configuration as containerd writes it.
    pub fn config(&self, args: &[&str]) -> Value {
        json!({
            "ociVersion": "1.1.0",
            "hostname": "inner",
            "root": {"path": self.rootfs},
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": args,
                "env": ["PATH=/bin:/usr/bin"],
                "cwd": "/",
                "noNewPrivileges": true,
                "capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_CHOWN", "CAP_KILL"], "permitted": ["CAP_CHOWN", "CAP_KILL"]},
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
                {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"]},
            ],
            "linux": {
                "cgroupsPath": "system.slice:cri-containerd:x",
                "namespaces": [
                    {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}, {"type": "cgroup"},
                ],
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
                "readonlyPaths": ["/proc/sys"],
            },
        })
    }

    pub fn create_request(&self, id: &str, config: &Value) -> CreateContainerRequest {
        CreateContainerRequest {
            container_id: id.to_owned(),
            config: config.to_string().into_bytes(),
            ..Default::default()
        }
    }

    pub async fn create(&self, id: &str, config: &Value, stdio: Stdio) -> ttrpc::Result<u32> {
        let request = CreateContainerRequest {
            stdio: Some(stdio).into(),
            ..self.create_request(id, config)
        };
        Ok(self.client.create_container(context(), &request).await?.pid)
    }

    pub async fn create_exec(
        &self,
        id: &str,
        exec_id: &str,
        process: &Value,
        stdio: Stdio,
    ) -> ttrpc::Result<()> {
        let request = CreateExecRequest {
            container_id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            process: process.to_string().into_bytes(),
            stdio: Some(stdio).into(),
            ..Default::default()
        };
        self.client.create_exec(context(), &request).await.map(drop)
    }

    pub async fn start(&self, id: &str, exec_id: &str) -> ttrpc::Result<u32> {
        Ok(self
            .client
            .start(context(), &process(id, exec_id))
            .await?
            .pid)
    }

    pub async fn wait(&self, id: &str, exec_id: &str) -> ttrpc::Result<WaitResponse> {
        self.client.wait(context(), &process(id, exec_id)).await
    }

    pub async fn delete(&self, id: &str, exec_id: &str) -> ttrpc::Result<()> {
        self.client
            .delete(context(), &process(id, exec_id))
            .await
            .map(drop)
    }

    pub async fn signal(
        &self,
        id: &str,
        exec_id: &str,
        signal: u32,
        all: bool,
    ) -> ttrpc::Result<()> {
        let request = SignalRequest {
            container_id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            signal,
            all,
            ..Default::default()
        };
        self.client.signal(context(), &request).await.map(drop)
    }

    pub async fn resize(
        &self,
        id: &str,
        exec_id: &str,
        width: u32,
        height: u32,
    ) -> ttrpc::Result<()> {
        let request = ResizeTerminalRequest {
            container_id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            width,
            height,
            ..Default::default()
        };
        self.client
            .resize_terminal(context(), &request)
            .await
            .map(drop)
    }

    pub async fn processes(&self, id: &str) -> ttrpc::Result<Vec<u32>> {
        let request = container(id);
        Ok(self.client.list_processes(context(), &request).await?.pids)
    }

    pub async fn pause(&self, id: &str) -> ttrpc::Result<()> {
        let request = container(id);
        self.client.pause(context(), &request).await.map(drop)
    }

    pub async fn resume(&self, id: &str) -> ttrpc::Result<()> {
        let request = container(id);
        self.client.resume(context(), &request).await.map(drop)
    }

    pub async fn update(&self, id: &str, resources: &Value) -> ttrpc::Result<()> {
        let request = UpdateRequest {
            container_id: id.to_owned(),
            resources: resources.to_string().into_bytes(),
            ..Default::default()
        };
        self.client.update(context(), &request).await.map(drop)
    }

    pub async fn stats(&self, id: &str) -> ttrpc::Result<StatsResponse> {
        let request = container(id);
        self.client.stats(context(), &request).await
    }

    /// Runs a container to its end and deletes it: exit status, standard output and error.
    pub async fn run(&self, id: &str, config: &Value) -> (u32, String, String) {
        let streamed = self.streamed();
        self.create(id, config, streamed.stdio.clone())
            .await
            .unwrap();
        self.start(id, "").await.unwrap();
        let status = self.wait(id, "").await.unwrap().exit_status;
        let (stdout, stderr) = streamed.output().await;
        self.delete(id, "").await.unwrap();
        (status, stdout, stderr)
    }

    /// Nothing may be left of any container.
    pub fn assert_clean(&self) {
        let left: Vec<_> = fs::read_dir(&self.state)
            .unwrap()
            .flatten()
            .map(|e| e.path())
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

async fn connect(socket: &Path) -> agent_ttrpc::AgentClient {
    let address = format!("unix://{}", socket.display());
    agent_ttrpc::AgentClient::new(ttrpc::r#async::Client::connect(&address).await.unwrap())
}

/// Whether containers can have limits of this kind here.
pub fn has_controller(name: &str) -> bool {
    let controllers = fs::read_to_string(Path::new(cgroup::ROOT).join("cgroup.controllers"));
    controllers
        .unwrap()
        .split_whitespace()
        .any(|one| one == name)
}

pub fn cgroup_of(id: &str) -> PathBuf {
    Path::new(cgroup::ROOT).join(cgroup::PARENT).join(id)
}

pub fn context() -> context::Context {
    context::with_timeout(TIME.as_nanos().try_into().unwrap())
}

pub fn process(id: &str, exec_id: &str) -> ProcessRequest {
    ProcessRequest {
        container_id: id.to_owned(),
        exec_id: exec_id.to_owned(),
        ..Default::default()
    }
}

fn container(id: &str) -> ContainerRequest {
    ContainerRequest {
        container_id: id.to_owned(),
        ..Default::default()
    }
}

pub fn exec(args: &[&str]) -> Value {
    json!({
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": ["PATH=/bin", "FROM=exec"],
        "cwd": "/",
    })
}

pub fn read_all(mut stream: UnixStream) -> JoinHandle<Vec<u8>> {
    spawn_blocking(move || {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    })
}

/// The gRPC code and the words of a refusal.
pub fn refusal<T: std::fmt::Debug>(result: ttrpc::Result<T>) -> (ttrpc::Code, String) {
    match result {
        Err(ttrpc::Error::RpcStatus(status)) => (status.code(), status.message().to_owned()),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn mount(args: &[&str]) {
    assert!(
        Command::new("mount").args(args).status().unwrap().success(),
        "mount {args:?}"
    );
}

fn make_image(rootfs: &Path) {
    for directory in ["bin", "dev", "etc", "proc", "sys", "tmp", "root"] {
        fs::create_dir_all(rootfs.join(directory)).unwrap();
    }
    fs::copy(find("busybox").unwrap(), rootfs.join("bin/busybox")).unwrap();
    for applet in [
        "sh", "cat", "echo", "sleep", "true", "id", "stty", "ps", "mount", "hostname", "grep",
        "ls", "kill", "readlink", "ip", "env", "pwd", "stat", "head", "mkdir", "wc", "touch",
        "tty",
    ] {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
    }
    fs::write(
        rootfs.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv/web:/bin/sh\n",
    )
    .unwrap();
}
