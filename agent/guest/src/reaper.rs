//! Collects every process that ends. PID 1 is the parent of all orphans, so it waits for any
//! child, and hands the exits of the processes it knows to whoever watches them.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{WaitOptions, WaitStatus};
use rustix::time::ClockId;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, or 128 plus the number of the signal.
    pub status: u32,
    /// CLOCK_REALTIME in nanoseconds since 1970.
    pub at_ns: i64,
}

impl Exit {
    /// An exit that is seen now.
    #[must_use]
    pub fn now(status: u32) -> Self {
        let now = rustix::time::clock_gettime(ClockId::Realtime);
        Self {
            status,
            at_ns: now
                .tv_sec
                .saturating_mul(1_000_000_000)
                .saturating_add(now.tv_nsec),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    /// Processes that are known and have not been collected. As long as a pid is in here, the
    /// kernel cannot give it to another process.
    watched: HashMap<i32, oneshot::Sender<Exit>>,
    /// Launches under way.
    launches: usize,
    /// Exits during a launch of processes that nobody watches: perhaps the very process that the
    /// launch is about to name.
    unclaimed: HashMap<i32, Exit>,
}

/// The one waiter for children of this process. Clones are the same reaper.
#[derive(Debug, Clone, Default)]
pub struct Reaper(Arc<Mutex<State>>);

/// A launch under way: exits that happen before the new process is watched are kept.
#[derive(Debug)]
pub struct Launch(Reaper);

impl Reaper {
    /// Collects children for as long as the runtime lives. To be spawned once per process.
    ///
    /// # Errors
    /// When SIGCHLD cannot be received.
    pub async fn run(self) -> io::Result<()> {
        let mut child_signals = signal(SignalKind::child())?;
        loop {
            // Children may have ended before the handler was there, hence collect, then wait.
            self.collect();
            if child_signals.recv().await.is_none() {
                return Ok(());
            }
        }
    }

    fn collect(&self) {
        // An error is ECHILD: no children at all.
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if let Some(status) = exit_status(status) {
                self.ended(pid.as_raw_nonzero().get(), Exit::now(status));
            }
        }
    }

    fn ended(&self, pid: i32, exit: Exit) {
        let mut state = self.lock();
        if let Some(watcher) = state.watched.remove(&pid) {
            // A watcher that is gone no longer wants to know.
            let _ = watcher.send(exit);
        } else if state.launches > 0 {
            state.unclaimed.insert(pid, exit);
        }
    }

    /// Begins to launch a process: to be called before the process can exist.
    #[must_use]
    pub fn launch(&self) -> Launch {
        self.lock().launches += 1;
        Launch(self.clone())
    }

    /// Sends a signal to a watched process. `false` when it has ended.
    ///
    /// # Errors
    /// What `kill(2)` answers, other than that the process does not exist.
    pub fn signal(&self, pid: i32, number: i32) -> io::Result<bool> {
        // The lock keeps the pid from being collected, and thereby from being used again.
        let state = self.lock();
        if !state.watched.contains_key(&pid) {
            return Ok(false);
        }
        crate::signal::send(pid, number)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Launch {
    /// Watches the process that was launched. The receiver gets its exit, even if that has
    /// happened already.
    #[must_use]
    pub fn watch(&self, pid: i32) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.0.lock();
        match state.unclaimed.remove(&pid) {
            // The receiver is right here.
            Some(exit) => drop(sender.send(exit)),
            None => drop(state.watched.insert(pid, sender)),
        }
        receiver
    }
}

impl Drop for Launch {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.launches = state.launches.saturating_sub(1);
        if state.launches == 0 {
            state.unclaimed = HashMap::new();
        }
    }
}

/// 128 plus the signal, as shells and container runtimes count; `None` for a mere stop.
fn exit_status(status: WaitStatus) -> Option<u32> {
    if let Some(code) = status.exit_status() {
        return u32::try_from(code).ok();
    }
    let signal = u32::try_from(status.terminating_signal()?).ok()?;
    Some(128_u32.saturating_add(signal))
}

#[cfg(test)]
#[path = "reaper_test.rs"]
mod tests;
