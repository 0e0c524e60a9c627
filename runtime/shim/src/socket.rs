//! The socket on which a shim listens: its name, binding it, finding out who holds it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Where containerd expects shims to put their sockets.
pub(crate) const DEFAULT_DIR: &str = "/run/containerd/s";
/// Longest path that both containerd (Go) and the kernel accept.
pub(crate) const MAX_PATH: usize = 106;

/// What [`claim`] found.
#[derive(Debug)]
pub(crate) enum Claim {
    /// The socket is ours now and listens.
    Bound(UnixListener),
    /// A live shim already listens there.
    Taken,
}

/// The path of the socket of the shim that serves `group` in `namespace` of the containerd at
/// `containerd_address`: containerd's own scheme, so that two containerds never share a shim.
pub(crate) fn path(dir: &Path, containerd_address: &str, namespace: &str, group: &str) -> PathBuf {
    // Go's filepath.Join: empty elements vanish, the rest is joined by slashes.
    let name: Vec<&str> = [containerd_address, namespace, group]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect();
    let digest = Sha256::digest(name.join("/").as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    dir.join(hex)
}

/// The address by which containerd dials `path`.
pub(crate) fn address(path: &Path) -> String {
    format!("unix://{}", path.display())
}

/// The path in an address, which older callers write without `unix://`.
pub(crate) fn path_of(address: &str) -> PathBuf {
    let address = address.trim();
    PathBuf::from(address.strip_prefix("unix://").unwrap_or(address))
}

/// Whether somebody accepts connections at `path`.
pub(crate) fn is_live(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

/// Listens at `path`, replacing a socket that nobody serves any more. The directory is made with
/// mode 0700, the socket has mode 0600.
///
/// # Errors
/// Fails for a path that is too long, or when the directory or the socket cannot be made.
pub(crate) fn claim(path: &Path) -> io::Result<Claim> {
    if path.as_os_str().len() > MAX_PATH {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "the socket path {} is longer than {MAX_PATH} bytes; choose a shorter socket \
                 directory",
                path.display()
            ),
        ));
    }
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| explain("cannot make the socket directory", dir, &error))?;
    }
    let bound = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if is_live(path) {
                return Ok(Claim::Taken);
            }
            fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        other => other,
    };
    let listener = bound.map_err(|error| explain("cannot listen at", path, &error))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(Claim::Bound(listener))
}

/// Removes the socket; that it is gone already is no error.
///
/// # Errors
/// Fails when it exists and cannot be removed.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(explain("cannot remove the socket", path, &error))
        }
        _ => Ok(()),
    }
}

fn explain(what: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

#[cfg(test)]
#[path = "socket_test.rs"]
mod tests;
