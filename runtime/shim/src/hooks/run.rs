//! Running one hook.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::{Hook, State};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How much of what a hook writes is told when it fails, in bytes: its end, where the reason is.
const MAX_OUTPUT: usize = 2048;
/// When a hook has ended, what it wrote is in the pipe; this only bounds the wait for a process it
/// left behind, which may hold the pipe for ever.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// The mount namespace that containerd lives in.
#[derive(Debug, Clone)]
pub(crate) struct HostMounts(Arc<OwnedFd>);

impl HostMounts {
    /// That of this process. Call it before the shim leaves it for one of its own.
    ///
    /// # Errors
    /// Fails without `/proc`.
    pub(crate) fn current() -> io::Result<Self> {
        let namespace = File::open("/proc/self/ns/mnt")?;
        Ok(Self(Arc::new(namespace.into())))
    }
}

/// Why a hook failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    /// It could not be started.
    #[error("{key} hook {} of config.json cannot be run: {source}", .path.display())]
    NotRun {
        /// Which list of hooks.
        key: &'static str,
        /// Its program.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It did not like it.
    #[error("{key} hook {} of config.json failed with {status}{}", .path.display(), said(.output))]
    Failed {
        /// Which list of hooks.
        key: &'static str,
        /// Its program.
        path: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote.
        output: String,
    },
    /// It took too long.
    #[error(
        "{key} hook {} of config.json did not end within {} s and was killed{}",
        .path.display(), .limit.as_secs_f32(), said(.output)
    )]
    TimedOut {
        /// Which list of hooks.
        key: &'static str,
        /// Its program.
        path: PathBuf,
        /// What it had.
        limit: Duration,
        /// The end of what it wrote.
        output: String,
    },
    /// Those that are due later could not be written down.
    #[error("cannot write {}, without which poststop hooks might not be run: {source}", .path.display())]
    NotNoted {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn said(output: &str) -> String {
    if output.is_empty() {
        String::new()
    } else {
        format!(": {output}")
    }
}

/// Runs `hook`, from the list `key`, in the directory `bundle` and the mount namespace `mounts`
/// (this process's without one), with `state` on its standard input, until it has ended or its time
/// is up: its own `timeout` or `left`, whichever is less. Dropped, the future kills it.
///
/// # Errors
/// See [`HookError`].
pub(super) async fn run(
    key: &'static str,
    hook: &Hook,
    state: &State,
    bundle: &Path,
    mounts: Option<&HostMounts>,
    left: Option<Duration>,
) -> Result<(), HookError> {
    let path = || hook.path().clone();
    let not_run = |source| HookError::NotRun {
        key,
        path: path(),
        source,
    };
    let json = serde_json::to_vec(state).map_err(|error| not_run(error.into()))?;
    let mut running = start(hook, bundle, mounts).map_err(not_run)?;
    let own = hook
        .timeout()
        .and_then(|seconds| u64::try_from(seconds).ok());
    let limit = own.map(Duration::from_secs).into_iter().chain(left).min();
    let status = match limit {
        None => running.until_end(&json).await,
        Some(limit) => match timeout(limit, running.until_end(&json)).await {
            Ok(status) => status,
            Err(_) => {
                running.kill().await;
                return Err(HookError::TimedOut {
                    key,
                    path: path(),
                    limit,
                    output: running.last_words().await,
                });
            }
        },
    }
    .map_err(not_run)?;
    if status.success() {
        return Ok(());
    }
    Err(HookError::Failed {
        key,
        path: path(),
        status,
        output: running.last_words().await,
    })
}

/// A running hook; dropped, it is killed.
struct Running {
    child: Child,
    /// Its process group, for as long as it has not been waited for.
    group: Option<Pid>,
    input: Option<Sender>,
    output: Receiver,
    /// The end of what it wrote so far.
    written: Vec<u8>,
}

fn start(hook: &Hook, bundle: &Path, mounts: Option<&HostMounts>) -> io::Result<Running> {
    let (its_input, input) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (output, its_output) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let mut command = Command::new(hook.path());
    match hook.args().as_deref().and_then(<[String]>::split_first) {
        Some((name, arguments)) => command.arg0(name).args(arguments),
        None => &mut command,
    };
    let variables = hook.env().iter().flatten();
    command
        .env_clear()
        .envs(variables.filter_map(|variable| variable.split_once('=')))
        .stdin(Stdio::from(its_input))
        .stdout(Stdio::from(its_output.try_clone()?))
        .stderr(Stdio::from(its_output))
        .process_group(0)
        .kill_on_drop(true);
    enter_host(&mut command, bundle, mounts)?;
    let child = command.spawn()?;
    // The descriptors that the hook has got must not be held by this process too.
    drop(command);
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    Ok(Running {
        child,
        group: pid.and_then(Pid::from_raw),
        input: Some(Sender::from_owned_fd(input)?),
        output: Receiver::from_owned_fd(output)?,
        written: Vec::new(),
    })
}

/// Has the hook begin in the host's mount namespace, in the bundle, and end with this process.
fn enter_host(command: &mut Command, bundle: &Path, mounts: Option<&HostMounts>) -> io::Result<()> {
    let bundle = CString::new(bundle.as_os_str().as_bytes())?;
    let mounts = mounts.cloned();
    let parent = rustix::process::getpid().as_raw_nonzero().get();
    let in_child = move || {
        // SAFETY: PR_SET_PDEATHSIG takes one number.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: getppid cannot fail. The parent may have ended before the line above.
        if unsafe { libc::getppid() } != parent {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if let Some(HostMounts(namespace)) = &mounts {
            // SAFETY: setns takes two numbers; the descriptor is open until the exec.
            if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        for directory in [bundle.as_c_str(), c"/"] {
            // SAFETY: the path is a C string that outlives the call.
            if unsafe { libc::chdir(directory.as_ptr()) } == 0 {
                return Ok(());
            }
        }
        // A bundle that is gone already is no reason not to clean up; a root that is, would be.
        Err(io::Error::last_os_error())
    };
    // SAFETY: between fork and exec the closure makes only system calls that are
    // async-signal-safe and allocates nothing.
    unsafe { command.pre_exec(in_child) };
    Ok(())
}

impl Running {
    /// Gives it its input, takes its output, and waits for its end.
    async fn until_end(&mut self, input: &[u8]) -> io::Result<ExitStatus> {
        let mut sender = self.input.take();
        let talk = async {
            let give = async {
                if let Some(sender) = &mut sender {
                    // A hook need not read.
                    let _ = sender.write_all(input).await;
                }
                sender = None;
            };
            tokio::join!(give, collect(&mut self.output, &mut self.written));
            // The end of its output is not its end.
            std::future::pending::<()>().await;
        };
        let status = tokio::select! {
            status = self.child.wait() => status,
            () = talk => return Err(io::Error::other("this is not reached")),
        };
        self.group = None;
        status
    }

    /// Kills it and what it has started, unless that has left its process group.
    async fn kill(&mut self) {
        self.kill_group();
        if let Err(error) = self.child.kill().await {
            tracing::warn!("a hook was not killed: {error}");
        }
        self.group = None;
    }

    fn kill_group(&self) {
        if let Some(group) = self.group {
            // It may just have ended.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }

    /// The end of what it wrote, in one line.
    async fn last_words(&mut self) -> String {
        let _ = timeout(LAST_OUTPUT, collect(&mut self.output, &mut self.written)).await;
        let text = String::from_utf8_lossy(&self.written);
        let words = text.split(|letter: char| letter.is_whitespace() || letter.is_control());
        words
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_group();
    }
}

/// Reads all there is to come and keeps its end.
async fn collect(output: &mut Receiver, kept: &mut Vec<u8>) {
    let mut buffer = [0; MAX_OUTPUT];
    // After an error nothing more can come; the pipe's end says the same.
    while let Ok(count @ 1..) = output.read(&mut buffer).await {
        kept.extend_from_slice(buffer.get(..count).unwrap_or_default());
        let surplus = kept.len().saturating_sub(MAX_OUTPUT);
        kept.drain(..surplus);
    }
}
