//! containerd as a child.

use std::fs::{self, File};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use caisson_testbed::Frame;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Resource, Rlimit};

use crate::link::Link;
use crate::processes::Processes;

const LOG: &str = "/var/log/containerd.log";

/// Time between two signs of life.
pub(crate) const HEARTBEAT: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// Gives this process and its children what systemd gives a service; PID 1's own limit of 4096 open
/// files is too small for many shims.
pub(crate) fn allow_many_files() -> Result<()> {
    let files = Rlimit {
        current: Some(1024),
        maximum: Some(524_288),
    };
    rustix::process::setrlimit(Resource::Nofile, files).context("raising the file limit")
}

/// Starts containerd and waits until it says that it answers.
///
/// It says so the way it tells systemd: a `READY=1` datagram (sd_notify(3)).
///
/// While it waits it beats on `link`, if there is one.
pub(crate) fn start(
    arguments: &[&str],
    processes: &Processes,
    mut link: Option<&mut Link>,
) -> Result<Pid> {
    let name = "caisson-testbed-notify";
    let address = SocketAddr::from_abstract_name(name).context("naming the notify socket")?;
    let ready = UnixDatagram::bind_addr(&address).context("binding the notify socket")?;
    let log = File::create(LOG).with_context(|| format!("creating {LOG}"))?;
    let mut command = Command::new("containerd");
    command
        .args(arguments)
        .env_clear()
        .env("PATH", crate::PATH)
        .env("NOTIFY_SOCKET", format!("@{name}"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("sharing the log")?)
        .stderr(log);
    let pid = processes
        .spawn(&mut command, false)
        .context("starting containerd")?;
    loop {
        let mut waiting = [
            PollFd::new(&ready, PollFlags::IN),
            PollFd::new(processes, PollFlags::IN),
        ];
        let timeout = link.is_some().then_some(&HEARTBEAT);
        if poll(&mut waiting, timeout).context("poll")? == 0 {
            if let Some(link) = &mut link {
                link.send(&Frame::Alive)?;
            }
            continue;
        }
        let told = !waiting.first().is_none_or(|fd| fd.revents().is_empty());
        if let Some(status) = processes.reap(pid)? {
            bail!(
                "containerd ended with status {} before it was ready; its log ends:\n{}",
                status.code(),
                log_tail()
            );
        }
        if told {
            let mut message = [0; 256];
            let count = ready.recv(&mut message).context("the notify socket")?;
            let message = String::from_utf8_lossy(message.get(..count).unwrap_or_default());
            if message.lines().any(|line| line == "READY=1") {
                return Ok(pid);
            }
        }
    }
}

fn log_tail() -> String {
    let log = fs::read_to_string(LOG).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let last = lines.len().saturating_sub(15);
    lines.get(last..).unwrap_or_default().join("\n")
}
