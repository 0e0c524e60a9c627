//! What a pod's containers find in /etc: host name, hosts and name servers of the pod.
//!
//! Where a pause container holds the pod, containerd's CRI plug-in writes these files and binds them
//! into every container. In a pod of its sandbox service it leaves that to the shim.

use std::fs;
use std::io;
use std::path::Path;

use oci_spec::runtime::{Mount, Spec};

use crate::pod_config::PodConfig;

/// The directory in the pod's bundle, with which the files go.
const DIRECTORY: &str = "etc";
/// Their names, there and in a container's /etc.
const HOSTNAME: &str = "hostname";
const HOSTS: &str = "hosts";
const RESOLV_CONF: &str = "resolv.conf";

/// Writes the files into the pod's bundle. What the configuration does not say is as on the host.
///
/// # Errors
/// Fails when one cannot be written.
pub(crate) fn write(bundle: &Path, config: &PodConfig) -> io::Result<()> {
    let directory = bundle.join(DIRECTORY);
    fs::create_dir_all(&directory)?;
    let hostname = if config.hostname.is_empty() {
        rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned()
    } else {
        config.hostname.clone()
    };
    fs::write(directory.join(HOSTNAME), hostname + "\n")?;
    let resolv_conf = match &config.dns {
        Some(dns) => dns.resolv_conf().into_bytes(),
        None => of_host(RESOLV_CONF)?,
    };
    fs::write(directory.join(RESOLV_CONF), resolv_conf)?;
    fs::write(directory.join(HOSTS), of_host(HOSTS)?)
}

/// A file of the host; it may be without.
fn of_host(name: &str) -> io::Result<Vec<u8>> {
    match fs::read(Path::new("/etc").join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

/// Binds the files into a container, but for those in whose place it has something else. Without
/// files in the bundle does nothing.
pub(crate) fn add_to(spec: &mut Spec, bundle: &Path) {
    let directory = bundle.join(DIRECTORY);
    let access = match spec.root() {
        Some(root) if root.readonly() == Some(true) => "ro",
        _ => "rw",
    };
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for name in [HOSTNAME, HOSTS, RESOLV_CONF] {
        let (source, destination) = (directory.join(name), Path::new("/etc").join(name));
        let taken = |mount: &Mount| *mount.destination() == destination;
        if mounts.iter().any(taken) || !source.exists() {
            continue;
        }
        let mut mount = Mount::default();
        mount
            .set_destination(destination)
            .set_typ(Some("bind".to_owned()))
            .set_source(Some(source))
            .set_options(Some(vec!["bind".to_owned(), access.to_owned()]));
        mounts.push(mount);
    }
    spec.set_mounts(Some(mounts));
}

#[cfg(test)]
#[path = "pod_files_test.rs"]
mod tests;
