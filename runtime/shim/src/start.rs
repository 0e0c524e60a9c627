//! `start`: brings up the shim of a container, or finds the one of its pod, and prints where it
//! listens.

use std::env;
use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use rustix::io::Errno;
use rustix::thread::{CoreSchedulingScope, create_core_scheduling_cookie};

use crate::args::Args;
use crate::bundle::Bundle;
use crate::dialect::{Bootstrap, MAX_INPUT};
use crate::fail_point::{FailPoints, Point};
use crate::group::{Group, Role};
use crate::inherited;
use crate::phases;
use crate::socket::{self, Claim};

/// What the daemon writes when it serves; anything else is the reason why it does not.
pub(crate) const READY: &str = "ready";
/// What it gets back when containerd has the answer. A daemon whose `start` ends without that is
/// one that containerd will never know of.
pub(crate) const ANSWERED: u8 = 1;

/// Starts the shim and prints its address.
///
/// # Errors
/// Says what is missing; everything made on the way is removed.
pub(crate) fn start(args: &Args) -> anyhow::Result<()> {
    let began = phases::now();
    // containerd reads our output until nobody holds it any more: the daemon must not get it, nor
    // a copy of it under another number.
    inherited::close_on_exec()?;
    let mut bootstrap = Bootstrap::recognise(
        &read_input()?,
        &args.id,
        &args.namespace,
        env::var("MAX_SHIM_VERSION").ok().as_deref(),
        env::var("TTRPC_ADDRESS").ok().as_deref(),
    );
    let bundle = Bundle::new(bundle_dir(args)?);
    if bundle.is_without_config() {
        bootstrap.dialect = bootstrap.dialect.of_sandbox();
        if let Some(options) = &bootstrap.options {
            bundle
                .write_runtime_options(options)
                .with_context(|| format!("cannot write into {}", bundle.path().display()))?;
        }
    }
    let annotations = bundle.annotations()?;
    let group = Group::of(&args.id, &annotations)?;
    let fail_points = FailPoints::default();
    fail_points.arm(&annotations, bundle.path())?;
    fail_points.pass_blocking(Point::ShimBeforeListen)?;
    let dir = bootstrap
        .socket_dir
        .as_deref()
        .unwrap_or(socket::DEFAULT_DIR);
    let path = socket::path(Path::new(dir), &args.address, &args.namespace, &group.key);
    let address = socket::address(&path);
    let mut started = None;
    if group.role == Role::Member {
        if !socket::is_live(&path) {
            bail!(
                "the shim of pod {:?} does not run, so container {:?} cannot be started in it; \
                 the pod has to be created anew",
                group.key,
                args.id
            );
        }
    } else {
        match socket::claim(&path)? {
            Claim::Bound(listener) => {
                match run_daemon(args, &bootstrap, bundle.path(), listener, began) {
                    Ok(daemon) => started = Some(daemon),
                    Err(error) => {
                        let _ = socket::remove(&path);
                        return Err(error);
                    }
                }
            }
            // A group without roles: the first container brought up the shim.
            Claim::Taken if group.key != args.id => {}
            Claim::Taken => bail!(
                "a shim for {:?} in namespace {:?} already listens at {address}",
                args.id,
                args.namespace
            ),
        }
    }
    fail_points.pass_blocking(Point::ShimAfterListen)?;
    bundle
        .write_address(&address)
        .with_context(|| format!("cannot write the address into {}", bundle.path().display()))?;
    let answer = bootstrap.dialect.answer(&address)?;
    io::stdout().write_all(&answer)?;
    io::stdout().flush()?;
    if let Some(mut daemon) = started {
        daemon
            .write_all(&[ANSWERED])
            .context("the shim's daemon ended as soon as it was ready")?;
    }
    Ok(())
}

/// The bundle: where `-bundle` says, else the working directory.
pub(crate) fn bundle_dir(args: &Args) -> anyhow::Result<PathBuf> {
    if args.bundle.as_os_str().is_empty() {
        return env::current_dir().context("the working directory, which is the bundle, is gone");
    }
    Ok(args.bundle.clone())
}

fn read_input() -> anyhow::Result<Vec<u8>> {
    let stdin = io::stdin();
    let mut input = Vec::new();
    if !stdin.is_terminal() {
        // A closed standard input is an empty one.
        let _ = stdin.lock().take(MAX_INPUT + 1).read_to_end(&mut input);
    }
    if input.len() as u64 > MAX_INPUT {
        bail!("standard input is longer than {MAX_INPUT} bytes");
    }
    Ok(input)
}

/// Starts this program again as the daemon, with the listening socket as standard input, and waits
/// until it serves. Returns the connection on which it waits for [`ANSWERED`].
fn run_daemon(
    args: &Args,
    bootstrap: &Bootstrap,
    bundle: &Path,
    listener: UnixListener,
    began: u64,
) -> anyhow::Result<UnixStream> {
    // Without it the kernel may prefer containerd to a pod; no reason not to run, and a warning
    // would be taken for a part of the answer.
    let _ = raise_oom_score();
    if env::var_os("SCHED_CORE").is_some_and(|value| !value.is_empty()) {
        share_no_core()?;
    }
    let program = env::current_exe().context("cannot find this program's own file")?;
    let (mut ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(program);
    command
        .args(["-namespace", &args.namespace, "-id", &args.id])
        .args(["-address", &args.address])
        .current_dir(bundle)
        .env("TTRPC_ADDRESS", &bootstrap.ttrpc_address)
        .env(phases::START_VARIABLE, began.to_string())
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::from(OwnedFd::from(theirs)))
        .stderr(Stdio::null());
    if args.debug || bootstrap.debug {
        command.arg("-debug");
    }
    let mut daemon = command.spawn().context("cannot start the daemon")?;
    // It holds the other end, which must be the daemon's alone.
    drop(command);
    let mut said = String::new();
    ours.read_to_string(&mut said)?;
    if said == READY {
        return Ok(ours);
    }
    let status = daemon.wait()?;
    if said.is_empty() {
        bail!("the shim's daemon ended before it was ready: {status}");
    }
    bail!("{said}")
}

/// Keeps this process, and with it the daemon and all that it starts, from running on a CPU core at
/// the same time as anything else (Documentation/admin-guide/hw-vuln/core-scheduling.rst).
/// containerd asks for it with `SCHED_CORE`.
fn share_no_core() -> anyhow::Result<()> {
    let own = rustix::process::getpid();
    match create_core_scheduling_cookie(own, CoreSchedulingScope::ThreadGroup) {
        // Cores without sibling threads are not shared.
        Ok(()) | Err(Errno::NODEV) => Ok(()),
        Err(error) => Err(error).context(
            "SCHED_CORE is set, but this kernel cannot keep pods on CPU cores of their own: use \
             one with CONFIG_SCHED_CORE, or unset it",
        ),
    }
}

/// Makes the kernel prefer the shim to containerd, its parent, when memory runs out.
fn raise_oom_score() -> io::Result<()> {
    const HIGHEST: i32 = 1000;
    let parent = std::os::unix::process::parent_id();
    let score = fs::read_to_string(format!("/proc/{parent}/oom_score_adj"))?;
    let score: i32 = score.trim().parse().map_err(io::Error::other)?;
    let score = score.saturating_add(1).min(HIGHEST);
    fs::write("/proc/self/oom_score_adj", score.to_string())
}
