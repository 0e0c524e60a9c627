//! One pod's virtual machine, from start to stop.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;
use std::{fmt, io};

use tokio::sync::{Mutex, oneshot};

use crate::agent::Agent;
use crate::config::{MAX_MEMORY_MIB, MAX_VCPUS, MIN_MEMORY_MIB};
use crate::disks::{Disks, HeldDisks};
use crate::growth::Growth;
use crate::late_devices::LateDevices;
use crate::machine::{self, HostFiles, Machine, MachineParts, Phases};
use crate::mounts::{ContainerDir, StateDir};
use crate::netns::NetworkNamespace;
use crate::network::{self, Localhost, Network};
use crate::pod_process::PodProcess;
use crate::updates::Updates;
use crate::{Config, ErrorKind, SandboxError, SandboxOptions, VmEnd, boot, guest_text, identifier};

/// One pod's virtual machine with its file server and agent. Share it as `Arc<Sandbox>`.
///
/// All its futures may be dropped at any time; what they began is then undone or goes on by
/// itself. Dropping the last handle ends the machine and removes what it left, but blocks for
/// that: prefer [`Sandbox::stop`].
pub struct Sandbox {
    pub(crate) agent: Agent,
    pub(crate) machine: Arc<Machine>,
    /// Dropped before the containers: a machine that goes needs no disk taken away.
    pub(crate) disks: Arc<Disks>,
    pub(crate) containers: std::sync::Mutex<HashMap<String, Container>>,
    pub(crate) next_stream: AtomicU64,
    pub(crate) started_at: SystemTime,
    pub(crate) growth: Growth,
    pub(crate) late_devices: Arc<LateDevices>,
    /// The pod is the machine's, not one of its containers'.
    pub(crate) holds_pod: AtomicBool,
    pub(crate) updates: Arc<Updates>,
    /// Whether containers without a filter for system calls get one.
    pub(crate) default_filter: bool,
    kernel: String,
    phases: Arc<Phases>,
    pod_process: PodProcess,
    /// With the pod's network namespace on the host, which lives as long as the pod, whoever ends
    /// the process in it.
    pub(crate) network: Network,
    /// For a namespace that others can enter by its path.
    _localhost: Option<Localhost>,
    /// `None` once it is removed. Locked while it is being removed.
    state: Mutex<Option<Arc<StateDir>>>,
}

/// What the host knows of a container.
#[derive(Debug)]
pub(crate) enum Container {
    /// It is being created; its name is taken.
    Creating,
    /// It exists.
    Created(ContainerDir, HeldDisks),
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Sandbox")
            .field("pid", &self.pid())
            .field("kernel", &self.kernel)
            .finish_non_exhaustive()
    }
}

impl Sandbox {
    /// Starts `caisson-fs` and `caisson-vmm`, boots the guest and waits for its agent; meanwhile
    /// makes the pod's network namespace and starts `caisson-pod` in it. A namespace that is there
    /// already is entered before, and the guest gets the interfaces in it. On any failure
    /// everything is undone and the error carries the last lines of the console.
    ///
    /// Call it on a thread that lives as long as the sandbox: the kernel kills the VMM when the
    /// thread that started it ends (`PR_SET_PDEATHSIG`).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for options out of range,
    /// [`ErrorKind::AlreadyExists`] if the state directory exists,
    /// [`ErrorKind::FailedPrecondition`] for what the machine lacks (a file, `/dev/kvm`, the network
    /// namespace, a tap) or a guest that does not fit, [`ErrorKind::Unavailable`] when the guest did not come up.
    pub async fn start(
        config: &Config,
        options: SandboxOptions,
    ) -> Result<Arc<Self>, SandboxError> {
        let phases = Arc::new(Phases::default());
        phases.now("sandbox-start");
        let started_at = SystemTime::now();
        check(&options)?;
        let mut host = HostFiles::open(config, &format!("{}-{}", options.namespace, options.id))?;
        let state = Arc::new(StateDir::create(&options.state_dir)?);
        let namespace = NetworkNamespace::open(options.netns.clone())?;
        let parts = MachineParts {
            config,
            state_dir: state.path(),
            export: state.export(),
            phases: phases.clone(),
        };
        let started = Machine::start(&parts, host.take_console())?;
        let machine = Arc::new(started.machine);
        // There is nothing in a namespace that is only made now: the boot does not wait for it.
        let (prepared, network) = oneshot::channel();
        let prepared = options.netns.is_some().then_some(prepared);
        let up = async {
            let files = (started.file_server, started.console);
            let (network, interfaces) = network.await.unwrap_or_default();
            let places = boot::boot(&machine, config, &options, host, files, interfaces).await?;
            let hello = boot::hello(&machine, config, started.hello).await?;
            phases.now("hello");
            let agent = Agent::connect(machine.clone()).await?;
            phases.now("connected");
            if let Some(network) = network {
                let network: Network = network;
                network.plugged(places);
                network.tell(&agent).await?;
            }
            Ok::<_, SandboxError>((hello, agent))
        };
        let mut pod_process = None;
        let mut relay = None;
        let stand_in = async {
            let namespace = namespace.opened().await?;
            let network = Network::new(namespace, options.netns.as_deref(), state.path())?;
            if let Some(prepared) = prepared {
                let interfaces = network.connect().await?;
                // Without a receiver the boot has failed.
                drop(prepared.send((Some(network.clone()), interfaces)));
                relay = localhost(&network, &machine).await;
            }
            let netns = network.namespace();
            pod_process = Some(PodProcess::start(config, netns, &machine, state.path())?);
            Ok(network)
        };
        let both = tokio::try_join!(stand_in, up);
        let (pod_process, network, (hello, agent)) = match (both, pod_process) {
            (Ok((network, up)), Some(pod_process)) => (pod_process, network, up),
            (both, pod_process) => {
                machine.stop().await;
                if let Some(pod_process) = pod_process {
                    pod_process.gone().await;
                }
                return Err(both.err().unwrap_or_else(|| {
                    SandboxError::new(ErrorKind::Internal, "the pod has no process on the host")
                }));
            }
        };
        Ok(Arc::new(Self {
            disks: Disks::new(machine.clone(), agent.clone(), options.size.vcpus),
            late_devices: LateDevices::new(machine.clone(), agent.clone()),
            agent,
            machine,
            containers: std::sync::Mutex::default(),
            next_stream: AtomicU64::new(1),
            started_at,
            updates: Arc::default(),
            default_filter: config.default_filter,
            growth: Growth::new(options.size, options.most),
            holds_pod: AtomicBool::new(false),
            kernel: guest_text::line(&hello.kernel),
            phases,
            pod_process,
            network,
            _localhost: relay,
            state: Mutex::new(Some(state)),
        }))
    }

    /// Process id of the pod on the host: that of `caisson-pod`, which lies in the pod's network
    /// namespace, lives as long as the machine, and takes it along when it is killed.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pod_process.pid()
    }

    /// Makes the VMM and the file server as likely to be killed when the host's memory runs out as
    /// `score` says, the `oom_score_adj` of a container's process.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the kernel does not take it.
    pub fn set_oom_score(&self, score: i32) -> Result<(), SandboxError> {
        self.machine.set_oom_score(score).map_err(|error| {
            SandboxError::new(
                ErrorKind::InvalidArgument,
                format!(
                    "`process.oomScoreAdj` {score} cannot be given to the virtual machine: {error}"
                ),
            )
        })
    }

    /// Release of the guest kernel (`uname -r`), as the agent reported it.
    #[must_use]
    pub fn guest_kernel(&self) -> &str {
        &self.kernel
    }

    /// The phases of the start that were reached, in order of time, with `CLOCK_MONOTONIC` in
    /// nanoseconds: sandbox-start, vmm-started, vcpu-entered, agent-started, hello, connected.
    #[must_use]
    pub fn phases(&self) -> Vec<(String, u64)> {
        self.phases.all()
    }

    /// Returns when the virtual machine is gone, for whatever reason. Any number of callers.
    pub async fn ended(&self) -> VmEnd {
        self.machine.ended().await
    }

    /// Ends the VMM and the file server and removes everything on the host. Idempotent; returns
    /// when all is gone.
    pub async fn stop(&self) {
        self.machine.stop().await;
        self.pod_process.gone().await;
        self.network.disconnect().await;
        let mut state = self.state.lock().await;
        let containers = std::mem::take(&mut *self.containers());
        let Some(removed) = state.take() else {
            return;
        };
        let removal = tokio::task::spawn_blocking(move || {
            drop(containers);
            // Not by dropping it: a container that is still being created may hold it too.
            StateDir::remove(removed.path())
        });
        match removal.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("files of the sandbox were not removed: {error}"),
            Err(error) => tracing::warn!("files of the sandbox were not removed: {error}"),
        }
    }

    /// The state directory, as long as the sandbox is not stopped.
    pub(crate) async fn state_dir(&self) -> Result<Arc<StateDir>, SandboxError> {
        self.state
            .lock()
            .await
            .clone()
            .ok_or_else(|| SandboxError::new(ErrorKind::Unavailable, "the sandbox is stopped"))
    }

    /// The containers; held only for moments.
    pub(crate) fn containers(&self) -> std::sync::MutexGuard<'_, HashMap<String, Container>> {
        self.containers
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A number for a standard stream, never 0.
    pub(crate) fn stream_number(&self) -> u64 {
        self.next_stream.fetch_add(1, Ordering::Relaxed)
    }
}

/// Relays connections to the loopback addresses of the pod's namespace, while the guest boots. A pod
/// is of use without.
async fn localhost(network: &Network, machine: &Arc<Machine>) -> Option<Localhost> {
    match network.relay_localhost(machine).await {
        Ok(relay) => Some(relay),
        Err(error) => {
            tracing::warn!(
                "port-forward will not reach what listens on the pod's 127.0.0.1: {error}; the \
                 kernel must be 5.9 or newer, with CONFIG_BPF_SYSCALL and CONFIG_NET_SOCK_MSG"
            );
            None
        }
    }
}

fn check(options: &SandboxOptions) -> Result<(), SandboxError> {
    identifier::check("sandbox", &options.id)?;
    identifier::check("namespace", &options.namespace)?;
    let invalid = |message| Err(SandboxError::new(ErrorKind::InvalidArgument, message));
    let SandboxOptions { size, most, .. } = options;
    if !(1..=MAX_VCPUS).contains(&size.vcpus) {
        return invalid(format!(
            "{} vCPUs are not possible, 1 to {MAX_VCPUS} are",
            size.vcpus
        ));
    }
    if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&size.memory_mib) {
        return invalid(format!(
            "{} MiB of memory are not possible, {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB} are",
            size.memory_mib
        ));
    }
    if !(size.vcpus..=MAX_VCPUS).contains(&most.vcpus)
        || !(size.memory_mib..=MAX_MEMORY_MIB).contains(&most.memory_mib)
    {
        return invalid(format!(
            "a machine of {} vCPUs and {} MiB cannot grow to {} vCPUs and {} MiB",
            size.vcpus, size.memory_mib, most.vcpus, most.memory_mib
        ));
    }
    if !options.state_dir.is_absolute() {
        return invalid(format!(
            "state directory {} is not an absolute path",
            options.state_dir.display()
        ));
    }
    Ok(())
}

/// Cleans up after a sandbox whose process is gone: kills the processes recorded in `state_dir`
/// (after comparing their start times), undoes its part of the pod's network, unmounts what is
/// mounted below it in the caller's mount namespace and removes it, with its two parents if they are
/// empty. Idempotent. Returns the process id of the pod (see [`Sandbox::pid`]) if one was recorded.
/// Blocks, at most for seconds.
///
/// # Errors
/// Fails when something could not be killed or removed.
pub fn clean_up(state_dir: &Path) -> io::Result<Option<u32>> {
    let pid = machine::kill_recorded(state_dir)?;
    network::undo_recorded(state_dir)?;
    machine::release_dead(state_dir)?;
    StateDir::remove(state_dir)?;
    Ok(pid)
}
