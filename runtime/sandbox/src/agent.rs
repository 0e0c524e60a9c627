//! Calls to the agent in the guest.
//!
//! Every call but `Wait` has a deadline, and every call ends when the machine does. What the agent
//! answers is hostile: codes are mapped, texts are cut.

mod answers;
#[cfg(test)]
mod fuzz;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use caisson_protocol::AGENT_PORT;
use caisson_protocol::agent_ttrpc::AgentClient;
use tokio::net::UnixStream;
use ttrpc::Code;
use ttrpc::asynchronous::Client;
use ttrpc::asynchronous::transport::Socket;
use ttrpc::context::Context;

use self::answers::OnlyAnswers;
use crate::connection;
use crate::machine::Machine;
use crate::{ErrorKind, SandboxError, guest_text};

/// For calls that answer from memory or with a few system calls: milliseconds, a few hundred in
/// an emulated machine; beyond this the guest is taken to be stuck. As always ([`Machine::within`]),
/// the time that it waits for a processor of the host does not count.
pub(crate) const SHORT: Duration = Duration::from_secs(30);
/// For calls that start programs or wait for what the kernel cleans up. containerd's clients give
/// up after two minutes (kubelet's runtimeRequestTimeout) and should get our reason before that, where
/// the host has a processor for the guest.
pub(crate) const LONG: Duration = Duration::from_secs(100);

/// The connection to the agent.
#[derive(Clone)]
pub(crate) struct Agent {
    client: AgentClient,
    machine: Arc<Machine>,
}

impl Agent {
    /// Connects to the agent.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when it does not accept.
    pub(crate) async fn connect(machine: Arc<Machine>) -> Result<Self, SandboxError> {
        let stream = connection::open(&machine, AGENT_PORT).await?;
        Ok(Self::over(stream, machine))
    }

    fn over(stream: UnixStream, machine: Arc<Machine>) -> Self {
        let client = Client::new(Socket::new(OnlyAnswers::new(stream)));
        Self {
            client: AgentClient::new(client),
            machine,
        }
    }

    /// Makes a call that must be answered within `limit`; `what` names it in errors.
    ///
    /// The call goes on when the returned future is dropped: a request that is cut off while it is
    /// written would take the connection, and so the pod, with it.
    ///
    /// # Errors
    /// The agent's own error; [`ErrorKind::Unavailable`] when the machine ends or the agent does
    /// not answer.
    pub(crate) async fn call<T, F>(
        &self,
        what: &'static str,
        limit: Duration,
        call: impl FnOnce(AgentClient, Context) -> F,
    ) -> Result<T, SandboxError>
    where
        T: Send + 'static,
        F: Future<Output = ttrpc::Result<T>> + Send + 'static,
    {
        let answer = call(self.client.clone(), Context::default());
        let agent = self.clone();
        let task = tokio::spawn(async move {
            agent
                .machine
                .within(limit, agent.until_end(answer))
                .await
                .unwrap_or_else(|| {
                    Err(SandboxError::new(
                        ErrorKind::Unavailable,
                        format!(
                            "the guest did not answer {what} within {} s",
                            limit.as_secs()
                        ),
                    ))
                })
        });
        match task.await {
            Ok(result) => result,
            Err(error) => Err(SandboxError::new(
                ErrorKind::Internal,
                format!("{what}: {error}"),
            )),
        }
    }

    /// Makes a call that takes as long as it takes. Ends when the returned future is dropped.
    ///
    /// # Errors
    /// The agent's own error; [`ErrorKind::Unavailable`] when the machine ends.
    pub(crate) async fn call_without_limit<T, F>(
        &self,
        call: impl FnOnce(AgentClient, Context) -> F,
    ) -> Result<T, SandboxError>
    where
        F: Future<Output = ttrpc::Result<T>>,
    {
        let answer = call(self.client.clone(), Context::default());
        self.until_end(answer).await
    }

    async fn until_end<T>(
        &self,
        answer: impl Future<Output = ttrpc::Result<T>>,
    ) -> Result<T, SandboxError> {
        let answer = tokio::select! {
            biased;
            answer = answer => answer,
            end = self.machine.ended() => return Err(unavailable(end.description)),
        };
        match answer {
            Ok(answer) => Ok(answer),
            Err(ttrpc::Error::RpcStatus(status)) => Err(SandboxError::new(
                kind_of(status.code()),
                guest_text::line(status.message()),
            )),
            // The connection is broken or what comes over it makes no sense. Either the machine is
            // ending, or its agent is not to be trusted any more.
            Err(error) => {
                let reason = format!(
                    "the connection to the guest's agent broke: {}",
                    guest_text::line(&error.to_string())
                );
                self.machine.broken(reason).await;
                Err(unavailable(self.machine.ended().await.description))
            }
        }
    }
}

fn unavailable(description: String) -> SandboxError {
    SandboxError::new(ErrorKind::Unavailable, description)
}

fn kind_of(code: Code) -> ErrorKind {
    match code {
        Code::NOT_FOUND => ErrorKind::NotFound,
        Code::ALREADY_EXISTS => ErrorKind::AlreadyExists,
        Code::FAILED_PRECONDITION => ErrorKind::FailedPrecondition,
        Code::INVALID_ARGUMENT => ErrorKind::InvalidArgument,
        Code::UNAVAILABLE => ErrorKind::Unavailable,
        Code::UNIMPLEMENTED => ErrorKind::Unimplemented,
        _ => ErrorKind::Internal,
    }
}
