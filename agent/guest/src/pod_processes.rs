//! The process namespace of a pod: what its containers share with `shareProcessNamespace` when none
//! of them holds it. It is made for the first container that wants it.

use tokio::sync::{Mutex, oneshot};

use crate::container::Tools;
use crate::error::AgentError;
use crate::launch::{Job, Launched};
use crate::reaper::Exit;
use crate::stdio::ProcessSide;

/// The namespace, if there is one.
#[derive(Debug, Default)]
pub struct PodProcesses(Mutex<Option<Holder>>);

/// Its first process, with which it ends.
#[derive(Debug)]
struct Holder {
    pid: i32,
    exit: oneshot::Receiver<Exit>,
}

impl Holder {
    fn lives(&mut self) -> bool {
        self.exit.try_recv() == Err(oneshot::error::TryRecvError::Empty)
    }
}

impl PodProcesses {
    /// The number of the namespace's first process in that of the agent.
    ///
    /// # Errors
    /// What prevents that there is one.
    pub async fn holder(&self, tools: &Tools) -> Result<i32, AgentError> {
        let mut held = self.0.lock().await;
        if let Some(holder) = held.as_mut()
            && holder.lives()
        {
            return Ok(holder.pid);
        }
        let launch = tools.reaper.launch();
        let side = ProcessSide::default();
        let Launched { pid, failure, .. } =
            tools.launcher.launch(&launch, &Job::Hold, side).await?;
        let exit = launch.watch(pid);
        failure.executed().await?;
        *held = Some(Holder { pid, exit });
        Ok(pid)
    }
}
