//! A virtual machine for tests: processes that end when they are told to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use async_trait::async_trait;
use caisson_protocol::agent::StatsResponse;
use caisson_sandbox::{
    Config, CreateContainer, CreateExec, ErrorKind, PodSetUp, ProcessExit, ProcessId,
    ProcessStreams, SandboxError, SandboxOptions, VmEnd, VmEndKind, VmSize,
};
use oci_spec::runtime::LinuxResources;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, watch};

use crate::vm::{Launcher, Vm};

/// Process id that the fake reports.
pub(crate) const PID: u32 = 4242;

/// Most calls of one kind at once.
const PERMITS: usize = 100;

/// A fake virtual machine; clones are the same one.
#[derive(Clone)]
pub(crate) struct FakeVm(Arc<Inner>);

struct Inner {
    guest: Mutex<Guest>,
    end: watch::Sender<Option<VmEnd>>,
    /// Taken by each start_process; tests take permits away to hold starts up.
    starts: Semaphore,
    /// Likewise for delete_process and stop.
    deletes: Semaphore,
    stops: Semaphore,
    /// Likewise for what is done to a whole container.
    changes: Semaphore,
    /// Likewise for signal and create_container.
    signals: Semaphore,
    creates: Semaphore,
}

#[derive(Default)]
struct Guest {
    processes: HashMap<ProcessId, GuestProcess>,
    calls: Vec<String>,
    done: Vec<String>,
    refuse_create: Option<SandboxError>,
    refuse_start: Option<SandboxError>,
    refuse_signal: Option<SandboxError>,
    refuse_delete: Option<SandboxError>,
    refuse_change: Option<SandboxError>,
    refuse_growth: Option<SandboxError>,
    launched: Option<SandboxOptions>,
    refuse_set_up: Option<SandboxError>,
    set_up: Option<PodSetUp>,
    /// The last container that was to be created.
    created: Option<CreateContainer>,
    /// The size of the machine now.
    size: Option<VmSize>,
    /// What execs do by themselves once they are started.
    program: Option<Arc<Behaviour>>,
}

/// Decides what an exec does.
type Behaviour = dyn Fn(&ProcessId) -> Program + Send + Sync;

/// What a process does without being told.
#[derive(Clone)]
pub(crate) struct Program {
    /// What it writes to standard output.
    pub(crate) output: Vec<u8>,
    /// Its exit status.
    pub(crate) status: u32,
}

struct GuestProcess {
    exit: watch::Sender<Option<ProcessExit>>,
    /// The guest's ends of the streams.
    streams: ProcessStreams,
}

fn key(container: &str, exec: &str) -> ProcessId {
    ProcessId {
        container: container.into(),
        exec: exec.into(),
    }
}

fn error(kind: ErrorKind, message: &str) -> SandboxError {
    SandboxError::new(kind, message)
}

impl FakeVm {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            guest: Mutex::default(),
            end: watch::Sender::new(None),
            starts: Semaphore::new(PERMITS),
            deletes: Semaphore::new(PERMITS),
            stops: Semaphore::new(PERMITS),
            changes: Semaphore::new(PERMITS),
            signals: Semaphore::new(PERMITS),
            creates: Semaphore::new(PERMITS),
        }))
    }

    pub(crate) fn launcher(&self) -> Box<dyn Launcher> {
        Box::new(FakeLauncher(self.clone()))
    }

    /// Ends a process.
    pub(crate) fn exit(&self, container: &str, exec: &str, status: u32, oom_killed: bool) {
        let guest = self.guest();
        let process = &guest.processes[&key(container, exec)];
        process.exit.send_replace(Some(ProcessExit {
            status,
            exited_at: SystemTime::now(),
            oom_killed,
        }));
    }

    /// The guest's ends of a process's streams.
    pub(crate) fn streams(&self, container: &str, exec: &str) -> ProcessStreams {
        let mut guest = self.guest();
        let process = guest.processes.get_mut(&key(container, exec)).unwrap();
        std::mem::take(&mut process.streams)
    }

    /// Ends the machine.
    pub(crate) fn die(&self, description: &str) {
        self.guest().processes.clear();
        self.0.end.send_replace(Some(VmEnd {
            kind: VmEndKind::Panic,
            description: description.into(),
            console: String::new(),
        }));
    }

    pub(crate) fn refuse_create(&self, kind: ErrorKind, message: &str) {
        self.guest().refuse_create = Some(error(kind, message));
    }
    pub(crate) fn refuse_start(&self, kind: ErrorKind, message: &str) {
        self.guest().refuse_start = Some(error(kind, message));
    }
    pub(crate) fn refuse_signal(&self, kind: ErrorKind, message: &str) {
        self.guest().refuse_signal = Some(error(kind, message));
    }
    pub(crate) fn refuse_delete(&self, kind: ErrorKind, message: &str) {
        self.guest().refuse_delete = Some(error(kind, message));
    }

    pub(crate) fn refuse_change(&self, kind: ErrorKind, message: &str) {
        self.guest().refuse_change = Some(error(kind, message));
    }
    pub(crate) fn refuse_growth(&self, kind: ErrorKind, message: &str) {
        self.guest().refuse_growth = Some(error(kind, message));
    }

    pub(crate) fn refuse_set_up(&self, kind: ErrorKind, message: &str) {
        self.guest().refuse_set_up = Some(error(kind, message));
    }

    /// What the pod was set up with.
    pub(crate) fn set_up(&self) -> Option<PodSetUp> {
        self.guest().set_up.clone()
    }

    /// The last container that was to be created.
    pub(crate) fn created(&self) -> CreateContainer {
        self.guest().created.take().unwrap()
    }

    /// Holds up every start until the returned guard is dropped.
    pub(crate) fn hold_starts(&self) -> impl Drop + '_ {
        let all = u32::try_from(PERMITS).unwrap();
        self.0.starts.try_acquire_many(all).unwrap()
    }

    /// Holds up every delete until the returned guard is dropped.
    pub(crate) fn hold_deletes(&self) -> impl Drop + '_ {
        let all = u32::try_from(PERMITS).unwrap();
        self.0.deletes.try_acquire_many(all).unwrap()
    }

    /// Holds up the end of the machine until the returned guard is dropped.
    pub(crate) fn hold_stops(&self) -> impl Drop + '_ {
        let all = u32::try_from(PERMITS).unwrap();
        self.0.stops.try_acquire_many(all).unwrap()
    }

    /// Holds up every change of a container until the returned guard is dropped.
    pub(crate) fn hold_changes(&self) -> impl Drop + '_ {
        let all = u32::try_from(PERMITS).unwrap();
        self.0.changes.try_acquire_many(all).unwrap()
    }

    /// Holds up every signal until the returned guard is dropped.
    pub(crate) fn hold_signals(&self) -> impl Drop + '_ {
        let all = u32::try_from(PERMITS).unwrap();
        self.0.signals.try_acquire_many(all).unwrap()
    }

    /// Holds up every creation until the returned guard is dropped.
    pub(crate) fn hold_creates(&self) -> impl Drop + '_ {
        let all = u32::try_from(PERMITS).unwrap();
        self.0.creates.try_acquire_many(all).unwrap()
    }

    /// Lets execs run `program` from now on. Their end is told before their output comes, and both
    /// before the guest has answered their start.
    pub(crate) fn execs_run(
        &self,
        program: impl Fn(&ProcessId) -> Program + Send + Sync + 'static,
    ) {
        self.guest().program = Some(Arc::new(program));
    }

    /// Runs the program of a started exec, if there is one.
    fn run(&self, id: &ProcessId) {
        let mut guest = self.guest();
        let Some(program) = guest.program.clone().filter(|_| !id.exec.is_empty()) else {
            return;
        };
        let program = program(id);
        let Some(process) = guest.processes.get_mut(id) else {
            return;
        };
        let mut streams = std::mem::take(&mut process.streams);
        process.exit.send_replace(Some(ProcessExit {
            status: program.status,
            exited_at: SystemTime::now(),
            oom_killed: false,
        }));
        tokio::spawn(async move {
            if let Some(stdout) = &mut streams.stdout {
                // Who does not want its output has closed the stream.
                let _ = stdout.write_all(&program.output).await;
            }
        });
    }

    /// Forgets the calls so far.
    pub(crate) fn forget_calls(&self) {
        self.guest().calls.clear();
    }

    /// The calls so far, `name container/exec`.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.guest().calls.clone()
    }

    /// The changes of containers that were carried out.
    pub(crate) fn done(&self) -> Vec<String> {
        self.guest().done.clone()
    }

    pub(crate) fn launched(&self) -> Option<SandboxOptions> {
        self.guest().launched.clone()
    }

    fn guest(&self) -> MutexGuard<'_, Guest> {
        self.0.guest.lock().unwrap()
    }

    fn call(&self, name: &str, id: &ProcessId) {
        let line = format!("{name} {}/{}", id.container, id.exec);
        self.guest().calls.push(line);
    }

    async fn changed(&self, name: &str, container: &str) -> Result<(), SandboxError> {
        self.call(name, &key(container, ""));
        let _held = self.0.changes.acquire().await.unwrap();
        let mut guest = self.guest();
        match guest.refuse_change.take() {
            Some(error) => Err(error),
            None => {
                guest.done.push(format!("{name} {container}/"));
                Ok(())
            }
        }
    }

    fn add(&self, id: ProcessId, wanted: [bool; 3]) -> ProcessStreams {
        let mut pairs = wanted.map(|wanted| wanted.then(|| UnixStream::pair().unwrap()));
        let mut split = |index: usize| match pairs[index].take() {
            Some((host, guest)) => (Some(host), Some(guest)),
            None => (None, None),
        };
        let (stdin, guest_stdin) = split(0);
        let (stdout, guest_stdout) = split(1);
        let (stderr, guest_stderr) = split(2);
        let process = GuestProcess {
            exit: watch::Sender::new(None),
            streams: ProcessStreams {
                stdin: guest_stdin,
                stdout: guest_stdout,
                stderr: guest_stderr,
            },
        };
        self.guest().processes.insert(id, process);
        ProcessStreams {
            stdin,
            stdout,
            stderr,
        }
    }
}

struct FakeLauncher(FakeVm);

#[async_trait]
impl Launcher for FakeLauncher {
    async fn launch(
        &self,
        _: &Config,
        options: SandboxOptions,
    ) -> Result<Arc<dyn Vm>, SandboxError> {
        self.0.guest().size = Some(options.size);
        self.0.guest().launched = Some(options);
        Ok(Arc::new(self.0.clone()))
    }
}

#[async_trait]
impl Vm for FakeVm {
    fn pid(&self) -> u32 {
        PID
    }
    fn set_oom_score(&self, score: i32) -> Result<(), SandboxError> {
        self.call(&format!("oom-score {score}"), &key("", ""));
        Ok(())
    }
    fn guest_kernel(&self) -> String {
        "6.12-fake".into()
    }
    fn phases(&self) -> Vec<(String, u64)> {
        Vec::new()
    }
    fn boot_size(&self) -> VmSize {
        self.guest().launched.as_ref().unwrap().size
    }
    async fn ended(&self) -> VmEnd {
        let mut end = self.0.end.subscribe();
        let end = end.wait_for(Option::is_some).await.unwrap();
        end.clone().unwrap()
    }
    async fn set_up_pod(&self, pod: PodSetUp) -> Result<(), SandboxError> {
        self.call("set-up", &key(&pod.hostname, ""));
        let mut guest = self.guest();
        guest.set_up = Some(pod);
        guest.refuse_set_up.take().map_or(Ok(()), Err)
    }
    async fn pod_stats(&self) -> Result<StatsResponse, SandboxError> {
        self.changed("stats", "").await?;
        Ok(StatsResponse::new())
    }
    async fn create_container(
        &self,
        request: CreateContainer,
    ) -> Result<ProcessStreams, SandboxError> {
        let id = key(&request.id, "");
        let wanted = [request.stdin, request.stdout, request.stderr];
        self.call("create", &id);
        self.guest().created = Some(request);
        let _held = self.0.creates.acquire().await.unwrap();
        if let Some(error) = self.guest().refuse_create.take() {
            return Err(error);
        }
        Ok(self.add(id, wanted))
    }
    async fn create_exec(&self, request: CreateExec) -> Result<ProcessStreams, SandboxError> {
        self.call("exec", &request.process);
        Ok(self.add(
            request.process,
            [request.stdin, request.stdout, request.stderr],
        ))
    }
    async fn start_process(&self, process: &ProcessId) -> Result<(), SandboxError> {
        self.call("start", process);
        let _held = self.0.starts.acquire().await.unwrap();
        let refused = self.guest().refuse_start.take();
        match refused {
            Some(error) => Err(error),
            None => {
                self.run(process);
                Ok(())
            }
        }
    }
    async fn wait_process(&self, process: &ProcessId) -> Result<ProcessExit, SandboxError> {
        let exit = self
            .guest()
            .processes
            .get(process)
            .map(|process| process.exit.subscribe());
        let mut exit = exit.ok_or_else(|| error(ErrorKind::NotFound, "no such process"))?;
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => Ok(exit.clone().unwrap()),
            Err(_) => Err(error(ErrorKind::Unavailable, "connection lost")),
        }
    }
    async fn signal(
        &self,
        process: &ProcessId,
        signal: u32,
        all: bool,
    ) -> Result<(), SandboxError> {
        self.call(&format!("signal {signal} {all}"), process);
        let _held = self.0.signals.acquire().await.unwrap();
        let mut guest = self.guest();
        if let Some(error) = guest.refuse_signal.take() {
            return Err(error);
        }
        let Some(found) = guest.processes.get(process) else {
            return Err(error(ErrorKind::NotFound, "no such process"));
        };
        if found.exit.borrow().is_some() {
            return Err(error(ErrorKind::NotFound, "it has ended"));
        }
        if signal == 9 {
            found.exit.send_replace(Some(ProcessExit {
                status: 137,
                exited_at: SystemTime::now(),
                oom_killed: false,
            }));
        }
        Ok(())
    }
    async fn delete_process(&self, process: &ProcessId) -> Result<(), SandboxError> {
        self.call("delete", process);
        let _held = self.0.deletes.acquire().await.unwrap();
        if let Some(error) = self.guest().refuse_delete.take() {
            return Err(error);
        }
        match self.guest().processes.remove(process) {
            Some(_) => Ok(()),
            None => Err(error(ErrorKind::NotFound, "no such process")),
        }
    }
    async fn resize(
        &self,
        process: &ProcessId,
        width: u32,
        height: u32,
    ) -> Result<(), SandboxError> {
        self.call(&format!("resize {width}x{height}"), process);
        Ok(())
    }
    async fn stats(&self, container: &str) -> Result<StatsResponse, SandboxError> {
        self.changed("stats", container).await?;
        Ok(StatsResponse::new())
    }
    async fn pause(&self, container: &str) -> Result<(), SandboxError> {
        self.changed("pause", container).await
    }
    async fn resume(&self, container: &str) -> Result<(), SandboxError> {
        self.changed("resume", container).await
    }
    async fn update(&self, container: &str, resources: LinuxResources) -> Result<(), SandboxError> {
        let limit = resources.pids().map(|pids| pids.limit());
        self.changed(&format!("update {limit:?}"), container).await
    }
    async fn resize_machine(&self, size: VmSize) -> Result<(), SandboxError> {
        let mut guest = self.guest();
        if guest.size == Some(size) {
            return Ok(());
        }
        guest
            .calls
            .push(format!("resize machine {} {}", size.vcpus, size.memory_mib));
        match guest.refuse_growth.take() {
            Some(error) => Err(error),
            None => {
                guest.size = Some(size);
                Ok(())
            }
        }
    }
    async fn stop(&self) {
        self.call("stop", &key("", ""));
        let _held = self.0.stops.acquire().await.unwrap();
        self.guest().processes.clear();
        self.0.end.send_replace(Some(VmEnd {
            kind: VmEndKind::Stopped,
            description: "stopped".into(),
            console: String::new(),
        }));
    }
}
