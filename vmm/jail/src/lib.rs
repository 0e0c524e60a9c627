//! How a process that faces a guest locks itself in before it looks at the first byte from there.
//!
//! What it lacks afterwards is what an intruder would want next: files to open, a network, other
//! processes, privileges, and the kernel's less trodden paths. The steps are functions of their own,
//! because the VMM can do without everything and the file server cannot:
//!
//! | | VMM | file server |
//! |---|---|---|
//! | [`close_from`] | what it was not given | the same |
//! | [`leave_namespaces`], [`pivot_into`] | an empty root ([`empty_root`]) | the directory it serves |
//! | [`become_user`] | the pod's own id | |
//! | [`keep_capabilities`] | none | those without which files have no owners |
//! | [`filter`] | one for each kind of thread; kills | one; refuses |
//!
//! Whoever starts the process puts it into a pid namespace of its own, which it cannot do itself.

#![deny(missing_docs)]

mod descriptors;
pub mod filter;
mod forbidden;
mod namespaces;
mod privileges;

use rustix::io::Errno;

pub use descriptors::{close_from, set_limits};
pub use forbidden::{FORBIDDEN, Forbidden};
pub use namespaces::{empty_root, leave_namespaces, pivot_into};
pub use privileges::{become_user, die_with_parent, keep_capabilities};

/// A step of the confinement failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}: {source}")]
pub struct JailError {
    /// What was to be done.
    step: &'static str,
    /// What failed.
    source: Errno,
}

/// Names what was tried in the error.
///
/// # Errors
/// As `result`.
pub fn step<T>(step: &'static str, result: Result<T, Errno>) -> Result<T, JailError> {
    result.map_err(|source| JailError { step, source })
}
