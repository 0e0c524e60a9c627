//! `delete`: removes what is left of a container when its shim is gone or does not answer.
//!
//! containerd calls it when it has given up on a shim, and also for single containers of pods that
//! live. It gets five seconds, must work whatever is left of the bundle, and only the answer may
//! be on standard output.

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use caisson_sandbox::PodPlace;
use containerd_shim_protos::api;
use containerd_shim_protos::shim_async::TaskClient;
use protobuf::{Message, MessageField};
use tokio::net::UnixStream;
use tokio::time::timeout;
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;

use crate::args::Args;
use crate::bundle::Bundle;
use crate::daemon::state_dir;
use crate::event::timestamp;
use crate::group::{Group, Role};
use crate::hooks;
use crate::host_cgroup::{self, GroupPath};
use crate::liveness::{self, Liveness};
use crate::process::{Exit, KILLED};
use crate::socket;
use crate::start::bundle_dir;

/// How long the shim of a pod may take to remove one of its containers. containerd gives us 5 s.
const POD_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a shim may take to say whether it still knows the container. It never waits for the
/// guest to say so, but may have to wait for a processor.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long it may take to end. One that takes longer ends all the same: it has begun.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// When containerd's patience is almost over; what is left of it is for the answer.
const HOOKS_END: Duration = Duration::from_millis(4500);

/// Cleans up and prints how the container ended.
///
/// containerd kills this process after 5 s, and does not call it again. Where many pods end at once
/// that can be too short to take a machine apart, so that is left to a process of its own, which
/// ends when it is done.
///
/// # Errors
/// Only when the answer cannot be printed: what could not be cleaned up is said on standard error,
/// which containerd logs, and the rest is done.
pub(crate) fn delete(args: &Args) -> anyhow::Result<()> {
    if state_dir(&args.namespace, &args.id).exists() {
        match hand_over() {
            Ok(done) => {
                io::stderr().write_all(&done.stderr)?;
                io::stdout().write_all(&done.stdout)?;
                io::stdout().flush()?;
                return Ok(());
            }
            Err(error) => eprintln!("cannot start a process that cleans up: {error}"),
        }
    }
    clean_up_and_answer(args)
}

/// Runs this program with the same flags and the action `clean-up`. Its output is a pipe to us, not
/// containerd's own, which would wait until nobody holds that any more.
fn hand_over() -> io::Result<Output> {
    let mut words: Vec<_> = env::args_os().skip(1).collect();
    words.pop();
    Command::new(env::current_exe()?)
        .args(words)
        .arg("clean-up")
        .stdin(Stdio::null())
        .output()
}

/// `clean-up`: what `delete` does, without a limit of time but for the hooks.
///
/// # Errors
/// As for [`delete`].
pub(crate) fn clean_up_and_answer(args: &Args) -> anyhow::Result<()> {
    let hooks_end = Instant::now() + HOOKS_END;
    let bundle = Bundle::new(bundle_dir(args)?);
    let state = state_dir(&args.namespace, &args.id);
    let (pid, exit) = clean_up(args, &bundle, &state, hooks_end);
    let mut response = api::DeleteResponse::new();
    response.pid = pid;
    response.exit_status = exit.status;
    response.exited_at = MessageField::some(timestamp(exit.at));
    io::stdout().write_all(&response.write_to_bytes()?)?;
    io::stdout().flush()?;
    Ok(())
}

/// Removes what is left of the container and returns its recorded pid and its end.
fn clean_up(args: &Args, bundle: &Bundle, state: &Path, hooks_end: Instant) -> (u32, Exit) {
    // Read first: the bundle may be damaged, and nothing here depends on the rest of it.
    let recorded = bundle.init_pid();
    let mut machine = None;
    let mut pod_lives = false;
    if is_member(args, bundle) {
        match leave_pod(args, bundle) {
            Ok(lives) => pod_lives = lives,
            Err(error) => {
                eprintln!("{error}");
                pod_lives = true;
            }
        }
    } else if bundle.pod().is_none() && has_deleted_it(args, bundle, recorded.is_some()) {
        pod_lives = true;
    } else {
        // Looked up first: containerd may remove the bundle while we are at it.
        let sockets = sockets(args, bundle);
        let cgroup = cgroup(args, bundle);
        complain(liveness::kill(bundle.path()));
        match caisson_sandbox::clean_up(state) {
            Ok(pid) => machine = pid,
            Err(error) => eprintln!("cannot remove {}: {error}", state.display()),
        }
        complain(remove_dead(&sockets));
        complain(cgroup.map_or(Ok(()), |group| host_cgroup::remove(&group)));
    }
    // The shim of a pod that lives runs the hooks of its containers itself.
    if !pod_lives {
        complain(run_hooks(bundle, hooks_end));
    }
    let pid = recorded.or(machine).unwrap_or_default();
    (pid, Exit::now(KILLED))
}

/// Runs the poststop hooks that the shim did not live to run.
fn run_hooks(bundle: &Bundle, end: Instant) -> io::Result<()> {
    let runtime = event_loop()?;
    for complaint in runtime.block_on(hooks::run_due(bundle, end)) {
        eprintln!("{complaint}");
    }
    Ok(())
}

fn event_loop() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Whether the container lives in a shim that was started for another one.
fn is_member(args: &Args, bundle: &Bundle) -> bool {
    if Liveness::of(bundle.path()) != Liveness::NoShim {
        return false;
    }
    let group = bundle
        .annotations()
        .ok()
        .and_then(|annotations| Group::of(&args.id, &annotations).ok());
    match group {
        Some(group) => group.role == Role::Member || group.key != args.id,
        // A bundle without a configuration: the socket of a shim of its own would have its name.
        None => recorded_socket(bundle)
            .is_some_and(|path| own_socket_name(args) != path.file_name().map(ToOwned::to_owned)),
    }
}

fn own_socket_name(args: &Args) -> Option<std::ffi::OsString> {
    own_socket(args).file_name().map(ToOwned::to_owned)
}

fn own_socket(args: &Args) -> PathBuf {
    let dir = Path::new(socket::DEFAULT_DIR);
    socket::path(dir, &args.address, &args.namespace, &args.id)
}

/// Where the shim of a bundle listens, as `start` wrote it down.
fn recorded_socket(bundle: &Bundle) -> Option<PathBuf> {
    bundle.address().map(|address| socket::path_of(&address))
}

/// Where the shim may have listened: what is recorded, and the socket of its name.
fn sockets(args: &Args, bundle: &Bundle) -> Vec<PathBuf> {
    let recorded = recorded_socket(bundle).into_iter();
    recorded.chain([own_socket(args)]).collect()
}

/// Removes those sockets that nobody serves any more.
fn remove_dead(sockets: &[PathBuf]) -> io::Result<()> {
    let mut dead = sockets.iter().filter(|path| !socket::is_live(path));
    dead.try_for_each(|path| socket::remove(path))
}

/// The control group that the shim of a pod had entered.
fn cgroup(args: &Args, bundle: &Bundle) -> Option<GroupPath> {
    if let Some(group) = bundle.pod() {
        return group;
    }
    let spec = bundle.spec().ok()?;
    let place = Group::of_spec(&args.id, &spec).ok()?.place;
    let path = spec.linux().as_ref()?.cgroups_path().as_ref()?;
    match place {
        PodPlace::Sandbox { .. } => GroupPath::parse(path).ok(),
        _ => None,
    }
}

/// Whether the shim that was started for this container has deleted it in order and lives on: for
/// others of its pod, or because it is just ending, which takes its time where many do. containerd
/// cleans up when a connection to a shim is closed, also when it has closed it itself after a
/// Delete. A shim that has no container left ends.
fn has_deleted_it(args: &Args, bundle: &Bundle, was_made: bool) -> bool {
    // A container that was never made was not deleted either: containerd gave up on its shim.
    if bundle.path().exists() && !was_made {
        return false;
    }
    let path = recorded_socket(bundle).unwrap_or_else(|| own_socket(args));
    let Ok(runtime) = event_loop() else {
        return false;
    };
    runtime.block_on(async {
        let asked = timeout(ANSWER_TIMEOUT, forgotten_by(&path, &args.id)).await;
        let Ok(Some(tasks)) = asked else {
            return false;
        };
        let mut shutdown = api::ShutdownRequest::new();
        args.id.clone_into(&mut shutdown.id);
        let context = ttrpc::context::with_duration(SHUTDOWN_TIMEOUT);
        // Its socket is gone before a shim that ends says so.
        let ended = tasks.shutdown(context, &shutdown).await.is_ok() && !socket::is_live(&path);
        !ended
    })
}

/// The shim that listens at `path`, if it says that it has no container `id`.
async fn forgotten_by(path: &Path, id: &str) -> Option<TaskClient> {
    let stream = UnixStream::connect(path).await.ok()?;
    let tasks = TaskClient::new(Client::new(Socket::from(stream)));
    let mut state = api::StateRequest::new();
    id.clone_into(&mut state.id);
    let context = ttrpc::context::with_duration(ANSWER_TIMEOUT);
    let error = tasks.state(context, &state).await.err()?;
    is_not_found(&error).then_some(tasks)
}

/// Has the shim of the pod kill and forget one container. Returns false for a pod that is gone: it
/// has ended all its containers.
fn leave_pod(args: &Args, bundle: &Bundle) -> io::Result<bool> {
    let Some(path) = recorded_socket(bundle) else {
        return Ok(false);
    };
    let runtime = event_loop()?;
    let left = runtime.block_on(async {
        let leaving = async {
            let Ok(stream) = UnixStream::connect(&path).await else {
                return Ok(false);
            };
            remove_container(Client::new(Socket::from(stream)), &args.id)
                .await
                .map(|()| true)
        };
        timeout(POD_TIMEOUT, leaving).await
    });
    match left {
        Ok(Ok(lived)) => Ok(lived),
        Ok(Err(error)) => Err(io::Error::other(format!(
            "the shim of the pod did not remove the container: {error}"
        ))),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the shim of the pod did not remove the container within 2 s",
        )),
    }
}

async fn remove_container(client: Client, id: &str) -> ttrpc::Result<()> {
    let tasks = TaskClient::new(client);
    let context = || ttrpc::context::with_duration(POD_TIMEOUT);
    let mut kill = api::KillRequest::new();
    id.clone_into(&mut kill.id);
    kill.signal = 9;
    kill.all = true;
    let mut wait = api::WaitRequest::new();
    id.clone_into(&mut wait.id);
    let mut delete = api::DeleteRequest::new();
    id.clone_into(&mut delete.id);
    if let Err(error) = tasks.kill(context(), &kill).await
        && !is_not_found(&error)
    {
        return Err(error);
    }
    for result in [
        tasks.wait(context(), &wait).await.map(drop),
        tasks.delete(context(), &delete).await.map(drop),
    ] {
        match result {
            Err(error) if !is_not_found(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn is_not_found(error: &ttrpc::Error) -> bool {
    matches!(
        error,
        ttrpc::Error::RpcStatus(status)
            if status.code.enum_value() == Ok(ttrpc::Code::NOT_FOUND)
    )
}

fn complain(result: io::Result<()>) {
    if let Err(error) = result {
        eprintln!("{error}");
    }
}

#[cfg(test)]
#[path = "delete_test.rs"]
mod tests;
