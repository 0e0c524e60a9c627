//! Which processes belong to a sandbox, for whoever cleans up when its shim is gone.

use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

/// File in the state directory: one line per process, `<name> <pid> <start time>`.
const FILE: &str = "processes";
/// A killed process is gone as soon as the kernel has freed its memory; containerd gives `delete`
/// five seconds for everything.
const KILLED: Duration = Duration::from_secs(2);

/// The name of the process that stands for the pod on the host.
pub(crate) const POD: &str = "pod";

/// What a line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Recorded {
    /// Whether it is the process that stands for the pod.
    is_pod: bool,
    pid: i32,
    /// In clock ticks since the host booted (proc_pid_stat(5), field 22): a process with the same
    /// number and another start time is somebody else's.
    start_time: u64,
}

/// Writes down processes of the sandbox, after those that were before.
pub(crate) fn add(state_dir: &Path, processes: &[(&str, u32)]) -> io::Result<()> {
    let mut text = String::new();
    for (name, pid) in processes {
        let start_time = start_time(*pid)?;
        text.push_str(&format!("{name} {pid} {start_time}\n"));
    }
    let mut file = fs::File::options()
        .append(true)
        .create(true)
        .open(state_dir.join(FILE))?;
    file.write_all(text.as_bytes())
}

/// Kills the recorded processes that still run, waits until they are gone, and returns the
/// process id of the one that stood for the pod, if it was recorded.
///
/// # Errors
/// Fails when the record cannot be read or a process cannot be killed.
pub(crate) fn kill_recorded(state_dir: &Path) -> io::Result<Option<u32>> {
    let text = match fs::read_to_string(state_dir.join(FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let recorded: Vec<Recorded> = text.lines().filter_map(parse).collect();
    let killed = recorded
        .iter()
        .filter_map(|process| kill(*process).transpose())
        .collect::<io::Result<Vec<OwnedFd>>>()?;
    for process in killed {
        wait(&process)?;
    }
    Ok(recorded
        .iter()
        .find(|process| process.is_pod)
        .and_then(|process| u32::try_from(process.pid).ok()))
}

fn parse(line: &str) -> Option<Recorded> {
    let mut words = line.split(' ');
    Some(Recorded {
        is_pod: words.next()? == POD,
        pid: words.next()?.parse().ok().filter(|&pid| pid > 0)?,
        start_time: words.next()?.parse().ok()?,
    })
}

/// Kills a process if it is still the recorded one.
fn kill(process: Recorded) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = Pid::from_raw(process.pid) else {
        return Ok(None);
    };
    // The descriptor first: from here on the number cannot come to mean another process unseen.
    let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let same = u32::try_from(process.pid)
        .ok()
        .and_then(|pid| start_time(pid).ok())
        == Some(process.start_time);
    if !same {
        return Ok(None);
    }
    match rustix::process::pidfd_send_signal(&pidfd, Signal::KILL) {
        Ok(()) => Ok(Some(pidfd)),
        Err(Errno::SRCH) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Waits until a process has ended; its descriptor becomes readable then.
fn wait(process: &OwnedFd) -> io::Result<()> {
    let timeout = Timespec {
        tv_sec: KILLED.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    let mut watched = [PollFd::new(process, PollFlags::IN)];
    loop {
        match rustix::event::poll(&mut watched, Some(&timeout)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn start_time(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the name in parentheses, which may hold anything; after its last
    // parenthesis comes field 3.
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(22 - 3))
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not understood")))
}

#[cfg(test)]
#[path = "record_test.rs"]
mod tests;
