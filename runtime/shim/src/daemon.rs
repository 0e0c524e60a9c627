//! The shim itself: set up once, then serves one pod until containerd says that it is over.

use std::env;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tracing::Level;

use crate::args::Args;
use crate::hooks::HostMounts;
use crate::liveness::Mark;
use crate::log::FifoLog;
use crate::phases;
use crate::pod::{Pod, PodOptions};
use crate::publisher::Publisher;
use crate::server::TaskServer;
use crate::service::services;
use crate::socket;
use crate::start::{ANSWERED, READY, bundle_dir};
use crate::vm::KvmLauncher;

/// Directory of the state of running sandboxes: `/run/caisson/<namespace>/<id>`.
const STATE_ROOT: &str = "/run/caisson";
/// A shim that nobody asks for anything: containerd was killed between `start` and Create, and
/// will not come back for it. Create follows within milliseconds; its own limit is a minute or
/// two.
const UNUSED_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// How often a shim that nobody has asked for anything looks whether its bundle is still there.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long the last events may take to reach containerd; it takes them in milliseconds unless it
/// is down, and then looks at the state itself when it comes back.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// Where the state of the sandbox that was started for `id` lives.
pub(crate) fn state_dir(namespace: &str, id: &str) -> PathBuf {
    Path::new(STATE_ROOT).join(namespace).join(id)
}

/// Serves the pod of `args`, with the listening socket as standard input, and tells `start` on
/// standard output whether it does.
///
/// # Errors
/// Fails when the process cannot be set up; `start` has been told then.
pub(crate) fn serve(args: &Args) -> anyhow::Result<()> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let mut starter = UnixStream::from(io::stdout().as_fd().try_clone_to_owned()?);
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    let result = set_up(args).and_then(|(mark, host)| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot set up the shim's event loop")?;
        let served = runtime.block_on(run(args, socket, host, &starter, &mark));
        // A thread that waits for a FIFO must not hold up the end.
        runtime.shutdown_background();
        drop(mark);
        served
    });
    if let Err(error) = &result {
        tracing::error!("{error:#}");
        let _ = write!(starter, "{error:#}");
    }
    result
}

/// What has to be done before there is a second thread.
fn set_up(args: &Args) -> anyhow::Result<(Mark, HostMounts)> {
    let bundle = bundle_dir(args)?;
    open_log(&bundle, args.debug);
    // A session of our own: no signal for containerd's terminal or process group is for us.
    rustix::process::setsid().context("cannot start a session")?;
    let mark = Mark::set(&bundle)
        .with_context(|| format!("cannot lock shim.pid in {}", bundle.display()))?;
    let host = HostMounts::current().context("cannot open the host's mount namespace")?;
    caisson_sandbox::enter_mount_namespace().context(
        "cannot make a mount namespace for the pod: the shim needs root with CAP_SYS_ADMIN",
    )?;
    // The bundle is removed while we still run.
    env::set_current_dir("/")?;
    if let Err(error) = raise_limit_of_descriptors() {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
    Ok((mark, host))
}

/// Most descriptors that the shim allows itself. Programs that it starts inherit that, and some of them
/// close all that they may have, one by one.
const MOST_DESCRIPTORS: u64 = 65536;

/// Has the soft limit of open files follow the hard one. The soft one is 1024 where nobody has said
/// otherwise, for programs that use select(2); the streams of containers and the layers of images need more.
fn raise_limit_of_descriptors() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX).min(MOST_DESCRIPTORS);
    if limit.current.is_none_or(|current| current >= most) {
        return Ok(());
    }
    let raised = Rlimit {
        current: Some(most),
        ..limit
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

fn open_log(bundle: &Path, debug: bool) {
    let level = if debug { Level::DEBUG } else { Level::INFO };
    // Without a log (a caller that made no FIFO) the shim works just as well.
    if let Ok(log) = FifoLog::open(&bundle.join("log"), level) {
        let _ = tracing::subscriber::set_global_default(log);
    }
    panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        let payload = panic.payload();
        let message = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        tracing::error!("the shim panicked at {place}: {message}");
    }));
}

async fn run(
    args: &Args,
    socket: OwnedFd,
    host: HostMounts,
    starter: &UnixStream,
    mark: &Mark,
) -> anyhow::Result<()> {
    let listener = UnixListener::from(socket);
    let path = listener
        .local_addr()?
        .as_pathname()
        .map(Path::to_owned)
        .context("standard input is not a listening socket: the daemon is started by `start`")?;
    // systemd sends SIGTERM to everything in a service or a cgroup that it stops; pods outlive
    // containerd. Caught rather than ignored: what is ignored stays so in the programs we start.
    let _caught = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    ];
    let containerd = env::var("TTRPC_ADDRESS").unwrap_or_default();
    let publisher = Publisher::start(&containerd, &args.namespace);
    let options = PodOptions {
        id: args.id.clone(),
        namespace: args.namespace.clone(),
        state_dir: state_dir(&args.namespace, &args.id),
    };
    let pod = Pod::new(options, publisher, Box::new(KvmLauncher));
    pod.run_hooks_in(host);
    let server = TaskServer::start(listener, services(&pod, path.clone())).await?;
    note_start(&pod);
    let unused = async {
        let mut left = UNUSED_TIMEOUT;
        while timeout(LOOK_AGAIN, pod.used()).await.is_err() {
            left = left.saturating_sub(LOOK_AGAIN);
            // containerd has removed the bundle: it will not come back, and has not told us.
            if left.is_zero() || mark.is_removed() {
                return;
            }
        }
        std::future::pending::<()>().await;
    };
    let forsaken = async {
        match answered(starter).await {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    };
    tokio::select! {
        () = pod.over() => {}
        () = unused => tracing::warn!(id = args.id, "nobody asked for a container; giving up"),
        error = forsaken => {
            tracing::warn!(id = args.id, "`start` ended before containerd had our address: {error}");
        }
    }
    socket::remove(&path)?;
    server.stop().await;
    pod.publisher().flush(LAST_EVENTS).await;
    pod.leave_cgroup();
    tracing::info!(id = args.id, "the shim ends");
    Ok(())
}

/// Tells `start` that we serve, and waits until it has told containerd.
///
/// # Errors
/// Fails when it ends before: containerd takes that for a failed start and knows nothing of us.
async fn answered(starter: &UnixStream) -> io::Result<()> {
    let mut starter = starter.try_clone()?;
    starter.write_all(READY.as_bytes())?;
    starter.shutdown(Shutdown::Write)?;
    starter.set_nonblocking(true)?;
    let mut starter = tokio::net::UnixStream::from_std(starter)?;
    match starter.read_u8().await? {
        ANSWERED => Ok(()),
        other => Err(io::Error::other(format!("it said {other}"))),
    }
}

fn note_start(pod: &Pod) {
    let began = env::var(phases::START_VARIABLE)
        .ok()
        .and_then(|text| text.parse().ok());
    if let Some(began) = began {
        pod.phases().reached_at("shim-start", began);
    }
    pod.phases().reached_at("shim-ready", phases::now());
}
