//! Finds the program of a process the way the shell's `execvp` would, and says in runc's words why
//! it cannot be run: docker and Kubernetes look for "executable file not found in $PATH",
//! "no such file or directory" and "permission denied" to tell exit codes 127 and 126 apart.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};

use crate::error::AgentError;

/// Where programs are looked for when the environment has no PATH, as in runc (Go's `LookPath`
/// finds nothing then) made useful: the default of the C library.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Finds `name` in the root, the working directory and with the rights of the caller.
///
/// # Errors
/// [`AgentError::InvalidArgument`] in runc's words.
pub fn resolve(name: &str, env: &[String]) -> Result<PathBuf, AgentError> {
    if name.contains('/') {
        return match check(Path::new(name)) {
            Ok(()) => Ok(PathBuf::from(name)),
            Err(error) => Err(refusal(name, &reason(name, &error))),
        };
    }
    let path = env
        .iter()
        .rev()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    let mut denied = false;
    if !name.is_empty() {
        for directory in path.split(':') {
            // An empty entry is the working directory.
            let candidate =
                Path::new(if directory.is_empty() { "." } else { directory }).join(name);
            match check(&candidate) {
                Ok(()) => return Ok(candidate),
                Err(error) => {
                    denied |=
                        error.kind() == io::ErrorKind::PermissionDenied && candidate.is_file();
                }
            }
        }
    }
    Err(refusal(
        name,
        // A file that is there but may not be run is the better hint of the two.
        if denied {
            "permission denied"
        } else {
            "executable file not found in $PATH"
        },
    ))
}

fn refusal(name: &str, reason: &str) -> AgentError {
    AgentError::InvalidArgument(format!("exec: {name:?}: {reason}"))
}

/// Whether the caller may execute a file; a directory may not be executed, whatever its mode says.
fn check(path: &Path) -> io::Result<()> {
    let kind = fs::metadata(path)?.file_type();
    if kind.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory));
    }
    if !kind.is_file() {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    Ok(rustix::fs::accessat(
        CWD,
        path,
        Access::EXEC_OK,
        AtFlags::EACCESS,
    )?)
}

fn reason(name: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!("stat {name}: no such file or directory"),
        io::ErrorKind::NotADirectory => format!("stat {name}: not a directory"),
        io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => match error.raw_os_error() {
            Some(libc::ELOOP) => format!("stat {name}: too many levels of symbolic links"),
            _ => format!("stat {name}: {error}"),
        },
    }
}

/// Why `execve` itself failed for a program that was found.
#[must_use]
pub fn exec_failure(program: &Path, error: rustix::io::Errno) -> AgentError {
    use rustix::io::Errno;
    let reason = match error {
        Errno::NOEXEC => "exec format error (built for another processor, or a script without a \"#!\" line)".to_owned(),
        // The file is there, so what is missing is what it needs to be run.
        Errno::NOENT => "no such file or directory (its interpreter, named after \"#!\" or in the ELF header, is missing)".to_owned(),
        Errno::ACCESS => "permission denied".to_owned(),
        Errno::TOOBIG => "argument list too long".to_owned(),
        Errno::TXTBSY => "text file busy".to_owned(),
        error => io::Error::from(error).to_string(),
    };
    AgentError::InvalidArgument(format!("exec {}: {reason}", program.display()))
}

#[cfg(test)]
#[path = "program_test.rs"]
mod tests;
