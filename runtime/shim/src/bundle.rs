//! The bundle: the directory that containerd makes for each container, and what this shim keeps
//! in it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use serde::Deserialize;

use crate::host_cgroup::GroupPath;
use crate::options::Options;

/// The OCI configuration; written by containerd.
const CONFIG: &str = "config.json";
/// Our address, plain. containerd 1.6, 1.7 and CRI-O find the shim by it after a restart, 2.x
/// makes its `bootstrap.json` from it when that is missing.
const ADDRESS: &str = "address";
/// The process id that containerd was told for the init process, for `delete`.
const INIT_PID: &str = "init.pid";
/// Where containerd 2.x keeps what `start` has answered; for the containers of a pod that it asks
/// without a `start` of their own, it is all there is.
const BOOTSTRAP: &str = "bootstrap.json";
/// The runtime options of a pod of the sandbox service, which only `start` gets.
const OPTIONS: &str = "options.pb";
/// The mark of a pod of the sandbox service: its control group on the host, for `delete`.
const POD: &str = "pod.cgroup";
/// Made when the memory limit killed a process; CRI-O looks for it.
const OOM: &str = "oom";

/// Why a bundle's configuration could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}; containerd writes it before it starts the runtime", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not an OCI configuration.
    #[error(
        "{path} is not a valid OCI configuration, at line {line} column {column}: {reason}",
        path = path.display()
    )]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1; 0 at the end of a line.
        column: usize,
        /// What is wrong there.
        reason: String,
    },
}

/// A bundle directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bundle(PathBuf);

/// The part of the configuration that `start` needs.
#[derive(Deserialize)]
struct Annotated {
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
}

/// The part of what `start` has answered that names the shim.
#[derive(Deserialize)]
struct Bootstrap {
    #[serde(default)]
    address: Option<String>,
}

impl Bundle {
    /// The bundle at `path`.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Its directory.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The OCI configuration.
    ///
    /// # Errors
    /// See [`BundleError`].
    pub(crate) fn spec(&self) -> Result<Spec, BundleError> {
        self.parse(&self.config()?)
    }

    /// The annotations of the OCI configuration; none when there is no such file, as for the
    /// bundle of a pod under containerd's sandbox interface.
    ///
    /// # Errors
    /// See [`BundleError`].
    pub(crate) fn annotations(&self) -> Result<HashMap<String, String>, BundleError> {
        match self.config() {
            Ok(bytes) => {
                let annotated: Annotated = self.parse(&bytes)?;
                Ok(annotated.annotations.unwrap_or_default())
            }
            Err(BundleError::Unreadable { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Ok(HashMap::new())
            }
            Err(error) => Err(error),
        }
    }

    /// Records the address at which the shim of this container listens.
    ///
    /// # Errors
    /// Fails when the file cannot be written.
    pub(crate) fn write_address(&self, address: &str) -> io::Result<()> {
        self.write(ADDRESS, address.as_bytes())
    }

    /// The recorded address, if there is one.
    pub(crate) fn address(&self) -> Option<String> {
        if let Ok(text) = fs::read_to_string(self.0.join(ADDRESS)) {
            let text = text.trim();
            return (!text.is_empty()).then(|| text.to_owned());
        }
        let bootstrap: Bootstrap =
            serde_json::from_slice(&fs::read(self.0.join(BOOTSTRAP)).ok()?).ok()?;
        bootstrap.address
    }

    /// Whether containerd has written no OCI configuration: the bundle is that of a pod of the
    /// sandbox service.
    pub(crate) fn is_without_config(&self) -> bool {
        !self.0.join(CONFIG).exists()
    }

    /// Records the runtime options.
    ///
    /// # Errors
    /// Fails when the file cannot be written.
    pub(crate) fn write_runtime_options(&self, options: &[u8]) -> io::Result<()> {
        self.write(OPTIONS, options)
    }

    /// The recorded runtime options; the defaults without.
    ///
    /// # Errors
    /// Says so when they cannot be read or decoded.
    pub(crate) fn runtime_options(&self) -> Result<Options, String> {
        let bytes = match self.read(OPTIONS) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Options::default()),
            Err(error) => return Err(format!("the runtime options cannot be read: {error}")),
            Ok(bytes) => bytes,
        };
        let any = Any::parse_from_bytes(&bytes)
            .map_err(|error| format!("the runtime options cannot be decoded: {error}"))?;
        Options::from_any(Some(&any))
    }

    /// Marks the bundle as that of a pod of the sandbox service.
    ///
    /// # Errors
    /// Fails when the file cannot be written.
    pub(crate) fn mark_pod(&self, cgroup: Option<&GroupPath>) -> io::Result<()> {
        let path = cgroup.map_or(Path::new(""), GroupPath::as_path);
        self.write(POD, path.as_os_str().as_bytes())
    }

    /// Whether it is the bundle of a pod of the sandbox service, and the pod's control group.
    pub(crate) fn pod(&self) -> Option<Option<GroupPath>> {
        let path = self.read(POD).ok()?;
        Some(GroupPath::parse(Path::new(OsStr::from_bytes(&path))).ok())
    }

    /// Records the process id that containerd gets for the init process.
    ///
    /// # Errors
    /// Fails when the file cannot be written.
    pub(crate) fn write_init_pid(&self, pid: u32) -> io::Result<()> {
        self.write(INIT_PID, pid.to_string().as_bytes())
    }

    /// The recorded process id of the init process, if there is one.
    pub(crate) fn init_pid(&self) -> Option<u32> {
        let text = fs::read_to_string(self.0.join(INIT_PID)).ok()?;
        text.trim().parse().ok()
    }

    /// Leaves the mark by which CRI-O sees that the memory limit killed a process.
    ///
    /// # Errors
    /// Fails when the file cannot be written.
    pub(crate) fn mark_oom(&self) -> io::Result<()> {
        self.write(OOM, b"")
    }

    /// Writes a file so that a reader sees either all of it or none.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let temporary = self.0.join(format!(".{name}.new"));
        fs::write(&temporary, content)?;
        fs::rename(&temporary, self.0.join(name))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Fails when it is not there or cannot be read.
    pub(crate) fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.0.join(name))
    }

    /// Removes a file that may be gone, like the whole bundle.
    pub(crate) fn remove(&self, name: &str) {
        let _ = fs::remove_file(self.0.join(name));
    }

    fn config(&self) -> Result<Vec<u8>, BundleError> {
        let path = self.0.join(CONFIG);
        fs::read(&path).map_err(|source| BundleError::Unreadable { path, source })
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, BundleError> {
        serde_json::from_slice(bytes).map_err(|error| BundleError::Invalid {
            path: self.0.join(CONFIG),
            line: error.line(),
            column: error.column(),
            reason: without_position(&error),
        })
    }
}

/// The message of a JSON error without the position that it repeats at its end.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text.get(..end).unwrap_or(&text).to_owned(),
        None => text,
    }
}

#[cfg(test)]
#[path = "bundle_test.rs"]
mod tests;
