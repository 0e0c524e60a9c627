//! A container: its init process and its execs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use caisson_sandbox::ContainerLimits;

use crate::bundle::Bundle;
use crate::error::TaskError;
use crate::hooks::Hooks;
use crate::process::{Process, ProcessKey, State};

/// A created container.
#[derive(Debug)]
pub(crate) struct Container {
    /// Its bundle.
    pub(crate) bundle: Bundle,
    /// Its init process.
    pub(crate) init: Arc<Process>,
    /// Changes of its limits take turns. Held over calls to the guest, and taken by nothing else.
    pub(crate) updating: tokio::sync::Mutex<()>,
    limits: Mutex<ContainerLimits>,
    /// Programs of the host that are to run at its turning points.
    pub(crate) hooks: Hooks,
    execs: Mutex<Execs>,
    oom_reported: AtomicBool,
}

#[derive(Debug, Default)]
struct Execs {
    /// The init process has ended: nothing may be added or started.
    closed: bool,
    processes: HashMap<String, Arc<Process>>,
}

impl Container {
    /// A container whose init process was just created.
    pub(crate) fn new(
        bundle: Bundle,
        init: Arc<Process>,
        hooks: Hooks,
        limits: ContainerLimits,
    ) -> Self {
        Self {
            bundle,
            init,
            hooks,
            updating: tokio::sync::Mutex::new(()),
            limits: Mutex::new(limits),
            execs: Mutex::default(),
            oom_reported: AtomicBool::new(false),
        }
    }

    /// The process with this exec id; init when it is empty.
    ///
    /// # Errors
    /// [`TaskError::Unknown`] when there is none.
    pub(crate) fn process(&self, exec: &str) -> Result<Arc<Process>, TaskError> {
        if exec.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        let found = self.execs().processes.get(exec).map(Arc::clone);
        found.ok_or_else(|| TaskError::Unknown(ProcessKey::new(&self.init.key.container, exec)))
    }

    /// The limits by which its machine is sized.
    pub(crate) fn limits(&self) -> ContainerLimits {
        *self.lock_limits()
    }

    /// Sets them; returns those before.
    pub(crate) fn set_limits(&self, limits: ContainerLimits) -> ContainerLimits {
        std::mem::replace(&mut *self.lock_limits(), limits)
    }

    /// Registers an exec.
    ///
    /// # Errors
    /// [`TaskError::State`] once init has ended, [`TaskError::Exists`] for an id in use.
    pub(crate) fn add(&self, exec: Process) -> Result<(), TaskError> {
        let mut execs = self.execs();
        if execs.closed {
            return Err(self.init.refused("add an exec to", self.init.state()));
        }
        if execs.processes.contains_key(&exec.key.exec) {
            return Err(TaskError::Exists(exec.key));
        }
        execs
            .processes
            .insert(exec.key.exec.clone(), Arc::new(exec));
        Ok(())
    }

    /// Forgets an exec.
    pub(crate) fn remove(&self, exec: &str) {
        self.execs().processes.remove(exec);
    }

    /// Whether execs may still be added and started.
    pub(crate) fn is_open(&self) -> bool {
        !self.execs().closed
    }

    /// Refuses execs from now on and returns those there are.
    pub(crate) fn close(&self) -> Vec<Arc<Process>> {
        let mut execs = self.execs();
        execs.closed = true;
        execs.processes.values().map(Arc::clone).collect()
    }

    /// The execs that run.
    pub(crate) fn running_execs(&self) -> Vec<Arc<Process>> {
        self.execs()
            .processes
            .values()
            .filter(|process| process.state() == State::Running)
            .map(Arc::clone)
            .collect()
    }

    /// Whether this is the first time that running out of memory is reported.
    pub(crate) fn first_oom(&self) -> bool {
        !self.oom_reported.swap(true, Ordering::Relaxed)
    }

    fn lock_limits(&self) -> MutexGuard<'_, ContainerLimits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn execs(&self) -> MutexGuard<'_, Execs> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
