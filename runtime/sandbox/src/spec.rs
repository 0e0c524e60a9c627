//! The OCI configuration, rewritten for the guest.
//!
//! containerd writes it for containers on the host. What names something of the host is replaced
//! by its place in the guest (root file system, sources of bind mounts, block devices), or dropped
//! where the guest has its own (namespaces to join, AppArmor and SELinux labels). Of the hooks,
//! only startContainer's are for the guest; the others are programs of the host, for whoever asked
//! for the container to run there.

mod default_filter;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use caisson_protocol::SHARED_PATH;
use oci_spec::runtime::{
    Hooks, Linux, LinuxDevice, LinuxDeviceType, LinuxNamespace, LinuxNamespaceType, LinuxResources,
    Mount, Process, Root, Spec,
};

use crate::disks::{self, DeviceNumber, DiskKey, WantedDisk};
use crate::mounts::{Volume, tmpfs_size};
use crate::updates::Updated;
use crate::{ErrorKind, PodPlace, SandboxError};

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

/// What stands for the path of a namespace of the host in the guest, where any path means that the
/// namespace is the pod's.
const OF_THE_POD: &str = "/proc/1/ns";

/// Where the guest has the shared memory of its pod, and every container its own or that.
const SHARED_MEMORY: &str = "/dev/shm";

/// A bind mount of the configuration, to be prepared on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BindMount {
    /// Its place among the mounts of the configuration.
    pub(crate) mount: usize,
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
#[derive(Debug, Clone)]
pub(crate) struct GuestSpec {
    /// For the agent, once the disks have their numbers.
    spec: Spec,
    /// Bind mounts in the order of the configuration; see [`GuestSpec::set_sources`].
    pub(crate) binds: Vec<BindMount>,
    /// The block devices of the host that the container is to have.
    pub(crate) disks: Vec<WantedDisk>,
    /// Where the root file system is on the host, if Create brings no mounts for it.
    pub(crate) host_root: PathBuf,
    /// The container whose process namespace this one is to share, if not its own.
    pub(crate) process_namespace_of: Option<String>,
}

impl GuestSpec {
    /// Those of the volumes, in the order of the bind mounts, that the kubelet updates.
    pub(crate) fn updated(&self, volumes: &[Arc<Volume>]) -> Vec<Updated> {
        let both = self.binds.iter().zip(volumes);
        let updated = both.filter(|(_, volume)| volume.updated().is_some());
        updated
            .filter_map(|(bind, volume)| {
                Some(Updated {
                    mount: u32::try_from(bind.mount).ok()?,
                    volume: Arc::downgrade(volume),
                })
            })
            .collect()
    }

    /// Says where the guest has what the bind mounts show, in their order.
    pub(crate) fn set_sources(&mut self, volumes: &[Arc<Volume>]) {
        if volumes.is_empty() {
            return;
        }
        let mut mounts = self.spec.mounts().clone().unwrap_or_default();
        for (bind, volume) in self.binds.iter().zip(volumes) {
            let Some(mount) = mounts.get_mut(bind.mount) else {
                continue;
            };
            mount.set_source(Some(volume.in_guest()));
            if bind.read_only && !volume.read_only() {
                // What is mounted below is read-only too, as it is where the host sees to it.
                let mut options = mount.options().clone().unwrap_or_default();
                options.push("rro".to_owned());
                mount.set_options(Some(options));
            }
        }
        self.spec.set_mounts(Some(mounts));
    }

    /// Gives the container the default filter for system calls, if it comes without one.
    pub(crate) fn add_default_filter(&mut self) {
        default_filter::add(&mut self.spec);
    }

    /// The configuration for the agent. `disks` has the number of each disk on the host and in the
    /// guest.
    pub(crate) fn with_disks(mut self, disks: &[(DiskKey, DeviceNumber)]) -> Spec {
        let numbers = disks.iter().filter_map(|(key, in_guest)| match key {
            DiskKey::Device(on_host) => Some((*on_host, *in_guest)),
            DiskKey::File { .. } => None,
        });
        let numbers: Vec<_> = numbers.collect();
        if let Some(linux) = self.spec.linux_mut() {
            disks::renumber(linux, &numbers);
        }
        self.spec
    }
}

/// Rewrites `spec` for container `id`, whose bundle is at `bundle`.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for a configuration without a root, a process or a program;
/// [`ErrorKind::Unimplemented`] for a socket of the host and for mounts that the host is to see.
pub(crate) fn for_guest(
    mut spec: Spec,
    id: &str,
    bundle: &Path,
    place: &PodPlace,
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

    let joins_ipc = joins_ipc(spec.linux().as_ref());
    let mut binds = Vec::new();
    for (number, mount) in spec.mounts_mut().iter_mut().flatten().enumerate() {
        if share_memory(mount, place, joins_ipc) {
            continue;
        }
        binds.extend(bind_mount(number, mount, bundle)?);
    }

    if let Some(process) = spec.process_mut() {
        process.set_terminal(Some(terminal));
        drop_labels(process);
    }
    let of_guest = spec.hooks().as_ref().and_then(hooks_of_guest);
    spec.set_hooks(of_guest);
    let mut process_namespace_of = None;
    let mut disks = Vec::new();
    if let PodPlace::Member { pod } = place {
        keep_apart(&mut spec, pod);
    }
    if let Some(linux) = spec.linux_mut() {
        disks = disks::wanted(linux);
        process_namespace_of = rewrite_namespaces(linux, place);
        rewrite_linux(linux, id);
    }
    Ok(GuestSpec {
        spec,
        binds,
        disks,
        host_root,
        process_namespace_of,
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
fn bind_mount(
    number: usize,
    mount: &Mount,
    bundle: &Path,
) -> Result<Option<BindMount>, SandboxError> {
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
    if has(&["shared", "rshared"]) {
        return Err(SandboxError::new(
            ErrorKind::Unimplemented,
            format!(
                "the bind mount at {} is to propagate mounts to the host (Bidirectional, rshared): \
                 what is mounted in a virtual machine exists only there; use HostToContainer \
                 (rslave) or None (rprivate)",
                destination.display()
            ),
        ));
    }
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
        mount: number,
        source: bundle.join(source),
        recursive: has(&["rbind"]),
        read_only: read_only.unwrap_or(false),
        follow_host: has(&["slave", "rslave"]),
        destination,
    }))
}

/// The shared memory of a Kubernetes pod is a file system that CRI makes on the host, in the pod's
/// own directory, and binds into every container; or, in a pod without a container that holds it,
/// one that every container has in its configuration as if it were its own. In a virtual machine it
/// is one of the guest: memory that two containers map must not be that of a file server. A volume
/// that is mounted at the same place is not meant; its directory is not the pod's.
fn share_memory(mount: &mut Mount, place: &PodPlace, joins_ipc: bool) -> bool {
    let Some((pod, source)) = place.pod().zip(mount.source().clone()) else {
        return false;
    };
    if mount.destination() != Path::new(SHARED_MEMORY) {
        return false;
    }
    let mut options = mount.options().clone().unwrap_or_default();
    let of_pod = source.ends_with("shm") && source.components().any(|part| part.as_os_str() == pod);
    let of_member = matches!(place, PodPlace::Member { .. }) && joins_ipc;
    let size = if mount.typ().as_deref() == Some("tmpfs") && of_member {
        let size = options.iter().find_map(|option| bytes_of(option));
        options.retain(|option| !option.contains('='));
        options.push("rbind".to_owned());
        size
    } else if of_pod {
        tmpfs_size(&source)
    } else {
        return false;
    };
    if let Some(size) = size {
        options.push(format!("size={size}"));
    }
    mount
        .set_typ(Some("bind".to_owned()))
        .set_source(Some(PathBuf::from(SHARED_MEMORY)))
        .set_options(Some(options));
    true
}

/// The bytes in an option `size=` of a tmpfs, if it says so without percent (tmpfs(5)).
fn bytes_of(option: &str) -> Option<u64> {
    let size = option.strip_prefix("size=")?;
    let (digits, unit) = match size.find(|letter: char| !letter.is_ascii_digit()) {
        Some(end) => size.split_at(end),
        None => (size, ""),
    };
    let shift = match unit {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Whether a namespace is one that is there already, and not a new one.
#[must_use]
pub fn is_joined(namespace: &LinuxNamespace) -> bool {
    let path = namespace.path().as_ref();
    path.is_some_and(|path| !path.as_os_str().is_empty())
}

fn joins_ipc(linux: Option<&Linux>) -> bool {
    let namespaces = linux.and_then(|linux| linux.namespaces().as_ref());
    let mut all = namespaces.into_iter().flatten();
    all.any(|namespace| namespace.typ() == LinuxNamespaceType::Ipc && is_joined(namespace))
}

/// Gives a container what it does not ask to share with its pod: IPC and a host name of its own, which
/// begins as the pod's id. A pod of Kubernetes says of both that they are shared.
fn keep_apart(spec: &mut Spec, pod: &str) {
    /// As many characters as a host name can have (HOST_NAME_MAX).
    const LONGEST_NAME: usize = 64;
    use LinuxNamespaceType as Type;
    let Some(linux) = spec.linux_mut() else {
        return;
    };
    let namespaces = linux.namespaces_mut().get_or_insert_default();
    let mut has_own_name = false;
    for own in [Type::Ipc, Type::Uts] {
        if !namespaces.iter().any(|namespace| namespace.typ() == own) {
            let mut namespace = LinuxNamespace::default();
            namespace.set_typ(own).set_path(None);
            namespaces.push(namespace);
            has_own_name |= own == Type::Uts;
        }
    }
    if has_own_name && spec.hostname().is_none() {
        spec.set_hostname(Some(pod.chars().take(LONGEST_NAME).collect()));
    }
}

/// Namespaces that are joined are those of the pod, and so are those of the container that holds
/// it; of the network the machine has one, which is that of all its containers. Answers with the
/// container whose processes are to be shared.
fn rewrite_namespaces(linux: &mut Linux, place: &PodPlace) -> Option<String> {
    use LinuxNamespaceType as Type;
    let mut process_namespace_of = None;
    for namespace in linux.namespaces_mut().iter_mut().flatten() {
        let joined = is_joined(namespace);
        let of_the_pod = match (namespace.typ(), place) {
            (Type::Network, _) => true,
            (Type::Ipc | Type::Uts, PodPlace::Sandbox { .. }) => true,
            (Type::Ipc | Type::Uts, PodPlace::Member { .. }) => joined,
            (Type::Pid, PodPlace::Member { pod }) if joined => {
                process_namespace_of = Some(pod.clone());
                false
            }
            _ => false,
        };
        namespace.set_path(of_the_pod.then(|| PathBuf::from(OF_THE_POD)));
    }
    process_namespace_of
}

fn rewrite_linux(linux: &mut Linux, id: &str) {
    linux.set_mount_label(None);
    linux.set_intel_rdt(None);
    linux.set_memory_policy(None);
    linux.set_net_devices(None);
    linux.set_cgroups_path(Some(Path::new("/").join(id)));
    if let Some(devices) = linux.devices().clone() {
        let rules = disks::rules(linux);
        let (kept, dropped): (Vec<_>, Vec<_>) = devices
            .into_iter()
            .partition(|device| is_standard(device) || disks::named(device, rules).is_some());
        linux.set_devices(Some(kept));
        if let Some(first) = dropped.first() {
            // A privileged container names every device there is.
            tracing::warn!(
                "container {id}: {} devices of the host, {} first, are not passed on",
                dropped.len(),
                first.path().display()
            );
        }
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

/// Limits hold in the guest's cgroups. Those of single block devices are not carried over.
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
