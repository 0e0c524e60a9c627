//! What can go wrong with a sandbox.

/// What a failed call means to its caller; each corresponds to the gRPC code of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The container or process does not exist or has ended.
    NotFound,
    /// A container or process of that name exists.
    AlreadyExists,
    /// The container, process or machine this runs on is in the wrong state for this.
    FailedPrecondition,
    /// The request can never work.
    InvalidArgument,
    /// The virtual machine is gone or does not answer.
    Unavailable,
    /// Not supported.
    Unimplemented,
    /// A fault in Caisson or in the machine it runs on.
    Internal,
}

/// Why a call failed: a kind for programs and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SandboxError {
    kind: ErrorKind,
    message: String,
}

impl SandboxError {
    /// An error of `kind` that says `message`.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// What it means to the caller.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}
