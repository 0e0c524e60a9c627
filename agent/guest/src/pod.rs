//! The containers of the pod, by name.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use caisson_protocol::agent;

use crate::cgroup::{self, Cgroup};
use crate::container::{Container, Tools};
use crate::error::AgentError;
use crate::identifier;
use crate::pod_processes::PodProcesses;
use crate::sysctl;

/// Containers of one pod. Far above what a pod has, it keeps a confused host from filling memory.
const MAX_CONTAINERS: usize = 1024;

#[derive(Debug, Clone)]
enum Entry {
    /// Being created or being deleted: the name is taken, and nobody may use it.
    Reserved,
    Container(Arc<Container>),
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<String, Entry>,
    /// Containers that were ever created.
    count: u64,
}

/// All containers of the guest.
#[derive(Debug)]
pub struct Pod {
    tools: Tools,
    processes: PodProcesses,
    state: Mutex<State>,
}

impl Pod {
    /// A pod without containers.
    #[must_use]
    pub fn new(tools: Tools) -> Self {
        Self {
            tools,
            processes: PodProcesses::default(),
            state: Mutex::default(),
        }
    }

    /// Gives the guest what the pod has for all its containers.
    ///
    /// # Errors
    /// [`AgentError::InvalidArgument`] for a host name or parameter that the kernel refuses.
    pub fn set_up(request: &agent::SetUpPodRequest) -> Result<(), AgentError> {
        if !request.hostname.is_empty() {
            sysctl::set_hostname(&request.hostname)?;
        }
        let mut parameters: Vec<_> = request.sysctls.clone().into_iter().collect();
        parameters.sort();
        sysctl::set(&parameters)
    }

    /// Creates a container.
    ///
    /// # Errors
    /// [`AgentError::AlreadyExists`] if the name is taken, and what prevents the creation.
    pub async fn create(
        &self,
        request: agent::CreateContainerRequest,
    ) -> Result<Arc<Container>, AgentError> {
        let id = request.container_id.clone();
        identifier::check(&id)?;
        let processes_of = match request.process_namespace_of.as_str() {
            "" if request.in_pod_processes => Some(self.processes.holder(&self.tools).await?),
            "" => None,
            other => Some(self.container(other)?.living_init()?),
        };
        let number = self.reserve(&id)?;
        let result = Container::create(&self.tools, number, request, processes_of).await;
        let mut state = self.lock();
        match &result {
            Ok(container) => drop(
                state
                    .entries
                    .insert(id, Entry::Container(Arc::clone(container))),
            ),
            Err(_) => drop(state.entries.remove(&id)),
        }
        result
    }

    fn reserve(&self, id: &str) -> Result<u64, AgentError> {
        let mut state = self.lock();
        if state.entries.contains_key(id) {
            return Err(AgentError::AlreadyExists(format!(
                "container {id} already exists"
            )));
        }
        if state.entries.len() >= MAX_CONTAINERS {
            return Err(AgentError::ResourceExhausted(format!(
                "the pod already has {MAX_CONTAINERS} containers"
            )));
        }
        state.entries.insert(id.to_owned(), Entry::Reserved);
        state.count += 1;
        Ok(state.count)
    }

    /// A container by name.
    ///
    /// # Errors
    /// [`AgentError::NotFound`].
    pub fn container(&self, id: &str) -> Result<Arc<Container>, AgentError> {
        match self.lock().entries.get(id) {
            Some(Entry::Container(container)) => Ok(Arc::clone(container)),
            _ => Err(not_found(id)),
        }
    }

    /// Deletes a container with all its processes. Of several callers one succeeds, for the others
    /// it does not exist any more.
    ///
    /// # Errors
    /// [`AgentError::FailedPrecondition`] while it runs.
    pub async fn delete(&self, id: &str) -> Result<(), AgentError> {
        let container = {
            let mut state = self.lock();
            let entry = state.entries.get_mut(id).ok_or_else(|| not_found(id))?;
            let Entry::Container(container) = entry.clone() else {
                return Err(not_found(id));
            };
            container.check_deletable()?;
            *entry = Entry::Reserved;
            container
        };
        let result = container.clear().await;
        self.lock().entries.remove(id);
        result
    }

    /// Resource usage of all containers together.
    #[must_use]
    pub fn stats() -> agent::StatsResponse {
        Cgroup::at(Path::new(cgroup::ROOT).join(cgroup::PARENT)).stats()
    }

    /// Kills every process of every container at once.
    pub fn kill_all(&self) {
        let parent = Path::new(cgroup::ROOT).join(cgroup::PARENT);
        // Nothing is left to be done for what survives this: the machine is about to go.
        let _ = std::fs::write(parent.join("cgroup.kill"), "1");
    }

    /// What containers use of the agent.
    #[must_use]
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_found(id: &str) -> AgentError {
    AgentError::NotFound(format!("there is no container {id}"))
}
