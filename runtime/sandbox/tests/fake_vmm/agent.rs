//! The agent in the fake guest. A process does what its first argument says.

use std::collections::HashMap;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use caisson_protocol::agent::{
    AddDiskRequest, AddDiskResponse, ContainerRequest, CreateContainerRequest, CreateExecRequest,
    DiskNumber, DiskRequest, Empty, ListProcessesResponse, ProcessRequest, ProcessResponse,
    SetCpusRequest, SetInterfacesRequest, SignalRequest, StatsResponse, Stdio, UpdateRequest,
    UpdateVolumeRequest, UpdatedVolume, WaitResponse,
};
use caisson_protocol::agent_ttrpc::{Agent, create_agent};
use caisson_protocol::{MAX_STREAM_HEADER, StreamId};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use ttrpc::Code;
use ttrpc::asynchronous::{Server, TtrpcContext};
use ttrpc::error::get_rpc_status;

/// How the rest of the fake VMM reaches the agent.
pub(crate) struct Running {
    runtime: Handle,
    address: String,
    streams: Streams,
}

/// Streams that were opened, by number.
type Streams = Arc<watch::Sender<HashMap<u64, Arc<Mutex<Option<UnixStream>>>>>>;

/// Starts the agent on threads of its own. `name` is one that no other fake VMM has. What it is told
/// of the network, of volumes and of disks, it writes to `notes`.
pub(crate) fn start(name: u64, notes: Option<PathBuf>) -> Running {
    let streams: Streams = Arc::new(watch::Sender::new(HashMap::new()));
    // Abstract: it leaves nothing in the file system.
    let address = format!("unix://@caisson-fake-agent-{name}");
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn({
        let (streams, address) = (streams.clone(), address.clone());
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let agent = FakeAgent {
                    streams,
                    processes: Mutex::default(),
                    notes,
                };
                let mut server = Server::new()
                    .bind(&address)
                    .unwrap()
                    .register_service(create_agent(Arc::new(agent)));
                server.start().await.unwrap();
                sender.send(Handle::current()).unwrap();
                std::future::pending::<()>().await;
            });
        }
    });
    Running {
        runtime: receiver.recv().unwrap(),
        address,
        streams,
    }
}

impl Running {
    /// Carries a connection to the agent's ttrpc port.
    pub(crate) fn serve(&self, socket: OwnedFd) {
        let name = self.address.trim_start_matches("unix://@").to_owned();
        self.runtime.spawn(async move {
            let mut host = tokio_stream(socket);
            let address = <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name).unwrap();
            let inner = StdStream::connect_addr(&address).unwrap();
            let mut inner = tokio_stream(inner.into());
            let _ = tokio::io::copy_bidirectional(&mut host, &mut inner).await;
        });
    }

    /// Takes a connection to the agent's stream port.
    pub(crate) fn stream(&self, socket: OwnedFd) {
        let mut socket = StdStream::from(socket);
        socket.set_nonblocking(false).unwrap();
        let mut header = [0; MAX_STREAM_HEADER];
        socket.read_exact(&mut header).unwrap();
        let number = StreamId::from_header(&header).unwrap().get();
        let _runtime = self.runtime.enter();
        let stream = Arc::new(Mutex::new(Some(tokio_stream(socket.into()))));
        self.streams.send_modify(|streams| {
            streams.insert(number, stream);
        });
    }
}

fn tokio_stream(socket: OwnedFd) -> UnixStream {
    let socket = StdStream::from(socket);
    socket.set_nonblocking(true).unwrap();
    UnixStream::from_std(socket).unwrap()
}

struct Process {
    args: Vec<String>,
    stdio: Stdio,
    exit: watch::Sender<Option<u32>>,
}

struct FakeAgent {
    streams: Streams,
    processes: Mutex<HashMap<(String, String), Process>>,
    notes: Option<PathBuf>,
}

impl FakeAgent {
    async fn stream(&self, number: u64) -> Option<UnixStream> {
        if number == 0 {
            return None;
        }
        let mut streams = self.streams.subscribe();
        let streams = streams
            .wait_for(|streams| streams.contains_key(&number))
            .await
            .unwrap();
        streams.get(&number)?.lock().unwrap().take()
    }

    fn note(&self, line: &str) {
        crate::note(self.notes.as_deref(), line);
    }

    fn create(
        &self,
        container: String,
        exec: String,
        process: &Value,
        stdio: Option<Stdio>,
    ) -> ttrpc::Result<()> {
        let args: Vec<String> = serde_json::from_value(process["args"].clone()).unwrap();
        match args.first().map(String::as_str) {
            Some("absent") => {
                let message = format!(
                    "exec: \"absent\": executable file not found in $PATH\n\x1b[2J{}",
                    "!".repeat(5000)
                );
                return Err(get_rpc_status(Code::NOT_FOUND, message));
            }
            Some("strange") => return Err(get_rpc_status(Code::DATA_LOSS, "hm")),
            _ => {}
        }
        let process = Process {
            args,
            stdio: stdio.unwrap_or_default(),
            exit: watch::Sender::new(None),
        };
        let mut processes = self.processes.lock().unwrap();
        if processes.contains_key(&(container.clone(), exec.clone())) {
            return Err(get_rpc_status(Code::ALREADY_EXISTS, "exists"));
        }
        processes.insert((container, exec), process);
        Ok(())
    }

    fn note_volume(&self, what: &str, container: &str, volume: &UpdatedVolume) {
        let UpdatedVolume {
            mount,
            version,
            names,
            ..
        } = volume;
        self.note(&format!(
            "{what} {container} {mount} {version} {}",
            names.join(",")
        ));
    }

    fn with<T>(
        &self,
        container: String,
        exec: String,
        act: impl FnOnce(&mut Process) -> T,
    ) -> ttrpc::Result<T> {
        let mut processes = self.processes.lock().unwrap();
        processes
            .get_mut(&(container, exec))
            .map(act)
            .ok_or_else(|| get_rpc_status(Code::NOT_FOUND, "no such process"))
    }
}

#[async_trait]
impl Agent for FakeAgent {
    async fn create_container(
        &self,
        _context: &TtrpcContext,
        request: CreateContainerRequest,
    ) -> ttrpc::Result<ProcessResponse> {
        let config: Value = serde_json::from_slice(&request.config).unwrap();
        let root = format!("/run/caisson/shared/{}/rootfs", request.container_id);
        assert_eq!(config["root"]["path"], root);
        for volume in &request.updated {
            self.note_volume("created", &request.container_id, volume);
        }
        for device in config["linux"]["devices"].as_array().into_iter().flatten() {
            self.note(&format!(
                "{}: {} {}:{} at {}",
                request.container_id,
                device["type"].as_str().unwrap(),
                device["major"],
                device["minor"],
                device["path"].as_str().unwrap()
            ));
        }
        for mount in &request.root_mounts {
            let disks = mount
                .disks
                .iter()
                .map(|disk| format!("{}:{}", disk.major, disk.minor));
            let disks: Vec<String> = disks.collect();
            let (id, kind, options) = (&request.container_id, &mount.kind, mount.options.join(","));
            self.note(&format!(
                "{id}: root {kind} on {} with {options}",
                disks.join(" ")
            ));
        }
        self.create(
            request.container_id,
            String::new(),
            &config["process"],
            request.stdio.into_option(),
        )?;
        Ok(ProcessResponse::default())
    }

    async fn create_exec(
        &self,
        _context: &TtrpcContext,
        request: CreateExecRequest,
    ) -> ttrpc::Result<Empty> {
        let process: Value = serde_json::from_slice(&request.process).unwrap();
        self.create(
            request.container_id,
            request.exec_id,
            &process,
            request.stdio.into_option(),
        )?;
        Ok(Empty::default())
    }

    async fn start(
        &self,
        _context: &TtrpcContext,
        request: ProcessRequest,
    ) -> ttrpc::Result<ProcessResponse> {
        let (args, stdio, exit) = self.with(request.container_id, request.exec_id, |process| {
            (
                process.args.clone(),
                process.stdio.clone(),
                process.exit.clone(),
            )
        })?;
        let stdin = self.stream(stdio.stdin).await;
        let stdout = self.stream(stdio.stdout).await;
        let mut stderr = self.stream(stdio.stderr).await;
        match args.first().map(String::as_str) {
            Some("cat") => {
                let (mut stdin, mut stdout) = (stdin.unwrap(), stdout.unwrap());
                tokio::spawn(async move {
                    tokio::io::copy(&mut stdin, &mut stdout).await.unwrap();
                    stdout.shutdown().await.unwrap();
                    exit.send_replace(Some(0));
                });
            }
            Some("complain") => {
                stderr.as_mut().unwrap().write_all(b"oh no").await.unwrap();
                exit.send_replace(Some(42));
            }
            Some("power-off") => std::process::exit(0),
            _ => {}
        }
        Ok(ProcessResponse::default())
    }

    async fn wait(
        &self,
        _context: &TtrpcContext,
        request: ProcessRequest,
    ) -> ttrpc::Result<WaitResponse> {
        let exit = self.with(request.container_id, request.exec_id, |process| {
            process.exit.clone()
        })?;
        let mut exit = exit.subscribe();
        let status = exit.wait_for(Option::is_some).await.unwrap().unwrap();
        Ok(WaitResponse {
            exit_status: status,
            exited_at_ns: i64::MIN,
            oom_killed: true,
            ..Default::default()
        })
    }

    async fn signal(
        &self,
        _context: &TtrpcContext,
        request: SignalRequest,
    ) -> ttrpc::Result<Empty> {
        self.with(request.container_id, request.exec_id, |process| {
            process.exit.send_replace(Some(128 + request.signal));
        })?;
        Ok(Empty::default())
    }

    async fn delete(
        &self,
        _context: &TtrpcContext,
        request: ProcessRequest,
    ) -> ttrpc::Result<Empty> {
        let mut processes = self.processes.lock().unwrap();
        let key = (request.container_id, request.exec_id);
        let Some(process) = processes.get(&key) else {
            return Err(get_rpc_status(Code::NOT_FOUND, "no such process"));
        };
        let running = process.args == ["sleep"] && process.exit.borrow().is_none();
        if running {
            return Err(get_rpc_status(Code::FAILED_PRECONDITION, "it runs"));
        }
        processes.remove(&key);
        Ok(Empty::default())
    }

    async fn list_processes(
        &self,
        _context: &TtrpcContext,
        request: ContainerRequest,
    ) -> ttrpc::Result<ListProcessesResponse> {
        if request.container_id == "stuck" {
            std::future::pending::<()>().await;
        }
        Ok(ListProcessesResponse {
            pids: vec![17, 18],
            ..Default::default()
        })
    }

    async fn pause(
        &self,
        _context: &TtrpcContext,
        request: ContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.with(request.container_id, String::new(), |_| Empty::default())
    }

    async fn update(
        &self,
        _context: &TtrpcContext,
        request: UpdateRequest,
    ) -> ttrpc::Result<Empty> {
        let resources: Value = serde_json::from_slice(&request.resources).unwrap();
        assert!(resources["blockIO"].get("throttleReadBpsDevice").is_none());
        if resources["pids"]["limit"] == 13 {
            let message = "linux.resources.pids.limit: the kernel refuses";
            return Err(get_rpc_status(Code::INVALID_ARGUMENT, message));
        }
        Ok(Empty::default())
    }

    async fn set_cpus(
        &self,
        _context: &TtrpcContext,
        request: SetCpusRequest,
    ) -> ttrpc::Result<Empty> {
        if request.count == 3 {
            return Err(get_rpc_status(Code::INTERNAL, "CPU 2 does not come"));
        }
        Ok(Empty::default())
    }

    async fn set_interfaces(
        &self,
        _context: &TtrpcContext,
        request: SetInterfacesRequest,
    ) -> ttrpc::Result<Empty> {
        for interface in request.interfaces {
            if interface.name == "bad0" {
                return Err(get_rpc_status(Code::INTERNAL, "bad0 is not liked"));
            }
            self.note(&format!(
                "slot {}: {}, {} addresses",
                interface.slot,
                interface.name,
                interface.addresses.len()
            ));
        }
        Ok(Empty::default())
    }

    async fn update_volume(
        &self,
        _context: &TtrpcContext,
        request: UpdateVolumeRequest,
    ) -> ttrpc::Result<Empty> {
        self.note_volume("updated", &request.container_id, &request.volume);
        if request.volume.version == "..large" {
            return Err(get_rpc_status(Code::FAILED_PRECONDITION, "it is not kept"));
        }
        Ok(Empty::default())
    }

    /// Without notes the guest finds no disk.
    async fn add_disk(
        &self,
        _context: &TtrpcContext,
        request: AddDiskRequest,
    ) -> ttrpc::Result<AddDiskResponse> {
        if self.notes.is_none() {
            return Err(get_rpc_status(Code::FAILED_PRECONDITION, "no disk there"));
        }
        let number = |(major, minor)| DiskNumber {
            major,
            minor,
            ..Default::default()
        };
        let slot = request.slot;
        let disks = match request.parts.len() {
            0 => {
                self.note(&format!("slot {slot}: found"));
                vec![number((254, slot))]
            }
            count => {
                let parts = request.parts.iter();
                let parts: Vec<String> = parts
                    .map(|part| format!("{}+{}", part.offset, part.bytes))
                    .collect();
                self.note(&format!("slot {slot}: found with {}", parts.join(", ")));
                let numbers = (0..)
                    .take(count)
                    .map(|part| number((259, slot * 1000 + part)));
                numbers.collect()
            }
        };
        Ok(AddDiskResponse {
            disks,
            ..Default::default()
        })
    }

    async fn remove_disk(
        &self,
        _context: &TtrpcContext,
        request: DiskRequest,
    ) -> ttrpc::Result<Empty> {
        self.note(&format!("slot {}: removed", request.slot));
        Ok(Empty::default())
    }

    async fn scan_bus(&self, _context: &TtrpcContext, _request: Empty) -> ttrpc::Result<Empty> {
        self.note("bus scanned");
        Ok(Empty::default())
    }

    async fn stats(
        &self,
        _context: &TtrpcContext,
        _request: ContainerRequest,
    ) -> ttrpc::Result<StatsResponse> {
        Err(get_rpc_status(Code::UNKNOWN, "no idea"))
    }
}
