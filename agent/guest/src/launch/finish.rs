//! The last steps of a container's process, in the container: standard streams, working directory,
//! user, program, limits, system call filter, capabilities, exec.
//!
//! The agent does these itself, for init processes and execs alike. The runtime library loads the
//! filter before it waits for the start, so a profile would have to let pass what the library does;
//! it gives execs no filter at all; and it does not tell a program that is missing from one that
//! may not be run.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxSeccomp, Process};
use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid};
use serde::{Deserialize, Serialize};

use super::{credentials, process, program};
use crate::error::{AgentError, Doing};

/// What is to be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Finish {
    /// The process object of the specification.
    pub process: Process,
    /// The system call filter.
    pub seccomp: Option<LinuxSeccomp>,
    /// Whether the user is still to be set (an exec), or was set by the runtime library (init).
    pub set_user: bool,
}

/// A process that has only exec before it.
#[derive(Debug)]
pub struct Ready {
    path: PathBuf,
    program: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Finish {
    /// Everything that may fail because of the image or the request. Runs with all capabilities.
    ///
    /// # Errors
    /// [`AgentError::InvalidArgument`] in runc's words if the working directory or the program
    /// cannot be used.
    pub fn prepare(&self) -> Result<Ready, AgentError> {
        let user = self.process.user();
        crate::signal::reset().doing("reset the signals")?;
        process::close_all_at_exec().doing("keep descriptors from the program")?;
        own_standard_streams(Uid::from_raw(user.uid()))?;
        self.change_directory()?;
        if self.set_user {
            if let Some(mask) = user.umask() {
                rustix::process::umask(Mode::from_bits_truncate(mask));
            }
            credentials::become_user(user).doing("set the user of the process")?;
        }
        let args = self.process.args().as_deref().unwrap_or_default();
        let name = args.first().map(String::as_str).unwrap_or_default();
        let env = self.process.env().as_deref().unwrap_or_default();
        let path = credentials::with_effective(self.process.capabilities().as_ref(), || {
            program::resolve(name, env)
        })
        .doing("look for the program")??;
        Ok(Ready {
            program: c_string(path.as_os_str().as_bytes())?,
            path,
            args: args
                .iter()
                .map(|arg| c_string(arg.as_bytes()))
                .collect::<Result<_, _>>()?,
            env: environment(env, user.uid())
                .iter()
                .map(|entry| c_string(entry.as_bytes()))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Gives up what the program may not have and becomes it. Comes back only with the reason why
    /// it could not.
    #[must_use]
    pub fn execute(&self, ready: &Ready) -> AgentError {
        let Ready {
            path,
            program,
            args,
            env,
        } = ready;
        match process::execute(program, args, env, || self.restrict()) {
            Ok(error) => program::exec_failure(path, error),
            Err(error) => error,
        }
    }

    fn restrict(&self) -> Result<(), AgentError> {
        credentials::set_limits(self.process.rlimits().as_deref().unwrap_or_default())
            .doing("set the resource limits")?;
        let drop_capabilities = || {
            credentials::drop_capabilities(self.process.capabilities().as_ref())
                .doing("give up capabilities")
        };
        // Loading a filter needs CAP_SYS_ADMIN or no_new_privs. With the latter it comes last, so
        // that the profile need not allow more than the program.
        if self.process.no_new_privileges() == Some(true) {
            rustix::thread::set_no_new_privs(true).doing("set no_new_privs")?;
            drop_capabilities()?;
            self.load_filter()
        } else {
            self.load_filter()?;
            drop_capabilities()
        }
    }

    fn load_filter(&self) -> Result<(), AgentError> {
        let Some(profile) = &self.seccomp else {
            return Ok(());
        };
        libcontainer::seccomp::initialize_seccomp(profile)
            .map(drop)
            .map_err(|error| {
                AgentError::InvalidArgument(format!(
                    "the seccomp profile cannot be loaded: {error}"
                ))
            })
    }

    fn change_directory(&self) -> Result<(), AgentError> {
        let directory = self.process.cwd();
        if !self.set_user {
            // As runc does for the first process of a container.
            // Whatever the user's own mask will be.
            let mask = rustix::process::umask(Mode::from_raw_mode(0o022));
            let created = create_directories(directory);
            rustix::process::umask(mask);
            created.map_err(|error| {
                AgentError::InvalidArgument(format!(
                    "mkdir {}: {}",
                    directory.display(),
                    plain(&error)
                ))
            })?;
        }
        rustix::process::chdir(directory.as_path()).map_err(|error| {
            AgentError::InvalidArgument(format!(
                "chdir to cwd ({:?}) set in config.json failed: {}",
                directory.display().to_string(),
                plain(&error.into())
            ))
        })
    }
}

/// The words of the C library, without Rust's "(os error 2)".
fn plain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "no such file or directory".to_owned(),
        Some(libc::ENOTDIR) => "not a directory".to_owned(),
        Some(libc::EACCES) => "permission denied".to_owned(),
        Some(libc::EROFS) => "read-only file system".to_owned(),
        _ => error.to_string(),
    }
}

fn c_string(bytes: &[u8]) -> Result<CString, AgentError> {
    CString::new(bytes).map_err(|_| {
        AgentError::InvalidArgument(
            "arguments and environment must not contain a NUL character".to_owned(),
        )
    })
}

/// Makes a directory and those above it, owned by root whoever the process is.
fn create_directories(directory: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    for ancestor in directory.ancestors() {
        match fs::metadata(ancestor) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(ancestor),
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    for path in missing.into_iter().rev() {
        match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
            Err(rustix::io::Errno::EXIST) => {}
            result => {
                result?;
                let (root, wheel) = (Some(Uid::ROOT), Some(Gid::ROOT));
                rustix::fs::chownat(CWD, path, root, wheel, AtFlags::SYMLINK_NOFOLLOW)?;
            }
        }
    }
    Ok(())
}

/// Gives the standard streams to the user, so that it can open `/dev/stdout` again.
fn own_standard_streams(uid: Uid) -> Result<(), AgentError> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    for fd in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        let stat = rustix::fs::fstat(fd).doing("look at a standard stream")?;
        // /dev/null belongs to everybody.
        let null = (
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        ) == (1, 3);
        if !null && stat.st_uid != uid.as_raw() {
            rustix::fs::fchown(fd, Some(uid), None).doing("give a standard stream to its user")?;
        }
    }
    Ok(())
}

/// The environment as the program gets it: the last entry of a name counts, and HOME is there.
fn environment(entries: &[String], uid: u32) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut env: Vec<String> = Vec::with_capacity(entries.len() + 1);
    for entry in entries.iter().rev() {
        let Some((name, value)) = entry.split_once('=') else {
            continue;
        };
        // An empty HOME is as good as none.
        if (name == "HOME" && value.is_empty()) || !seen.insert(name) {
            continue;
        }
        env.push(entry.clone());
    }
    env.reverse();
    if !seen.contains("HOME") {
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        env.push(format!("HOME={}", home(&users, uid).unwrap_or("/")));
    }
    env
}

/// The home directory of a user in the text of `/etc/passwd`.
fn home(users: &str, uid: u32) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let matches = fields.next()?.parse() == Ok(uid);
        fields.nth(2).filter(|home| matches && !home.is_empty())
    })
}

#[cfg(test)]
#[path = "finish_test.rs"]
mod tests;
