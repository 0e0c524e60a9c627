//! The OCI configuration, rewritten for the guest.
//!
//! containerd writes it for containers on the host. What names something of the host is replaced
//! by its place in the guest (root file system, sources of bind mounts), or dropped where the
//! guest has its own (namespaces to join, AppArmor and SELinux labels, numbers of disks). Of the hooks,
//! only startContainer's are for the guest; the others are programs of the host, for whoever asked
//! for the container to run there.

use std::path::{Path, PathBuf};

use caisson_protocol::SHARED_PATH;
use oci_spec::runtime::{
    Hooks, Linux, LinuxDevice, LinuxDeviceType, LinuxNamespaceType, LinuxResources, Mount, Process,
    Root, Spec,
};

use crate::{ErrorKind, SandboxError};

/// Character devices that a guest kernel has too, with the same numbers
/// (Documentation/admin-guide/devices.txt).
const STANDARD_DEVICES: &[(i64, i64)] = &[
    (1, 3),    // null
    (1, 5),    // zero
    (1, 7),    // full
    (1, 8),    // random
    (1, 9),    // urandom
    (5, 0),    // tty
    (5, 1),    // console
    (5, 2),    // ptmx
    (10, 200), // net/tun
    (10, 229), // fuse
];

/// The type of mount by which containerd's nerdbox hands a socket of the host to a virtual machine.
/// The guest's kernel would call it an unknown file system.
const HOST_SOCKET: &str = "uds";

/// A bind mount of the configuration, to be prepared on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BindMount {
    /// What is to be seen, a path of the host.
    pub(crate) source: PathBuf,
    /// Where the container sees it; for errors.
    pub(crate) destination: PathBuf,
    /// With the mounts below the source.
    pub(crate) recursive: bool,
    /// Not to be written.
    pub(crate) read_only: bool,
    /// What the host later mounts below the source is to appear as well.
    pub(crate) follow_host: bool,
}

/// A configuration for the guest and what must be prepared for it.
#[derive(Debug)]
pub(crate) struct GuestSpec {
    /// For the agent.
    pub(crate) spec: Spec,
    /// Bind mounts in the order of the configuration; number `n` is to appear in the shared
    /// directory as `<container>/mounts/<n>`.
    pub(crate) binds: Vec<BindMount>,
    /// Where the root file system is on the host, if Create brings no mounts for it.
    pub(crate) host_root: PathBuf,
}

/// Rewrites `spec` for container `id`, whose bundle is at `bundle`.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for a configuration without a root, a process or a program;
/// [`ErrorKind::Unimplemented`] for a socket of the host.
pub(crate) fn for_guest(
    mut spec: Spec,
    id: &str,
    bundle: &Path,
    terminal: bool,
) -> Result<GuestSpec, SandboxError> {
    check_process(spec.process().as_ref())?;
    let Some(root) = spec.root().clone() else {
        return Err(invalid("config.json has no `root`"));
    };
    let host_root = bundle.join(root.path());

    let container = Path::new(SHARED_PATH).join(id);
    let mut guest_root = Root::default();
    guest_root.set_path(container.join("rootfs"));
    guest_root.set_readonly(root.readonly());
    spec.set_root(Some(guest_root));

    let mut binds = Vec::new();
    for mount in spec.mounts_mut().iter_mut().flatten() {
        if let Some(bind) = bind_mount(mount, bundle)? {
            let place = container.join("mounts").join(binds.len().to_string());
            mount.set_source(Some(place));
            binds.push(bind);
        }
    }

    if let Some(process) = spec.process_mut() {
        process.set_terminal(Some(terminal));
        drop_labels(process);
    }
    let of_guest = spec.hooks().as_ref().and_then(hooks_of_guest);
    spec.set_hooks(of_guest);
    if let Some(linux) = spec.linux_mut() {
        rewrite_linux(linux, id);
    }
    Ok(GuestSpec {
        spec,
        binds,
        host_root,
    })
}

/// Rewrites the process of an exec.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for a process without a program.
pub(crate) fn process_for_guest(mut process: Process) -> Result<Process, SandboxError> {
    check_process(Some(&process))?;
    drop_labels(&mut process);
    Ok(process)
}

fn check_process(process: Option<&Process>) -> Result<(), SandboxError> {
    let Some(process) = process else {
        return Err(invalid("config.json has no `process`"));
    };
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(invalid(
            "`process.args` is empty: name a program to run, or use an image that has one",
        ));
    }
    if !process.cwd().is_absolute() {
        return Err(invalid(format!(
            "`process.cwd` is \"{}\", it must be an absolute path",
            process.cwd().display()
        )));
    }
    Ok(())
}

/// The hooks that are programs of the image.
fn hooks_of_guest(hooks: &Hooks) -> Option<Hooks> {
    let start = hooks.start_container().clone()?;
    let mut kept = Hooks::default();
    kept.set_start_container(Some(start));
    Some(kept)
}

/// The guest runs no AppArmor and no SELinux; profiles and labels are the host's.
fn drop_labels(process: &mut Process) {
    process.set_apparmor_profile(None);
    process.set_selinux_label(None);
}

/// What to prepare if `mount` is a bind mount. As in runc, the option decides, not the type.
fn bind_mount(mount: &Mount, bundle: &Path) -> Result<Option<BindMount>, SandboxError> {
    let options = mount.options().as_deref().unwrap_or_default();
    let has = |names: &[&str]| {
        options
            .iter()
            .any(|option| names.contains(&option.as_str()))
    };
    if mount.typ().as_deref() == Some(HOST_SOCKET) {
        return Err(SandboxError::new(
            ErrorKind::Unimplemented,
            format!(
                "the mount at {} is of type {HOST_SOCKET:?}: a unix socket of the host cannot be \
                 reached from inside a virtual machine",
                mount.destination().display()
            ),
        ));
    }
    let is_bind = mount.typ().as_deref() == Some("bind") || has(&["bind", "rbind"]);
    if !is_bind {
        return Ok(None);
    }
    let destination = mount.destination().clone();
    let Some(source) = mount.source() else {
        return Err(invalid(format!(
            "the bind mount at {} has no source",
            destination.display()
        )));
    };
    // The last of contradicting options holds, as in mount(8).
    let read_only = options
        .iter()
        .rev()
        .find_map(|option| match option.as_str() {
            "ro" | "rro" => Some(true),
            "rw" | "rrw" => Some(false),
            _ => None,
        });
    Ok(Some(BindMount {
        source: bundle.join(source),
        recursive: has(&["rbind"]),
        read_only: read_only.unwrap_or(false),
        follow_host: has(&["slave", "rslave", "shared", "rshared"]),
        destination,
    }))
}

fn rewrite_linux(linux: &mut Linux, id: &str) {
    if let Some(namespaces) = linux.namespaces_mut() {
        // The network of the guest is that of the pod, and all its containers share it.
        namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Network);
        for namespace in namespaces {
            namespace.set_path(None);
        }
    }
    linux.set_mount_label(None);
    linux.set_intel_rdt(None);
    linux.set_memory_policy(None);
    linux.set_net_devices(None);
    linux.set_cgroups_path(Some(Path::new("/").join(id)));
    if let Some(devices) = linux.devices_mut() {
        devices.retain(|device| {
            let standard = is_standard(device);
            if !standard {
                let path = device.path().display();
                tracing::warn!("container {id}: device {path} of the host is not passed on");
            }
            standard
        });
    }
    if let Some(resources) = linux.resources_mut() {
        resources_for_guest(resources);
    }
}

fn is_standard(device: &LinuxDevice) -> bool {
    let character = matches!(device.typ(), LinuxDeviceType::C | LinuxDeviceType::U);
    device.typ() == LinuxDeviceType::P
        || character && STANDARD_DEVICES.contains(&(device.major(), device.minor()))
}

/// Limits hold in the guest's cgroups. The numbers of the host's block devices mean nothing there.
/// Those of CPUs and memory nodes hold as far as the guest has such: its agent leaves out the rest.
pub(crate) fn resources_for_guest(resources: &mut LinuxResources) {
    if let Some(block_io) = resources.block_io() {
        let mut block_io = block_io.clone();
        block_io.set_weight_device(None);
        block_io.set_throttle_read_bps_device(None);
        block_io.set_throttle_write_bps_device(None);
        block_io.set_throttle_read_iops_device(None);
        block_io.set_throttle_write_iops_device(None);
        resources.set_block_io(Some(block_io));
    }
}

fn invalid(message: impl Into<String>) -> SandboxError {
    SandboxError::new(ErrorKind::InvalidArgument, message)
}

#[cfg(test)]
#[path = "spec_test.rs"]
mod tests;
