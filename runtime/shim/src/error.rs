//! Errors of the task service and their codes. containerd, docker and the CRI act on the codes:
//! anything they do not expect keeps a container for ever.

use caisson_sandbox::{ErrorKind, SandboxError};
use ttrpc::Code;

use crate::process::ProcessKey;

/// Why a call of the task service failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TaskError {
    /// No such container or exec.
    #[error("{0} does not exist")]
    Unknown(ProcessKey),
    /// The name is in use.
    #[error("{0} already exists")]
    Exists(ProcessKey),
    /// No such pod of the sandbox service.
    #[error("there is no pod {0:?} that was made by the sandbox service")]
    NoSandbox(String),
    /// The sandbox service has made the pod already.
    #[error("pod {0:?} already exists")]
    SandboxExists(String),
    /// A signal for a process that has ended. containerd's clients look for these words.
    #[error("process already finished: {0}")]
    Finished(ProcessKey),
    /// A delete of a process that runs.
    #[error("cannot delete a running process: {0}; kill it first")]
    Running(ProcessKey),
    /// A call that the state of the process forbids.
    #[error("cannot {action} {key} while it is {state}")]
    State {
        /// What was asked.
        action: &'static str,
        /// Of which process.
        key: ProcessKey,
        /// Its state.
        state: &'static str,
    },
    /// A request that can never work.
    #[error("{0}")]
    Invalid(String),
    /// The machine is in the wrong state for it.
    #[error("{0}")]
    Precondition(String),
    /// Not built.
    #[error("{0}")]
    Unimplemented(&'static str),
    /// The sandbox refused or failed.
    #[error("{message}")]
    Sandbox {
        /// What kind of failure.
        kind: ErrorKind,
        /// What happened.
        message: String,
    },
    /// A fault of the shim or the machine it runs on.
    #[error("{0}")]
    Internal(String),
}

impl TaskError {
    /// A failed create or start in the words of runc, which docker and others look for:
    /// `OCI runtime create failed: …`.
    ///
    /// A program that does not exist is no missing container: `NotFound` becomes
    /// `InvalidArgument`.
    pub(crate) fn oci(action: &str, error: &SandboxError) -> Self {
        let kind = match error.kind() {
            ErrorKind::NotFound => ErrorKind::InvalidArgument,
            kind => kind,
        };
        Self::Sandbox {
            kind,
            message: format!("OCI runtime {action} failed: {error}"),
        }
    }

    /// The gRPC code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Unknown(_) | Self::NoSandbox(_) | Self::Finished(_) => Code::NOT_FOUND,
            Self::Exists(_) | Self::SandboxExists(_) => Code::ALREADY_EXISTS,
            Self::Running(_) | Self::State { .. } | Self::Precondition(_) => {
                Code::FAILED_PRECONDITION
            }
            Self::Invalid(_) => Code::INVALID_ARGUMENT,
            Self::Unimplemented(_) => Code::UNIMPLEMENTED,
            Self::Sandbox { kind, .. } => match kind {
                ErrorKind::NotFound => Code::NOT_FOUND,
                ErrorKind::AlreadyExists => Code::ALREADY_EXISTS,
                ErrorKind::FailedPrecondition => Code::FAILED_PRECONDITION,
                ErrorKind::InvalidArgument => Code::INVALID_ARGUMENT,
                ErrorKind::Unavailable => Code::UNAVAILABLE,
                ErrorKind::Unimplemented => Code::UNIMPLEMENTED,
                ErrorKind::Internal => Code::INTERNAL,
            },
            Self::Internal(_) => Code::INTERNAL,
        }
    }
}

impl From<SandboxError> for TaskError {
    fn from(error: SandboxError) -> Self {
        Self::Sandbox {
            kind: error.kind(),
            message: error.to_string(),
        }
    }
}

impl From<TaskError> for ttrpc::Error {
    fn from(error: TaskError) -> Self {
        Self::RpcStatus(ttrpc::get_status(error.code(), error.to_string()))
    }
}
