//! Children and orphans: PID 1 is everybody's last parent.

use std::os::fd::{AsFd, BorrowedFd};
use std::process::Command;

use anyhow::{Context, Result, bail};
use caisson_testbed::{ExitStatus, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, WaitOptions};

/// The children of this machine's init.
///
/// Orphans are reaped as soon as they die: a test that looks for what a runtime left behind must
/// not find a zombie that only waits for us.
pub(crate) struct Processes {
    child_signals: SignalFd,
}

impl Processes {
    /// Must be made before any thread or child.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            child_signals: SignalFd::block(&[libc::SIGCHLD]).context("signalfd")?,
        })
    }

    /// Starts a child and returns its process id; ask [`Self::reap`] for its end.
    pub(crate) fn spawn(&self, command: &mut Command, terminal: bool) -> std::io::Result<Pid> {
        caisson_testbed::new_session(command, terminal);
        let child = command.spawn()?;
        Ok(Pid::from_child(&child))
    }

    /// Reaps whatever has ended and says how `of_interest` did, if it is among it.
    pub(crate) fn reap(&self, of_interest: Pid) -> Result<Option<ExitStatus>> {
        while self.child_signals.next_signal()?.is_some() {}
        let mut found = None;
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == of_interest => {
                    found = Some(ExitStatus::of_wait(status));
                }
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(found),
                Err(error) => return Err(error).context("waitpid"),
            }
        }
    }

    /// Waits for one child.
    pub(crate) fn wait(&self, pid: Pid) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.reap(pid)? {
                return Ok(status);
            }
            let mut waiting = [PollFd::new(&self.child_signals, PollFlags::IN)];
            poll(&mut waiting, None).context("poll")?;
        }
    }

    /// Runs a child to its end and demands success.
    pub(crate) fn run(&self, command: &mut Command) -> Result<()> {
        let name = format!("{command:?}");
        let pid = self
            .spawn(command, false)
            .with_context(|| format!("starting {name}"))?;
        let status = self.wait(pid)?;
        if !status.success() {
            bail!("{name} ended with status {}", status.code());
        }
        Ok(())
    }

    /// Asks a daemon to end and waits until it has.
    pub(crate) fn terminate(&self, pid: Pid) -> Result<()> {
        rustix::process::kill_process(pid, Signal::TERM).context("SIGTERM")?;
        self.wait(pid)?;
        Ok(())
    }
}

impl AsFd for Processes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child_signals.as_fd()
    }
}
