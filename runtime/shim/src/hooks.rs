//! The hooks of a container's configuration that are programs of the host.
//!
//! OCI runtime specification, "POSIX-platform Hooks": prestart and createRuntime run while the
//! container is created and can refuse it, poststart after its start, poststop after its deletion.
//! Each gets the container's state on standard input. They expect to see what containerd sees, so
//! they run in its mount namespace and not in the shim's own.
//!
//! startContainer's are programs of the image and run in the guest; createContainer's would be
//! programs of the host that run in the container's namespaces, which are those of another kernel.

mod run;
mod state;

use std::path::Path;
use std::time::{Duration, Instant};

use oci_spec::runtime::{ContainerState, Hook, Spec, State};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::bundle::Bundle;
pub(crate) use run::{HookError, HostMounts};

/// File in the bundle with what [`run_due`] needs; there as long as poststop hooks are due.
const DUE: &str = "poststop.json";

/// A list of hooks, by its key in `hooks` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Prestart,
    CreateRuntime,
    Poststart,
    Poststop,
}

impl Phase {
    const ALL: [Self; 4] = [
        Self::Prestart,
        Self::CreateRuntime,
        Self::Poststart,
        Self::Poststop,
    ];

    fn key(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    fn of(self, spec: &Spec) -> &[Hook] {
        let Some(hooks) = spec.hooks() else {
            return &[];
        };
        match self {
            Self::Prestart => hooks.prestart(),
            Self::CreateRuntime => hooks.create_runtime(),
            Self::Poststart => hooks.poststart(),
            Self::Poststop => hooks.poststop(),
        }
        .as_deref()
        .unwrap_or_default()
    }
}

/// A configuration whose hooks cannot be run.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HooksRefused {
    /// Hooks that need the container's namespaces on the host.
    #[error(
        "`hooks.createContainer` of config.json names programs of the host that run in the \
         container's namespaces, which are inside a virtual machine: use createRuntime for what \
         can run on the host, or startContainer for a program of the image"
    )]
    CreateContainer,
    /// A hook whose program could be another one in each directory.
    #[error("`hooks.{key}[{index}].path` of config.json is {path:?}, it must be an absolute path")]
    RelativePath {
        /// Which list.
        key: &'static str,
        /// Place in the list.
        index: usize,
        /// What it says.
        path: String,
    },
    /// A hook that has no time.
    #[error(
        "`hooks.{key}[{index}].timeout` of config.json is {seconds}, it must be a number of \
         seconds above 0"
    )]
    Timeout {
        /// Which list.
        key: &'static str,
        /// Place in the list.
        index: usize,
        /// What it says.
        seconds: i64,
    },
}

/// The hooks of one container.
#[derive(Debug)]
pub(crate) struct Hooks {
    bundle: Bundle,
    /// Without status and process id, which change.
    state: State,
    lists: [Vec<Hook>; 4],
    mounts: Option<HostMounts>,
    /// Whether poststop hooks are due. Locked while hooks run, so that those of a phase begin when
    /// those of the one before have ended.
    due: Mutex<bool>,
}

/// What is kept of a container for its poststop hooks.
#[derive(Debug, Serialize, Deserialize)]
struct Due {
    state: State,
    hooks: Vec<Hook>,
}

impl Hooks {
    /// The hooks in the configuration `spec` of container `id`; `mounts` is where they run, if not
    /// in the mount namespace of this process.
    ///
    /// # Errors
    /// See [`HooksRefused`].
    pub(crate) fn of(
        id: &str,
        bundle: &Bundle,
        spec: &Spec,
        mounts: Option<HostMounts>,
    ) -> Result<Self, HooksRefused> {
        let hooks = spec.hooks().as_ref();
        let in_container = hooks.and_then(|hooks| hooks.create_container().as_ref());
        if in_container.is_some_and(|list| !list.is_empty()) {
            return Err(HooksRefused::CreateContainer);
        }
        for phase in Phase::ALL {
            for (index, hook) in phase.of(spec).iter().enumerate() {
                check(phase.key(), index, hook)?;
            }
        }
        Ok(Self {
            bundle: bundle.clone(),
            state: state::of(id, bundle.path(), spec),
            lists: Phase::ALL.map(|phase| phase.of(spec).to_vec()),
            mounts,
            due: Mutex::new(false),
        })
    }

    /// Runs the prestart and createRuntime hooks of a container that is being created, whose host
    /// process is `pid`. From now on poststop hooks are due.
    ///
    /// # Errors
    /// See [`HookError`]; the hooks after the one that failed are not run.
    pub(crate) async fn creating(&self, pid: u32) -> Result<(), HookError> {
        let mut due = self.due.lock().await;
        self.note_due()?;
        *due = true;
        let state = state::with(&self.state, ContainerState::Creating, pid);
        for phase in [Phase::Prestart, Phase::CreateRuntime] {
            self.run(phase, &state).await?;
        }
        Ok(())
    }

    /// Runs the poststart hooks of a container that was started. What fails is only logged.
    pub(crate) async fn started(&self, pid: u32) {
        let _turn = self.due.lock().await;
        let state = state::with(&self.state, ContainerState::Running, pid);
        self.run_all(Phase::Poststart, &state).await;
    }

    /// Runs the poststop hooks of a container that was deleted or could not be created, once. What
    /// fails is only logged.
    pub(crate) async fn stopped(&self) {
        let mut due = self.due.lock().await;
        if !std::mem::take(&mut *due) {
            return;
        }
        self.run_all(Phase::Poststop, &self.state).await;
        self.bundle.remove(DUE);
    }

    /// Leaves in the bundle what is to be run if this process does not live to do it.
    fn note_due(&self) -> Result<(), HookError> {
        let hooks = self.list(Phase::Poststop).to_vec();
        if hooks.is_empty() {
            return Ok(());
        }
        let due = Due {
            state: self.state.clone(),
            hooks,
        };
        let written = serde_json::to_vec(&due)
            .map_err(std::io::Error::other)
            .and_then(|json| self.bundle.write(DUE, &json));
        written.map_err(|source| HookError::NotNoted {
            path: self.bundle.path().join(DUE),
            source,
        })
    }

    async fn run(&self, phase: Phase, state: &State) -> Result<(), HookError> {
        let (bundle, mounts) = (self.bundle.path(), self.mounts.as_ref());
        for hook in self.list(phase) {
            run::run(phase.key(), hook, state, bundle, mounts, None).await?;
        }
        Ok(())
    }

    async fn run_all(&self, phase: Phase, state: &State) {
        let (bundle, mounts) = (self.bundle.path(), self.mounts.as_ref());
        for hook in self.list(phase) {
            let result = run::run(phase.key(), hook, state, bundle, mounts, None).await;
            if let Err(error) = result {
                tracing::warn!("container {:?}: {error}", self.state.id());
            }
        }
    }

    fn list(&self, phase: Phase) -> &[Hook] {
        let place = Phase::ALL.iter().position(|listed| *listed == phase);
        let list = place.and_then(|place| self.lists.get(place));
        list.map(Vec::as_slice).unwrap_or_default()
    }
}

fn check(key: &'static str, index: usize, hook: &Hook) -> Result<(), HooksRefused> {
    if !hook.path().is_absolute() {
        return Err(HooksRefused::RelativePath {
            key,
            index,
            path: hook.path().display().to_string(),
        });
    }
    match hook.timeout() {
        Some(seconds @ ..=0) => Err(HooksRefused::Timeout {
            key,
            index,
            seconds,
        }),
        _ => Ok(()),
    }
}

/// Runs the poststop hooks that a shim left in `bundle` when it died, until `deadline`. Returns what
/// went wrong.
pub(crate) async fn run_due(bundle: &Bundle, deadline: Instant) -> Vec<String> {
    let due = match bundle.read(DUE) {
        Ok(json) => serde_json::from_slice::<Due>(&json).map_err(|error| error.to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => Err(error.to_string()),
    };
    let due = match due {
        Ok(due) => due,
        Err(error) => {
            return vec![format!(
                "poststop hooks were not run: {DUE} in the bundle: {error}"
            )];
        }
    };
    let mut complaints = Vec::new();
    for hook in &due.hooks {
        let left = deadline.saturating_duration_since(Instant::now());
        let result = run_left(hook, &due.state, bundle.path(), left).await;
        complaints.extend(result.err().map(|error| error.to_string()));
    }
    bundle.remove(DUE);
    complaints
}

async fn run_left(
    hook: &Hook,
    state: &State,
    bundle: &Path,
    left: Duration,
) -> Result<(), HookError> {
    run::run(Phase::Poststop.key(), hook, state, bundle, None, Some(left)).await
}

#[cfg(test)]
#[path = "hooks_test.rs"]
mod tests;
