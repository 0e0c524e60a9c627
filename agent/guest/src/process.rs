//! One process of a container, from its registration to its deletion.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::descriptor::Descriptor;
use crate::error::AgentError;
use crate::reaper::{Exit, Reaper};
use crate::stdio::Movers;
use crate::terminal;

/// What a waiter is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// How the process ended.
    pub exit: Exit,
    /// Whether the container's memory limit has killed a process by then.
    pub oom_killed: bool,
}

/// How far a process has come. It only ever moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Registered. An init process exists and waits, an exec does not exist yet.
    Created,
    /// Being started.
    Starting,
    /// Runs its program.
    Running,
    /// Has ended and is collected; what it leaves behind may still be cleared away.
    Ended,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    pid: Option<i32>,
    terminal: Option<Arc<Descriptor>>,
    /// Columns and rows.
    size: Option<(u16, u16)>,
    movers: Movers,
}

/// A process of a container.
#[derive(Debug)]
pub struct Process {
    /// For messages: which process this is.
    name: String,
    state: Mutex<State>,
    outcome: watch::Sender<Option<Outcome>>,
}

impl Process {
    /// Registers a process; `name` is for messages.
    #[must_use]
    pub fn new(name: String, size: Option<(u16, u16)>) -> Self {
        Self {
            name,
            state: Mutex::new(State {
                stage: Stage::Created,
                pid: None,
                terminal: None,
                size,
                movers: Movers::default(),
            }),
            outcome: watch::Sender::new(None),
        }
    }

    /// Connects the process to what the launch made. A terminal gets its initial size.
    pub fn launched(&self, pid: i32, terminal: Option<Arc<Descriptor>>, movers: Movers) {
        let mut state = self.lock();
        state.pid = Some(pid);
        state.movers = movers;
        if let (Some(terminal), Some((width, height))) = (&terminal, state.size) {
            // A wrong size is not worth a process.
            let _ = terminal::resize(terminal.as_fd(), width, height);
        }
        state.terminal = terminal;
    }

    /// Columns and rows of its terminal, as far as they are known.
    #[must_use]
    pub fn size(&self) -> Option<(u16, u16)> {
        self.lock().size
    }

    /// How far the process has come.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.lock().stage
    }

    /// Its number, once it exists.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.lock().pid
    }

    /// Moves from created to starting.
    ///
    /// # Errors
    /// [`AgentError::FailedPrecondition`] in any other stage.
    pub fn begin_start(&self) -> Result<(), AgentError> {
        let mut state = self.lock();
        match state.stage {
            Stage::Created => {
                state.stage = Stage::Starting;
                Ok(())
            }
            Stage::Starting | Stage::Running => Err(self.wrong("has already been started")),
            Stage::Ended => Err(self.wrong("has ended")),
        }
    }

    /// Moves from starting to running; a process that has ended meanwhile stays so.
    pub fn started(&self) {
        let mut state = self.lock();
        if state.stage == Stage::Starting {
            state.stage = Stage::Running;
        }
    }

    /// The process is collected: no signal reaches it any more, and its input ends.
    pub fn ended(&self) {
        let mut state = self.lock();
        state.stage = Stage::Ended;
        state.movers.end_input();
    }

    /// Tells all waiters, present and future.
    pub fn settle(&self, outcome: Outcome) {
        self.outcome.send_replace(Some(outcome));
    }

    /// Waits until the process has ended.
    ///
    /// # Errors
    /// [`AgentError::NotFound`] if it is deleted without ever having run.
    pub async fn wait(self: Arc<Self>) -> Result<Outcome, AgentError> {
        let mut outcome = self.outcome.subscribe();
        let name = self.name.clone();
        // Not to keep alive what is waited for.
        drop(self);
        let settled = outcome.wait_for(Option::is_some).await;
        settled
            .ok()
            .and_then(|outcome| *outcome)
            .ok_or_else(|| AgentError::NotFound(format!("{name} was deleted before it ran")))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// [`AgentError::NotFound`] if it has ended, [`AgentError::FailedPrecondition`] if it does not
    /// exist yet.
    pub fn signal(&self, reaper: &Reaper, number: i32) -> Result<(), AgentError> {
        let (stage, pid) = {
            let state = self.lock();
            (state.stage, state.pid)
        };
        if stage == Stage::Ended {
            return Err(self.finished());
        }
        let pid = pid.ok_or_else(|| self.wrong("has not been started"))?;
        match reaper.signal(pid, number) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.finished()),
            Err(error) => Err(AgentError::Internal(format!(
                "cannot send signal {number} to {}: {error}",
                self.name
            ))),
        }
    }

    /// Sets the size of the terminal, now or when it is made.
    ///
    /// # Errors
    /// [`AgentError::Internal`] when the kernel refuses.
    pub fn resize(&self, width: u16, height: u16) -> Result<(), AgentError> {
        let mut state = self.lock();
        state.size = Some((width, height));
        let Some(terminal) = &state.terminal else {
            return Ok(());
        };
        terminal::resize(terminal.as_fd(), width, height).map_err(|error| {
            AgentError::Internal(format!("cannot set the size of a terminal: {error}"))
        })
    }

    /// The error for a signal to a process that is gone; containerd knows these words from runc.
    fn finished(&self) -> AgentError {
        AgentError::NotFound(format!("{}: process already finished", self.name))
    }

    fn wrong(&self, what: &str) -> AgentError {
        AgentError::FailedPrecondition(format!("{} {what}", self.name))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "process_test.rs"]
mod tests;
