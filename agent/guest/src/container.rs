//! One container: its init process, its further processes, and what it leaves behind.

mod leftovers;
mod shared;

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use caisson_protocol::agent;
use oci_spec::runtime::{LinuxNamespaceType, Process as OciProcess};
use tokio::sync::RwLock;
use tokio::sync::oneshot;

use self::leftovers::Leftovers;
use self::shared::Shared;
use crate::boot::mounts;
use crate::cgroup::Cgroup;
use crate::descriptor::Descriptor;
use crate::error::{AgentError, Doing};
use crate::launch::create::{bundle_name, start_socket};
use crate::launch::finish::Finish;
use crate::launch::{Create, Enter, FailurePipe, Job, Launched, Launcher};
use crate::placed_devices;
use crate::process::{Outcome, Process, Stage};
use crate::reaper::{Exit, Reaper};
use crate::root::{self, Root};
use crate::specification::{self, Adapted, ExecDefaults};
use crate::stdio::{Claims, Movers, ProcessSide};
use crate::streams::Streams;
use crate::sysctl;
use crate::volumes::Volumes;

/// Exit status of an exec that could not be started, as containerd's own shim has it.
const NOT_STARTED: u32 = 128;

/// What containers need of the agent. Clones share it.
#[derive(Debug, Clone)]
pub struct Tools {
    /// Collects processes.
    pub reaper: Reaper,
    /// Where standard streams come from.
    pub streams: Streams,
    /// Makes processes.
    pub launcher: Launcher,
    /// What the host shares with the pod.
    pub volumes: Volumes,
    /// Where the state of containers is kept.
    pub state: PathBuf,
}

/// An exec that is registered and not started.
#[derive(Debug)]
struct Prepared {
    process: OciProcess,
    claims: Claims,
}

#[derive(Debug)]
struct Exec {
    process: Arc<Process>,
    prepared: Option<Prepared>,
}

/// A container.
#[derive(Debug)]
pub struct Container {
    id: String,
    /// Name of its directories; short, because one holds a socket.
    name: String,
    tools: Tools,
    cgroup: Cgroup,
    init: Arc<Process>,
    /// Where init says that it could not execute its program; taken by the start.
    failure: Mutex<Option<FailurePipe>>,
    namespaces: Vec<LinuxNamespaceType>,
    exec_defaults: ExecDefaults,
    /// Until it is cleared.
    shared: Mutex<Option<Arc<Shared>>>,
    /// Its root file system, if the guest mounts it, until it is cleared.
    root: Mutex<Option<Root>>,
    execs: Mutex<HashMap<String, Exec>>,
    /// Read by launches of execs, written by the end of init: what is launched is either killed
    /// with the rest or never launched. Written by pause and resume as well: a launch that is under
    /// way would stand still half-made, and the end of init wait for it.
    gate: RwLock<Activity>,
}

/// Whether the processes of a container run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    Running,
    Frozen,
}

impl Container {
    /// Makes a container whose init process waits for [`Container::start`]. `number` tells its
    /// directories from those of all other containers of this boot. It shares the processes of
    /// process `processes_of`, if there is one.
    ///
    /// # Errors
    /// Whatever prevents it; nothing is left behind then.
    pub async fn create(
        tools: &Tools,
        number: u64,
        request: agent::CreateContainerRequest,
        processes_of: Option<i32>,
    ) -> Result<Arc<Self>, AgentError> {
        let id = request.container_id;
        let mut adapted = specification::adapt(&request.config, &id)?;
        if let Some(pid) = processes_of {
            adapted.share_processes(pid);
        }
        let claims = Claims::new(&tools.streams, &request.stdio)?;
        let name = number.to_string();
        let root = root::mount(&tools.state, &name, request.root_mounts).await?;
        adapted.place_root(root.as_ref().map(Root::path))?;
        let cgroup = Cgroup::create(&id)?;
        let leftovers = Leftovers {
            state: tools.state.clone(),
            name: name.clone(),
            cgroup: cgroup.clone(),
            root,
        };
        let made = Self::make(tools, id, name, cgroup, adapted, claims, request.updated);
        match made.await {
            Ok(container) => {
                *container.lock_root() = leftovers.root;
                Ok(container)
            }
            Err(error) => {
                // The first error is the one to tell.
                let _ = leftovers.clear().await;
                Err(error)
            }
        }
    }

    async fn make(
        tools: &Tools,
        id: String,
        name: String,
        cgroup: Cgroup,
        adapted: Adapted,
        claims: Claims,
        updated: Vec<agent::UpdatedVolume>,
    ) -> Result<Arc<Self>, AgentError> {
        if let Some(resources) = &adapted.resources {
            cgroup.apply(resources)?;
            cgroup.restrict_devices(resources.devices().as_deref().unwrap_or_default())?;
        }
        sysctl::set(&adapted.sysctls)?;
        if let Some(size) = adapted.shared_memory {
            mounts::limit_shared_memory(size).doing("limit the pod's shared memory")?;
        }
        if let Some(hostname) = &adapted.pod_hostname {
            sysctl::set_hostname(hostname)?;
        }
        let (shared, mut adapted) = shared::enter(tools, &name, adapted, updated).await?;
        let bundle = tools.state.join(bundle_name(&name));
        fs::create_dir_all(&bundle).doing("make a directory for a container")?;
        placed_devices::place(&bundle, &mut adapted.spec).doing("make a device")?;
        let config = serde_json::to_vec(&adapted.spec).map_err(|error| {
            AgentError::Internal(format!("cannot write a configuration: {error}"))
        })?;
        fs::write(bundle.join("config.json"), config).doing("write a configuration")?;

        let terminal = adapted.finish.process.terminal().unwrap_or(false);
        let init = Arc::new(Process::new(
            format!("container {id}"),
            console_size(&adapted.finish.process),
        ));
        let job = Job::Create(Create {
            state: tools.state.clone(),
            name: name.clone(),
            terminal,
            own_network: adapted.own_network,
            start_hooks: adapted.start_hooks,
            finish: adapted.finish,
        });
        let (exit, failure) = launch(tools, &job, claims, &init, terminal).await?;
        let container = Arc::new(Self {
            id,
            name,
            tools: tools.clone(),
            cgroup,
            init,
            failure: Mutex::new(Some(failure)),
            namespaces: adapted.namespaces,
            exec_defaults: adapted.exec,
            shared: Mutex::new(Some(Arc::new(shared))),
            root: Mutex::default(),
            execs: Mutex::default(),
            gate: RwLock::new(Activity::Running),
        });
        tokio::spawn(Arc::clone(&container).supervise(exit));
        Ok(container)
    }

    /// Waits for the end of init, ends the rest, and only then tells the waiters: whoever hears of
    /// the end may rely on it that nothing of the container runs any more.
    async fn supervise(self: Arc<Self>, exit: oneshot::Receiver<Exit>) {
        // The reaper lives as long as the agent.
        let Ok(exit) = exit.await else { return };
        self.init.ended();
        // Launches that were under way are finished then, and later ones refused. Not held any longer:
        // the execs that are waited for below may be about to be refused.
        drop(self.gate.write().await);
        let _ = self.cgroup.kill();
        let _ = self.cgroup.emptied().await;
        let execs: Vec<_> = self
            .lock_execs()
            .values()
            .filter(|exec| exec.prepared.is_none())
            .map(|exec| Arc::clone(&exec.process))
            .collect();
        for exec in execs {
            let _ = exec.wait().await;
        }
        self.init.settle(Outcome {
            exit,
            oom_killed: self.cgroup.oom_killed(),
        });
    }

    /// Runs the program of init. Answers with its pid.
    ///
    /// # Errors
    /// [`AgentError::FailedPrecondition`] in the wrong state; [`AgentError::InvalidArgument`] if
    /// the program cannot be executed.
    pub async fn start(&self) -> Result<i32, AgentError> {
        self.init.begin_start()?;
        let ended = || AgentError::FailedPrecondition(format!("container {} has ended", self.id));
        let pid = self.init.pid().ok_or_else(ended)?;
        let failure = self
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let failure = failure.ok_or_else(ended)?;
        let socket = start_socket(&self.tools.state, &self.name);
        // Init listens from before the container is created until it is started or ends.
        let go = std::os::unix::net::UnixStream::connect(&socket);
        drop(go.map_err(|_| ended())?);
        failure.executed().await?;
        self.init.started();
        Ok(pid)
    }

    /// Registers an exec.
    ///
    /// # Errors
    /// [`AgentError::FailedPrecondition`] if the container has ended,
    /// [`AgentError::AlreadyExists`] if the name is taken.
    pub fn create_exec(
        &self,
        exec_id: String,
        json: &[u8],
        stdio: &agent::Stdio,
    ) -> Result<(), AgentError> {
        let process = specification::exec_process(json)?;
        self.check_alive()?;
        let mut execs = self.lock_execs();
        if execs.contains_key(&exec_id) {
            return Err(AgentError::AlreadyExists(format!(
                "container {} already has a process {exec_id}",
                self.id
            )));
        }
        let claims = Claims::new(&self.tools.streams, stdio)?;
        let name = format!("process {exec_id} of container {}", self.id);
        let exec = Exec {
            process: Arc::new(Process::new(name, console_size(&process))),
            prepared: Some(Prepared { process, claims }),
        };
        execs.insert(exec_id, exec);
        Ok(())
    }

    /// Runs an exec. Answers with its pid.
    ///
    /// # Errors
    /// As [`Container::start`]. Waiters of an exec that could not be started are told 128.
    pub async fn start_exec(self: &Arc<Self>, exec_id: &str) -> Result<i32, AgentError> {
        let (process, prepared) = {
            let mut execs = self.lock_execs();
            let exec = execs
                .get_mut(exec_id)
                .ok_or_else(|| self.no_process(exec_id))?;
            exec.process.begin_start()?;
            (Arc::clone(&exec.process), exec.prepared.take())
        };
        let prepared = prepared.ok_or_else(|| self.no_process(exec_id))?;
        match self.launch_exec(&process, prepared).await {
            Ok(pid) => {
                process.started();
                Ok(pid)
            }
            Err(error) => {
                // One that was launched is supervised, and has its own exit status.
                if process.pid().is_none() {
                    process.ended();
                    process.settle(Outcome {
                        exit: Exit::now(NOT_STARTED),
                        oom_killed: false,
                    });
                }
                Err(error)
            }
        }
    }

    async fn launch_exec(
        self: &Arc<Self>,
        process: &Arc<Process>,
        prepared: Prepared,
    ) -> Result<i32, AgentError> {
        let gate = self.gate.read().await;
        self.check_alive()?;
        if *gate == Activity::Frozen {
            return Err(AgentError::FailedPrecondition(format!(
                "cannot exec in a paused container: container {}",
                self.id
            )));
        }
        let init = self.init.pid().unwrap_or_default();
        let terminal = prepared.process.terminal().unwrap_or(false);
        let job = Job::Enter(Enter {
            init,
            cgroup: self.cgroup.path().to_path_buf(),
            namespaces: self.namespaces.clone(),
            terminal,
            size: process.size(),
            finish: Finish {
                process: prepared.process,
                seccomp: self.exec_defaults.seccomp.clone(),
                set_user: true,
            },
        });
        let (exit, failure) = launch(&self.tools, &job, prepared.claims, process, terminal).await?;
        tokio::spawn({
            let (container, process) = (Arc::clone(self), Arc::clone(process));
            async move {
                if let Ok(exit) = exit.await {
                    process.ended();
                    process.settle(Outcome {
                        exit,
                        oom_killed: container.cgroup.oom_killed(),
                    });
                }
            }
        });
        drop(gate);
        failure.executed().await?;
        process
            .pid()
            .ok_or_else(|| AgentError::Internal("a process has no number".to_owned()))
    }

    /// The init process, or an exec.
    ///
    /// # Errors
    /// [`AgentError::NotFound`] for an unknown exec.
    pub fn process(&self, exec_id: &str) -> Result<Arc<Process>, AgentError> {
        if exec_id.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        let execs = self.lock_execs();
        let exec = execs.get(exec_id).ok_or_else(|| self.no_process(exec_id))?;
        Ok(Arc::clone(&exec.process))
    }

    /// Sends a signal to every process of the container.
    ///
    /// # Errors
    /// [`AgentError::NotFound`] if the container has ended.
    pub fn signal_all(&self, number: i32) -> Result<(), AgentError> {
        if self.init.stage() == Stage::Ended {
            return Err(AgentError::NotFound(format!(
                "container {}: process already finished",
                self.id
            )));
        }
        if number == libc::SIGKILL {
            return self.cgroup.kill();
        }
        for pid in self.cgroup.processes()? {
            let pid = i32::try_from(pid).unwrap_or_default();
            // One that ends meanwhile needs no signal.
            crate::signal::send(pid, number).doing(format_args!("send signal {number}"))?;
        }
        Ok(())
    }

    /// Freezes every process of the container.
    ///
    /// # Errors
    /// [`AgentError::FailedPrecondition`] if it does not run or is frozen already;
    /// [`AgentError::Internal`] if a process cannot be stopped.
    pub async fn pause(&self) -> Result<(), AgentError> {
        let mut activity = self.gate.write().await;
        let problem = match (self.init.stage(), *activity) {
            (Stage::Created | Stage::Starting, _) => "has not been started",
            (Stage::Ended, _) => "has ended",
            (Stage::Running, Activity::Frozen) => "is paused already",
            (Stage::Running, Activity::Running) => {
                self.cgroup.freeze().await?;
                *activity = Activity::Frozen;
                return Ok(());
            }
        };
        Err(self.wrong_state(problem))
    }

    /// Lets a frozen container go on.
    ///
    /// # Errors
    /// [`AgentError::FailedPrecondition`] if it is not frozen.
    pub async fn resume(&self) -> Result<(), AgentError> {
        let mut activity = self.gate.write().await;
        self.check_alive()?;
        if *activity == Activity::Running {
            return Err(self.wrong_state("is not paused"));
        }
        self.cgroup.thaw()?;
        *activity = Activity::Running;
        Ok(())
    }

    /// Changes the limits of the container; see [`Cgroup::apply`].
    ///
    /// # Errors
    /// [`AgentError::FailedPrecondition`] if it has ended; [`AgentError::InvalidArgument`] for
    /// what is not understood or cannot be, and then nothing is changed.
    pub fn update(&self, json: &[u8]) -> Result<(), AgentError> {
        let resources = specification::resources(json)?;
        self.check_alive()?;
        self.cgroup.apply(&resources)
    }

    /// Forgets an exec that has ended or never ran.
    ///
    /// # Errors
    /// [`AgentError::FailedPrecondition`] while it runs, [`AgentError::NotFound`] if it is unknown.
    pub fn delete_exec(&self, exec_id: &str) -> Result<(), AgentError> {
        let mut execs = self.lock_execs();
        let exec = execs.get(exec_id).ok_or_else(|| self.no_process(exec_id))?;
        if matches!(exec.process.stage(), Stage::Starting | Stage::Running) {
            return Err(AgentError::FailedPrecondition(format!(
                "process {exec_id} of container {} is running and cannot be deleted",
                self.id
            )));
        }
        execs.remove(exec_id);
        Ok(())
    }

    /// Whether the container may be deleted: it has ended, or was never started.
    ///
    /// # Errors
    /// [`AgentError::FailedPrecondition`] while it runs.
    pub fn check_deletable(&self) -> Result<(), AgentError> {
        match self.init.stage() {
            Stage::Created | Stage::Ended => Ok(()),
            Stage::Starting | Stage::Running => Err(AgentError::FailedPrecondition(format!(
                "container {} is running and cannot be deleted",
                self.id
            ))),
        }
    }

    /// Kills what is left of the container and removes what it leaves behind.
    ///
    /// # Errors
    /// [`AgentError::Internal`] when something cannot be removed; all else is removed then.
    pub async fn clear(&self) -> Result<(), AgentError> {
        if self.init.stage() != Stage::Ended {
            let _ = self.cgroup.kill();
        }
        let _ = Arc::clone(&self.init).wait().await;
        let leftovers = Leftovers {
            state: self.tools.state.clone(),
            name: self.name.clone(),
            cgroup: self.cgroup.clone(),
            root: self.lock_root().take(),
        };
        let cleared = leftovers.clear().await;
        drop(self.lock_shared().take());
        cleared
    }

    /// The processes of the container.
    ///
    /// # Errors
    /// [`AgentError::Internal`] when they cannot be read.
    pub fn processes(&self) -> Result<Vec<u32>, AgentError> {
        self.cgroup.processes()
    }

    /// What the container uses.
    ///
    /// # Errors
    /// [`AgentError::NotFound`] if it has ended.
    pub fn stats(&self) -> Result<agent::StatsResponse, AgentError> {
        if self.init.stage() == Stage::Ended {
            return Err(AgentError::NotFound(format!(
                "container {} has ended",
                self.id
            )));
        }
        Ok(self.cgroup.stats())
    }

    /// The number of its init process.
    ///
    /// # Errors
    /// [`AgentError::FailedPrecondition`] if it has ended.
    pub fn living_init(&self) -> Result<i32, AgentError> {
        self.check_alive()?;
        self.init
            .pid()
            .ok_or_else(|| self.wrong_state("has no process"))
    }

    fn check_alive(&self) -> Result<(), AgentError> {
        if self.init.stage() == Stage::Ended {
            return Err(self.wrong_state("has ended"));
        }
        Ok(())
    }

    fn wrong_state(&self, what: &str) -> AgentError {
        AgentError::FailedPrecondition(format!("container {} {what}", self.id))
    }

    fn no_process(&self, exec_id: &str) -> AgentError {
        AgentError::NotFound(format!("container {} has no process {exec_id}", self.id))
    }

    fn lock_root(&self) -> MutexGuard<'_, Option<Root>> {
        self.root.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_execs(&self) -> MutexGuard<'_, HashMap<String, Exec>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Launches a process, watches it, and connects its standard streams.
async fn launch(
    tools: &Tools,
    job: &Job,
    claims: Claims,
    process: &Process,
    terminal: bool,
) -> Result<(oneshot::Receiver<Exit>, FailurePipe), AgentError> {
    let launch = tools.reaper.launch();
    // With a terminal, the claims wait for its master.
    let (side, movers, claims) = if terminal {
        (ProcessSide::default(), Movers::default(), Some(claims))
    } else {
        let (side, movers) = claims.connect_pipes()?;
        (side, movers, None)
    };
    let Launched {
        pid,
        terminal,
        failure,
    } = tools.launcher.launch(&launch, job, side).await?;
    let exit = launch.watch(pid);
    let master = terminal
        .map(|master| Descriptor::new(master).map(Arc::new))
        .transpose()
        .doing("watch a terminal")?;
    let movers = match (&master, claims) {
        (Some(master), Some(claims)) => claims.connect_terminal(master),
        _ => movers,
    };
    process.launched(pid, master, movers);
    Ok((exit, failure))
}

fn console_size(process: &OciProcess) -> Option<(u16, u16)> {
    let size = process.console_size()?;
    Some((
        u16::try_from(size.width()).ok()?,
        u16::try_from(size.height()).ok()?,
    ))
}
