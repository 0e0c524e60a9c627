//! What a container's OCI configuration becomes in a guest.
//!
//! The configuration was written for the host's kernel. Here it is divided: what the container
//! runtime library builds (namespaces, mounts, devices, paths), what the agent does itself (limits,
//! kernel parameters of the pod, the last steps before exec), and what has no meaning in a virtual
//! machine and is left out. What a virtual machine cannot do is refused with a sentence.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use caisson_protocol::{SHARED_PATH, VOLUMES};
use oci_spec::runtime::{
    Hook, Hooks, Linux, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResources,
    LinuxSeccomp, LinuxSeccompAction, Mount, Process, Spec, State,
};

use crate::cgroup;
use crate::error::AgentError;
use crate::guest_devices;
use crate::launch::finish::Finish;
use crate::launch::start_hooks::StartHooks;

/// Largest configuration in bytes. A ttrpc message is not longer either.
pub const MAX_CONFIG: usize = 4 << 20;

/// Where the guest has the shared memory of the pod.
const SHARED_MEMORY: &str = "/dev/shm";

/// Longest command line and environment together, in entries. The kernel's limit in bytes is far
/// above what fits into [`MAX_CONFIG`].
const MAX_ENTRIES: usize = 65_536;

/// A configuration, divided.
#[derive(Debug)]
pub struct Adapted {
    /// For the container runtime library.
    pub spec: Spec,
    /// For the container's cgroup.
    pub resources: Option<LinuxResources>,
    /// For the guest's own namespaces and kernel: those of the pod.
    pub sysctls: Vec<(String, String)>,
    /// The hooks that the init process runs before them.
    pub start_hooks: StartHooks,
    /// The last steps of the init process.
    pub finish: Finish,
    /// Whether the network namespace is the container's own, so that its loopback must be set up.
    pub own_network: bool,
    /// The namespaces of the container, which its further processes join.
    pub namespaces: Vec<LinuxNamespaceType>,
    /// The host name the configuration gives. The guest gets it too, for containers that share the
    /// pod's name.
    pub pod_hostname: Option<String>,
    /// How many bytes the shared memory of the pod may hold, if the container uses it.
    pub shared_memory: Option<u64>,
    /// What an exec takes over from the container.
    pub exec: ExecDefaults,
}

impl Adapted {
    /// The volumes of the pod that its mounts show.
    #[must_use]
    pub fn volumes(&self) -> Vec<PathBuf> {
        let all = Path::new(SHARED_PATH).join(VOLUMES);
        let mounts = self.spec.mounts().iter().flatten();
        mounts
            .filter_map(|mount| mount.source().clone())
            .filter(|source| source.parent() == Some(&*all))
            .collect()
    }

    /// Has mount `number` show `source`. Answers with what it would have shown, if there is such a
    /// mount.
    pub fn exchange_source(&mut self, number: u32, source: PathBuf) -> Option<PathBuf> {
        let mounts = self.spec.mounts_mut().as_mut()?;
        let mount = mounts.get_mut(usize::try_from(number).ok()?)?;
        let before = mount.source().clone()?;
        mount.set_source(Some(source));
        Some(before)
    }

    /// Has the container's root be at `mounted`, if the guest has mounted it.
    ///
    /// # Errors
    /// [`AgentError::InvalidArgument`] for a root that is not there, which would be an obscure error of
    /// the library later, and for one whose `/dev` is a link: the library resolves all else within the
    /// root, but makes the links of `/dev` (`fd`, `ptmx`, …) by a path, and would do so in the agent's own
    /// root if that is where the image has led it.
    pub fn place_root(&mut self, mounted: Option<&Path>) -> Result<(), AgentError> {
        let root = self.spec.root_mut().get_or_insert_default();
        if let Some(mounted) = mounted {
            root.set_path(mounted.to_path_buf());
        }
        if root.path().is_dir() {
            let devices = root.path().join("dev");
            return match fs::symlink_metadata(&devices) {
                Ok(found) if found.is_symlink() => Err(invalid(
                    "/dev of the root file system is a symbolic link; a container needs a directory there",
                )),
                _ => Ok(()),
            };
        }
        Err(invalid(format!(
            "the root file system {} is not there in the guest; was it shared with the virtual machine?",
            root.path().display()
        )))
    }

    /// Puts the container among the processes of another, whose init process is `pid`.
    pub fn share_processes(&mut self, pid: i32) {
        let namespaces = self
            .spec
            .linux_mut()
            .as_mut()
            .and_then(|linux| linux.namespaces_mut().as_mut());
        for namespace in namespaces.into_iter().flatten() {
            if namespace.typ() == LinuxNamespaceType::Pid {
                namespace.set_path(Some(PathBuf::from(format!("/proc/{pid}/ns/pid"))));
            }
        }
    }
}

/// What further processes of a container take over from its configuration.
#[derive(Debug, Clone, Default)]
pub struct ExecDefaults {
    /// The container's system call filter.
    pub seccomp: Option<LinuxSeccomp>,
}

fn invalid(message: impl Into<String>) -> AgentError {
    AgentError::InvalidArgument(message.into())
}

/// Reads and divides a configuration.
///
/// # Errors
/// [`AgentError::InvalidArgument`] for a configuration that is not understood or asks for what a
/// guest cannot do.
pub fn adapt(config: &[u8], id: &str) -> Result<Adapted, AgentError> {
    if config.len() > MAX_CONFIG {
        return Err(invalid(format!(
            "the configuration has {} bytes, more than {MAX_CONFIG}",
            config.len()
        )));
    }
    let mut spec: Spec = serde_json::from_slice(config).map_err(|error| {
        invalid(format!(
            "the configuration (config.json) is invalid: {error}"
        ))
    })?;
    if !spec.version().starts_with("1.") {
        return Err(invalid(format!(
            "the configuration has ociVersion {:?}, only 1.x is known",
            spec.version()
        )));
    }
    let root = spec
        .root()
        .as_ref()
        .ok_or_else(|| invalid("the configuration has no root"))?;
    if !root.path().is_absolute() {
        return Err(invalid(format!(
            "root.path {} is not a path in the guest",
            root.path().display()
        )));
    }
    let process = spec
        .process()
        .clone()
        .ok_or_else(|| invalid("the configuration has no process"))?;
    check_process(&process)?;
    let mut linux = spec.linux().clone().unwrap_or_default();

    let resources = linux.resources().clone();
    let seccomp = check_seccomp(&linux)?;
    let (namespaces, own_network) = adapt_namespaces(&mut linux)?;
    let sysctls = divide_sysctls(&mut linux, &namespaces);
    let start_hooks = StartHooks {
        hooks: start_hooks(spec.hooks().as_ref())?,
        state: state_of(id, &spec),
    };
    let (mounts, shared_memory) = adapt_mounts(spec.mounts().as_ref())?;
    let all_devices = cgroup::devices::all_allowed(resources.as_ref());
    let mut pod_hostname = None;
    if !namespaces.contains(&LinuxNamespaceType::Uts) {
        pod_hostname.clone_from(spec.hostname());
        spec.set_hostname(None).set_domainname(None);
    }

    linux
        // The limits are set by the agent before the first process of the container exists.
        .set_resources(None)
        .set_cgroups_path(Some(Path::new("/").join(cgroup::PARENT).join(id)))
        // See `Finish`: the filter must not have to let pass what comes before exec.
        .set_seccomp(None)
        // Neither SELinux nor a cache to allocate (resctrl) exists in a guest.
        .set_mount_label(None)
        .set_intel_rdt(None)
        // Network devices of the host are the business of the shim.
        .set_net_devices(None);
    if all_devices {
        guest_devices::add(&mut linux);
    }
    if let Some(propagation) = linux.rootfs_propagation().clone() {
        let known = ["", "private", "slave", "shared", "unbindable"];
        let plain = propagation.strip_prefix('r').unwrap_or(&propagation);
        if !known.contains(&plain) {
            return Err(invalid(format!(
                "rootfsPropagation {propagation:?} is not known"
            )));
        }
        linux.set_rootfs_propagation((!plain.is_empty()).then(|| plain.to_owned()));
    }

    let mut library_process = process.clone();
    library_process
        .set_apparmor_profile(None)
        .set_selinux_label(None)
        // All of these are done by `Finish`, in an order the library does not allow.
        .set_capabilities(None)
        .set_rlimits(None)
        .set_no_new_privileges(None)
        // Without HOME the library asks the C library for the user's directory, and that would load
        // the container's own NSS modules into a process with all privileges.
        .set_env(Some(vec!["HOME=/".to_owned()]))
        .set_cwd(PathBuf::from("/"));
    spec.set_process(Some(library_process))
        .set_linux(Some(linux))
        .set_hooks(None)
        .set_mounts(Some(mounts));

    Ok(Adapted {
        spec,
        resources,
        sysctls,
        start_hooks,
        finish: Finish {
            process,
            seccomp: seccomp.clone(),
            set_user: false,
        },
        own_network,
        namespaces,
        pod_hostname,
        shared_memory,
        exec: ExecDefaults { seccomp },
    })
}

/// Reads the process object of an exec.
///
/// # Errors
/// [`AgentError::InvalidArgument`] for one that is not understood or can never run.
pub fn exec_process(json: &[u8]) -> Result<Process, AgentError> {
    if json.len() > MAX_CONFIG {
        return Err(invalid(format!(
            "the process has {} bytes, more than {MAX_CONFIG}",
            json.len()
        )));
    }
    let process = serde_json::from_slice(json)
        .map_err(|error| invalid(format!("the process object is invalid: {error}")))?;
    check_process(&process)?;
    Ok(process)
}

/// Reads the limits for a container that exists.
///
/// # Errors
/// [`AgentError::InvalidArgument`] for what is not understood.
pub fn resources(json: &[u8]) -> Result<LinuxResources, AgentError> {
    if json.len() > MAX_CONFIG {
        return Err(invalid(format!(
            "the resources have {} bytes, more than {MAX_CONFIG}",
            json.len()
        )));
    }
    serde_json::from_slice(json)
        .map_err(|error| invalid(format!("the resources object is invalid: {error}")))
}

fn check_process(process: &Process) -> Result<(), AgentError> {
    let args = process.args().as_deref().unwrap_or_default();
    let env = process.env().as_deref().unwrap_or_default();
    if args.is_empty() {
        return Err(invalid("process.args must not be empty"));
    }
    if args.len() + env.len() > MAX_ENTRIES {
        return Err(invalid(format!(
            "process.args and process.env have more than {MAX_ENTRIES} entries"
        )));
    }
    if args.iter().chain(env).any(|entry| entry.contains('\0')) {
        return Err(invalid(
            "process.args and process.env must not contain a NUL character",
        ));
    }
    if !process.cwd().is_absolute() {
        return Err(invalid(format!(
            "process.cwd {:?} is not an absolute path",
            process.cwd().display().to_string()
        )));
    }
    Ok(())
}

fn check_seccomp(linux: &Linux) -> Result<Option<LinuxSeccomp>, AgentError> {
    let Some(seccomp) = linux.seccomp() else {
        return Ok(None);
    };
    let notify = LinuxSeccompAction::ScmpActNotify;
    let listens = seccomp.default_action() == notify
        || seccomp
            .syscalls()
            .iter()
            .flatten()
            .any(|call| call.action() == notify);
    if listens {
        return Err(invalid(
            "a seccomp profile with SCMP_ACT_NOTIFY needs a listener on the host, which cannot be reached from a virtual machine",
        ));
    }
    Ok(Some(seccomp.clone()))
}

/// Every container has its own mount, pid and cgroup namespace. Paths name namespaces of the host
/// and mean "those of the pod", which in a virtual machine are the guest's own.
fn adapt_namespaces(linux: &mut Linux) -> Result<(Vec<LinuxNamespaceType>, bool), AgentError> {
    use LinuxNamespaceType as Type;
    let has_mappings = [linux.uid_mappings(), linux.gid_mappings()]
        .iter()
        .any(|mappings| mappings.as_ref().is_some_and(|list| !list.is_empty()));
    let mut kept: Vec<Type> = Vec::new();
    let mut own_network = false;
    for namespace in linux.namespaces().iter().flatten() {
        let joined = namespace
            .path()
            .as_ref()
            .is_some_and(|path| !path.as_os_str().is_empty());
        let keep = match namespace.typ() {
            Type::User => {
                return Err(invalid(
                    "user namespaces are not supported in the guest: run the pod without them (hostUsers: true)",
                ));
            }
            Type::Network => {
                own_network = !joined;
                !joined
            }
            Type::Ipc | Type::Uts => !joined,
            Type::Pid | Type::Mount | Type::Cgroup | Type::Time => true,
        };
        if keep && !kept.contains(&namespace.typ()) {
            kept.push(namespace.typ());
        }
    }
    if has_mappings {
        return Err(invalid(
            "uidMappings and gidMappings need a user namespace, which the guest does not support",
        ));
    }
    // Without these a container would see or kill the agent.
    for namespace in [Type::Mount, Type::Pid, Type::Cgroup] {
        if !kept.contains(&namespace) {
            kept.push(namespace);
        }
    }
    let list: Result<Vec<LinuxNamespace>, _> = kept
        .iter()
        .map(|typ| LinuxNamespaceBuilder::default().typ(*typ).build())
        .collect();
    linux
        .set_namespaces(Some(
            list.map_err(|error| AgentError::Internal(error.to_string()))?,
        ))
        .set_uid_mappings(None)
        .set_gid_mappings(None);
    Ok((kept, own_network))
}

/// Leaves the container the kernel parameters of its own namespaces; the others are the pod's, and
/// the pod has the whole kernel.
fn divide_sysctls(linux: &mut Linux, namespaces: &[LinuxNamespaceType]) -> Vec<(String, String)> {
    use LinuxNamespaceType as Type;
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let all = linux.sysctl().clone().unwrap_or_default();
    let (own, pod): (HashMap<_, _>, HashMap<_, _>) = all.into_iter().partition(|(key, _)| {
        let key = key.replace('/', ".");
        let ipc = IPC.contains(&key.as_str()) || key.starts_with("fs.mqueue.");
        let uts = key == "kernel.domainname";
        (ipc && namespaces.contains(&Type::Ipc))
            || (uts && namespaces.contains(&Type::Uts))
            || (key.starts_with("net.") && namespaces.contains(&Type::Network))
    });
    linux.set_sysctl((!own.is_empty()).then_some(own));
    let mut pod: Vec<_> = pod.into_iter().collect();
    pod.sort();
    pod
}

/// Hooks of the host's namespaces are run by the shim on the host; only the container's own are
/// left for the guest.
fn start_hooks(hooks: Option<&Hooks>) -> Result<Vec<Hook>, AgentError> {
    let Some(hooks) = hooks else {
        return Ok(Vec::new());
    };
    if hooks
        .create_container()
        .as_ref()
        .is_some_and(|list| !list.is_empty())
    {
        return Err(invalid(
            "createContainer hooks are programs of the host that run in the container's namespaces, which are in a virtual machine: they cannot be run",
        ));
    }
    let start = hooks.start_container().clone().unwrap_or_default();
    for hook in &start {
        if !hook.path().is_absolute() {
            return Err(invalid(format!(
                "startContainer hook {} of config.json is not an absolute path",
                hook.path().display()
            )));
        }
        if let Some(seconds @ ..=0) = hook.timeout() {
            return Err(invalid(format!(
                "startContainer hook {} of config.json has a timeout of {seconds}, it must be a number of seconds above 0",
                hook.path().display()
            )));
        }
    }
    Ok(start)
}

/// What hooks are told of the container.
fn state_of(id: &str, spec: &Spec) -> State {
    let mut state = State::default();
    state
        .set_version(spec.version().clone())
        .set_id(id.to_owned())
        .set_annotations(spec.annotations().clone());
    state
}

/// Mounts as the library wants them, and how much the shared memory of the pod may hold.
fn adapt_mounts(mounts: Option<&Vec<Mount>>) -> Result<(Vec<Mount>, Option<u64>), AgentError> {
    let mut shared_memory = None;
    let mut adapt = |mount: &Mount| {
        let mut mount = mount.clone();
        if mount.source().as_deref() == Some(Path::new(SHARED_MEMORY)) {
            let size = take_size(&mut mount)?;
            shared_memory = size.or(shared_memory);
        }
        // The library insists on a source; for a file system without a device any word will do.
        if mount.source().is_none() {
            let word = mount.typ().clone().unwrap_or_else(|| "none".to_owned());
            mount.set_source(Some(PathBuf::from(word)));
        }
        Ok(mount)
    };
    let mounts: Result<_, AgentError> = mounts.into_iter().flatten().map(&mut adapt).collect();
    Ok((mounts?, shared_memory))
}

/// Takes the size out of the options of a bind mount, which has none.
fn take_size(mount: &mut Mount) -> Result<Option<u64>, AgentError> {
    let mut options = mount.options().clone().unwrap_or_default();
    let size = options
        .iter()
        .find_map(|option| option.strip_prefix("size="))
        .map(str::parse)
        .transpose()
        .map_err(|_| invalid("the size of the pod's shared memory is not a number of bytes"))?;
    options.retain(|option| !option.starts_with("size="));
    mount.set_options(Some(options));
    Ok(size)
}

#[cfg(test)]
#[path = "specification_test.rs"]
mod tests;
