//! What can go wrong with a request, and the gRPC code that says so.

use serde::{Deserialize, Serialize};

/// An error of the agent's service: one sentence and the code it is sent with.
///
/// The host acts on the code, never on the words, with one exception: the words about a program
/// that cannot be run are those of runc, because docker and Kubernetes look for them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum AgentError {
    /// The container or process does not exist or has ended.
    #[error("{0}")]
    NotFound(String),
    /// The identifier is taken.
    #[error("{0}")]
    AlreadyExists(String),
    /// The container or process is in the wrong state.
    #[error("{0}")]
    FailedPrecondition(String),
    /// The request can never work.
    #[error("{0}")]
    InvalidArgument(String),
    /// A bound of the agent is reached.
    #[error("{0}")]
    ResourceExhausted(String),
    /// Anything else.
    #[error("{0}")]
    Internal(String),
}

impl AgentError {
    /// The gRPC code.
    #[must_use]
    pub fn code(&self) -> ttrpc::Code {
        match self {
            Self::NotFound(_) => ttrpc::Code::NOT_FOUND,
            Self::AlreadyExists(_) => ttrpc::Code::ALREADY_EXISTS,
            Self::FailedPrecondition(_) => ttrpc::Code::FAILED_PRECONDITION,
            Self::InvalidArgument(_) => ttrpc::Code::INVALID_ARGUMENT,
            Self::ResourceExhausted(_) => ttrpc::Code::RESOURCE_EXHAUSTED,
            Self::Internal(_) => ttrpc::Code::INTERNAL,
        }
    }
}

impl From<AgentError> for ttrpc::Error {
    fn from(error: AgentError) -> Self {
        Self::RpcStatus(ttrpc::get_status(error.code(), error.to_string()))
    }
}

/// Says what was being done when the system refused.
pub trait Doing<T> {
    /// Turns a system error into [`AgentError::Internal`]: `cannot <what>: <why>`.
    ///
    /// # Errors
    /// When `self` is an error.
    fn doing(self, what: impl std::fmt::Display) -> Result<T, AgentError>;
}

impl<T, E: Into<std::io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl std::fmt::Display) -> Result<T, AgentError> {
        self.map_err(|error| AgentError::Internal(format!("cannot {what}: {}", error.into())))
    }
}
