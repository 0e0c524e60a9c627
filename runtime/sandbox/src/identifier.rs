//! Names of sandboxes, containers and execs.

use crate::{ErrorKind, SandboxError};

/// Longest identifier; one file name on the host (NAME_MAX).
const MAX_IDENTIFIER: usize = 255;

/// Checks a name that becomes part of a path: 1 to 255 characters of `[A-Za-z0-9._-]`, not
/// beginning with a dot.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`], naming `what` it is.
pub(crate) fn check(what: &str, name: &str) -> Result<(), SandboxError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !name.is_empty()
        && name.len() <= MAX_IDENTIFIER
        && !name.starts_with('.')
        && name.bytes().all(allowed)
    {
        return Ok(());
    }
    let shown: String = name.escape_debug().take(64).collect();
    Err(SandboxError::new(
        ErrorKind::InvalidArgument,
        format!(
            "{what} id \"{shown}\" is not allowed: use 1 to {MAX_IDENTIFIER} letters, digits, \
             dots, dashes and underscores, with no dot in front"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn only_names_that_stay_in_their_directory_pass() {
        for good in ["a", "nginx-1", "A_b.c", &"x".repeat(255)] {
            check("container", good).unwrap();
        }
        for bad in [
            "",
            ".",
            "..",
            ".a",
            "a/b",
            "a\0",
            "ä",
            "a b",
            &"x".repeat(256),
        ] {
            let message = check("container", bad).unwrap_err().to_string();
            assert!(message.contains("container id"), "{message}");
        }
    }
}
