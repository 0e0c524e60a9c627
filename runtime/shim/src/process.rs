//! One process of a container as containerd sees it: its state, who waits for it, its streams.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use caisson_sandbox::ProcessId;
use oci_spec::runtime::Process as ProcessSpec;
use tokio::sync::watch;

use crate::error::TaskError;
use crate::stdio::{ProcessIo, StdioPaths};

/// The exit status of a process that was killed together with its virtual machine: 128 + SIGKILL.
pub(crate) const KILLED: u32 = 137;
/// The exit status of an exec that could not be started, as docker and kata report it.
pub(crate) const NOT_STARTED: u32 = 255;

/// The name of a process: its container, and its exec id, which is empty for the init process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ProcessKey {
    /// The container.
    pub(crate) container: String,
    /// The exec; empty for init.
    pub(crate) exec: String,
}

impl ProcessKey {
    /// The process `exec` of `container`; its init process when `exec` is empty.
    pub(crate) fn new(container: &str, exec: &str) -> Self {
        Self {
            container: container.to_owned(),
            exec: exec.to_owned(),
        }
    }

    /// Whether it is a container's init process.
    pub(crate) fn is_init(&self) -> bool {
        self.exec.is_empty()
    }

    /// The name by which the sandbox knows it.
    pub(crate) fn id(&self) -> ProcessId {
        ProcessId {
            container: self.container.clone(),
            exec: self.exec.clone(),
        }
    }
}

impl fmt::Display for ProcessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_init() {
            write!(f, "container {:?}", self.container)
        } else {
            write!(f, "exec {:?} of container {:?}", self.exec, self.container)
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Exit code, or 128 plus the number of the signal.
    pub(crate) status: u32,
    /// When.
    pub(crate) at: SystemTime,
}

impl Exit {
    /// An exit at this moment.
    pub(crate) fn now(status: u32) -> Self {
        Self {
            status,
            at: SystemTime::now(),
        }
    }
}

/// Where a process is in its life: Added → Created → Running ⇄ Paused → Stopped → Deleted, and from
/// any of them to Stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// An exec that is known here and not yet in the guest.
    Added,
    /// An init process that waits for its start.
    Created,
    /// It runs.
    Running,
    /// An init process that stands still with its container. Its execs stand still in their state
    /// of running.
    Paused,
    /// It ended.
    Stopped(Exit),
    /// It ended and was deleted; nobody finds it any more, but a waiter may still hold it.
    Deleted(Exit),
}

impl State {
    /// The state in a word, for messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Added | Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped(_) => "stopped",
            Self::Deleted(_) => "deleted",
        }
    }

    /// The exit, once there was one.
    pub(crate) fn exit(self) -> Option<Exit> {
        match self {
            Self::Stopped(exit) | Self::Deleted(exit) => Some(exit),
            _ => None,
        }
    }

    /// The state after the process was started; `None` when it cannot be.
    fn started(self) -> Option<Self> {
        matches!(self, Self::Added | Self::Created).then_some(Self::Running)
    }

    /// The state after its container was paused; `None` when it cannot be.
    fn paused(self) -> Option<Self> {
        (self == Self::Running).then_some(Self::Paused)
    }

    /// The state after its container was resumed; `None` when it cannot be.
    fn resumed(self) -> Option<Self> {
        (self == Self::Paused).then_some(Self::Running)
    }

    /// The state after the process ended; `None` when it had already.
    fn exited(self, exit: Exit) -> Option<Self> {
        self.exit().is_none().then_some(Self::Stopped(exit))
    }

    /// The state after the process was deleted; `None` when it cannot be: while it is in the
    /// guest, or a second time.
    fn deleted(self) -> Option<Self> {
        match self {
            Self::Added => Some(Self::Deleted(Exit::now(0))),
            Self::Stopped(exit) => Some(Self::Deleted(exit)),
            _ => None,
        }
    }
}

/// What waiters look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Status {
    state: State,
    /// Whether everything it wrote has been passed on, or was given up.
    drained: bool,
}

/// One process. Shared between the task table, its watcher and the calls that concern it.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its name.
    pub(crate) key: ProcessKey,
    /// Where its streams go.
    pub(crate) stdio: StdioPaths,
    /// Process id on the host: that of the virtual machine, for every process in it.
    pub(crate) pid: u32,
    /// Start, Delete and the recording of the exit take turns, so that their events come in
    /// order. Held over calls to the guest: what must answer at once does not take it.
    pub(crate) turn: tokio::sync::Mutex<()>,
    status: watch::Sender<Status>,
    later: Mutex<Later>,
}

/// What is kept until the process starts, and its streams from then on.
#[derive(Debug, Default)]
struct Later {
    /// What an exec is to run.
    spec: Option<ProcessSpec>,
    /// Size for a terminal that is not there yet: columns and lines.
    size: Option<(u32, u32)>,
    /// Standard input was closed before it was opened.
    stdin_closed: bool,
    /// The copying of the streams.
    io: Option<ProcessIo>,
}

impl Process {
    /// A created init process whose streams are already copied.
    pub(crate) fn init(key: ProcessKey, stdio: StdioPaths, pid: u32, io: ProcessIo) -> Self {
        let later = Later {
            io: Some(io),
            ..Later::default()
        };
        Self::new(key, stdio, pid, State::Created, later)
    }

    /// An exec that was registered.
    pub(crate) fn exec(key: ProcessKey, stdio: StdioPaths, pid: u32, spec: ProcessSpec) -> Self {
        let later = Later {
            spec: Some(spec),
            ..Later::default()
        };
        Self::new(key, stdio, pid, State::Added, later)
    }

    fn new(key: ProcessKey, stdio: StdioPaths, pid: u32, state: State, later: Later) -> Self {
        let (status, _) = watch::channel(Status {
            state,
            drained: false,
        });
        Self {
            key,
            stdio,
            pid,
            turn: tokio::sync::Mutex::new(()),
            status,
            later: Mutex::new(later),
        }
    }

    /// Its state now.
    pub(crate) fn state(&self) -> State {
        self.status.borrow().state
    }

    /// Records that it runs.
    ///
    /// # Errors
    /// [`TaskError::State`] when it has been started before.
    pub(crate) fn set_running(&self) -> Result<(), TaskError> {
        self.change(State::started)
            .map(drop)
            .map_err(|state| self.refused("start", state))
    }

    /// Records that it stands still.
    ///
    /// # Errors
    /// [`TaskError::State`] unless it runs.
    pub(crate) fn set_paused(&self) -> Result<(), TaskError> {
        self.change(State::paused)
            .map(drop)
            .map_err(|state| self.refused("pause", state))
    }

    /// Records that it goes on.
    ///
    /// # Errors
    /// [`TaskError::State`] unless it stands still.
    pub(crate) fn set_resumed(&self) -> Result<(), TaskError> {
        self.change(State::resumed)
            .map(drop)
            .map_err(|state| self.refused("resume", state))
    }

    /// Records its end; false when that was known already.
    pub(crate) fn set_exited(&self, exit: Exit) -> bool {
        self.change(|state| state.exited(exit)).is_ok()
    }

    /// Records its deletion, after which nobody has anything to wait for.
    ///
    /// # Errors
    /// [`TaskError::Unknown`] for the second time, [`TaskError::Running`] or
    /// [`TaskError::State`] while it is in the guest.
    pub(crate) fn set_deleted(&self) -> Result<Exit, TaskError> {
        match self.change(State::deleted) {
            Ok(state) => {
                // An exec that was never started has no output, and nobody who says so.
                self.set_drained();
                state.exit().ok_or_else(|| self.refused("delete", state))
            }
            Err(state) => Err(self.undeletable(state)),
        }
    }

    /// Records that its output has been passed on.
    pub(crate) fn set_drained(&self) {
        self.status.send_modify(|status| status.drained = true);
    }

    /// Waits for its end, and for its output to have been passed on.
    pub(crate) async fn wait(&self) -> Exit {
        self.wait_for(|status| status.drained).await
    }

    /// Waits for its end only.
    pub(crate) async fn ended(&self) -> Exit {
        self.wait_for(|_| true).await
    }

    async fn wait_for(&self, enough: impl Fn(&Status) -> bool) -> Exit {
        let mut status = self.status.subscribe();
        let ended = status
            .wait_for(|status| status.state.exit().is_some() && enough(status))
            .await;
        match ended.map(|status| status.state.exit()) {
            Ok(Some(exit)) => exit,
            // The sender is a field of `self`, so this cannot be reached.
            _ => Exit::now(KILLED),
        }
    }

    /// The error for an action that `state` forbids.
    pub(crate) fn refused(&self, action: &'static str, state: State) -> TaskError {
        TaskError::State {
            action,
            key: self.key.clone(),
            state: state.name(),
        }
    }

    /// The error for a deletion that `state` forbids.
    pub(crate) fn undeletable(&self, state: State) -> TaskError {
        match state {
            State::Deleted(_) => TaskError::Unknown(self.key.clone()),
            State::Running => TaskError::Running(self.key.clone()),
            state => self.refused("delete", state),
        }
    }

    /// What an exec is to run; once.
    pub(crate) fn take_spec(&self) -> Option<ProcessSpec> {
        self.later().spec.take()
    }

    /// Takes over the streams of a started exec.
    pub(crate) fn set_io(&self, io: ProcessIo) {
        let mut later = self.later();
        if later.stdin_closed {
            io.close_stdin();
        }
        later.io = Some(io);
    }

    /// Lets its input in, once it runs.
    pub(crate) fn open_stdin(&self) {
        if let Some(io) = &self.later().io {
            io.open_stdin();
        }
    }

    /// Ends its standard input, now or as soon as it has one. Closing twice is no error.
    pub(crate) fn close_stdin(&self) {
        let mut later = self.later();
        later.stdin_closed = true;
        if let Some(io) = &later.io {
            io.close_stdin();
        }
    }

    /// Remembers the size of its terminal for its start.
    pub(crate) fn set_size(&self, width: u32, height: u32) {
        self.later().size = Some((width, height));
    }

    /// The remembered size of its terminal; once.
    pub(crate) fn take_size(&self) -> Option<(u32, u32)> {
        self.later().size.take()
    }

    /// Stops feeding it: input that it did not read is discarded at its end.
    pub(crate) fn stop_stdin(&self) {
        if let Some(io) = &self.later().io {
            io.stop_stdin();
        }
    }

    /// Waits until its output has been passed on.
    pub(crate) async fn drained(&self) {
        let drained = self.later().io.as_ref().map(ProcessIo::drained);
        if let Some(drained) = drained {
            drained.await;
        }
    }

    /// Closes what is left of its streams.
    pub(crate) fn cut(&self) {
        self.later().io = None;
    }

    fn change(&self, step: impl FnOnce(State) -> Option<State>) -> Result<State, State> {
        let mut result = Err(self.state());
        self.status.send_if_modified(|status| {
            result = step(status.state).ok_or(status.state);
            if let Ok(state) = result {
                status.state = state;
            }
            result.is_ok()
        });
        result
    }

    fn later(&self) -> MutexGuard<'_, Later> {
        self.later.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "process_test.rs"]
mod tests;
