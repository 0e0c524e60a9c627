//! PID 1: from the first instruction to the hello, and on to the service.
//!
//! Everything before the hello is start-up latency of the pod, so nothing is done before it that
//! could be done after it, and the event loop begins to turn behind it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use caisson_protocol::{AGENT_PORT, DIAL_PORT, HELLO_PORT, Hello, NAME_PORT, STREAM_PORT, VERSION};
use tokio::sync::Notify;

use crate::boot::{self, kernel, loopback, mounts, phase, pieces, power};
use crate::cgroup;
use crate::container::Tools;
use crate::error::{AgentError, Doing};
use crate::launch::Launcher;
use crate::localhost;
use crate::names;
use crate::pod::Pod;
use crate::reaper::Reaper;
use crate::service::Service;
use crate::socket::{self, Listener};
use crate::streams::Streams;
use crate::sysctl;
use crate::volumes::Volumes;

/// Where the state of containers is kept.
const STATE: &str = "/run/caisson/containers";

/// Runs the guest. Comes back only when it cannot go on; PID 1 then ends, and the kernel panics,
/// which is what the host is to see.
#[must_use]
pub fn run() -> i32 {
    phase::mark();
    std::panic::set_hook(Box::new(|panic| {
        last_words(&format!("the agent failed: {panic}"));
    }));
    crate::signal::ignore_broken_pipes();
    match start() {
        Ok(()) => 0,
        Err(error) => {
            last_words(&format!("the agent cannot go on: {error}"));
            1
        }
    }
}

/// Writes to the console, or else to the kernel's log, whose end the host shows.
fn last_words(text: &str) {
    for log in ["/dev/console", "/dev/kmsg"] {
        if let Ok(mut file) = File::options().write(true).open(log)
            && file
                .write_all(format!("caisson-agent: {text}\n").as_bytes())
                .is_ok()
        {
            return;
        }
    }
}

fn start() -> Result<(), AgentError> {
    mounts::leave_initramfs().doing("leave the initramfs")?;
    let mut missing = mounts::mount_first().doing("prepare the guest")?;
    boot::fill_standard_streams().doing("open /dev/null")?;
    for option in kernel::missing() {
        if !missing.contains(&option) {
            missing.push(option);
        }
    }
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing("make an event loop")?
        .block_on(serve(missing))
}

async fn serve(missing: Vec<&'static str>) -> Result<(), AgentError> {
    // Who hears the hello may connect at once.
    let requests = Listener::vsock(AGENT_PORT).doing("listen for requests on vsock")?;
    let streams_listener = Listener::vsock(STREAM_PORT).doing("listen for streams on vsock")?;
    say_hello(missing)?;

    // Work that the host's next request would otherwise wait for.
    cgroup::prepare().doing("prepare the cgroups")?;
    let shared = mounts::mount_shared();
    mounts::mount_later().doing("prepare the guest")?;
    if let Err(error) = loopback::raise() {
        last_words(&format!("the loopback interface stays down: {error}"));
    }
    for parameter in [large_packets(), short_lists_of_free_pages()] {
        if let Err(error) = sysctl::set(&[parameter]) {
            last_words(&error.to_string());
        }
    }
    if let Err(error) = pieces::enlarge() {
        last_words(&format!("memory comes in small pieces: {error}"));
    }
    fs::create_dir_all(STATE).doing("make the directory for containers")?;
    if let Err(error) = shared {
        // Not fatal: a pod may live on block devices alone.
        last_words(&format!(
            "no directory of the host is shared with this guest: {error}"
        ));
    }

    let shutdown = Arc::new(Notify::new());
    let tools = Tools {
        reaper: Reaper::default(),
        streams: Streams::default(),
        launcher: Launcher::default(),
        volumes: Volumes::default(),
        state: PathBuf::from(STATE),
    };
    let mut reaper = tokio::spawn(tools.reaper.clone().run());
    let mut streams = tokio::spawn(tools.streams.clone().serve(streams_listener));
    let dials = Listener::vsock(DIAL_PORT).doing("listen for connections on vsock")?;
    let mut localhost = tokio::spawn(localhost::serve(dials));
    let questions = Listener::vsock(NAME_PORT).doing("listen for the name server on vsock")?;
    let mut names = tokio::spawn(names::serve(questions));
    let service = Service::new(Arc::new(Pod::new(tools)), Arc::clone(&shutdown));
    let _server = service
        .serve(requests)
        .await
        .map_err(|error| AgentError::Internal(format!("cannot serve requests: {error}")))?;
    let ended = |what: &str, result: Result<io::Result<()>, tokio::task::JoinError>| {
        AgentError::Internal(format!("{what} ended: {result:?}"))
    };
    tokio::select! {
        () = shutdown.notified() => {}
        result = &mut reaper => return Err(ended("collecting processes", result)),
        result = &mut streams => return Err(ended("accepting streams", result)),
        result = &mut localhost => return Err(ended("accepting connections", result)),
        result = &mut names => return Err(ended("accepting a name server", result)),
    }
    Err(AgentError::Internal(format!(
        "cannot reset the machine: {}",
        power::reset()
    )))
}

/// The parameter by which TCP makes packets as large as it can when the other end is nearer than
/// 2^14 µs, where the kernel says 2^9. Beyond that a packet holds what is sent in a millisecond: on
/// a machine with more to do than it can, every end is far, packets are small, and since each of them
/// costs an exit there is even more to do. Cutting them costs the guest nothing.
fn large_packets() -> (String, String) {
    ("net.ipv4.tcp_tso_rtt_log".into(), "14".into())
}

/// The parameter by which a processor keeps at most one of 256 pages of memory in a list of its own when
/// they are free. Without it Linux lets the list grow to an eighth of memory while much is freed, and
/// gives an eighth of it back each second: pages that nobody uses, and that the host does not get.
fn short_lists_of_free_pages() -> (String, String) {
    ("vm.percpu_pagelist_high_fraction".into(), "256".into())
}

fn say_hello(missing: Vec<&'static str>) -> Result<(), AgentError> {
    let hello = Hello {
        version: VERSION,
        kernel: kernel::release(),
        missing: missing.into_iter().map(str::to_owned).collect(),
    };
    let line = hello
        .to_line()
        .map_err(|error| AgentError::Internal(error.to_string()))?;
    let socket = socket::connect_to_host(HELLO_PORT).doing("connect to the host")?;
    File::from(socket)
        .write_all(&line)
        .doing("say hello to the host")
}
