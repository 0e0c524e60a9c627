//! Which names a container or an exec may have.

use crate::error::AgentError;

/// Longest identifier in bytes.
pub const MAX_IDENTIFIER: usize = 255;

/// Checks the name of a container or exec: 1 to 255 characters of `[A-Za-z0-9._-]`, not beginning
/// with a dot. Such a name is a safe file name, so it can name a cgroup.
///
/// # Errors
/// [`AgentError::InvalidArgument`] for any other name.
pub fn check(id: &str) -> Result<(), AgentError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if id.is_empty() || id.len() > MAX_IDENTIFIER {
        return Err(AgentError::InvalidArgument(format!(
            "an identifier has 1 to {MAX_IDENTIFIER} characters, this one has {}",
            id.len()
        )));
    }
    if id.starts_with('.') || !id.bytes().all(allowed) {
        return Err(AgentError::InvalidArgument(format!(
            "the identifier {id:?} must consist of letters, digits, '.', '_' and '-' and must not begin with '.'"
        )));
    }
    Ok(())
}

#[cfg(test)]
#[path = "identifier_test.rs"]
mod tests;
