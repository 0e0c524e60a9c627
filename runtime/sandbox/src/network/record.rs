//! What to undo when the shim is gone: the taps go with the VMM, the rules stay on interfaces whose
//! namespace outlives the pod.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use caisson_netlink::Netlink;

use super::wire;
use crate::netns::NetworkNamespace;

/// File in the state directory: the numbers of interfaces, one a line.
const INTERFACES: &str = "interfaces";
/// File in the state directory: the path of the namespace.
const NAMESPACE: &str = "netns";

/// Where it is written down.
#[derive(Debug)]
pub(super) struct Record(PathBuf);

impl Record {
    /// Begins one for the namespace at `netns`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn begin(state_dir: &Path, netns: &Path) -> io::Result<Self> {
        fs::write(state_dir.join(NAMESPACE), netns.as_os_str().as_bytes())?;
        Ok(Self(state_dir.join(INTERFACES)))
    }

    /// Adds an interface that has a rule.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn add(&self, index: u32) -> io::Result<()> {
        let mut file = File::options().append(true).create(true).open(&self.0)?;
        file.write_all(format!("{index}\n").as_bytes())
    }
}

/// Undoes what is recorded in the state directory of a sandbox whose processes are gone.
///
/// # Errors
/// When the record cannot be read.
pub(crate) fn undo_recorded(state_dir: &Path) -> io::Result<()> {
    let read = |name| match fs::read(state_dir.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    };
    let (Some(netns), Some(interfaces)) = (read(NAMESPACE)?, read(INTERFACES)?) else {
        return Ok(());
    };
    let netns = PathBuf::from(std::ffi::OsString::from_vec(netns));
    let undone = NetworkNamespace::in_path(&netns, || {
        let Ok(mut netlink) = Netlink::open() else {
            return;
        };
        for index in String::from_utf8_lossy(&interfaces).lines() {
            if let Ok(index) = index.parse() {
                wire::disconnect(&mut netlink, index);
            }
        }
    });
    if let Err(error) = undone {
        // Whoever took the namespace away took the rules along.
        tracing::debug!("network namespace {}: {error}", netns.display());
    }
    Ok(())
}
